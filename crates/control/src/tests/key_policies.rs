//! Policies at admission, and listings by what keys are.

use std::collections::BTreeMap;

use proto::{
    internal::v1::{
        AuthorizeRequest, Denial, DenialReason, Grant,
        admission_service_server::AdmissionService as _, authorize_request::Credential,
        authorize_response::Decision,
    },
    v1::{
        CreateStreamKeyRequest, IngestRole, ListStreamKeysRequest, MediaLimits, PublishPolicy,
        StreamKey as StreamKeyMessage, StreamKeyState, TakeoverPolicy,
        stream_key_service_server::StreamKeyService as _,
    },
};
use runtime::identity::Role;

use super::{
    fixture::{Fixture, Replica, of_role, of_tenant},
    key_changes::{create, create_request, fields, update},
    on_both,
};
use crate::{
    database::KeyRecord,
    field::{now_ms, timestamp},
    stream_key::{StreamKey, StreamKeyId},
};

on_both!(
    a_policy_decides_who_comes_in_and_how,
    a_grant_says_what_its_key_does_to_a_live_publisher,
    a_key_is_not_good_before_its_time,
    a_key_publishes_the_slots_of_its_role,
    keys_are_listed_by_state,
    keys_are_listed_by_label_and_stream,
);

async fn decide(control: &Replica, secret: &str, address: &str) -> Decision {
    decide_as(control, secret, address, false).await
}

async fn decide_as(control: &Replica, secret: &str, address: &str, backup: bool) -> Decision {
    let request = AuthorizeRequest {
        backup,
        credential: Some(Credential::StreamKey(secret.to_owned())),
        app: "live".to_owned(),
        session_id: "session-1".to_owned(),
        client_address: address.to_owned(),
        ..AuthorizeRequest::default()
    };
    let answer = control.admission.authorize(of_role(Role::Edge, request));
    answer.await.unwrap().into_inner().decision.unwrap()
}

fn denied(decision: Decision) -> Denial {
    match decision {
        Decision::Denial(denial) => denial,
        Decision::AdobeChallenge(_) | Decision::SignedGrant(_) => panic!("no denial"),
    }
}

async fn streams(control: &Replica, request: ListStreamKeysRequest) -> String {
    let listed = control.keys.list_stream_keys(of_tenant("default", request));
    let listed = listed.await.unwrap().into_inner().stream_keys;
    let mut streams: Vec<_> = listed.into_iter().map(|key| key.stream).collect();
    streams.sort();
    streams.join(" ")
}

/// Another key like this one, whose time is over.
async fn expire(control: &Replica, like: &str, stream: &str) {
    let like = control
        .shared
        .database
        .key(StreamKeyId::parse(like).unwrap());
    let record = KeyRecord {
        id: StreamKey::generate().unwrap().id(),
        stream: stream.to_owned(),
        expire_ms: Some(now_ms() - 1),
        ..like.await.unwrap().unwrap()
    };
    control.insert(&record).await;
}

async fn a_key_publishes_the_slots_of_its_role(fixture: Fixture) {
    let control = fixture.replica().await;
    for (role, alone, as_backup) in [
        (IngestRole::Unspecified, 0, None),
        (IngestRole::Primary, 0, None),
        (IngestRole::Backup, 1, Some(1)),
        (IngestRole::Any, 0, Some(1)),
    ] {
        let request = CreateStreamKeyRequest {
            policy: Some(PublishPolicy {
                role: role.into(),
                ..PublishPolicy::default()
            }),
            ..create_request(role.as_str_name())
        };
        let secret = create(&control, request).await.unwrap().secret;
        let slot = async |backup| match decide_as(&control, &secret, "192.0.2.1:1", backup).await {
            Decision::SignedGrant(signed) => Ok(fixture.verifier.verify(&signed).unwrap().slot),
            other @ (Decision::AdobeChallenge(_) | Decision::Denial(_)) => Err(denied(other)),
        };
        assert_eq!(slot(false).await, Ok(alone), "{role:?}");
        match (slot(true).await, as_backup) {
            (Ok(slot), Some(as_backup)) => assert_eq!(slot, as_backup, "{role:?}"),
            (Err(denial), None) => {
                assert_eq!(denial.reason(), DenialReason::BackupNotAllowed);
                assert!(!denial.retryable && denial.description.contains("backup=1"));
            }
            (got, wanted) => panic!("{role:?}: {got:?}, and not {wanted:?}"),
        }
    }
}

async fn a_policy_decides_who_comes_in_and_how(fixture: Fixture) {
    let control = fixture.replica().await;
    let limits = MediaLimits {
        max_bitrate_bps: 6_000_000,
        ..MediaLimits::default()
    };
    let policy = PublishPolicy {
        allowed_cidrs: vec!["192.0.2.0/24".to_owned(), "2001:db8::7".to_owned()],
        reconnect_window_seconds: Some(20),
        role: IngestRole::Backup.into(),
        max_session_seconds: 3600,
        limits: Some(limits.clone()),
        quota_group: "gold".to_owned(),
        ..PublishPolicy::default()
    };
    let request = CreateStreamKeyRequest {
        policy: Some(policy),
        ..create_request("main")
    };
    let created = create(&control, request).await.unwrap();
    for address in ["198.51.100.1:1935", "[2001:db8::8]:1", "", "nowhere"] {
        let denial = denied(decide(&control, &created.secret, address).await);
        assert_eq!(
            denial.reason(),
            DenialReason::AddressNotAllowed,
            "{address}"
        );
        assert!(!denial.retryable && denial.description.contains("address"));
    }
    for address in [
        "192.0.2.7:1935",
        "192.0.2.8",
        "[::ffff:192.0.2.9]:1",
        "[2001:db8::7]:1",
    ] {
        let Decision::SignedGrant(signed) = decide(&control, &created.secret, address).await else {
            panic!("{address} is refused");
        };
        let grant: Grant = fixture.verifier.verify(&signed).unwrap();
        assert_eq!((grant.slot, grant.reconnect_window_ms), (1, Some(20_000)));
        assert_eq!(grant.session_until_ms, grant.issued_ms + 3_600_000);
        assert_eq!(
            (grant.limits, grant.quota_group),
            (Some(limits.clone()), "gold".to_owned())
        );
    }
    // Who has not the whole key learns nothing of it.
    let id = StreamKeyId::parse(&created.stream_key.unwrap().id).unwrap();
    let wrong = StreamKey::generate().unwrap().with_id(id).reveal();
    let denial = denied(decide(&control, &wrong, "198.51.100.1:1").await);
    assert_eq!(denial.reason(), DenialReason::KeyNotAccepted);
    let line = "headwater_key_checks_total{outcome=\"address_not_allowed\",source=\"database\"} 4";
    assert!(control.metric(line), "{line}");
}

