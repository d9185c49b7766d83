//! What happens to keys after (and instead of) their creation: updates, rotations, deletions, and requests sent twice.

use std::collections::BTreeMap;

use proto::{
    internal::v1::{
        AuthorizeRequest, Denial, DenialReason, Grant, KeyChange,
        admission_service_server::AdmissionService as _, authorize_request::Credential,
        authorize_response::Decision, revocation,
    },
    v1::{
        CreateStreamKeyRequest, CreateStreamKeyResponse, DeleteStreamKeyRequest, EventType,
        IngestRole, ListStreamKeysRequest, MediaLimits, PublishPolicy, RotateStreamKeyRequest,
        StreamKey as StreamKeyMessage, StreamKeyState, UpdateStreamKeyRequest,
        stream_key_service_server::StreamKeyService as _,
    },
};
use runtime::identity::Role;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    admission_service::is_granted,
    fixture::{Fixture, Replica, of_role, of_tenant, reason},
    on_both,
};
use crate::field::{now_ms, timestamp};

on_both!(
    an_update_changes_what_its_mask_names,
    an_update_is_refused_whole,
    live_sessions_hear_of_their_new_terms,
    of_two_changes_at_once_none_is_lost,
    a_rotated_key_has_two_secrets_for_an_overlap,
    a_deleted_key_frees_its_stream,
    a_request_sent_twice_does_one_thing,
    listings_are_filtered,
    a_policy_decides_who_comes_in_and_how,
    every_change_is_an_event,
);

fn create_request(stream: &str) -> CreateStreamKeyRequest {
    CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: stream.to_owned(),
        ..CreateStreamKeyRequest::default()
    }
}

async fn create(
    control: &Replica,
    request: CreateStreamKeyRequest,
) -> Result<CreateStreamKeyResponse, Status> {
    let created = control
        .keys
        .create_stream_key(of_tenant("default", request));
    created.await.map(tonic::Response::into_inner)
}

async fn update(
    control: &Replica,
    key: StreamKeyMessage,
    paths: &[&str],
    etag: &str,
) -> Result<StreamKeyMessage, Status> {
    let request = UpdateStreamKeyRequest {
        stream_key: Some(key),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        etag: etag.to_owned(),
    };
    let updated = control
        .keys
        .update_stream_key(of_tenant("default", request));
    updated.await.map(tonic::Response::into_inner)
}

async fn rotate(
    control: &Replica,
    id: &str,
    overlap_seconds: i64,
    request_id: &str,
) -> Result<(StreamKeyMessage, String), Status> {
    let request = RotateStreamKeyRequest {
        id: id.to_owned(),
        overlap: Some(prost_types::Duration {
            seconds: overlap_seconds,
            nanos: 0,
        }),
        etag: String::new(),
        request_id: request_id.to_owned(),
    };
    let rotated = control
        .keys
        .rotate_stream_key(of_tenant("default", request));
    let rotated = rotated.await?.into_inner();
    Ok((rotated.stream_key.unwrap(), rotated.secret))
}

async fn delete(control: &Replica, tenant: &str, id: &str, etag: &str) -> Result<(), Status> {
    let request = DeleteStreamKeyRequest {
        id: id.to_owned(),
        etag: etag.to_owned(),
        reason: "a test".to_owned(),
    };
    let deleted = control.keys.delete_stream_key(of_tenant(tenant, request));
    deleted.await.map(|_empty| ())
}

async fn decide(control: &Replica, secret: &str, address: &str) -> Decision {
    let request = AuthorizeRequest {
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

fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|found| found.field).collect()
}

