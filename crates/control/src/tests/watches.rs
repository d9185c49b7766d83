//! Answers that stay open: whose credential they end with, how many there are of a tenant, and what they tell to whom.

use std::time::{Duration, Instant};

use proto::v1::{
    EventType, WatchEventsRequest, WatchEventsResponse, WatchSessionsRequest,
    WatchSessionsResponse, event_service_server::EventService as _,
    session_service_server::SessionService as _, watch_sessions_response::Change,
};
use registry::{Slot, StreamId};
use tokio::time::timeout;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status};

use super::{
    access::token_record,
    event_service::report,
    fixture::{Fixture, Replica, bearing, of_tenant, reason, until},
    on_both,
    session_service::publish,
};
use crate::{
    caller::CHECK_PERIOD,
    field::now_ms,
    stream_key::ApiToken,
    watches::{PUBLIC_WATCHES_MAX, TENANT_WATCHES_MAX},
};

on_both!(
    a_watch_ends_with_its_credential,
    a_tenant_does_not_take_every_watch,
    a_watch_tells_of_its_own_tenant_alone,
);

/// Five times what it takes to find out.
const ENDED_WITHIN: Duration = CHECK_PERIOD.saturating_mul(5);

type Events = ReceiverStream<Result<WatchEventsResponse, Status>>;
type Sessions = ReceiverStream<Result<WatchSessionsResponse, Status>>;

/// Both watches, with a credential.
async fn watch_both(control: &Replica, credential: &str) -> (Events, Sessions) {
    let events = bearing(credential, WatchEventsRequest::default());
    let events = control.events.watch_events(events).await.unwrap();
    let sessions = bearing(credential, WatchSessionsRequest::default());
    let sessions = control.sessions.watch_sessions(sessions).await.unwrap();
    (events.into_inner(), sessions.into_inner())
}

/// How long it takes until the stream ends, and with what.
async fn end<T>(mut watch: ReceiverStream<Result<T, Status>>) -> (Duration, (Code, String)) {
    let begun = Instant::now();
    let ended = timeout(ENDED_WITHIN, async {
        loop {
            match watch.next().await.expect("it ends with a status") {
                Ok(_told) => {}
                Err(status) => return reason(Err::<(), _>(status)),
            }
        }
    });
    let ended = ended.await.expect("it ends in time");
    assert!(watch.next().await.is_none());
    (begun.elapsed(), ended)
}

async fn a_watch_ends_with_its_credential(fixture: Fixture) {
    let (control, other) = (fixture.replica().await, fixture.replica().await);
    let tokens = [(); 4].map(|()| ApiToken::generate().unwrap());
    let expire_ms = now_ms() + 5_000;
    for (number, token) in tokens.iter().enumerate() {
        let mut record = token_record(token, "default", &["events:read", "sessions:read"]);
        record.expire_ms = (number == 2).then_some(expire_ms);
        control.shared.database.create_token(&record).await.unwrap();
    }
    let mut watches = Vec::new();
    for token in &tokens {
        watches.push(watch_both(&control, &token.reveal()).await);
    }
    let (mut good_events, mut good_sessions) = watches.pop().unwrap();
    // At another control: this one finds out.
    let database = &other.shared.database;
    let [revoked, rotated, ..] = &tokens;
    assert!(database.revoke_token(revoked.id(), now_ms()).await.unwrap());
    let new = ApiToken::generate().unwrap().with_id(rotated.id());
    let hash = new.hash();
    let rotated = database.rotate_token(rotated.id(), &hash, now_ms());
    assert!(rotated.await.unwrap());
    let ended = (Code::Unauthenticated, "CREDENTIAL_ENDED".to_owned());
    let names = ["revoked", "rotated away", "expired"];
    for (name, (events, sessions)) in names.into_iter().zip(watches) {
        let (of_events, of_sessions) = tokio::join!(end(events), end(sessions));
        assert_eq!((&of_events.1, &of_sessions.1), (&ended, &ended), "{name}");
        println!(
            "{name}: events ended after {:?}, sessions after {:?}",
            of_events.0, of_sessions.0
        );
        assert!(name != "expired" || now_ms() >= expire_ms);
    }
    // One that is good goes on.
    publish(&fixture, "live", "default", "live", "").await;
    let started = report(EventType::SessionStarted, "live", "live");
    control.report(vec![started]).await.unwrap();
    let told = async {
        while good_events.next().await.unwrap().unwrap().events.is_empty() {}
        while !matches!(
            good_sessions.next().await.unwrap().unwrap().change,
            Some(Change::Session(_))
        ) {}
    };
    timeout(ENDED_WITHIN, told).await.expect("it goes on");
}

