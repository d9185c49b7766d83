//! Applications whose keys the platform signs itself.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::{
    internal::v1::{
        AuthorizeRequest, AuthorizeResponse, Denial, DenialReason, Grant,
        admission_service_server::AdmissionService as _, authorize_request::Credential,
        authorize_response::Decision, revocation,
    },
    v1::{
        Quota as QuotaMessage, RevokeSignedKeyRequest, SetQuotaRequest, TakeoverPolicy,
        TerminateSessionRequest, session_service_server::SessionService as _,
        stream_key_service_server::StreamKeyService as _,
        tenant_service_server::TenantService as _,
    },
};
use runtime::identity::Role;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{
    backend::{Backend, Reply},
    fixture::{Fixture, Replica, of_role, of_tenant, reason, unreachable_registry},
    on_both,
    session_service::publish,
};
use crate::{
    AdmissionSource, Application, KeySetLocation, Quota, SignedKeys, field::now_ms,
    jwt::tests::SigningKey,
};

on_both!(
    a_signed_key_gets_a_grant_with_its_own_terms,
    every_fault_of_a_signed_key_is_one_denial,
    a_revoked_signed_key_is_refused_by_every_control,
    a_signed_key_has_as_many_uses_as_it_says,
    a_terminated_session_holds_its_signed_key_off,
    a_stream_belongs_to_one_tenant_whoever_signs,
    what_is_refused_is_no_use_claims_no_stream_and_takes_no_place,
);

pub(super) const ISSUER: &str = "https://platform.test";
pub(super) const APP: &str = "signed";

fn set(keys: &[&SigningKey]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({"keys": keys}).to_string()
}

fn application(keys: KeySetLocation, tenant: Option<&str>) -> Application {
    Application {
        name: APP.to_owned(),
        admission: AdmissionSource::Signed(SignedKeys {
            keys,
            issuer: ISSUER.to_owned(),
            audience: "headwater".to_owned(),
            tenant: tenant.map(str::to_owned),
        }),
    }
}

/// With an application whose keys are signed with the key that comes back.
pub(super) fn signing(fixture: &mut Fixture, tenant: Option<&str>) -> SigningKey {
    let key = SigningKey::ed25519("one");
    let path = fixture.directory.path().join("jwks.json");
    std::fs::write(&path, set(&[&key])).unwrap();
    let application = application(KeySetLocation::File(path), tenant);
    fixture.config.applications.push(application);
    key
}

fn now() -> i64 {
    now_ms() / 1000
}

/// Good for a minute; `more` goes over it, and a null takes a claim out.
pub(super) fn claims(more: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": ["headwater", "others"], "iat": now(), "exp": now() + 60, "stream": "main", "jti": "j1",
    });
    let map = claims.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.clone(), value.clone());
        }
    }
    claims
}

