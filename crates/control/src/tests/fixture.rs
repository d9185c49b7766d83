//! A database, a registry, secrets, and control replicas on them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use prost::Message as _;
use proto::{
    grant::{GrantSigner, GrantVerifier},
    internal::v1::{
        AuthorizeRequest, AuthorizeResponse, WatchRevocationsRequest, WatchRevocationsResponse,
        admission_service_server::AdmissionService as _, authorize_request::Credential,
    },
    v1::{
        CreateStreamKeyRequest, EventType, KeyEvent, MediaLimits, PublishPolicy,
        RevokeStreamKeyRequest, StreamKey as StreamKeyMessage,
        stream_key_service_server::StreamKeyService as _,
    },
};
use registry::{MemoryRegistry, RedisConfig, RedisRegistry, Registry};
use runtime::{admin::Readiness, grpc::Peer, identity::Role, metrics::Metrics, shutdown::Shutdown};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status};

use super::postgres::PostgresServer;
use crate::{
    Application, Config, Control, ControlError, DatabaseConfig, Dependencies, POSTGRES_CONNECTIONS,
    Quota, Shared,
    admission::Admission,
    caller::Tenant,
    cluster::ClusterState,
    database::{CreateOutcome, Creation, KeyRecord, NewEvent},
    delivery::Pacing,
    edges::Edges,
    encode_grant_key,
    events::Events,
    generate_pepper_file,
    keys::StreamKeys,
    pepper::PepperFile,
    sessions::Sessions,
    tenants::Tenants,
    tokens::Tokens,
};

/// What replicas of one cluster have in common.
pub(super) struct Fixture {
    pub(super) config: Config,
    pub(super) registry: Registry,
    pub(super) verifier: GrantVerifier,
    pub(super) directory: TempDir,
    /// Quick.
    pub(super) pacing: Pacing,
    /// As in production.
    pub(super) rehash_delay: Duration,
}

/// One control process, without its ports.
pub(super) struct Replica {
    pub(super) keys: StreamKeys,
    pub(super) sessions: Sessions,
    pub(super) edges: Edges,
    pub(super) tenants: Tenants,
    pub(super) events: Events,
    pub(super) admission: Admission,
    pub(super) cluster: ClusterState,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: Shutdown,
    pub(super) tokens: Tokens,
    /// Nobody follows it but the test.
    pub(super) pepper_file: PepperFile,
    _following: AbortOnDropHandle<()>,
    _background: [AbortOnDropHandle<()>; 6],
}

/// One edge's watch.
pub(super) struct Watcher(
    tokio_stream::wrappers::ReceiverStream<Result<WatchRevocationsResponse, Status>>,
);

impl Fixture {
    pub(super) fn sqlite() -> Self {
        Self::new(|directory| DatabaseConfig::Sqlite {
            path: directory.path().join("headwater.db"),
        })
    }

    pub(super) async fn postgres() -> Self {
        let url = PostgresServer::shared().create_database().await;
        Self::new(|_| DatabaseConfig::Postgres {
            url,
            password_file: None,
            connections: POSTGRES_CONNECTIONS,
        })
    }

    pub(super) fn new(database: impl FnOnce(&TempDir) -> DatabaseConfig) -> Self {
        let directory = TempDir::new().unwrap();
        let path = |name| directory.path().join(name);
        let pkcs8 = GrantSigner::generate_pkcs8().unwrap();
        std::fs::write(path("grant.key"), encode_grant_key(&pkcs8).as_bytes()).unwrap();
        std::fs::write(path("pepper"), generate_pepper_file().unwrap().as_bytes()).unwrap();
        std::fs::write(path("api-token"), "a token for tests\n").unwrap();
        let mut config = Config::new(
            database(&directory),
            path("pepper"),
            path("grant.key"),
            path("api-token"),
        );
        config
            .applications
            .push(Application::managed("events/main"));
        Self {
            config,
            registry: Registry::Memory(MemoryRegistry::new()),
            verifier: GrantVerifier::new([GrantSigner::from_pkcs8(&pkcs8).unwrap().public_key()]),
            directory,
            pacing: Pacing {
                first: Duration::from_millis(20),
                longest: Duration::from_millis(200),
                outage_longest: Duration::from_millis(100),
                give_up: Duration::from_secs(60),
                hold: Duration::from_secs(7),
                hold_period: Duration::from_millis(100),
            },
            rehash_delay: crate::REHASH_DELAY,
        }
    }

