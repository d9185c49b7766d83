//! `AdmissionService.Authorize`.

use proto::{
    internal::v1::{
        AuthorizeRequest, AuthorizeResponse, ClientCertificate, Denial, DenialReason,
        WatchRevocationsRequest, admission_service_server::AdmissionService as _,
        authorize_request::Credential, authorize_response::Decision,
    },
    v1::{
        CreateStreamKeyRequest, TakeoverPolicy, stream_key_service_server::StreamKeyService as _,
    },
};
use registry::StreamId;
use runtime::identity::Role;
use tonic::{Code, Request};

use super::{
    fixture::{Fixture, of_role, of_tenant, reason},
    on_both,
};
use crate::{
    database::KeyRecord,
    field::now_ms,
    stream_key::{StreamKey, StreamKeyId},
};

on_both!(
    a_good_key_gets_a_grant_that_verifies,
    every_fault_of_a_key_is_one_denial_outside_and_its_own_inside,
    only_edges_are_admitted,
    a_rotated_pepper_still_checks_old_keys,
    a_bound_key_needs_its_client_certificate,
);

pub(super) fn denial(answer: AuthorizeResponse) -> Denial {
    match answer.decision {
        Some(Decision::Denial(denial)) => denial,
        Some(Decision::AdobeChallenge(_) | Decision::SignedGrant(_)) | None => panic!("no denial"),
    }
}

pub(super) fn is_granted(answer: &AuthorizeResponse) -> bool {
    matches!(answer.decision, Some(Decision::SignedGrant(_)))
}

async fn a_good_key_gets_a_grant_that_verifies(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    let before_ms = u64::try_from(now_ms()).unwrap();
    // As somebody types it.
    let answer = control
        .authorize("live", &format!("{} ", secret.to_uppercase()))
        .await
        .unwrap();
    let Some(Decision::SignedGrant(signed)) = answer.decision else {
        panic!("{answer:?}");
    };
    let grant = fixture.verifier.verify(&signed).unwrap();
    assert_eq!(
        (
            grant.tenant.as_str(),
            grant.app.as_str(),
            grant.stream.as_str()
        ),
        ("default", "live", "main")
    );
    assert_eq!(
        grant.stream_id,
        StreamId::derive("default", "live", "main").as_bytes()
    );
    assert_eq!(
        (grant.session_id.as_str(), grant.stream_key_id),
        ("session-1", key.id)
    );
    assert_eq!(
        (
            grant.slot,
            grant.reconnect_window_ms,
            grant.session_until_ms
        ),
        (0, None, 0)
    );
    assert_eq!(
        grant.takeover_policy,
        TakeoverPolicy::TakeoverIfStale as u32
    );
    assert!(grant.issued_ms >= before_ms);
    assert_eq!(grant.expires_ms, grant.issued_ms + 60_000);
    assert!(
        control.metric("headwater_key_checks_total{outcome=\"accepted\",source=\"database\"} 1")
    );
}

async fn every_fault_of_a_key_is_one_denial_outside_and_its_own_inside(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    let (revoked, revoked_secret) = control.create("revoked").await;
    control.revoke(&revoked.id).await;
    let expired = StreamKey::generate().unwrap();
    let record = KeyRecord {
        id: expired.id(),
        mac: control.shared.peppers.load().mac(&expired),
        expire_ms: Some(now_ms() - 1),
        ..control
            .shared
            .database
            .key(StreamKeyId::parse(&key.id).unwrap())
            .await
            .unwrap()
            .unwrap()
    };
    control.insert(&record).await;

    let mistyped = secret.replacen(|c: char| c.is_ascii_digit(), "z", 1);
    let wrong_secret = StreamKey::generate()
        .unwrap()
        .with_id(StreamKeyId::parse(&key.id).unwrap())
        .reveal();
    let faults = [
        ("malformed", "request", "live", "x".to_owned()),
        ("mistyped", "request", "live", mistyped),
        (
            "unknown",
            "database",
            "live",
            (*StreamKey::generate().unwrap().reveal()).clone(),
        ),
        ("wrong_secret", "database", "live", (*wrong_secret).clone()),
        ("wrong_app", "database", "events/main", secret.clone()),
        ("revoked", "database", "live", revoked_secret),
        ("expired", "database", "live", (*expired.reveal()).clone()),
    ];
    for (outcome, source, app, credential) in faults {
        let denial = denial(control.authorize(app, &credential).await.unwrap());
        assert_eq!(denial.reason(), DenialReason::KeyNotAccepted, "{outcome}");
        assert_eq!(
            (denial.description.as_str(), denial.retryable),
            ("Stream key not accepted", false)
        );
        let metric =
            format!("headwater_key_checks_total{{outcome=\"{outcome}\",source=\"{source}\"}} 1");
        assert!(
            control.metric(&metric),
            "{metric} in {}",
            control.metrics.encode()
        );
    }
    let denial = denial(control.authorize("nowhere", &secret).await.unwrap());
    assert_eq!(
        (denial.reason(), denial.retryable),
        (DenialReason::AppNotFound, false)
    );
    assert!(is_granted(
        &control.authorize("live", &secret).await.unwrap()
    ));
}