async fn a_grant_says_what_its_key_does_to_a_live_publisher(fixture: Fixture) {
    let control = fixture.replica().await;
    for (policy, takeover_priority) in [
        (TakeoverPolicy::Priority, 40),
        // Whatever its own policy, those who come later may have to be above it.
        (TakeoverPolicy::SameAddress, 7),
    ] {
        let request = CreateStreamKeyRequest {
            takeover_policy: policy.into(),
            policy: Some(PublishPolicy {
                takeover_priority,
                ..PublishPolicy::default()
            }),
            ..create_request(policy.as_str_name())
        };
        let secret = create(&control, request).await.unwrap().secret;
        let Decision::SignedGrant(signed) = decide(&control, &secret, "192.0.2.1:1").await else {
            panic!("{policy:?} is refused");
        };
        let grant: Grant = fixture.verifier.verify(&signed).unwrap();
        assert_eq!(
            (grant.takeover_policy, grant.takeover_priority),
            (policy as u32, takeover_priority)
        );
    }
}

async fn a_key_is_not_good_before_its_time(fixture: Fixture) {
    let control = fixture.replica().await;
    let later = CreateStreamKeyRequest {
        policy: Some(PublishPolicy {
            not_before: Some(timestamp(now_ms() + 3_600_000)),
            ..PublishPolicy::default()
        }),
        ..create_request("later")
    };
    let later = create(&control, later).await.unwrap();
    let denial = denied(decide(&control, &later.secret, "192.0.2.7:1").await);
    assert_eq!(
        (denial.reason(), denial.retryable),
        (DenialReason::NotYetValid, true)
    );
    let line = "headwater_key_checks_total{outcome=\"not_yet_valid\",source=\"database\"} 1";
    assert!(control.metric(line), "{line}");
}

async fn keys_are_listed_by_state(fixture: Fixture) {
    let control = fixture.replica().await;
    let soon = Some(timestamp(now_ms() + 3_600_000));
    let pending = CreateStreamKeyRequest {
        policy: Some(PublishPolicy {
            not_before: soon,
            ..PublishPolicy::default()
        }),
        ..create_request("pending")
    };
    let pending = create(&control, pending).await.unwrap().stream_key.unwrap();
    assert_eq!(pending.state(), StreamKeyState::Pending);
    control.create("active").await;
    let (revoked, _) = control.create("revoked").await;
    expire(&control, &revoked.id, "expired").await;
    control.revoke(&revoked.id).await;
    let in_state = |states: &[StreamKeyState]| ListStreamKeysRequest {
        states: states.iter().map(|state| (*state).into()).collect(),
        ..ListStreamKeysRequest::default()
    };
    let expired = in_state(&[StreamKeyState::Expired]);
    assert_eq!(streams(&control, expired).await, "expired");
    assert_eq!(
        streams(&control, in_state(&[StreamKeyState::Active])).await,
        "active"
    );
    assert_eq!(
        streams(&control, in_state(&[StreamKeyState::Pending])).await,
        "pending"
    );
    let two = [StreamKeyState::Revoked, StreamKeyState::Active];
    assert_eq!(streams(&control, in_state(&two)).await, "active revoked");
    assert_eq!(
        streams(&control, ListStreamKeysRequest::default()).await,
        "active expired pending"
    );
}

async fn keys_are_listed_by_label_and_stream(fixture: Fixture) {
    let control = fixture.replica().await;
    let label = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    let mut keys = Vec::new();
    for (team, stream) in [("a", "one"), ("b", "two")] {
        let request = CreateStreamKeyRequest {
            labels: label(team),
            ..create_request(stream)
        };
        keys.push(create(&control, request).await.unwrap().stream_key.unwrap());
    }
    let by = |team: &str, stream: &str| ListStreamKeysRequest {
        labels: label(team),
        stream: stream.to_owned(),
        ..ListStreamKeysRequest::default()
    };
    assert_eq!(streams(&control, by("a", "")).await, "one");
    assert_eq!(streams(&control, by("b", "two")).await, "two");
    assert_eq!(streams(&control, by("b", "one")).await, "");
    let moved = StreamKeyMessage {
        labels: label("a"),
        ..keys.remove(1)
    };
    update(&control, moved, &["labels"], "").await.unwrap();
    assert_eq!(streams(&control, by("a", "")).await, "one two");
    let wrong = ListStreamKeysRequest {
        stream: "a b".to_owned(),
        tenant: "other".to_owned(),
        states: vec![77],
        ..ListStreamKeysRequest::default()
    };
    let wrong = control.keys.list_stream_keys(of_tenant("default", wrong));
    let status = wrong.await.unwrap_err();
    assert_eq!(fields(&status), ["stream", "tenant", "states"]);
}
