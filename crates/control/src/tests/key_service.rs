//! `StreamKeyService`.

use std::collections::BTreeSet;

use proto::v1::{
    CreateStreamKeyRequest, GetStreamKeyRequest, ListStreamKeysRequest, RevokeStreamKeyRequest,
    TakeoverPolicy, stream_key_service_server::StreamKeyService as _,
};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::{
    fixture::{Fixture, Replica, of_tenant, reason},
    on_both,
};
use crate::{
    database::LogEntry,
    field::{now_ms, timestamp},
};

on_both!(
    a_created_key_is_found_without_its_secret,
    keys_come_in_pages_in_order_of_creation,
    what_another_tenant_owns_is_not_there,
    a_revoked_key_stays_as_it_is,
    everything_wrong_with_a_request_is_told_at_once,
    what_cannot_be_is_refused,
);

async fn a_created_key_is_found_without_its_secret(fixture: Fixture) {
    let control = fixture.replica().await;
    let expire_ms = now_ms() + 3_600_000;
    let request = CreateStreamKeyRequest {
        app: "events/main".to_owned(),
        stream: "keynote".to_owned(),
        description: "Hall 1 – größer".to_owned(),
        expire_time: Some(timestamp(expire_ms)),
        takeover_policy: TakeoverPolicy::Reject.into(),
        tenant: "default".to_owned(),
        ..Default::default()
    };
    let created = control
        .keys
        .create_stream_key(of_tenant("default", request))
        .await
        .unwrap()
        .into_inner();
    let key = created.stream_key.unwrap();
    assert!(created.secret.starts_with(&format!("hw_{}_", key.id)));
    assert_eq!(
        (key.app.as_str(), key.stream.as_str()),
        ("events/main", "keynote")
    );
    assert_eq!(
        (key.tenant.as_str(), key.description.as_str()),
        ("default", "Hall 1 – größer")
    );
    assert_eq!(key.takeover_policy(), TakeoverPolicy::Reject);
    assert_eq!(key.expire_time, Some(timestamp(expire_ms)));
    assert_eq!(key.revoke_time, None);

    let get = GetStreamKeyRequest {
        id: key.id.to_uppercase(),
    };
    assert_eq!(
        control
            .keys
            .get_stream_key(of_tenant("default", get))
            .await
            .unwrap()
            .into_inner(),
        key
    );
    let (plain, _) = control.create("plain").await;
    assert_eq!(plain.takeover_policy(), TakeoverPolicy::TakeoverIfStale);
    assert_eq!(plain.expire_time, None);
    assert!(control.metric("headwater_admin_actions_total{action=\"create_stream_key\"} 2"));
}

async fn list(control: &Replica, request: &ListStreamKeysRequest) -> (Vec<String>, String) {
    let answer = control
        .keys
        .list_stream_keys(of_tenant("default", request.clone()))
        .await
        .unwrap()
        .into_inner();
    (
        answer.stream_keys.into_iter().map(|key| key.id).collect(),
        answer.next_page_token,
    )
}

