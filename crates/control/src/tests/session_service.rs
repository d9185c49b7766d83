//! `SessionService`, on leases that edges would hold.

use std::time::{Duration, Instant};

use proto::{
    internal::v1::{DenialReason, authorize_response::Decision, revocation},
    v1::{
        GetSessionRequest, ListSessionsRequest, TerminateSessionRequest,
        session_service_server::SessionService as _,
    },
};
use registry::{
    Claim, ClaimOutcome, EdgeName, LeaseStats, LeaseTrack, OriginName, Policy, SessionId, Slot,
    Standing, StreamId,
};
use tonic::Code;

use super::{
    admission_service::is_granted,
    fixture::{Fixture, of_tenant, reason},
    on_both,
};
use crate::{field::now_ms, stream_key::StreamKeyId};

on_both!(
    a_session_is_told_to_its_own_tenant,
    sessions_are_listed_in_pages_to_their_own_tenant,
    a_termination_does_not_shorten_a_ban,
    a_terminated_session_loses_its_lease_and_holds_its_key_off,
);

pub(super) async fn publish(
    fixture: &Fixture,
    session: &str,
    tenant: &str,
    app: &str,
    stream_key_id: &str,
) {
    let origin = OriginName::new("origin-0").unwrap();
    let claim = Claim {
        stream: StreamId::derive(tenant, app, session),
        slot: Slot::PRIMARY,
        session: SessionId::new(session).unwrap(),
        edge: EdgeName::new("edge-0").unwrap(),
        candidate: origin.clone(),
        announced: vec![origin],
        broadcast_id: "0".repeat(32),
        policy: Policy::Reject,
        standing: Standing::default(),
        patient: false,
        floor: 0,
        home_ttl: Duration::from_secs(60),
        stats: LeaseStats {
            tenant: tenant.to_owned(),
            app: app.to_owned(),
            name: session.to_owned(),
            stream_key_id: stream_key_id.to_owned(),
            encoder: "OBS".to_owned(),
            frame_rate_millihertz: 29_970,
            width: 1280,
            height: 720,
            tracks: vec![LeaseTrack {
                video: true,
                id: 1,
                codec: "avc1".to_owned(),
                codec_string: "avc1.64001F".to_owned(),
                width: 1280,
                height: 720,
                frame_rate: (30_000, 1001),
                ..LeaseTrack::default()
            }],
            ..Default::default()
        },
    };
    assert!(matches!(
        fixture.registry.claim(&claim).await.unwrap(),
        ClaimOutcome::Granted { .. }
    ));
}