async fn only_edges_are_admitted(fixture: Fixture) {
    let control = fixture.replica().await;
    let denied = (Code::PermissionDenied, "ROLE_NOT_ADMITTED".to_owned());
    for role in [Role::Control, Role::Operator, Role::Origin] {
        assert_eq!(
            reason(
                control
                    .admission
                    .authorize(of_role(role, AuthorizeRequest::default()))
                    .await
            ),
            denied
        );
        let watch = of_role(role, WatchRevocationsRequest::default());
        assert_eq!(
            reason(control.admission.watch_revocations(watch).await),
            denied
        );
    }
    assert_eq!(
        reason(
            control
                .admission
                .authorize(Request::new(AuthorizeRequest::default()))
                .await
        ),
        denied
    );
    let empty = of_role(Role::Edge, AuthorizeRequest::default());
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    assert_eq!(reason(control.admission.authorize(empty).await), invalid);
}

async fn a_rotated_pepper_still_checks_old_keys(fixture: Fixture) {
    let (_, old) = fixture.replica().await.create("old").await;
    let pepper = std::fs::read_to_string(&fixture.config.pepper_file).unwrap();
    std::fs::write(
        &fixture.config.pepper_file,
        format!("{pepper}2:{}\n", "5".repeat(64)),
    )
    .unwrap();
    let control = fixture.replica().await;
    let (_, new) = control.create("new").await;
    for secret in [&old, &new] {
        assert!(is_granted(
            &control.authorize("live", secret).await.unwrap()
        ));
    }
    drop(control);
    std::fs::write(
        &fixture.config.pepper_file,
        format!("2:{}\n", "5".repeat(64)),
    )
    .unwrap();
    let error = fixture.try_replica().await.err().unwrap();
    assert!(error.to_string().contains("lacks version 1"), "{error}");
}

async fn a_bound_key_needs_its_client_certificate(fixture: Fixture) {
    let control = fixture.replica().await;
    let create = CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: "bound".to_owned(),
        client_certificate: "Camera-7.example".to_owned(),
        ..Default::default()
    };
    let created = control
        .keys
        .create_stream_key(of_tenant("default", create))
        .await
        .unwrap()
        .into_inner();
    let key = created.stream_key.unwrap();
    assert_eq!(key.client_certificate, "dns:camera-7.example");
    let (_, free) = control.create("free").await;
    let decide = async |secret: &str, sans: Option<&[&str]>| {
        let request = AuthorizeRequest {
            credential: Some(Credential::StreamKey(secret.to_owned())),
            app: "live".to_owned(),
            session_id: "session-1".to_owned(),
            client_certificate: sans.map(|sans| ClientCertificate {
                subject: "camera-7.example".to_owned(),
                sans: sans.iter().map(|san| (*san).to_owned()).collect(),
                sha256: vec![7; 32],
            }),
            ..Default::default()
        };
        let answer = control.admission.authorize(of_role(Role::Edge, request));
        answer.await.unwrap().into_inner()
    };
    let (good, other) = (["dns:camera-7.example"], ["dns:camera-8.example"]);
    assert!(is_granted(&decide(&created.secret, Some(&good)).await));
    assert!(is_granted(&decide(&free, Some(&other)).await));
    for (sans, reason, outcome) in [
        (
            None,
            DenialReason::ClientCertificateMissing,
            "client_certificate_missing",
        ),
        (
            Some(&other[..]),
            DenialReason::ClientCertificateWrong,
            "client_certificate_wrong",
        ),
    ] {
        let denial = denial(decide(&created.secret, sans).await);
        assert_eq!(denial.reason(), reason);
        assert!(denial.description.contains("client certificate"));
        let line =
            format!("headwater_key_checks_total{{outcome=\"{outcome}\",source=\"database\"}} 1");
        assert!(control.metric(&line), "{line}");
    }
    // Without the secret nobody learns of it.
    let mistyped = denial(decide("hw_0", None).await);
    assert_eq!(mistyped.reason(), DenialReason::KeyNotAccepted);
}