async fn keys_come_in_pages_in_order_of_creation(fixture: Fixture) {
    let control = fixture.replica().await;
    let mut created = Vec::new();
    for number in 0..5 {
        let key = control.create(&format!("stream-{}", number % 2)).await.0;
        created.push((key.create_time.unwrap(), key.id));
    }
    // Within one millisecond the id decides.
    created.sort_by_key(|(time, id)| (time.seconds, time.nanos, id.clone()));
    let created: Vec<_> = created.into_iter().map(|(_, id)| id).collect();

    let mut request = ListStreamKeysRequest {
        page_size: 2,
        ..Default::default()
    };
    let mut pages = Vec::new();
    loop {
        let (page, next) = list(&control, &request).await;
        pages.push(page);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(pages.concat(), created);

    control.revoke(&created[1]).await;
    let all = ListStreamKeysRequest {
        include_revoked: true,
        ..Default::default()
    };
    let live: BTreeSet<_> = list(&control, &Default::default())
        .await
        .0
        .into_iter()
        .collect();
    assert_eq!(live.len(), 4);
    assert!(!live.contains(&created[1]));
    assert_eq!(list(&control, &all).await.0, created);
    let other_app = ListStreamKeysRequest {
        app: "events/main".to_owned(),
        ..all
    };
    assert_eq!(list(&control, &other_app).await.0, [""; 0]);
}

async fn what_another_tenant_owns_is_not_there(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, _) = control.create("mine").await;
    let keys = &control.keys;
    let get = GetStreamKeyRequest { id: key.id.clone() };
    let revoke = RevokeStreamKeyRequest {
        id: key.id.clone(),
        ..Default::default()
    };
    let not_found = (Code::NotFound, "KEY_NOT_FOUND".to_owned());
    assert_eq!(
        reason(keys.get_stream_key(of_tenant("other", get.clone())).await),
        not_found
    );
    assert_eq!(
        reason(keys.revoke_stream_key(of_tenant("other", revoke)).await),
        not_found
    );
    let listed = keys
        .list_stream_keys(of_tenant("other", ListStreamKeysRequest::default()))
        .await
        .unwrap();
    assert_eq!(listed.into_inner().stream_keys, []);
    let unknown = GetStreamKeyRequest { id: "0".repeat(16) };
    assert_eq!(
        reason(keys.get_stream_key(of_tenant("default", unknown)).await),
        not_found
    );

    let create = CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: "mine".to_owned(),
        ..Default::default()
    };
    let taken = (Code::AlreadyExists, "STREAM_OF_ANOTHER_TENANT".to_owned());
    assert_eq!(
        reason(
            keys.create_stream_key(of_tenant("other", create.clone()))
                .await
        ),
        taken
    );
    // A stream may have several keys of its own tenant.
    keys.create_stream_key(of_tenant("default", create))
        .await
        .unwrap();
    let unauthenticated = (Code::Unauthenticated, "TOKEN_MISSING".to_owned());
    assert_eq!(
        reason(keys.get_stream_key(Request::new(get)).await),
        unauthenticated
    );
}

async fn a_revoked_key_stays_as_it_is(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, _) = control.create("main").await;
    let first = control.revoke(&key.id).await;
    assert!(first.revoke_time.is_some());
    assert_eq!(control.revoke(&key.id).await, first);
    assert_eq!(
        control
            .shared
            .database
            .log_page::<LogEntry>(0, 10)
            .await
            .unwrap()
            .entries
            .len(),
        1
    );
    assert!(control.metric("headwater_admin_actions_total{action=\"revoke_stream_key\"} 1"));
}

async fn everything_wrong_with_a_request_is_told_at_once(fixture: Fixture) {
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;
    let request = CreateStreamKeyRequest {
        app: "a//b".to_owned(),
        stream: secret,
        description: "line\nline".to_owned(),
        expire_time: Some(timestamp(1)),
        takeover_policy: 99,
        tenant: "other".to_owned(),
        client_certificate: "a b".to_owned(),
        adobe: false,
        ..CreateStreamKeyRequest::default()
    };
    let status = control
        .keys
        .create_stream_key(of_tenant("default", request))
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "app",
            "stream",
            "description",
            "expire_time",
            "takeover_policy",
            "client_certificate",
            "tenant"
        ]
    );
    assert!(
        !format!("{status:?}").contains("hw_"),
        "a violation repeats no field"
    );
}

async fn what_cannot_be_is_refused(fixture: Fixture) {
    let control = fixture.replica().await;
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    let get = GetStreamKeyRequest {
        id: "nonsense".to_owned(),
    };
    assert_eq!(
        reason(control.keys.get_stream_key(of_tenant("default", get)).await),
        invalid
    );
    let page = ListStreamKeysRequest {
        page_token: "nonsense".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        reason(
            control
                .keys
                .list_stream_keys(of_tenant("default", page))
                .await
        ),
        invalid
    );
    let unknown = CreateStreamKeyRequest {
        app: "nowhere".to_owned(),
        stream: "main".to_owned(),
        ..Default::default()
    };
    let not_found = (Code::NotFound, "APP_NOT_FOUND".to_owned());
    assert_eq!(
        reason(
            control
                .keys
                .create_stream_key(of_tenant("default", unknown))
                .await
        ),
        not_found
    );
}
