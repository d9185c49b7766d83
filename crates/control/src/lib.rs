//! Stream keys, admission, sessions and revocations: the only place that opens the key database.
//!
//! Two ports: the public one for product backends (stream keys, sessions, tokens; a bearer token or a client certificate), the internal one for edges
//! (admission, the revocation log) and the operator (what the replica runs with), by the role of their certificates. Keys are rows in SQL, sessions are leases in the registry; control
//! itself holds nothing that another replica needs.

#![deny(missing_docs)]

mod access;
mod admission;
mod adobe;
#[cfg(feature = "benchmark")]
pub mod benchmark;
mod caller;
mod client_certificate;
mod cluster;
mod config;
mod credential_ids;
mod database;
mod delivery;
mod edges;
mod events;
mod field;
mod jwt;
mod keys;
mod leases;
mod live;
mod log_tail;
mod metrics;
mod page_token;
mod pepper;
mod policy;
mod quotas;
mod recent;
mod rehash;
mod secret_file;
mod session_log;
mod sessions;
mod shares;
mod signed_keys;
mod standard_webhooks;
mod stored;
mod stream_key;
mod tenants;
#[cfg(test)]
mod tests;
mod tokens;
mod watches;

use std::{sync::Arc, time::Duration};

use proto::{
    grant::GrantSigner,
    internal::v1::{
        admission_service_server::AdmissionServiceServer,
        cluster_service_server::ClusterServiceServer,
    },
    v1::{
        edge_service_server::EdgeServiceServer, event_service_server::EventServiceServer,
        session_service_server::SessionServiceServer,
        stream_key_service_server::StreamKeyServiceServer,
        tenant_service_server::TenantServiceServer, token_service_server::TokenServiceServer,
    },
};
use registry::Registry;
use runtime::{
    admin::Readiness,
    bearer::BearerCredentials,
    egress::Egress,
    grpc,
    metrics::Metrics,
    reload::{FileError, Reloading},
    shutdown::Shutdown,
    tls::TlsError,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic_health::{ServingStatus, server::HealthReporter};

use self::{
    access::Access,
    admission::{Admission, Sources},
    cluster::ClusterState,
    credential_ids::CredentialIds,
    database::{Database, EventEntry},
    delivery::{Deliverer, DeliveryMetrics, Pacing},
    edges::{Edges, Pushes},
    events::Events,
    keys::StreamKeys,
    leases::Leases,
    log_tail::{LogFollower, LogTail},
    metrics::ControlMetrics,
    pepper::{PepperError, PepperFile, Peppers},
    quotas::Quotas,
    rehash::{Rehasher, Rehashes},
    session_log::{Reconciler, RefusalWriter, Refusals},
    sessions::{LiveSessions, Sessions},
    stored::Stored,
    tenants::Tenants,
    tokens::Tokens,
};
pub use self::{
    access::{ApiAccess, ClaimOr, Permission, TokenIssuer, TokenPermissions, TokenVerification},
    client_certificate::check_name as check_certificate_name,
    config::{
        AdmissionSource, Application, Config, DatabaseConfig, GRANT_LIFETIME, HOLD_OFF,
        KeySetLocation, POSTGRES_CONNECTIONS, POSTGRES_CONNECTIONS_MAX, POSTGRES_CONNECTIONS_MIN,
        Quota, SignedKeys, WEBHOOK_CONCURRENCY, WEBHOOK_CONCURRENCY_MAX, WEBHOOK_TIMEOUT,
        WEBHOOK_TIMEOUT_MAX, Webhook,
    },
    database::{BackupError, DatabaseError, backup},
    field::{app as check_application, tenant as check_tenant},
    live::{ApplicationError, Live},
    pepper::generate_pepper_file,
    secret_file::encode_grant_key,
};

/// A control process, opened and ready to run.
pub struct Control {
    shared: Arc<Shared>,
    follower: LogFollower,
    background: Background,
    pepper_file: PepperFile,
}

/// What goes on beside the services: the event log and what is made of it.
struct Background {
    followed: LogFollower<EventEntry>,
    refusals: RefusalWriter,
    reconciler: Reconciler,
    rehasher: Rehasher,
    deliverer: Deliverer,
}

impl Background {
    /// Until control drains; the log is followed for as long as the answer is kept.
    fn start(self, shared: &Shared, shutdown: Shutdown) -> [AbortOnDropHandle<()>; 6] {
        let Self {
            followed,
            refusals,
            reconciler,
            rehasher,
            deliverer,
        } = self;
        let look = shared
            .live_sessions
            .clone()
            .look(shared.leases.clone(), shared.events.clone());
        [
            tokio::spawn(followed.run()),
            tokio::spawn(refusals.run()),
            tokio::spawn(reconciler.run()),
            tokio::spawn(rehasher.run()),
            tokio::spawn(deliverer.run(shutdown)),
            tokio::spawn(look),
        ]
        .map(AbortOnDropHandle::new)
    }
}

/// What control is given by its process.
pub struct Dependencies {
    /// Where sessions are.
    pub registry: Registry,
    /// Where control registers its own.
    pub metrics: Metrics,
    /// Gets the condition `database`.
    pub readiness: Readiness,
}

/// Where control accepts.
pub struct Listeners {
    /// API clients.
    pub public: grpc::Listener,
    /// Edges, and the operator.
    pub internal: grpc::Listener,
}

/// Control could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// What an application's configuration names cannot be used.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// A configured name cannot be one.
    #[error("{field} {value:?}: {expected}")]
    Config {
        /// Which setting.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The database could not be opened.
    #[error("the key database cannot be used")]
    Database(#[from] DatabaseError),
    /// Stream keys need a pepper that is not there.
    #[error("the pepper file lacks version {version}, which stream keys in the database need")]
    PepperMissing {
        /// Its version.
        version: u32,
    },
    /// What ids of credentials are made with could not be encrypted, or agreed on with other replicas.
    #[error("the key for ids of credentials cannot be stored")]
    CredentialKey,
    /// A secret could not be read.
    #[error("a secret cannot be used")]
    Secret(#[from] FileError),
    /// Nobody can be called.
    #[error("the client for calls to the outside")]
    Egress(#[from] TlsError),
    /// A port failed.
    #[error("a port cannot be served")]
    Serve(#[from] tonic::transport::Error),
}

impl From<PepperError> for ControlError {
    fn from(error: PepperError) -> Self {
        match error {
            PepperError::Database(error) => error.into(),
            PepperError::File(error) => error.into(),
            PepperError::Missing { version } => Self::PepperMissing { version },
        }
    }
}

impl Control {
    /// Reads the secrets, opens the database and migrates it. Waits for a database that is away: the condition `database`
    /// tells why. Nothing is kept where this is given up on.
    pub async fn new(config: Config, dependencies: Dependencies) -> Result<Self, ControlError> {
        check_names(&config)?;
        let Dependencies {
            registry,
            metrics,
            readiness,
        } = dependencies;
        readiness.expect(log_tail::READINESS, "not opened yet");
        let signer = secret_file::watch_grant_signer(config.grant_key_file)?;
        let credentials = BearerCredentials::watch("API token", config.api_token_file)?;
        let egress = Egress::new(config.egress)?;
        let access = Access::open(
            config.api_access,
            credentials,
            &config.default_tenant,
            &egress,
        )?;
        let deliveries = DeliveryMetrics::register(&metrics);
        let metrics = ControlMetrics::register(&metrics);
        let sources = Sources {
            egress: egress.clone(),
            metrics: metrics.clone(),
            default_tenant: config.default_tenant.clone(),
        };
        let live = Live::new(&config.applications, sources)?;
        let stored = Stored::open(&config.database, &config.pepper_file, &metrics, &readiness);
        let Stored {
            database,
            pepper_file,
            credential_ids,
            revocations: (follower, tail),
            events: (followed, events),
        } = stored.await?;
        let peppers = pepper_file.peppers();
        let (refusals, refusal_writer) = Refusals::new(database.clone());
        let (rehashes, rehasher) = Rehashes::new(&database, &peppers, &metrics, REHASH_DELAY);
        let shared = Arc::new(Shared {
            access,
            live,
            hold_off: config.hold_off,
            grant_lifetime: config.grant_lifetime,
            database,
            peppers,
            credential_ids,
            signer,
            leases: Leases::new(registry.clone()),
            registry,
            quotas: Quotas::new(config.default_quota),
            metrics,
            tail,
            events,
            refusals,
            rehashes,
            live_sessions: LiveSessions::new(),
            pushes: Pushes::new(),
        });
        let background = Background {
            followed,
            refusals: refusal_writer,
            reconciler: Reconciler::new(shared.clone()),
            rehasher,
            deliverer: Deliverer::new(shared.clone(), egress, deliveries, Pacing::default()),
        };
        Ok(Self {
            shared,
            follower,
            background,
            pepper_file,
        })
    }

    /// What may change from now on.
    pub fn live(&self) -> Live {
        self.shared.live.clone()
    }

    /// Serves both ports until shutdown completed.
    pub async fn run(self, listeners: Listeners, shutdown: Shutdown) -> Result<(), ControlError> {
        let Self {
            shared,
            follower,
            background,
            pepper_file,
        } = self;
        let _background = background.start(&shared, shutdown.clone());
        let _following = AbortOnDropHandle::new(tokio::spawn(follower.run()));
        let _reloading = AbortOnDropHandle::new(tokio::spawn(pepper_file.follow()));
        let (reporter, health) = tonic_health::server::health_reporter();
        let _reporting = AbortOnDropHandle::new(tokio::spawn(report_health(
            reporter,
            shared.tail.clone(),
            shutdown.clone(),
        )));

        let stream_keys = StreamKeyServiceServer::new(StreamKeys(shared.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let sessions = SessionServiceServer::new(Sessions::new(shared.clone(), shutdown.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let events = EventServiceServer::new(Events::new(shared.clone(), shutdown.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let tenants = TenantServiceServer::new(Tenants(shared.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let tokens = TokenServiceServer::new(Tokens(shared.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let edges = EdgeServiceServer::new(Edges(shared.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let public = grpc::server()
            .add_service(health.clone())
            .add_service(edges)
            .add_service(events)
            .add_service(stream_keys)
            .add_service(sessions)
            .add_service(tenants)
            .add_service(tokens);
        let admission =
            AdmissionServiceServer::new(Admission::new(shared.clone(), shutdown.clone()))
                .max_decoding_message_size(REPORT_BYTES_MAX);
        let cluster = ClusterServiceServer::new(ClusterState::new(shared.clone()))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let internal = grpc::server()
            .add_service(health)
            .add_service(admission)
            .add_service(cluster);

        tokio::try_join!(
            grpc::serve(public, listeners.public, shutdown.clone()),
            grpc::serve(internal, listeners.internal, shutdown),
        )?;
        shared.database.close().await;
        Ok(())
    }
}

/// What the services share.
pub(crate) struct Shared {
    access: Access,
    live: Live,
    hold_off: Duration,
    grant_lifetime: Duration,
    database: Database,
    peppers: Reloading<Peppers>,
    credential_ids: CredentialIds,
    signer: Reloading<GrantSigner>,
    registry: Registry,
    leases: Leases,
    quotas: Quotas,
    metrics: ControlMetrics,
    tail: watch::Receiver<LogTail>,
    events: watch::Receiver<LogTail<EventEntry>>,
    refusals: Refusals,
    rehashes: Rehashes,
    live_sessions: LiveSessions,
    pushes: Pushes,
}

/// gRPC health follows the database, and ends when control is about to leave.
async fn report_health(
    reporter: HealthReporter,
    mut tail: watch::Receiver<LogTail>,
    shutdown: Shutdown,
) {
    loop {
        let fresh = tail.borrow_and_update().fresh && !shutdown.is_leaving();
        let status = if fresh {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in HEALTH_SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if shutdown.is_leaving() {
            return;
        }
        tokio::select! {
            () = shutdown.leaving() => {}
            changed = tail.changed() => if changed.is_err() { return },
        }
    }
}

fn check_names(config: &Config) -> Result<(), ControlError> {
    let error = |field, value: &str| {
        let value = value.to_owned();
        move |expected| ControlError::Config {
            field,
            value,
            expected,
        }
    };
    for app in &config.applications {
        field::app(&app.name).map_err(error("application", &app.name))?;
    }
    config
        .api_access
        .check()
        .map_err(error("api access", "of the configuration"))?;
    field::tenant(&config.default_tenant).map_err(error("tenant", &config.default_tenant))
}

/// Until every replica has a new pepper: files in pods change up to two minutes after the Secret.
const REHASH_DELAY: Duration = Duration::from_secs(10 * 60);
/// Longest request, in bytes: the longest legal one is some 8 KiB.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Longest request of an edge, in bytes: 256 reports of sessions.
const REPORT_BYTES_MAX: usize = 1024 * 1024;
/// The server as a whole, then each service by its name.
const HEALTH_SERVICES: [&str; 9] = [
    "",
    proto::internal::v1::admission_service_server::SERVICE_NAME,
    proto::internal::v1::cluster_service_server::SERVICE_NAME,
    proto::v1::edge_service_server::SERVICE_NAME,
    proto::v1::event_service_server::SERVICE_NAME,
    proto::v1::session_service_server::SERVICE_NAME,
    proto::v1::stream_key_service_server::SERVICE_NAME,
    proto::v1::tenant_service_server::SERVICE_NAME,
    proto::v1::token_service_server::SERVICE_NAME,
];
