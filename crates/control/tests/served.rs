//! Control behind its ports, as API clients and edges meet it, with every log line kept and searched for the secret.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers fail by panicking"
)]

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use control::{
    Config, Control, DatabaseConfig, Dependencies, Listeners, encode_grant_key,
    generate_pepper_file,
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use parking_lot::Mutex;
use proto::{
    error::reason,
    grant::GrantSigner,
    internal::v1::{
        AuthorizeRequest, GetStateRequest, WatchRevocationsRequest,
        admission_service_client::AdmissionServiceClient, authorize_request::Credential,
        authorize_response::Decision, cluster_service_client::ClusterServiceClient,
    },
    v1::{
        CreateStreamKeyRequest, ListSessionsRequest, ListStreamKeysRequest, RevokeStreamKeyRequest,
        session_service_client::SessionServiceClient,
        stream_key_service_client::StreamKeyServiceClient,
    },
};
use registry::{MemoryRegistry, Registry};
use runtime::{
    admin::Readiness,
    grpc::{self, InProcessTarget, Listener, Target},
    identity::Role,
    metrics::Metrics,
    shutdown::Shutdown,
    telemetry,
};
use tokio::task::JoinHandle;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing_subscriber::{
    Layer as _, filter::LevelFilter, fmt::MakeWriter, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

const API_TOKEN: &str = "an-api-token-for-this-test";

/// A trace and a span of an edge, sampled.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

struct Served {
    public: Channel,
    internal: Channel,
    shutdown: Shutdown,
    readiness: Readiness,
    running: JoinHandle<Result<(), control::ControlError>>,
    _directory: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        Self::start_for(Role::Edge).await
    }

    /// With `role` as what calls on the internal port.
    async fn start_for(role: Role) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let pkcs8 = GrantSigner::generate_pkcs8().unwrap();
        std::fs::write(path("grant.key"), encode_grant_key(&pkcs8).as_bytes()).unwrap();
        std::fs::write(path("pepper"), generate_pepper_file().unwrap().as_bytes()).unwrap();
        std::fs::write(path("api-token"), format!("{API_TOKEN}\n")).unwrap();
        let database = DatabaseConfig::Sqlite {
            path: path("headwater.db"),
        };
        let config = Config::new(
            database,
            path("pepper"),
            path("grant.key"),
            path("api-token"),
        );
        let readiness = Readiness::default();
        let dependencies = Dependencies {
            registry: Registry::Memory(MemoryRegistry::new()),
            metrics: Metrics::default(),
            readiness: readiness.clone(),
        };
        let control = Control::new(config, dependencies).await.unwrap();
        let (public, public_target) = grpc::in_process(Role::Edge);
        let (internal, internal_target) = grpc::in_process(role);
        let listeners = Listeners {
            public: Listener::InProcess(public),
            internal: Listener::InProcess(internal),
        };
        let shutdown = Shutdown::default();
        let running = tokio::spawn(control.run(listeners, shutdown.clone()));
        let channel = |target: InProcessTarget| grpc::channel(&Target::InProcess(target));
        Self {
            public: channel(public_target),
            internal: channel(internal_target),
            shutdown,
            readiness,
            running,
            _directory: directory,
        }
    }

    async fn create(&self, stream: &str) -> (String, String) {
        let request = CreateStreamKeyRequest {
            app: "live".to_owned(),
            stream: stream.to_owned(),
            ..Default::default()
        };
        let mut keys = StreamKeyServiceClient::new(self.public.clone());
        let created = keys
            .create_stream_key(bearing(API_TOKEN, request))
            .await
            .unwrap()
            .into_inner();
        (created.stream_key.unwrap().id, created.secret)
    }

    async fn authorize(&self, app: &str, credential: &str) -> bool {
        let request = AuthorizeRequest {
            credential: Some(Credential::StreamKey(credential.to_owned())),
            app: app.to_owned(),
            session_id: "session-1".to_owned(),
            ..Default::default()
        };
        let mut admission = AdmissionServiceClient::new(self.internal.clone());
        let answer = admission.authorize(request).await.unwrap().into_inner();
        matches!(answer.decision, Some(Decision::SignedGrant(_)))
    }
}

fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_port_wants_a_bearer_token() {
    let served = Served::start().await;
    let mut keys = StreamKeyServiceClient::new(served.public.clone());
    let mut sessions = SessionServiceClient::new(served.public.clone());
    let missing = keys
        .list_stream_keys(ListStreamKeysRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (missing.code(), reason(&missing).as_deref()),
        (Code::Unauthenticated, Some("TOKEN_MISSING"))
    );
    let invalid = sessions
        .list_sessions(bearing("a guess", ListSessionsRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(
        (invalid.code(), reason(&invalid).as_deref()),
        (Code::Unauthenticated, Some("TOKEN_INVALID"))
    );
    sessions
        .list_sessions(bearing(API_TOKEN, ListSessionsRequest::default()))
        .await
        .unwrap();
    assert_eq!(served.readiness.missing(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ports_serve_what_is_theirs_and_their_health() {
    let served = Served::start().await;
    let mut admission = AdmissionServiceClient::new(served.public.clone());
    let elsewhere = admission
        .authorize(AuthorizeRequest::default())
        .await
        .unwrap_err();
    assert_eq!(elsewhere.code(), Code::Unimplemented);
    let mut keys = StreamKeyServiceClient::new(served.internal.clone());
    let request = bearing(API_TOKEN, ListStreamKeysRequest::default());
    assert_eq!(
        keys.list_stream_keys(request).await.unwrap_err().code(),
        Code::Unimplemented
    );
    for channel in [&served.public, &served.internal] {
        for service in [
            "",
            "headwater.v1.StreamKeyService",
            "headwater.internal.v1.AdmissionService",
            "headwater.internal.v1.ClusterService",
        ] {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = HealthClient::new(channel.clone())
                .check(request)
                .await
                .unwrap()
                .into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_of_the_internal_port_has_its_own_caller() {
    let denied = |status: tonic::Status| {
        status.code() == Code::PermissionDenied
            && reason(&status).as_deref() == Some("ROLE_NOT_ADMITTED")
    };
    let served = Served::start_for(Role::Operator).await;
    let mut cluster = ClusterServiceClient::new(served.internal.clone());
    let state = cluster.get_state(GetStateRequest {}).await.unwrap();
    assert_eq!(state.into_inner().applications, ["live"]);
    let mut admission = AdmissionServiceClient::new(served.internal.clone());
    let authorize = admission.authorize(AuthorizeRequest::default()).await;
    assert!(denied(authorize.unwrap_err()));
    let watch = admission
        .watch_revocations(WatchRevocationsRequest::default())
        .await;
    assert!(denied(watch.err().unwrap()));

    let served = Served::start_for(Role::Edge).await;
    let mut cluster = ClusterServiceClient::new(served.internal.clone());
    let state = cluster.get_state(GetStateRequest {}).await;
    assert!(denied(state.unwrap_err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_large_is_refused_alone() {
    let served = Served::start().await;
    let mut keys = StreamKeyServiceClient::new(served.public.clone());
    let request = CreateStreamKeyRequest {
        description: "x".repeat(1 << 20),
        ..Default::default()
    };
    let refused = keys
        .create_stream_key(bearing(API_TOKEN, request))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::OutOfRange);
    let (_, secret) = served.create("main").await;
    assert!(served.authorize("live", &secret).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_watches_and_then_control() {
    let served = Served::start().await;
    let mut admission = AdmissionServiceClient::new(served.internal.clone());
    let mut watch = admission
        .watch_revocations(WatchRevocationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().position, 0);
    served.shutdown.drain();
    let end = watch.message().await.unwrap_err();
    assert_eq!(
        (end.code(), reason(&end).as_deref()),
        (Code::Unavailable, Some("DRAINING"))
    );
    let ended = tokio::time::timeout(Duration::from_secs(10), served.running).await;
    ended.expect("control ends").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_line_holds_the_secret() {
    let log = Log::capture();
    let served = Served::start().await;
    let (id, whole) = served.create("main").await;
    assert!(served.authorize("live", &whole).await);
    // What publishers do with a key: they paste it into the server URL, lose a character, use it after its end.
    assert!(!served.authorize(&format!("live/{whole}"), "x").await);
    assert!(!served.authorize("live", &whole[..49]).await);
    assert!(!served.authorize(&whole, &whole).await);
    let mut keys = StreamKeyServiceClient::new(served.public.clone());
    let pasted = RevokeStreamKeyRequest {
        id: whole.clone(),
        reason: whole.clone(),
    };
    keys.revoke_stream_key(bearing(API_TOKEN, pasted))
        .await
        .unwrap_err();
    let pasted = CreateStreamKeyRequest {
        app: whole.clone(),
        stream: whole.clone(),
        ..Default::default()
    };
    keys.create_stream_key(bearing(API_TOKEN, pasted))
        .await
        .err()
        .unwrap();
    let revoke = RevokeStreamKeyRequest {
        id: id.clone(),
        reason: "a test".to_owned(),
    };
    keys.revoke_stream_key(bearing(API_TOKEN, revoke))
        .await
        .unwrap();
    assert!(!served.authorize("live", &whole).await);

    let canary = "hw_0123456789abcdef_canary0123456789canary0123";
    tracing::trace!(
        raw = canary,
        hex = HEXLOWER.encode(canary.as_bytes()),
        "canary"
    );
    tracing::trace!(base64 = BASE64.encode(format!("é{canary}").as_bytes()), bytes = ?canary.as_bytes(), "canary");
    assert_eq!(
        log.forms_found(&canary[20..]),
        4,
        "the search finds what is there"
    );
    assert!(log.contains(&id), "the id may be, and is, logged");
    assert!(log.contains("publish refused") && log.contains("publish authorized"));
    assert!(log.contains("hw_<redacted>"));
    let secret = &whole.rsplit_once('_').unwrap().1[..26];
    assert_eq!(log.forms_found(secret), 0);
    assert_eq!(log.forms_found(&secret.to_uppercase()), 0);
    assert_eq!(log.forms_found(API_TOKEN), 0);
}

#[tokio::test]
async fn a_decision_belongs_to_the_edges_trace() {
    let log = Log::capture();
    let served = Served::start().await;
    let (_, secret) = served.create("traced").await;
    for (credential, said) in [
        (secret.as_str(), "publish authorized"),
        ("x", "publish refused"),
    ] {
        let mut request = Request::new(AuthorizeRequest {
            credential: Some(Credential::StreamKey(credential.to_owned())),
            app: "live".to_owned(),
            session_id: "session-traced".to_owned(),
            ..Default::default()
        });
        let traceparent = TRACEPARENT.parse().unwrap();
        request
            .metadata_mut()
            .insert(telemetry::TRACEPARENT, traceparent);
        let mut admission = AdmissionServiceClient::new(served.internal.clone());
        admission.authorize(request).await.unwrap();
        let line = log.line(&[said, "session-traced"]);
        let trace_id = "trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"";
        assert!(line.contains(trace_id), "{line}");
    }
}

/// Everything that is logged in this process, from TRACE up.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let capture = || {
            let log = Self::default();
            let lines = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(log.clone());
            tracing_subscriber::registry()
                .with(lines.with_filter(LevelFilter::TRACE))
                .with(telemetry::spans())
                .init();
            log
        };
        LOG.get_or_init(capture).clone()
    }

    /// The line that holds all of these.
    fn line(&self, parts: &[&str]) -> String {
        let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
        let mut lines = text.lines();
        let line = lines.find(|line| parts.iter().all(|part| line.contains(part)));
        line.unwrap_or_else(|| panic!("no line with {parts:?}"))
            .to_owned()
    }

    fn contains(&self, needle: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(needle)
    }

    /// In how many forms a text is there: raw, hex, base64 (at each of three offsets), array of bytes.
    fn forms_found(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        // What surrounds the text decides on a group's first and last characters: whole groups alone are compared.
        let base64 = |skipped: usize| {
            let whole = bytes.len().saturating_sub(skipped) / 3 * 3;
            BASE64.encode(&bytes[skipped..skipped + whole])
        };
        let base64url = |skipped| base64(skipped).replace('+', "-").replace('/', "_");
        let array = format!("{bytes:?}");
        let forms: [&[String]; 4] = [
            &[text.to_owned()],
            &[HEXLOWER.encode(bytes), HEXUPPER.encode(bytes)],
            &[
                base64(0),
                base64(1),
                base64(2),
                base64url(0),
                base64url(1),
                base64url(2),
                BASE64URL_NOPAD.encode(bytes),
            ],
            &[array.trim_matches(['[', ']']).to_owned()],
        ];
        forms
            .iter()
            .filter(|form| form.iter().any(|needle| self.contains(needle)))
            .count()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