    pub(super) async fn replica(&self) -> Replica {
        self.try_replica().await.unwrap()
    }

    pub(super) async fn try_replica(&self) -> Result<Replica, ControlError> {
        self.opened(Readiness::default()).await
    }

    pub(super) async fn opened(&self, readiness: Readiness) -> Result<Replica, ControlError> {
        let metrics = Metrics::default();
        let dependencies = Dependencies {
            registry: self.registry.clone(),
            metrics: metrics.clone(),
            readiness,
        };
        let Control {
            shared,
            follower,
            mut background,
            pepper_file,
        } = Control::new(self.config.clone(), dependencies).await?;
        background.deliverer = background.deliverer.paced(self.pacing);
        background.rehasher.paced(self.rehash_delay, REHASH_PERIOD);
        let shutdown = Shutdown::default();
        Ok(Replica {
            keys: StreamKeys(shared.clone()),
            sessions: Sessions::new(shared.clone(), shutdown.clone()),
            edges: Edges(shared.clone()),
            events: Events::new(shared.clone(), shutdown.clone()),
            tenants: Tenants(shared.clone()),
            tokens: Tokens(shared.clone()),
            _background: background.start(&shared, shutdown.clone()),
            admission: Admission::new(shared.clone(), shutdown.clone()),
            cluster: ClusterState::new(shared.clone()),
            shared,
            metrics,
            shutdown,
            pepper_file,
            _following: AbortOnDropHandle::new(tokio::spawn(follower.run())),
        })
    }
}

impl Replica {
    /// A key of the tenant `default` for `live`; with its secret.
    pub(super) async fn create(&self, stream: &str) -> (StreamKeyMessage, String) {
        let request = CreateStreamKeyRequest {
            app: "live".to_owned(),
            stream: stream.to_owned(),
            ..Default::default()
        };
        let created = self
            .keys
            .create_stream_key(of_tenant("default", request))
            .await
            .unwrap()
            .into_inner();
        (created.stream_key.unwrap(), created.secret)
    }

    /// The secret of a key with a maximum bitrate.
    pub(super) async fn create_limited(&self, stream: &str, max_bitrate_bps: u64) -> String {
        let limits = MediaLimits {
            max_bitrate_bps,
            ..MediaLimits::default()
        };
        let request = CreateStreamKeyRequest {
            app: "live".to_owned(),
            stream: stream.to_owned(),
            policy: Some(PublishPolicy {
                limits: Some(limits),
                ..PublishPolicy::default()
            }),
            ..CreateStreamKeyRequest::default()
        };
        let created = self.keys.create_stream_key(of_tenant("default", request));
        created.await.unwrap().into_inner().secret
    }

    /// A key as no request makes it.
    pub(super) async fn insert(&self, record: &KeyRecord) {
        let event = NewEvent::of_key(
            EventType::KeyCreated,
            &record.tenant,
            record.create_ms,
            KeyEvent::default(),
        );
        let creation = Creation {
            record,
            event: &event,
            request: None,
            default_quota: Quota::default(),
        };
        let created = self.shared.database.create_key(creation).await.unwrap();
        assert_eq!(created, CreateOutcome::Created);
    }