async fn an_update_changes_what_its_mask_names(fixture: Fixture) {
    let control = fixture.replica().await;
    let policy = PublishPolicy {
        max_session_seconds: 60,
        limits: Some(MediaLimits {
            max_width: 1920,
            max_height: 1080,
            ..MediaLimits::default()
        }),
        ..PublishPolicy::default()
    };
    let request = CreateStreamKeyRequest {
        description: "before".to_owned(),
        policy: Some(policy),
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        ..create_request("main")
    };
    let key = create(&control, request).await.unwrap().stream_key.unwrap();
    assert_eq!(key.update_time, None);
    let wanted = StreamKeyMessage {
        id: key.id.clone(),
        description: "not named by the mask".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "b".to_owned())]),
        policy: Some(PublishPolicy {
            quota_group: "gold".to_owned(),
            limits: Some(MediaLimits {
                max_bitrate_bps: 6_000_000,
                ..MediaLimits::default()
            }),
            ..PublishPolicy::default()
        }),
        ..StreamKeyMessage::default()
    };
    let paths = [
        "labels",
        "policy.quota_group",
        "policy.limits.max_bitrate_bps",
        "policy.max_session_seconds",
    ];
    let updated = update(&control, wanted, &paths, &key.etag).await.unwrap();
    assert_eq!(updated.description, "before");
    assert_eq!(updated.labels["team"], "b");
    let policy = updated.policy.clone().unwrap();
    let limits = policy.limits.unwrap();
    assert_eq!(
        (limits.max_bitrate_bps, limits.max_width, limits.max_height),
        (6_000_000, 1920, 1080)
    );
    assert_eq!(
        (policy.quota_group.as_str(), policy.max_session_seconds),
        ("gold", 0)
    );
    assert!(updated.etag != key.etag && updated.update_time.is_some());
    let get = proto::v1::GetStreamKeyRequest { id: key.id.clone() };
    let read = control.keys.get_stream_key(of_tenant("default", get));
    assert_eq!(read.await.unwrap().into_inner(), updated);
    // The whole policy, away.
    let bare = StreamKeyMessage {
        id: key.id,
        ..StreamKeyMessage::default()
    };
    let updated = update(&control, bare, &["policy"], "").await.unwrap();
    let limits = updated.policy.unwrap().limits.unwrap();
    assert_eq!(limits, MediaLimits::default());
    assert!(control.metric("headwater_admin_actions_total{action=\"update_stream_key\"} 2"));
}

async fn an_update_is_refused_whole(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, _) = control.create("main").await;
    let named = StreamKeyMessage {
        id: key.id.clone(),
        ..StreamKeyMessage::default()
    };
    for paths in [
        &[][..],
        &["stream"],
        &["policy.limits.nothing"],
        &["policy.", "labels"],
    ] {
        let status = update(&control, named.clone(), paths, "")
            .await
            .unwrap_err();
        assert_eq!(fields(&status), ["update_mask"], "{paths:?}");
    }
    let wrong = StreamKeyMessage {
        expire_time: Some(timestamp(1)),
        takeover_policy: 99,
        labels: BTreeMap::from([("Upper".to_owned(), String::new())]),
        policy: Some(PublishPolicy {
            allowed_cidrs: vec!["nowhere".to_owned()],
            role: 9,
            ..PublishPolicy::default()
        }),
        ..named.clone()
    };
    let paths = ["expire_time", "takeover_policy", "labels", "policy"];
    let status = update(&control, wrong, &paths, "").await.unwrap_err();
    let expected = [
        "stream_key.expire_time",
        "stream_key.takeover_policy",
        "stream_key.labels",
        "stream_key.policy.role",
        "stream_key.policy.allowed_cidrs",
    ];
    assert_eq!(fields(&status), expected);
    let mismatch = (Code::Aborted, "ETAG_MISMATCH".to_owned());
    let stale = update(&control, named.clone(), &["labels"], "v7").await;
    assert_eq!(reason(stale), mismatch);
    assert_eq!(
        reason(delete(&control, "default", &key.id, "v7").await),
        mismatch
    );
    let foreign = UpdateStreamKeyRequest {
        stream_key: Some(named.clone()),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["labels".to_owned()],
        }),
        etag: String::new(),
    };
    let not_found = (Code::NotFound, "KEY_NOT_FOUND".to_owned());
    let keys = &control.keys;
    assert_eq!(
        reason(keys.update_stream_key(of_tenant("other", foreign)).await),
        not_found
    );
    control.revoke(&key.id).await;
    let revoked = (Code::FailedPrecondition, "KEY_REVOKED".to_owned());
    assert_eq!(
        reason(update(&control, named, &["labels"], "").await),
        revoked
    );
    assert_eq!(reason(rotate(&control, &key.id, 0, "").await), revoked);
}

