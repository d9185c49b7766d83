//! Who is let in through the public port: every method of the contract, and every kind of credential.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use proto::v1::{
    CreateStreamKeyRequest, CreateStreamKeyResponse, CreateTokenRequest, CreateWebhookRequest,
    GetTokenRequest, ListTokensRequest, SetQuotaRequest, StreamKey, UpdateStreamKeyRequest,
    WatchEventsRequest, WatchSessionsRequest,
};
use runtime::{
    grpc::{self, Listener, Peer, Target},
    identity::Role,
    shutdown::Shutdown,
    tls::ClientCertificate,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::{
    fixture::{Fixture, bearing, reason},
    on_both,
    session_service::publish,
};
use crate::{
    ApiAccess, ClaimOr, Control, Dependencies, Listeners, Permission, TokenIssuer,
    TokenPermissions, TokenVerification,
    caller::{Caller, EVERY, Scope, Scopes},
    database::TokenRecord,
    field::now_ms,
    jwt::tests::SigningKey,
    stream_key::ApiToken,
};

on_both!(every_method_wants_a_credential_with_its_scope_and_keeps_tenants_apart);

/// Of control's public port. Origins serve `PlaybackService`.
const ELSEWHERE: [&str; 1] = ["headwater.v1.PlaybackService"];

/// Every method of the public contract, as a path.
pub(super) fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap().file;
    let public = files.iter().filter(|file| file.package() == "headwater.v1");
    let mut methods = vec![];
    for service in public.flat_map(|file| &file.service) {
        let service_name = format!("headwater.v1.{}", service.name());
        if ELSEWHERE.contains(&service_name.as_str()) {
            continue;
        }
        let names = service.method.iter().map(|method| method.name());
        methods.extend(names.map(|name| format!("/{service_name}/{name}")));
    }
    assert!(methods.len() > 15, "{methods:?}");
    methods
}

/// A running control, called by path with bytes.
pub(super) struct Served {
    channel: Channel,
    _running: AbortOnDropHandle<()>,
}

impl Served {
    pub(super) async fn start(fixture: &Fixture) -> (Self, Arc<crate::Shared>) {
        let dependencies = Dependencies {
            registry: fixture.registry.clone(),
            metrics: Default::default(),
            readiness: Default::default(),
        };
        let control = Control::new(fixture.config.clone(), dependencies)
            .await
            .unwrap();
        let shared = control.shared.clone();
        let (public, target) = grpc::in_process(Role::Edge);
        let (internal, _) = grpc::in_process(Role::Edge);
        let listeners = Listeners {
            public: Listener::InProcess(public),
            internal: Listener::InProcess(internal),
        };
        let running = tokio::spawn(async move {
            control.run(listeners, Shutdown::default()).await.unwrap();
        });
        let served = Self {
            channel: grpc::channel(&Target::InProcess(target)),
            _running: AbortOnDropHandle::new(running),
        };
        (served, shared)
    }

    /// The first message of the answer; `None` where there is none.
    pub(super) async fn call(
        &self,
        path: &str,
        credential: Option<&str>,
        message: Vec<u8>,
    ) -> Result<Option<Bytes>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client
            .ready()
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        let request = match credential {
            Some(credential) => bearing(credential, message),
            None => Request::new(message),
        };
        let path = path.parse().unwrap();
        let answer = client.server_streaming(request, path, Raw).await?;
        answer.into_inner().message().await
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// As it is stored, good for ever.
pub(super) fn token_record(token: &ApiToken, tenant: &str, scopes: &[&str]) -> TokenRecord {
    TokenRecord {
        id: token.id(),
        tenant: tenant.to_owned(),
        description: String::new(),
        scopes: Scopes::parse(scopes.iter().copied()).unwrap(),
        hash: token.hash(),
        previous: None,
        creator: "test".to_owned(),
        create_ms: now_ms(),
        expire_ms: None,
        revoke_ms: None,
        last_use_ms: None,
    }
}

/// Puts a token into the database.
pub(super) async fn token(
    shared: &crate::Shared,
    tenant: &str,
    scopes: &[&str],
) -> (String, String) {
    let token = ApiToken::generate().unwrap();
    let record = token_record(&token, tenant, scopes);
    shared.database.create_token(&record).await.unwrap();
    (token.id().to_string(), token.reveal().to_string())
}

/// What belongs to the tenant `acme`.
struct Owned {
    key_id: String,
    token_id: String,
    session_id: String,
}

/// How another tenant asks for what `acme` has, and with which reason it is refused: `None` where nothing may come, and
/// no more is said here. A method that is not in this table has nobody who thought about it.
fn foreign(method: &str, owned: &Owned) -> Option<(Vec<u8>, Option<&'static str>)> {
    let (key, session, token) = (
        owned.key_id.clone(),
        owned.session_id.clone(),
        owned.token_id.clone(),
    );
    // Those of the methods that take nothing else are one message: field 1 is a text.
    let id = |id: String| GetTokenRequest { id }.encode_to_vec();
    Some(match method {
        "DeleteStreamKey" | "GetStreamKey" | "RevokeStreamKey" | "RotateStreamKey" => {
            (id(key), Some("KEY_NOT_FOUND"))
        }
        "UpdateStreamKey" => {
            let stream_key = Some(StreamKey {
                id: key,
                ..Default::default()
            });
            let request = UpdateStreamKeyRequest {
                stream_key,
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["description".to_owned()],
                }),
                ..Default::default()
            };
            (request.encode_to_vec(), Some("KEY_NOT_FOUND"))
        }
        "RevokeSignedKey" => (vec![], None),
        "GetSession" | "TerminateSession" => (id(session), Some("SESSION_NOT_FOUND")),
        "DrainEdge" | "ListEdges" | "UndrainEdge" => {
            (id("edge-a".to_owned()), Some("EVERY_TENANT_NEEDED"))
        }
        "ListDeadLetters" | "ListSessions" | "ListStreamKeys" | "ListWebhooks" => (vec![], None),
        "DeleteWebhook" | "GetWebhook" | "ReplayWebhook" => (id(key), None),
        "GetToken" | "RevokeToken" | "RotateToken" => (id(token), Some("TOKEN_NOT_FOUND")),
        _ => return in_the_name_of_acme(method),
    })
}