async fn a_tenant_does_not_take_every_watch(fixture: Fixture) {
    let control = fixture.replica().await;
    let events = async |tenant: &str| {
        let request = of_tenant(tenant, WatchEventsRequest::default());
        control.events.watch_events(request).await
    };
    let sessions = async |tenant: &str| {
        let request = of_tenant(tenant, WatchSessionsRequest::default());
        control.sessions.watch_sessions(request).await
    };
    let too_many = (Code::ResourceExhausted, "TOO_MANY_WATCHES".to_owned());
    let mut open = Vec::new();
    for _ in 0..TENANT_WATCHES_MAX {
        open.push((
            events("greedy").await.unwrap(),
            sessions("greedy").await.unwrap(),
        ));
    }
    assert_eq!(reason(events("greedy").await.map(drop)), too_many);
    assert_eq!(reason(sessions("greedy").await.map(drop)), too_many);
    // One that goes makes room.
    open.pop();
    until("there is room again", async || {
        events("greedy").await.is_ok() && sessions("greedy").await.is_ok()
    })
    .await;
    // Others have theirs, until there are too many of all; and edges theirs even then.
    let mut of_others = Vec::new();
    let refused = loop {
        match events(&format!("tenant-{}", of_others.len())).await {
            Ok(watch) => of_others.push(watch),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(Err::<(), _>(refused)), too_many);
    let room = PUBLIC_WATCHES_MAX - TENANT_WATCHES_MAX;
    assert!(of_others.len() >= room && of_others.len() <= PUBLIC_WATCHES_MAX);
    sessions("another").await.unwrap();
    control.watch(None).await.unwrap();
}

async fn a_watch_tells_of_its_own_tenant_alone(fixture: Fixture) {
    let control = fixture.replica().await;
    let tenants = ["acme", "other"];
    let name = |tenant: &str, number: usize| format!("{tenant}-{number}");
    let start = async |tenant: &str, number: usize| {
        let session = name(tenant, number);
        publish(&fixture, &session, tenant, "live", "").await;
        let mut report = report(EventType::SessionStarted, &session, &session);
        report.session.as_mut().unwrap().tenant = tenant.to_owned();
        control.report(vec![report]).await.unwrap();
    };
    // Some are there, in turn, some come, and some go.
    for number in 0..5 {
        for tenant in tenants {
            start(tenant, number).await;
        }
    }
    let mut watches = Vec::new();
    for tenant in tenants {
        let since = WatchEventsRequest {
            since: Some(prost_types::Timestamp::default()),
            ..WatchEventsRequest::default()
        };
        let events = control.events.watch_events(of_tenant(tenant, since));
        let sessions = of_tenant(tenant, WatchSessionsRequest::default());
        let sessions = control.sessions.watch_sessions(sessions);
        watches.push((
            events.await.unwrap().into_inner(),
            sessions.await.unwrap().into_inner(),
        ));
    }
    for number in 5..10 {
        for tenant in tenants {
            start(tenant, number).await;
            let stream = StreamId::derive(tenant, "live", &name(tenant, number - 5));
            let kicked = fixture.registry.kick(stream, Slot::PRIMARY, None);
            kicked.await.unwrap();
        }
    }
    for (tenant, (mut events, mut sessions)) in tenants.into_iter().zip(watches) {
        let mut told = 0;
        let all_events = async {
            while told < 10 {
                for event in events.next().await.unwrap().unwrap().events {
                    assert_eq!(event.tenant, tenant);
                    told += 1;
                }
            }
        };
        timeout(ENDED_WITHIN, all_events).await.expect("all events");
        let (mut live, mut complete) = (std::collections::BTreeSet::new(), false);
        let expected = (5..10).map(|number| name(tenant, number)).collect();
        let all_sessions = async {
            while !complete || live != expected {
                match sessions.next().await.unwrap().unwrap().change.unwrap() {
                    Change::Session(session) => {
                        assert_eq!(session.tenant, tenant);
                        live.insert(session.id);
                    }
                    Change::EndedSessionId(id) => assert!(live.remove(&id), "{id} of {tenant}"),
                    Change::Complete(_) => complete = true,
                }
            }
        };
        timeout(ENDED_WITHIN, all_sessions)
            .await
            .expect("all sessions");
    }
}