    /// The event log: of keys, what happened to which.
    pub(super) async fn key_events(&self) -> Vec<(EventType, KeyEvent)> {
        let rows: Vec<(i64, String)> =
            sqlx::query_as("SELECT type, subject FROM events ORDER BY position")
                .fetch_all(self.shared.database.pool())
                .await
                .unwrap();
        let event = |(event_type, subject): (i64, String)| {
            let event_type = i32::try_from(event_type).unwrap();
            let subject = HEXLOWER.decode(subject.as_bytes()).unwrap();
            (
                EventType::try_from(event_type).unwrap(),
                KeyEvent::decode(&subject[..]).unwrap(),
            )
        };
        rows.into_iter().map(event).collect()
    }

    pub(super) async fn revoke(&self, id: &str) -> StreamKeyMessage {
        let request = RevokeStreamKeyRequest {
            id: id.to_owned(),
            reason: "a test".to_owned(),
        };
        self.keys
            .revoke_stream_key(of_tenant("default", request))
            .await
            .unwrap()
            .into_inner()
    }

    pub(super) async fn authorize(
        &self,
        app: &str,
        credential: &str,
    ) -> Result<AuthorizeResponse, Status> {
        self.authorize_from("", app, credential).await
    }

    pub(super) async fn authorize_from(
        &self,
        client_address: &str,
        app: &str,
        credential: &str,
    ) -> Result<AuthorizeResponse, Status> {
        let request = AuthorizeRequest {
            credential: Some(Credential::StreamKey(credential.to_owned())),
            app: app.to_owned(),
            client_address: client_address.to_owned(),
            session_id: "session-1".to_owned(),
            ..Default::default()
        };
        self.admission
            .authorize(of_role(Role::Edge, request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub(super) async fn watch(&self, after: Option<u64>) -> Result<Watcher, Status> {
        self.watch_as("", after).await
    }

    /// As the edge of this name.
    pub(super) async fn watch_as(&self, edge: &str, after: Option<u64>) -> Result<Watcher, Status> {
        let edge = edge.to_owned();
        let request = WatchRevocationsRequest { after, edge };
        self.admission
            .watch_revocations(of_role(Role::Edge, request))
            .await
            .map(|answer| Watcher(answer.into_inner()))
    }

    pub(super) fn metric(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|metric| metric == line)
    }
}

impl Watcher {
    /// The next answer.
    pub(super) async fn answer(&mut self) -> Result<WatchRevocationsResponse, Status> {
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.0.next()).await;
        answer
            .expect("a watch answers")
            .expect("a watch stays open")
    }

    /// The next answer that tells of something.
    pub(super) async fn revocations(&mut self) -> WatchRevocationsResponse {
        let told = async {
            loop {
                let answer = self.answer().await.unwrap();
                if !answer.revocations.is_empty() {
                    return answer;
                }
            }
        };
        tokio::time::timeout(ANSWER_DEADLINE, told)
            .await
            .expect("a revocation is told")
    }
}

/// One that never answers.
pub(super) fn unreachable_registry() -> Registry {
    // Nobody listens on port 1.
    let mut redis = RedisConfig::from_url("redis://127.0.0.1:1").unwrap();
    redis.timeout = Duration::from_millis(500);
    Registry::Redis(RedisRegistry::open(&redis).unwrap())
}

pub(super) fn of_tenant<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Tenant(tenant.into()));
    request
}

pub(super) fn of_role<T>(role: Role, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer {
        role: Some(role),
        ..Peer::default()
    });
    request
}

/// Waits for a condition.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "{what} in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{what} after {:?}", started.elapsed());
}

/// Reason of a failed call.
pub(super) fn reason<T>(result: Result<T, Status>) -> (tonic::Code, String) {
    let status = result.err().expect("the call fails");
    (
        status.code(),
        proto::error::reason(&status).unwrap_or_default(),
    )
}

/// Many times what anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const REHASH_PERIOD: Duration = Duration::from_millis(50);
/// Well above the sign of life.
const ANSWER_DEADLINE: Duration = Duration::from_secs(25);

/// With a credential, as a client sends it.
pub(super) fn bearing<T>(credential: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {credential}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}