/// The same, of methods that name a tenant.
fn in_the_name_of_acme(method: &str) -> Option<(Vec<u8>, Option<&'static str>)> {
    let tenant = "acme".to_owned();
    Some(match method {
        "CreateStreamKey" => {
            let request = CreateStreamKeyRequest {
                tenant,
                app: "live".to_owned(),
                stream: "stolen".to_owned(),
                ..Default::default()
            };
            (request.encode_to_vec(), Some("FIELD_INVALID"))
        }
        "WatchSessions" => {
            let request = WatchSessionsRequest {
                tenant,
                ..Default::default()
            };
            (request.encode_to_vec(), Some("FIELD_INVALID"))
        }
        "WatchEvents" => {
            let request = WatchEventsRequest {
                tenant,
                ..Default::default()
            };
            (request.encode_to_vec(), Some("FIELD_INVALID"))
        }
        "CreateWebhook" => {
            let request = CreateWebhookRequest {
                tenant,
                url: "https://backend.test/".to_owned(),
                ..Default::default()
            };
            (request.encode_to_vec(), Some("FIELD_INVALID"))
        }
        "SetQuota" => {
            let request = SetQuotaRequest {
                tenant,
                ..Default::default()
            };
            (request.encode_to_vec(), None)
        }
        "CreateToken" => {
            let request = CreateTokenRequest {
                tenant,
                scopes: vec!["keys:read".to_owned()],
                ..Default::default()
            };
            (request.encode_to_vec(), Some("FIELD_INVALID"))
        }
        "ListTokens" => {
            let request = ListTokensRequest {
                tenant,
                ..Default::default()
            };
            (request.encode_to_vec(), Some("FIELD_INVALID"))
        }
        "GetQuotas" => (GetTokenRequest { id: tenant }.encode_to_vec(), None),
        _ => return None,
    })
}

/// Nothing is behind it in this build.
fn is_unimplemented<T>(answer: &Result<T, Status>) -> bool {
    matches!(answer, Err(status) if status.code() == Code::Unimplemented)
}

async fn every_method_wants_a_credential_with_its_scope_and_keeps_tenants_apart(fixture: Fixture) {
    let (control, shared) = Served::start(&fixture).await;
    let request = CreateStreamKeyRequest {
        tenant: "acme".to_owned(),
        app: "live".to_owned(),
        stream: "main".to_owned(),
        ..Default::default()
    };
    let create = "/headwater.v1.StreamKeyService/CreateStreamKey";
    let created = control.call(create, Some("a token for tests"), request.encode_to_vec());
    let created = created.await.unwrap().unwrap();
    let created = CreateStreamKeyResponse::decode(created).unwrap();
    let key_id = created.stream_key.unwrap().id;
    publish(&fixture, "session-a", "acme", "live", &key_id).await;
    let owned = Owned {
        key_id,
        token_id: token(&shared, "acme", &["keys:read"]).await.0,
        session_id: "session-a".to_owned(),
    };
    // Nothing in the contract needs either of two scopes, so one of these two lacks what it needs.
    let (_, reads_sessions) = token(&shared, "acme", &["sessions:read"]).await;
    let (_, reads_tokens) = token(&shared, "acme", &["tokens:read"]).await;
    let (_, stranger) = token(&shared, "other", &[EVERY]).await;
    for path in methods() {
        if is_unimplemented(&control.call(&path, None, vec![]).await) {
            continue;
        }
        wants_a_credential(&control, &path, [&reads_sessions, &reads_tokens]).await;
        tells_strangers_nothing(&control, &path, &stranger, &owned).await;
    }
}

