//! Quotas: of keys at their creation, of sessions and bitrate at a publish.

use std::{sync::Arc, time::Duration};

use proto::{
    internal::v1::{DenialReason, authorize_response::Decision},
    v1::{
        CreateStreamKeyRequest, DeleteStreamKeyRequest, GetQuotasRequest, PublishPolicy,
        Quota as QuotaMessage, QuotaUse, SetQuotaRequest, StreamKey as StreamKeyMessage,
        TenantQuotas, UpdateStreamKeyRequest, stream_key_service_server::StreamKeyService as _,
        tenant_service_server::TenantService as _,
    },
};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Status};

use super::{
    admission_service::is_granted,
    fixture::{Fixture, Replica, of_tenant, reason, unreachable_registry},
    on_both,
    session_service::publish,
};
use crate::Quota;

on_both!(
    creations_at_once_do_not_exceed_a_quota_of_keys,
    a_group_has_a_quota_of_its_own,
    a_quota_of_sessions_counts_what_is_live_and_what_is_about_to_be,
    quotas_are_set_and_told_to_their_own_tenant,
    a_registry_that_is_down_leaves_what_was_admitted_to_count,
);

fn keys(max_keys: u32) -> QuotaMessage {
    QuotaMessage {
        max_keys,
        ..QuotaMessage::default()
    }
}

async fn set(
    control: &Replica,
    group: &str,
    quota: Option<QuotaMessage>,
) -> Result<TenantQuotas, Status> {
    let request = SetQuotaRequest {
        tenant: String::new(),
        group: group.to_owned(),
        quota,
    };
    let set = control.tenants.set_quota(of_tenant("default", request));
    set.await.map(tonic::Response::into_inner)
}

async fn get(control: &Replica) -> TenantQuotas {
    let request = of_tenant("default", GetQuotasRequest::default());
    control
        .tenants
        .get_quotas(request)
        .await
        .unwrap()
        .into_inner()
}

async fn create_in(
    control: &Replica,
    stream: &str,
    group: &str,
) -> Result<StreamKeyMessage, Status> {
    let request = CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: stream.to_owned(),
        policy: Some(PublishPolicy {
            quota_group: group.to_owned(),
            ..PublishPolicy::default()
        }),
        ..CreateStreamKeyRequest::default()
    };
    let created = control
        .keys
        .create_stream_key(of_tenant("default", request));
    Ok(created.await?.into_inner().stream_key.unwrap())
}

fn exceeded() -> (Code, String) {
    (Code::ResourceExhausted, "QUOTA_EXCEEDED".to_owned())
}