async fn live_sessions_hear_of_their_new_terms(fixture: Fixture) {
    let (a, b) = (fixture.replica().await, fixture.replica().await);
    let (key, _) = a.create("main").await;
    let mut watcher = b.watch(None).await.unwrap();
    let expire_ms = now_ms() + 3_600_000;
    let limits = MediaLimits {
        max_frame_rate_millihertz: 30_000,
        video_codecs: vec!["avc1".to_owned()],
        ..MediaLimits::default()
    };
    let wanted = StreamKeyMessage {
        id: key.id.clone(),
        expire_time: Some(timestamp(expire_ms)),
        policy: Some(PublishPolicy {
            limits: Some(limits.clone()),
            max_session_seconds: 7,
            ..PublishPolicy::default()
        }),
        ..StreamKeyMessage::default()
    };
    update(&a, wanted, &["expire_time", "policy"], "")
        .await
        .unwrap();
    let told = watcher.revocations().await.revocations;
    let change = KeyChange {
        stream_key_id: key.id,
        limits: Some(limits),
        expire_ms: u64::try_from(expire_ms).unwrap(),
        max_session_seconds: 7,
    };
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].target, Some(revocation::Target::Change(change)));
}

async fn of_two_changes_at_once_none_is_lost(fixture: Fixture) {
    let control = std::sync::Arc::new(fixture.replica().await);
    let (key, _) = control.create("main").await;
    let mut tasks = JoinSet::new();
    for (path, number) in [("description", 0), ("labels", 1), ("policy.quota_group", 2)] {
        let control = control.clone();
        let wanted = StreamKeyMessage {
            id: key.id.clone(),
            description: "described".to_owned(),
            labels: BTreeMap::from([("number".to_owned(), number.to_string())]),
            policy: Some(PublishPolicy {
                quota_group: "g".to_owned(),
                ..PublishPolicy::default()
            }),
            ..StreamKeyMessage::default()
        };
        tasks.spawn(async move { update(&control, wanted, &[path], "").await });
    }
    while let Some(updated) = tasks.join_next().await {
        updated.unwrap().unwrap();
    }
    let get = proto::v1::GetStreamKeyRequest { id: key.id };
    let read = control.keys.get_stream_key(of_tenant("default", get));
    let read = read.await.unwrap().into_inner();
    assert_eq!(read.description, "described");
    assert_eq!(read.labels["number"], "1");
    assert_eq!(read.policy.unwrap().quota_group, "g");
}

async fn a_rotated_key_has_two_secrets_for_an_overlap(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, first) = control.create("main").await;
    let granted =
        async |secret: &str| is_granted(&control.authorize("live", secret).await.unwrap());
    let (rotated, second) = rotate(&control, &key.id, 3600, "").await.unwrap();
    assert!(second.starts_with(&format!("hw_{}_", key.id)) && second != first);
    let until = rotated.previous_secret_expire_time.unwrap().seconds;
    assert!((until - now_ms() / 1000 - 3600).abs() < 60);
    assert!(granted(&first).await && granted(&second).await);
    // The one before the last is not good any more.
    let (_, third) = rotate(&control, &key.id, 3600, "").await.unwrap();
    assert!(!granted(&first).await && granted(&second).await && granted(&third).await);
    // Without an overlap, neither is the last.
    let (rotated, fourth) = rotate(&control, &key.id, 0, "").await.unwrap();
    assert_eq!(rotated.previous_secret_expire_time, None);
    assert!(!granted(&third).await && granted(&fourth).await);
    // An overlap ends by itself.
    let request = RotateStreamKeyRequest {
        id: key.id.clone(),
        overlap: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_000_000,
        }),
        ..RotateStreamKeyRequest::default()
    };
    let rotated = control
        .keys
        .rotate_stream_key(of_tenant("default", request));
    rotated.await.unwrap();
    let started = std::time::Instant::now();
    while granted(&fourth).await {
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
    let too_long = rotate(&control, &key.id, 31 * 24 * 3600, "").await;
    assert_eq!(fields(&too_long.unwrap_err()), ["overlap"]);
    let negative = rotate(&control, &key.id, -1, "").await;
    assert_eq!(fields(&negative.unwrap_err()), ["overlap"]);
}