async fn wants_a_credential(control: &Served, path: &str, narrow: [&str; 2]) {
    let anonymous = control.call(path, None, vec![]).await;
    let missing = (Code::Unauthenticated, "TOKEN_MISSING".to_owned());
    assert_eq!(reason(anonymous), missing, "{path}");
    let forged = control.call(path, Some("forged"), vec![]).await;
    let invalid = (Code::Unauthenticated, "TOKEN_INVALID".to_owned());
    assert_eq!(reason(forged), invalid, "{path}");
    let mut without = 0;
    for credential in narrow {
        // A watch that is let in answers when it likes.
        let call = control.call(path, Some(credential), vec![]);
        if let Ok(Err(status)) = timeout(ANSWER_TIMEOUT, call).await
            && proto::error::reason(&status).as_deref() == Some("SCOPE_MISSING")
        {
            assert_eq!(status.code(), Code::PermissionDenied);
            without += 1;
        }
    }
    assert!(without > 0, "{path} looks at no scope");
}

async fn tells_strangers_nothing(control: &Served, path: &str, stranger: &str, owned: &Owned) {
    let method = path.rsplit_once('/').unwrap().1;
    let (message, expected) = foreign(method, owned)
        .unwrap_or_else(|| panic!("{path}: say here how it keeps tenants apart"));
    let answer = control.call(path, Some(stranger), message);
    let answer = timeout(ANSWER_TIMEOUT * 10, answer).await.unwrap();
    let refusals = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::PermissionDenied,
    ];
    match (answer, expected) {
        (Err(status), _) if status.code() == Code::Unimplemented => {}
        (Err(status), Some(expected)) => {
            let reason = proto::error::reason(&status);
            assert_eq!(reason.as_deref(), Some(expected), "{path}");
        }
        (Err(status), None) => assert!(refusals.contains(&status.code()), "{path}: {status}"),
        (Ok(told), _) => {
            let nothing = told.is_none_or(|told| told.is_empty());
            assert!(expected.is_none() && nothing, "{path}");
        }
    }
}

/// For what answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn identify(
    fixture: &Fixture,
    access: ApiAccess,
    request: Request<()>,
) -> Result<Caller, (Code, String)> {
    let mut fixture_config = fixture.config.clone();
    fixture_config.api_access = access;
    let dependencies = Dependencies {
        registry: fixture.registry.clone(),
        metrics: Default::default(),
        readiness: Default::default(),
    };
    let control = Control::new(fixture_config, dependencies).await.unwrap();
    let caller = control.shared.caller(&request, Scope::KeysRead).await;
    caller.map_err(|status| reason::<()>(Err(status)))
}

pub(super) const ISSUER: &str = "https://issuer.test";

pub(super) fn claims(more: &[(&str, Value)]) -> Value {
    let mut claims = json!({
        "iss": ISSUER,
        "aud": "headwater",
        "sub": "system:serviceaccount:media:backend",
        "exp": now_ms() / 1000 + 60,
    });
    for (name, value) in more {
        claims[*name] = value.clone();
    }
    claims
}

fn issuer(fixture: &Fixture, key: &SigningKey, permissions: TokenPermissions) -> ApiAccess {
    let file = fixture.directory.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": [key.jwk()]}).to_string()).unwrap();
    ApiAccess {
        issuers: vec![TokenIssuer {
            issuer: ISSUER.to_owned(),
            audience: "headwater".to_owned(),
            verification: TokenVerification::KeySetFile(file),
            permissions,
        }],
        ..ApiAccess::default()
    }
}

pub(super) fn permission(tenant: &str, scopes: &[&str]) -> Permission {
    Permission {
        tenant: tenant.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    }
}

pub(super) fn refused<T>(code: Code, reason: &str) -> Result<T, (Code, String)> {
    Err((code, reason.to_owned()))
}