async fn creations_at_once_do_not_exceed_a_quota_of_keys(mut fixture: Fixture) {
    fixture.config.default_quota = Quota {
        max_keys: 5,
        ..Quota::default()
    };
    let replicas = [
        Arc::new(fixture.replica().await),
        Arc::new(fixture.replica().await),
    ];
    let mut tasks = JoinSet::new();
    for number in 0..12 {
        let control = replicas[number % 2].clone();
        tasks.spawn(async move { create_in(&control, &format!("s{number}"), "").await });
    }
    let mut created = Vec::new();
    for answer in tasks.join_all().await {
        match answer {
            Ok(key) => created.push(key),
            Err(status) => assert_eq!(reason(Err::<(), _>(status)), exceeded()),
        }
    }
    assert_eq!(created.len(), 5);
    let control = &replicas[0];
    assert_eq!(get(control).await.r#use.unwrap().keys, 5);
    // A revoked key does not count, and counts once where it is deleted then.
    control.revoke(&created[0].id).await;
    create_in(control, "again", "").await.unwrap();
    for (key, used) in [(&created[0], 5), (&created[1], 4)] {
        let delete = DeleteStreamKeyRequest {
            id: key.id.clone(),
            ..DeleteStreamKeyRequest::default()
        };
        let deleted = control.keys.delete_stream_key(of_tenant("default", delete));
        deleted.await.unwrap();
        assert_eq!(get(control).await.r#use.unwrap().keys, used);
    }
    // Its own quota instead of the configuration's.
    set(control, "", Some(keys(4))).await.unwrap();
    assert_eq!(reason(create_in(control, "more", "").await), exceeded());
    set(control, "", Some(keys(0))).await.unwrap();
    create_in(control, "more", "").await.unwrap();
    create_in(control, "and-more", "").await.unwrap();
    set(control, "", None).await.unwrap();
    assert_eq!(reason(create_in(control, "one-more", "").await), exceeded());
    let quotas = get(control).await;
    assert_eq!(quotas.quota, Some(keys(5)));
}

async fn a_group_has_a_quota_of_its_own(fixture: Fixture) {
    let control = fixture.replica().await;
    set(&control, "gold", Some(keys(1))).await.unwrap();
    let gold = create_in(&control, "one", "gold").await.unwrap();
    assert_eq!(reason(create_in(&control, "two", "gold").await), exceeded());
    let plain = create_in(&control, "two", "").await.unwrap();
    let to = async |key: &StreamKeyMessage, group: &str| {
        let request = UpdateStreamKeyRequest {
            stream_key: Some(StreamKeyMessage {
                id: key.id.clone(),
                policy: Some(PublishPolicy {
                    quota_group: group.to_owned(),
                    ..PublishPolicy::default()
                }),
                ..StreamKeyMessage::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["policy.quota_group".to_owned()],
            }),
            etag: String::new(),
        };
        let updated = control
            .keys
            .update_stream_key(of_tenant("default", request));
        updated.await.map(|_key| ())
    };
    assert_eq!(reason(to(&plain, "gold").await), exceeded());
    to(&gold, "silver").await.unwrap();
    to(&plain, "gold").await.unwrap();
    let quotas = get(&control).await;
    assert_eq!(quotas.r#use.unwrap().keys, 2);
    assert_eq!(
        (quotas.groups.len(), quotas.groups[0].group.as_str()),
        (1, "gold")
    );
    assert_eq!(quotas.groups[0].r#use.unwrap().keys, 1);
    control.revoke(&plain.id).await;
    to(&gold, "gold").await.unwrap();
}

async fn a_quota_of_sessions_counts_what_is_live_and_what_is_about_to_be(fixture: Fixture) {
    let control = fixture.replica().await;
    let quota = QuotaMessage {
        max_sessions: 2,
        ..QuotaMessage::default()
    };
    set(&control, "", Some(quota)).await.unwrap();
    // One that is live, and another tenant's.
    publish(&fixture, "live-1", "default", "live", "").await;
    publish(&fixture, "foreign", "other", "live", "").await;
    let mut secrets = Vec::new();
    for stream in ["live-1", "two", "three"] {
        secrets.push(control.create(stream).await.1);
    }
    let decide = async |secret: &str| control.authorize("live", secret).await.unwrap();
    // Who publishes already may come again: it is no second session.
    assert!(is_granted(&decide(&secrets[0]).await));
    assert!(is_granted(&decide(&secrets[1]).await));
    assert!(is_granted(&decide(&secrets[1]).await));
    let Some(Decision::Denial(denial)) = decide(&secrets[2]).await.decision else {
        panic!("a third session was granted");
    };
    assert_eq!(
        (denial.reason(), denial.retryable),
        (DenialReason::QuotaExceeded, true)
    );
    assert!(
        control
            .metric("headwater_key_checks_total{outcome=\"quota_sessions\",source=\"registry\"} 1")
    );
    // A greater quota holds at once; at a replica that has not set it, when what it knows is old.
    let quota = QuotaMessage {
        max_sessions: 3,
        ..QuotaMessage::default()
    };
    let other = fixture.replica().await;
    let denied = other.authorize("live", &secrets[2]).await.unwrap();
    assert!(
        is_granted(&denied),
        "the other replica knows of one session alone"
    );
    set(&control, "", Some(quota)).await.unwrap();
    assert!(is_granted(&decide(&secrets[2]).await));
    let started = Instant::now();
    let bitrate = QuotaMessage {
        max_bitrate_bps: 1,
        ..QuotaMessage::default()
    };
    set(&other, "", Some(bitrate)).await.unwrap();
    // In the place of one that is there: no further session.
    let limited = control.create_limited("two", 2).await;
    while is_granted(&decide(&limited).await) {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "what was known is not asked again"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "a quota set at another replica held after {:?}",
        started.elapsed()
    );
}

async fn quotas_are_set_and_told_to_their_own_tenant(fixture: Fixture) {
    publish(&fixture, "one", "default", "live", "").await;
    let control = fixture.replica().await;
    control.create("one").await;
    let quota = QuotaMessage {
        max_keys: 7,
        max_sessions: 8,
        max_bitrate_bps: 9_000_000,
    };
    let told = set(&control, "", Some(quota)).await.unwrap();
    assert_eq!((told.tenant.as_str(), told.quota), ("default", Some(quota)));
    let used = QuotaUse {
        keys: 1,
        sessions: 1,
        bitrate_bps: 0,
    };
    assert_eq!(told.r#use, Some(used));
    assert_eq!(get(&control).await, told);
    let foreign = GetQuotasRequest {
        tenant: "default".to_owned(),
    };
    let not_found = (Code::NotFound, "TENANT_NOT_FOUND".to_owned());
    let foreign = control.tenants.get_quotas(of_tenant("other", foreign));
    assert_eq!(reason(foreign.await), not_found);
    let foreign = SetQuotaRequest {
        tenant: "default".to_owned(),
        ..SetQuotaRequest::default()
    };
    let foreign = control.tenants.set_quota(of_tenant("other", foreign));
    assert_eq!(reason(foreign.await), not_found);
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    assert_eq!(reason(set(&control, "a b", Some(quota)).await), invalid);
    let beyond = QuotaMessage {
        max_bitrate_bps: u64::MAX,
        ..quota
    };
    assert_eq!(reason(set(&control, "", Some(beyond)).await), invalid);
    assert!(control.metric("headwater_admin_actions_total{action=\"set_quota\"} 1"));
}

async fn a_registry_that_is_down_leaves_what_was_admitted_to_count(mut fixture: Fixture) {
    fixture.registry = unreachable_registry();
    fixture.config.default_quota = Quota {
        max_sessions: 1,
        ..Quota::default()
    };
    let control = fixture.replica().await;
    let (_, one) = control.create("one").await;
    let (_, two) = control.create("two").await;
    assert!(is_granted(&control.authorize("live", &one).await.unwrap()));
    assert!(!is_granted(&control.authorize("live", &two).await.unwrap()));
    let unavailable = (Code::Unavailable, "REGISTRY_UNAVAILABLE".to_owned());
    let get = of_tenant("default", GetQuotasRequest::default());
    assert_eq!(reason(control.tenants.get_quotas(get).await), unavailable);
}
