//! A database, a registry, secrets, and control replicas on them.

use std::{sync::Arc, time::Duration};

use proto::{
    grant::{GrantSigner, GrantVerifier},
    internal::v1::{
        AuthorizeRequest, AuthorizeResponse, WatchRevocationsRequest, WatchRevocationsResponse,
        admission_service_server::AdmissionService as _, authorize_request::Credential,
    },
    v1::{
        CreateStreamKeyRequest, RevokeStreamKeyRequest, StreamKey as StreamKeyMessage,
        stream_key_service_server::StreamKeyService as _,
    },
};
use registry::{MemoryRegistry, Registry};
use runtime::{grpc::Peer, identity::Role, metrics::Metrics, shutdown::Shutdown};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status};

use super::postgres::PostgresServer;
use crate::{
    Application, Config, Control, ControlError, DatabaseConfig, Dependencies, Shared,
    admission::Admission,
    caller::{Authenticate, Tenant},
    cluster::ClusterState,
    delivery::Pacing,
    encode_grant_key,
    events::Events,
    generate_pepper_file,
    keys::StreamKeys,
    pepper::PepperFile,
    sessions::Sessions,
};

/// What replicas of one cluster have in common.
pub(super) struct Fixture {
    pub(super) config: Config,
    pub(super) registry: Registry,
    pub(super) verifier: GrantVerifier,
    pub(super) directory: TempDir,
    /// Quick.
    pub(super) pacing: Pacing,
}

/// One control process, without its ports.
pub(super) struct Replica {
    pub(super) keys: StreamKeys,
    pub(super) sessions: Sessions,
    pub(super) events: Events,
    pub(super) admission: Admission,
    pub(super) cluster: ClusterState,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: Shutdown,
    pub(super) authenticate: Authenticate,
    /// Nobody follows it but the test.
    pub(super) pepper_file: PepperFile,
    _following: AbortOnDropHandle<()>,
    _background: [AbortOnDropHandle<()>; 5],
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
        }
    }

    pub(super) async fn replica(&self) -> Replica {
        self.try_replica().await.unwrap()
    }

    pub(super) async fn try_replica(&self) -> Result<Replica, ControlError> {
        let metrics = Metrics::default();
        let dependencies = Dependencies {
            registry: self.registry.clone(),
            metrics: metrics.clone(),
            readiness: Default::default(),
        };
        let Control {
            shared,
            follower,
            mut background,
            pepper_file,
            authenticate,
        } = Control::new(self.config.clone(), dependencies).await?;
        background.deliverer = background.deliverer.paced(self.pacing);
        let shutdown = Shutdown::default();
        Ok(Replica {
            keys: StreamKeys(shared.clone()),
            sessions: Sessions::new(shared.clone(), shutdown.clone()),
            events: Events::new(shared.clone(), shutdown.clone()),
            _background: background.start(&shared, shutdown.clone()),
            admission: Admission::new(shared.clone(), shutdown.clone()),
            cluster: ClusterState::new(shared.clone()),
            shared,
            metrics,
            shutdown,
            authenticate,
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
        let request = AuthorizeRequest {
            credential: Some(Credential::StreamKey(credential.to_owned())),
            app: app.to_owned(),
            session_id: "session-1".to_owned(),
            ..Default::default()
        };
        self.admission
            .authorize(of_role(Role::Edge, request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub(super) async fn watch(&self, after: Option<u64>) -> Result<Watcher, Status> {
        let request = of_role(Role::Edge, WatchRevocationsRequest { after });
        self.admission
            .watch_revocations(request)
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

pub(super) fn of_tenant<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Tenant(tenant.into()));
    request
}

pub(super) fn of_role<T>(role: Role, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer {
        address: None,
        role: Some(role),
    });
    request
}

/// Reason of a failed call.
pub(super) fn reason<T>(result: Result<T, Status>) -> (tonic::Code, String) {
    let status = result.err().expect("the call fails");
    (
        status.code(),
        proto::error::reason(&status).unwrap_or_default(),
    )
}

/// Well above the sign of life.
const ANSWER_DEADLINE: Duration = Duration::from_secs(25);