async fn sessions_are_listed_in_pages_to_their_own_tenant(fixture: Fixture) {
    let control = fixture.replica().await;
    for number in 0..5 {
        publish(
            &fixture,
            &format!("session-{number}"),
            "default",
            "live",
            "",
        )
        .await;
    }
    publish(&fixture, "elsewhere", "default", "events/main", "").await;
    publish(&fixture, "foreign", "other", "live", "").await;

    let mut request = ListSessionsRequest {
        app: "live".to_owned(),
        page_size: 2,
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = control
            .sessions
            .list_sessions(of_tenant("default", request.clone()))
            .await
            .unwrap()
            .into_inner();
        assert!(page.sessions.len() <= 2);
        listed.extend(page.sessions.into_iter().map(|session| session.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    listed.sort();
    assert_eq!(
        listed,
        (0..5)
            .map(|number| format!("session-{number}"))
            .collect::<Vec<_>>()
    );
}

async fn a_session_is_told_to_its_own_tenant(fixture: Fixture) {
    let control = fixture.replica().await;
    publish(&fixture, "elsewhere", "default", "events/main", "").await;
    publish(&fixture, "foreign", "other", "live", "").await;
    let get = |id: &str| GetSessionRequest { id: id.to_owned() };
    let session = control
        .sessions
        .get_session(of_tenant("default", get("elsewhere")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        session
            .tracks
            .iter()
            .map(proto::tracks::describe)
            .collect::<Vec<_>>(),
        ["1:avc1.64001F 1280x720@29.97"]
    );
    assert_eq!(
        (session.app.as_str(), session.encoder.as_str()),
        ("events/main", "OBS")
    );
    assert_eq!(
        (session.frame_rate_millihertz, session.width, session.height),
        (29_970, 1280, 720)
    );
    assert_eq!(
        (session.edge.as_str(), session.origin.as_str()),
        ("edge-0", "origin-0")
    );
    assert!(session.start_time.is_some() && session.epoch > 0);
    let not_found = (Code::NotFound, "SESSION_NOT_FOUND".to_owned());
    for id in ["foreign", "nobody", ""] {
        assert_eq!(
            reason(
                control
                    .sessions
                    .get_session(of_tenant("default", get(id)))
                    .await
            ),
            not_found
        );
    }
}

async fn a_termination_does_not_shorten_a_ban(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, _) = control.create("main").await;
    let id = StreamKeyId::parse(&key.id).ok().unwrap();
    let ban = Duration::from_secs(3600);
    let mut until_ms = Vec::new();
    for (session, ban) in [("banned", Some(ban)), ("ended", None)] {
        publish(&fixture, session, "default", "live", &key.id).await;
        let terminate = TerminateSessionRequest {
            id: session.to_owned(),
            ban: ban.map(|ban| ban.try_into().unwrap()),
            ..TerminateSessionRequest::default()
        };
        let terminate = of_tenant("default", terminate);
        control.sessions.terminate_session(terminate).await.unwrap();
        let record = control.shared.database.key(id).await.unwrap().unwrap();
        until_ms.push(record.held_off_until_ms);
    }
    assert!(until_ms[0] > now_ms() + 3_000_000);
    assert_eq!(until_ms[0], until_ms[1]);
}

async fn a_terminated_session_loses_its_lease_and_holds_its_key_off(mut fixture: Fixture) {
    // Long enough to be seen, short enough to be waited for.
    fixture.config.hold_off = Duration::from_secs(3);
    let control = fixture.replica().await;
    let mut watcher = control.watch(None).await.unwrap();
    let (key, secret) = control.create("main").await;
    publish(&fixture, "session-1", "default", "live", &key.id).await;
    let terminate = TerminateSessionRequest {
        id: "session-1".to_owned(),
        reason: "off topic".to_owned(),
        ..TerminateSessionRequest::default()
    };
    let not_found = (Code::NotFound, "SESSION_NOT_FOUND".to_owned());
    assert_eq!(
        reason(
            control
                .sessions
                .terminate_session(of_tenant("other", terminate.clone()))
                .await
        ),
        not_found
    );

    let (started, started_ms) = (Instant::now(), now_ms());
    control
        .sessions
        .terminate_session(of_tenant("default", terminate.clone()))
        .await
        .unwrap();
    let answer = control.authorize("live", &secret).await.unwrap();
    let Some(Decision::Denial(denial)) = answer.decision else {
        panic!("a held-off key was granted after {:?}", started.elapsed());
    };
    assert_eq!(
        (denial.reason(), denial.retryable),
        (DenialReason::HeldOff, true)
    );

    let told = watcher.revocations().await.revocations;
    assert_eq!(
        told[0].target,
        Some(revocation::Target::SessionId("session-1".to_owned()))
    );
    assert_eq!(told[0].reason, "off topic");
    assert_eq!(fixture.registry.leases().await.unwrap(), []);
    assert_eq!(
        reason(
            control
                .sessions
                .terminate_session(of_tenant("default", terminate))
                .await
        ),
        not_found
    );

    while !is_granted(&control.authorize("live", &secret).await.unwrap()) {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the hold-off does not end"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // By the clock that the hold-off is kept by.
    assert!(now_ms() - started_ms >= 3_000);
}