impl Replica {
    pub(super) async fn ask(
        &self,
        change: impl FnOnce(&mut AuthorizeRequest),
    ) -> Result<AuthorizeResponse, Status> {
        let mut request = AuthorizeRequest {
            app: APP.to_owned(),
            session_id: "session-1".to_owned(),
            client_address: "192.0.2.7:1935".to_owned(),
            ..Default::default()
        };
        change(&mut request);
        let answer = self.admission.authorize(of_role(Role::Edge, request)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(super) async fn ask_with(&self, app: &str, key: &str, session: &str) -> AuthorizeResponse {
        let answer = self.ask(|request| {
            request.app = app.to_owned();
            request.credential = Some(Credential::StreamKey(key.to_owned()));
            request.session_id = session.to_owned();
        });
        answer.await.unwrap()
    }
}

pub(super) fn granted(fixture: &Fixture, answer: AuthorizeResponse) -> Grant {
    let Some(Decision::SignedGrant(signed)) = answer.decision else {
        panic!("{answer:?}");
    };
    fixture.verifier.verify(&signed).unwrap()
}

pub(super) fn denied(answer: AuthorizeResponse) -> Denial {
    let Some(Decision::Denial(denial)) = answer.decision else {
        panic!("granted");
    };
    denial
}

fn denial_reason(answer: AuthorizeResponse) -> DenialReason {
    denied(answer).reason()
}

async fn revoke(control: &Replica, tenant: &str, app: &str, jti: &str) -> Result<(), Status> {
    let request = RevokeSignedKeyRequest {
        app: app.to_owned(),
        jti: jti.to_owned(),
        reason: "a test".to_owned(),
        ..Default::default()
    };
    let answer = control.keys.revoke_signed_key(of_tenant(tenant, request));
    answer.await.map(drop)
}

async fn a_signed_key_gets_a_grant_with_its_own_terms(mut fixture: Fixture) {
    let key = signing(&mut fixture, None);
    let control = fixture.replica().await;
    let claims = claims(json!({
        "tenant": "acme",
        "app": APP,
        "takeover_policy": "reject",
        "policy": {
            "limits": {"max_bitrate_bps": 6_000_000, "video_codecs": ["avc1"]},
            "allowed_cidrs": ["192.0.2.0/24"],
            "reconnect_window_seconds": 30,
            "role": "backup",
            "quota_group": "gold",
        },
    }));
    let jwt = key.sign(&claims);
    let grant = granted(&fixture, control.ask_with(APP, &jwt, "session-1").await);
    assert_eq!(
        (&*grant.tenant, &*grant.app, &*grant.stream, grant.slot),
        ("acme", APP, "main", 1)
    );
    assert_eq!(grant.stream_key_id, "jti:acme:signed:j1");
    let expire_ms = u64::try_from(claims["exp"].as_i64().unwrap()).unwrap() * 1000;
    assert_eq!(
        grant.session_until_ms, expire_ms,
        "the key's end is the session's"
    );
    assert_eq!(grant.takeover_policy, TakeoverPolicy::Reject as u32);
    assert_eq!(grant.reconnect_window_ms, Some(30_000));
    assert_eq!(grant.quota_group, "gold");
    let limits = grant.limits.unwrap();
    assert_eq!(limits.max_bitrate_bps, 6_000_000);
    assert_eq!(limits.video_codecs, ["avc1"]);
    assert!(
        control.metric("headwater_key_checks_total{outcome=\"accepted\",source=\"signature\"} 1")
    );

    // Behind the stream's name.
    let behind = |name: &str| {
        let (name, token) = (name.to_owned(), jwt.clone());
        control.ask(|request| {
            request.credential = Some(Credential::StreamKey(name));
            request.token = token;
        })
    };
    assert_eq!(
        granted(&fixture, behind("main").await.unwrap()).stream,
        "main"
    );
    let other = behind("other").await.unwrap();
    assert_eq!(denial_reason(other), DenialReason::KeyNotAccepted);

    // From where it is not taken.
    let elsewhere = control.ask(|request| {
        request.credential = Some(Credential::StreamKey(jwt.clone()));
        request.client_address = "198.51.100.1:1935".to_owned();
    });
    let elsewhere = denial_reason(elsewhere.await.unwrap());
    assert_eq!(elsewhere, DenialReason::AddressNotAllowed);
}

async fn every_fault_of_a_signed_key_is_one_denial(mut fixture: Fixture) {
    let key = signing(&mut fixture, Some("acme"));
    let control = fixture.replica().await;
    let (stranger, forger) = (SigningKey::ed25519("two"), SigningKey::ed25519("one"));
    let long = "x".repeat(700);
    let changed = [
        ("not_authentic", json!({"iss": "https://other.test"})),
        ("not_authentic", json!({"aud": "others"})),
        ("expired", json!({"exp": now() - 31, "iat": now() - 60})),
        ("malformed", json!({"exp": null})),
        ("malformed", json!({"padding": long})),
        ("claims_invalid", json!({"iat": null})),
        ("claims_invalid", json!({"iat": now() + 31})),
        ("lifetime_too_long", json!({"exp": now() + 86_460})),
        ("claims_invalid", json!({"stream": null})),
        ("claims_invalid", json!({"stream": "a/b"})),
        ("claims_invalid", json!({"app": "live"})),
        ("claims_invalid", json!({"tenant": "other"})),
        ("claims_invalid", json!({"jti": ""})),
        ("claims_invalid", json!({"max_uses": 0})),
        ("claims_invalid", json!({"policy": {"max_bitrate": 1}})),
        (
            "claims_invalid",
            json!({"policy": {"max_session_seconds": 99_999_999}}),
        ),
        ("claims_invalid", json!({"takeover_policy": "never"})),
    ];
    let changed = changed.map(|(outcome, change)| (outcome, key.sign(&claims(change))));
    let others = [
        ("not_authentic", stranger.sign(&claims(json!({})))),
        ("not_authentic", forger.sign(&claims(json!({})))),
        ("malformed", "main".to_owned()),
        ("malformed", String::new()),
    ];
    for (outcome, jwt) in changed.into_iter().chain(others) {
        let count = || {
            let metrics = control.metrics.encode();
            let line = format!(
                "headwater_key_checks_total{{outcome=\"{outcome}\",source=\"signature\"}} "
            );
            let count = metrics
                .lines()
                .find_map(|metric| metric.strip_prefix(&line))
                .map(str::to_owned);
            count.unwrap_or_default()
        };
        let before = count();
        let denial = denied(control.ask_with(APP, &jwt, "session-1").await);
        assert_eq!(denial.reason(), DenialReason::KeyNotAccepted, "{outcome}");
        assert_eq!(denial.description, "Stream key not accepted", "{outcome}");
        assert!(!denial.retryable);
        assert_ne!(count(), before, "{outcome}");
    }
    // The clocks may differ by the leeway, and a whole day is not too long.
    for change in [
        json!({"exp": now() - 20}),
        json!({"iat": now() + 20}),
        json!({"exp": now() + 86_400, "iat": now()}),
        json!({"tenant": "acme"}),
    ] {
        let jwt = key.sign(&claims(change));
        let grant = granted(&fixture, control.ask_with(APP, &jwt, "session-1").await);
        assert_eq!(grant.tenant, "acme");
    }
}

async fn a_revoked_signed_key_is_refused_by_every_control(mut fixture: Fixture) {
    let key = signing(&mut fixture, None);
    let (control, other) = (fixture.replica().await, fixture.replica().await);
    let jwt = key.sign(&claims(json!({})));
    let unnamed = key.sign(&claims(json!({"jti": null})));
    let mut watcher = other.watch(None).await.unwrap();
    assert!(watcher.answer().await.unwrap().revocations.is_empty());
    granted(&fixture, other.ask_with(APP, &jwt, "session-1").await);
    let grant = granted(&fixture, other.ask_with(APP, &unnamed, "session-1").await);

    // Of another tenant, it is another key.
    revoke(&control, "stranger", APP, "j1").await.unwrap();
    granted(&fixture, other.ask_with(APP, &jwt, "session-1").await);

    revoke(&control, "default", APP, "j1").await.unwrap();
    revoke(&control, "default", APP, "j1").await.unwrap();
    let answer = denied(other.ask_with(APP, &jwt, "session-1").await);
    assert_eq!(answer.reason(), DenialReason::KeyNotAccepted);
    let stranger = watcher.revocations().await;
    let mut told = stranger.revocations;
    while told.len() < 2 {
        told.extend(watcher.revocations().await.revocations);
    }
    let targets: Vec<_> = told.iter().filter_map(|told| told.target.clone()).collect();
    let named = |id: &str| revocation::Target::StreamKeyId(id.to_owned());
    assert_eq!(
        targets,
        [
            named("jti:stranger:signed:j1"),
            named("jti:default:signed:j1")
        ],
        "revoking it twice ends it once"
    );

    // One without a name is named after its hash.
    let hash = grant.stream_key_id.rsplit(':').next().unwrap();
    revoke(&control, "default", APP, hash).await.unwrap();
    let answer = denied(other.ask_with(APP, &unnamed, "session-1").await);
    assert_eq!(answer.reason(), DenialReason::KeyNotAccepted);

    for app in ["live", "nothing"] {
        let missing = reason(revoke(&control, "default", app, "j1").await);
        assert_eq!(missing, (Code::NotFound, "APP_NOT_FOUND".to_owned()));
    }
    let invalid = reason(revoke(&control, "default", APP, "").await);
    assert_eq!(invalid, (Code::InvalidArgument, "FIELD_INVALID".to_owned()));
}

async fn a_signed_key_has_as_many_uses_as_it_says(mut fixture: Fixture) {
    let key = signing(&mut fixture, None);
    let (control, other) = (fixture.replica().await, fixture.replica().await);
    let jwt = key.sign(&claims(json!({"max_uses": 1})));
    let mut racing = Vec::new();
    for racer in 0..16 {
        let control = if racer % 2 == 0 { &control } else { &other };
        let jwt = jwt.clone();
        racing.push(async move { control.ask_with(APP, &jwt, &format!("racer-{racer}")).await });
    }
    let mut winners = Vec::new();
    for (racer, answer) in futures_util::future::join_all(racing)
        .await
        .into_iter()
        .enumerate()
    {
        match &answer.decision {
            Some(Decision::SignedGrant(_)) => winners.push(racer),
            _ => assert_eq!(denial_reason(answer), DenialReason::KeyUsedUp),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    let winner = format!("racer-{}", winners[0]);
    granted(&fixture, other.ask_with(APP, &jwt, &winner).await);
    let stranger = key.sign(&claims(
        json!({"max_uses": 1, "tenant": "other", "stream": "else"}),
    ));
    granted(
        &fixture,
        control.ask_with(APP, &stranger, "session-1").await,
    );
}

async fn a_terminated_session_holds_its_signed_key_off(mut fixture: Fixture) {
    let key = signing(&mut fixture, None);
    let (control, other) = (fixture.replica().await, fixture.replica().await);
    let jwt = key.sign(&claims(json!({})));
    let grant = granted(&fixture, control.ask_with(APP, &jwt, "session-1").await);
    publish(&fixture, "session-1", "default", APP, &grant.stream_key_id).await;
    let request = TerminateSessionRequest {
        id: "session-1".to_owned(),
        reason: "a test".to_owned(),
        ..Default::default()
    };
    let request = of_tenant("default", request);
    control.sessions.terminate_session(request).await.unwrap();
    let denial = denied(other.ask_with(APP, &jwt, "session-2").await);
    assert_eq!(denial.reason(), DenialReason::HeldOff);
    assert!(denial.retryable);
    let next = key.sign(&claims(json!({"jti": "j2"})));
    granted(&fixture, other.ask_with(APP, &next, "session-3").await);
}

async fn a_stream_belongs_to_one_tenant_whoever_signs(mut fixture: Fixture) {
    let key = signing(&mut fixture, None);
    let control = fixture.replica().await;
    let of = |tenant: &str| key.sign(&claims(json!({"tenant": tenant})));
    granted(&fixture, control.ask_with(APP, &of("a"), "session-1").await);
    let denial = denied(control.ask_with(APP, &of("b"), "session-1").await);
    assert_eq!(denial.reason(), DenialReason::KeyNotAccepted);
    granted(&fixture, control.ask_with(APP, &of("a"), "session-1").await);
}

async fn what_is_refused_is_no_use_claims_no_stream_and_takes_no_place(mut fixture: Fixture) {
    let key = signing(&mut fixture, None);
    fixture.config.default_quota = Quota {
        max_sessions: 1,
        ..Quota::default()
    };
    let control = fixture.replica().await;
    let once = |tenant: &str, stream: &str, policy: Value| {
        key.sign(&claims(json!({
            "tenant": tenant, "stream": stream, "jti": stream, "max_uses": 1, "policy": policy,
        })))
    };
    let ask = async |jwt: &str, session: &str| control.ask_with(APP, jwt, session).await;
    // From an address that it is not for: the stream is still anybody's.
    let elsewhere = once("a", "one", json!({"allowed_cidrs": ["198.51.100.0/24"]}));
    let denial = ask(&elsewhere, "s-1").await;
    assert_eq!(denial_reason(denial), DenialReason::AddressNotAllowed);
    let one = once("b", "one", json!({}));
    granted(&fixture, ask(&one, "s-2").await);
    // Beyond a quota: neither a use nor a claim.
    let two = once("b", "two", json!({}));
    let denial = ask(&two, "s-3").await;
    assert_eq!(denial_reason(denial), DenialReason::QuotaExceeded);
    let sessions = async |tenant: &str, max_sessions| {
        let quota = SetQuotaRequest {
            quota: Some(QuotaMessage {
                max_sessions,
                ..QuotaMessage::default()
            }),
            ..SetQuotaRequest::default()
        };
        let set = control.tenants.set_quota(of_tenant(tenant, quota));
        set.await.unwrap();
    };
    sessions("b", 2).await;
    granted(&fixture, ask(&two, "s-4").await);
    // With no use left: no place of the quota.
    sessions("c", 1).await;
    let used = once("c", "three", json!({}));
    granted(&fixture, ask(&used, "s-5").await);
    let denial = ask(&used, "s-6").await;
    assert_eq!(denial_reason(denial), DenialReason::KeyUsedUp);
    let owner = control.shared.database.standing("", APP, Some("two"), 0);
    assert_eq!(owner.await.unwrap().owner.as_deref(), Some("b"));
}

#[tokio::test]
async fn uses_that_cannot_be_counted_are_not_granted() {
    let mut fixture = Fixture::sqlite();
    let key = signing(&mut fixture, None);
    fixture.registry = unreachable_registry();
    let control = fixture.replica().await;
    let counted = key.sign(&claims(json!({"max_uses": 1})));
    let denial = denied(control.ask_with(APP, &counted, "session-1").await);
    assert_eq!(denial.reason(), DenialReason::SourceUnavailable);
    assert!(denial.retryable);
    let free = key.sign(&claims(json!({})));
    granted(&fixture, control.ask_with(APP, &free, "session-1").await);
}

#[tokio::test]
async fn keys_come_from_a_url_and_are_rotated_there() {
    let mut fixture = Fixture::sqlite();
    let (first, second) = (SigningKey::ed25519("one"), SigningKey::ed25519("two"));
    let served = Arc::new(Mutex::new(None::<String>));
    let serving = served.clone();
    let backend = Backend::start(fixture.directory.path(), move |_asked| {
        match &*serving.lock() {
            Some(set) => Reply::Answer(200, set.clone()),
            None => Reply::Answer(500, String::new()),
        }
    });
    let backend = backend.await;
    fixture.config.egress = backend.egress.clone();
    let keys = KeySetLocation::Url(backend.url("/jwks.json"));
    fixture.config.applications.push(application(keys, None));
    let control = fixture.replica().await;
    let jwt = first.sign(&claims(json!({})));
    let denial = denied(control.ask_with(APP, &jwt, "session-1").await);
    assert_eq!(denial.reason(), DenialReason::SourceUnavailable);
    assert!(denial.retryable);

    let until_granted = async |jwt: &str| {
        loop {
            let answer = control.ask_with(APP, jwt, "session-1").await;
            if let Some(Decision::SignedGrant(_)) = answer.decision {
                return;
            }
        }
    };
    for (key, set) in [(&first, set(&[&first])), (&second, set(&[&first, &second]))] {
        *served.lock() = Some(set);
        let jwt = key.sign(&claims(json!({})));
        let granted = tokio::time::timeout(Duration::from_secs(60), until_granted(&jwt));
        granted.await.expect("a new key is found");
    }
}

#[tokio::test]
async fn a_table_of_applications_is_put_into_effect_whole_or_not_at_all() {
    let mut fixture = Fixture::sqlite();
    let key = signing(&mut fixture, None);
    let signed = fixture.config.applications.pop().unwrap();
    let control = fixture.replica().await;
    let jwt = key.sign(&claims(json!({})));
    let missing = denied(control.ask_with(APP, &jwt, "session-1").await);
    assert_eq!(missing.reason(), DenialReason::AppNotFound);

    let live = &control.shared.live;
    let broken = application(KeySetLocation::File("/nowhere".into()), None);
    let studio = Application::managed("studio");
    let error = live
        .replace(&[studio.clone(), broken], "a".to_owned())
        .unwrap_err();
    assert!(error.to_string().contains(APP), "{error}");
    assert!(live.source("studio").is_none(), "nothing of it");
    live.replace(&[studio, signed.clone()], "b".to_owned())
        .unwrap();
    granted(&fixture, control.ask_with(APP, &jwt, "session-1").await);
    let before = live.source(APP).unwrap();
    live.replace(&[signed], "c".to_owned()).unwrap();
    assert!(
        Arc::ptr_eq(&before, &live.source(APP).unwrap()),
        "unchanged"
    );
    assert!(live.source("studio").is_none());
}