async fn a_deleted_key_frees_its_stream(fixture: Fixture) {
    let control = fixture.replica().await;
    let (one, secret) = control.create("main").await;
    let (two, _) = control.create("main").await;
    let mut watcher = control.watch(None).await.unwrap();
    delete(&control, "default", &one.id, &one.etag)
        .await
        .unwrap();
    let told = watcher.revocations().await.revocations;
    let target = revocation::Target::StreamKeyId(one.id.clone());
    assert_eq!(
        (told[0].target.clone(), told[0].reason.as_str()),
        (Some(target), "a test")
    );
    let denial = denied(decide(&control, &secret, "").await);
    assert_eq!(denial.reason(), DenialReason::KeyNotAccepted);
    let not_found = (Code::NotFound, "KEY_NOT_FOUND".to_owned());
    assert_eq!(
        reason(delete(&control, "default", &one.id, "").await),
        not_found
    );
    assert_eq!(
        reason(delete(&control, "other", &two.id, "").await),
        not_found
    );
    // There is another key of the stream: it is still the tenant's.
    let foreign = || {
        control
            .keys
            .create_stream_key(of_tenant("other", create_request("main")))
    };
    let taken = (Code::AlreadyExists, "STREAM_OF_ANOTHER_TENANT".to_owned());
    assert_eq!(reason(foreign().await), taken);
    control.revoke(&two.id).await;
    assert_eq!(reason(foreign().await), taken);
    delete(&control, "default", &two.id, "").await.unwrap();
    foreign().await.unwrap();
}

async fn a_request_sent_twice_does_one_thing(fixture: Fixture) {
    let control = std::sync::Arc::new(fixture.replica().await);
    let request = || CreateStreamKeyRequest {
        labels: BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), "2".to_owned()),
        ]),
        request_id: "order-1".to_owned(),
        ..create_request("main")
    };
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (control, request) = (control.clone(), request());
        tasks.spawn(async move { create(&control, request).await.unwrap() });
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let key = answers[0].stream_key.clone().unwrap();
    let reused = CreateStreamKeyRequest {
        stream: "other".to_owned(),
        ..request()
    };
    let reused = create(&control, reused).await.map(|_| ());
    let conflict = (Code::AlreadyExists, "REQUEST_ID_REUSED".to_owned());
    assert_eq!(reason(reused), conflict);
    assert_eq!(
        reason(rotate(&control, &key.id, 0, "order-1").await),
        conflict
    );
    // Another tenant's order of the same name is another order.
    let foreign = CreateStreamKeyRequest {
        stream: "foreign".to_owned(),
        ..request()
    };
    let foreign = control.keys.create_stream_key(of_tenant("other", foreign));
    assert_ne!(
        foreign.await.unwrap().into_inner().secret,
        answers[0].secret
    );
    let first = rotate(&control, &key.id, 60, "turn-1").await.unwrap();
    let again = rotate(&control, &key.id, 60, "turn-1").await.unwrap();
    assert_eq!(first, again);
    let all = ListStreamKeysRequest::default();
    let all = control.keys.list_stream_keys(of_tenant("default", all));
    assert_eq!(all.await.unwrap().into_inner().stream_keys.len(), 1);

    // What is kept for the answer is no secret to whoever has the database alone, and goes after a day.
    let rows: Vec<(String,)> = sqlx::query_as("SELECT sealed_key FROM requests")
        .fetch_all(control.shared.database.pool())
        .await
        .unwrap();
    assert_eq!(rows.len(), 3);
    let secret = data_encoding::HEXLOWER.encode(answers[0].secret.as_bytes());
    assert!(rows.iter().all(|(sealed,)| !sealed.contains(&secret[..20])));
    let database = &control.shared.database;
    assert_eq!(database.prune_requests(now_ms()).await.unwrap(), 0);
    let tomorrow_ms = now_ms() + 24 * 3_600_000 + 1;
    assert_eq!(database.prune_requests(tomorrow_ms).await.unwrap(), 3);
    assert_ne!(
        create(&control, request()).await.unwrap().secret,
        answers[0].secret
    );
}