#[tokio::test]
async fn a_signed_token_does_what_its_claims_say_and_never_everything() {
    let fixture = Fixture::sqlite();
    let key = SigningKey::ed25519("key");
    let access = issuer(
        &fixture,
        &key,
        TokenPermissions::Claims {
            tenant: ClaimOr::Claim("tenant".to_owned()),
            scopes: ClaimOr::Claim("scope".to_owned()),
        },
    );
    let call = async |more: &[(&str, Value)]| {
        let token = key.sign(&claims(more));
        identify(&fixture, access.clone(), bearing(&token, ())).await
    };
    let tenant = ("tenant", json!("acme"));
    let caller = call(&[
        tenant.clone(),
        ("scope", json!("openid keys:read keys:write")),
    ])
    .await;
    let caller = caller.unwrap();
    assert_eq!(caller.tenant("").as_deref(), Ok("acme"));
    assert_eq!(caller.scopes.names(), ["keys:read", "keys:write"]);
    assert_eq!(
        caller.name,
        "https://issuer.test system:serviceaccount:media:backend"
    );
    assert!(
        call(&[tenant.clone(), ("scope", json!(["keys:read"]))])
            .await
            .is_ok()
    );
    for (more, reason) in [
        (vec![tenant.clone(), ("scope", json!("*"))], "SCOPE_MISSING"),
        (vec![tenant.clone()], "CALLER_NOT_ADMITTED"),
        (vec![("scope", json!("keys:read"))], "CALLER_NOT_ADMITTED"),
        (
            vec![("tenant", json!("*")), ("scope", json!("keys:read"))],
            "CALLER_NOT_ADMITTED",
        ),
    ] {
        let answer = call(&more).await.map(|caller| caller.name);
        assert_eq!(answer, refused(Code::PermissionDenied, reason), "{more:?}");
    }
    for wrong in [
        ("aud", json!("other")),
        ("exp", json!(1)),
        ("iss", json!("https://other.test")),
        ("sub", json!(1)),
    ] {
        let more = [tenant.clone(), ("scope", json!("keys:read")), wrong];
        let answer = call(&more).await.map(|caller| caller.name);
        assert_eq!(answer, refused(Code::Unauthenticated, "TOKEN_INVALID"));
    }
}

#[tokio::test]
async fn a_service_account_is_admitted_by_its_name_alone() {
    let fixture = Fixture::sqlite();
    let key = SigningKey::ed25519("key");
    let subject = "system:serviceaccount:media:backend";
    let subjects = BTreeMap::from([(subject.to_owned(), permission("acme", &["keys:read"]))]);
    let access = issuer(&fixture, &key, TokenPermissions::Subjects(subjects));
    let call = async |subject: &str| {
        let token = key.sign(&claims(&[("sub", json!(subject))]));
        let caller = identify(&fixture, access.clone(), bearing(&token, ())).await;
        caller.map(|caller| caller.tenant("").unwrap().to_string())
    };
    assert_eq!(call(subject).await.as_deref(), Ok("acme"));
    for other in [
        "system:serviceaccount:media:other",
        "system:serviceaccount:media:backend2",
        "",
    ] {
        let not_admitted = refused(Code::PermissionDenied, "CALLER_NOT_ADMITTED");
        assert_eq!(call(other).await, not_admitted);
    }
}

#[tokio::test]
async fn a_client_certificate_is_admitted_by_its_names_and_behind_a_token() {
    let fixture = Fixture::sqlite();
    let name = "spiffe://platform/backend";
    let access = ApiAccess {
        certificates: BTreeMap::from([(name.to_owned(), permission(EVERY, &["keys:read"]))]),
        ..ApiAccess::default()
    };
    let with = |san: &str, mut request: Request<()>| {
        let certificate = ClientCertificate {
            sans: vec![san.to_owned()],
            ..ClientCertificate::default()
        };
        request.extensions_mut().insert(Peer {
            certificate: Some(Arc::new(certificate)),
            ..Peer::default()
        });
        request
    };
    let call = async |request| {
        let caller = identify(&fixture, access.clone(), request).await;
        caller.map(|caller| caller.name)
    };
    let own = format!("uri:{name}");
    let admitted = call(with(&own, Request::new(()))).await;
    assert_eq!(admitted, Ok(format!("certificate {own}")));
    let other = call(with("uri:spiffe://platform/other", Request::new(()))).await;
    assert_eq!(
        other,
        refused(Code::PermissionDenied, "CALLER_NOT_ADMITTED")
    );
    // A token that comes along is what counts, good or not.
    let wrong = call(with(&own, bearing("wrong", ()))).await;
    assert_eq!(wrong, refused(Code::Unauthenticated, "TOKEN_INVALID"));
    let file = call(with(&own, bearing("a token for tests", ()))).await;
    assert_eq!(file.as_deref(), Ok("API token file"));
}