async fn listings_are_filtered(fixture: Fixture) {
    let control = fixture.replica().await;
    let label = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    let soon = Some(timestamp(now_ms() + 3_600_000));
    let pending = CreateStreamKeyRequest {
        policy: Some(PublishPolicy {
            not_before: soon,
            ..PublishPolicy::default()
        }),
        labels: label("a"),
        ..create_request("pending")
    };
    let pending = create(&control, pending).await.unwrap().stream_key.unwrap();
    assert_eq!(pending.state(), StreamKeyState::Pending);
    let active = CreateStreamKeyRequest {
        labels: label("b"),
        ..create_request("active")
    };
    let active = create(&control, active).await.unwrap().stream_key.unwrap();
    let short = CreateStreamKeyRequest {
        expire_time: Some(timestamp(now_ms() + 200)),
        ..create_request("expired")
    };
    create(&control, short).await.unwrap();
    let (revoked, _) = control.create("revoked").await;
    control.revoke(&revoked.id).await;
    let streams = async |request: ListStreamKeysRequest| {
        let listed = control.keys.list_stream_keys(of_tenant("default", request));
        let listed = listed.await.unwrap().into_inner().stream_keys;
        let mut streams: Vec<_> = listed.into_iter().map(|key| key.stream).collect();
        streams.sort();
        streams.join(" ")
    };
    let in_state = |states: &[StreamKeyState]| ListStreamKeysRequest {
        states: states.iter().map(|state| (*state).into()).collect(),
        ..ListStreamKeysRequest::default()
    };
    let started = std::time::Instant::now();
    while streams(in_state(&[StreamKeyState::Expired])).await != "expired" {
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
    assert_eq!(streams(in_state(&[StreamKeyState::Active])).await, "active");
    assert_eq!(
        streams(in_state(&[StreamKeyState::Pending])).await,
        "pending"
    );
    let two = [StreamKeyState::Revoked, StreamKeyState::Active];
    assert_eq!(streams(in_state(&two)).await, "active revoked");
    assert_eq!(
        streams(ListStreamKeysRequest::default()).await,
        "active expired pending"
    );
    let by = |team: &str, stream: &str| ListStreamKeysRequest {
        labels: label(team),
        stream: stream.to_owned(),
        ..ListStreamKeysRequest::default()
    };
    assert_eq!(streams(by("a", "")).await, "pending");
    assert_eq!(streams(by("b", "active")).await, "active");
    assert_eq!(streams(by("b", "pending")).await, "");
    let moved = StreamKeyMessage {
        labels: label("a"),
        ..active
    };
    update(&control, moved, &["labels"], "").await.unwrap();
    assert_eq!(streams(by("a", "")).await, "active pending");
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

async fn a_policy_decides_who_comes_in_and_how(fixture: Fixture) {
    let control = fixture.replica().await;
    let limits = MediaLimits {
        max_bitrate_bps: 6_000_000,
        ..MediaLimits::default()
    };
    let policy = PublishPolicy {
        allowed_cidrs: vec!["192.0.2.0/24".to_owned(), "2001:db8::7".to_owned()],
        reconnect_window_seconds: 20,
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
        assert_eq!((grant.slot, grant.reconnect_window_ms), (1, 20_000));
        assert_eq!(grant.session_until_ms, grant.issued_ms + 3_600_000);
        assert_eq!(
            (grant.limits, grant.quota_group),
            (Some(limits.clone()), "gold".to_owned())
        );
    }
    // Who has not the whole key learns nothing of it.
    let (mut wrong, last) = (created.secret.clone(), created.secret.len() - 1);
    wrong.replace_range(
        last..,
        if created.secret.ends_with('0') {
            "1"
        } else {
            "0"
        },
    );
    let denial = denied(decide(&control, &wrong, "198.51.100.1:1").await);
    assert_eq!(denial.reason(), DenialReason::KeyNotAccepted);
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
    for outcome in [
        "address_not_allowed\",source=\"database\"} 4",
        "not_yet_valid\",source=\"database\"} 1",
    ] {
        let line = format!("headwater_key_checks_total{{outcome=\"{outcome}");
        assert!(control.metric(&line), "{line}");
    }
}

async fn every_change_is_an_event(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, _) = control.create("main").await;
    let named = StreamKeyMessage {
        id: key.id.clone(),
        ..StreamKeyMessage::default()
    };
    update(&control, named, &["labels"], "").await.unwrap();
    rotate(&control, &key.id, 0, "").await.unwrap();
    control.revoke(&key.id).await;
    control.revoke(&key.id).await;
    delete(&control, "default", &key.id, "").await.unwrap();
    let events = control.key_events().await;
    let types: Vec<_> = events
        .iter()
        .map(|(event_type, _event)| *event_type)
        .collect();
    assert_eq!(
        types,
        [
            EventType::KeyCreated,
            EventType::KeyUpdated,
            EventType::KeyRotated,
            EventType::KeyRevoked,
            EventType::KeyDeleted,
        ]
    );
    for (_, event) in &events {
        assert_eq!(
            (event.stream_key_id.as_str(), event.stream.as_str()),
            (key.id.as_str(), "main")
        );
        assert!(!event.actor.is_empty());
    }
    assert_eq!(events[4].1.reason, "a test");
}
