//! How fast keys are checked where there are many, and how soon a revocation is told: without ports, so that control
//! and its database are measured alone. `crates/control/examples/authorize.rs` runs it; what a source that hangs costs
//! others, `crates/control/examples/hung_source.rs`.

mod hung_source;

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use proto::{
    internal::v1::{
        AuthorizeRequest, WatchRevocationsRequest, admission_service_server::AdmissionService as _,
        authorize_request::Credential, authorize_response::Decision, revocation::Target,
    },
    v1::{
        CreateStreamKeyRequest, RevokeStreamKeyRequest,
        stream_key_service_server::StreamKeyService as _,
    },
};
use registry::{MemoryRegistry, Registry};
use runtime::{grpc::Peer, identity::Role, metrics::Metrics, shutdown::Shutdown};
use sqlx::AssertSqlSafe;
use tokio_stream::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status};
use zeroize::Zeroizing;

pub use self::hung_source::{BesideHung, Rounds, beside_hung_source};
use crate::{
    Config, Control, ControlError, DatabaseConfig, Dependencies, Shared, admission::Admission,
    database::DatabaseError, keys::StreamKeys, stream_key::StreamKey,
};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// In the database, beforehand.
    pub keys: u32,
    /// Checked, of as many different keys.
    pub checks: u32,
    /// One after the other.
    pub revocations: u32,
}

/// What was measured. Shown, it is a table of text.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// To make the keys.
    fill: Duration,
    /// Rows and indices of the keys alone.
    table_bytes: i64,
    /// One check at a time, and [`CHECKS_AT_ONCE`].
    alone: Durations,
    together: Durations,
    /// From a revocation's answer, and from its request, to a watcher.
    from_commit: Durations,
    from_request: Durations,
}

#[derive(Clone, Debug, Default)]
struct Durations {
    sorted: Vec<Duration>,
    total: Duration,
}

/// It could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// A key that is good was refused.
    #[error("a good key was refused")]
    Refused,
    /// The system gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// A watch ended.
    #[error("the revocations are not told any more")]
    Watch,
    #[expect(missing_docs, reason = "the source tells")]
    #[error(transparent)]
    Control(#[from] ControlError),
    #[expect(missing_docs, reason = "the source tells")]
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[expect(missing_docs, reason = "the source tells")]
    #[error(transparent)]
    Call(#[from] Status),
}

impl From<sqlx::Error> for BenchmarkError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

type Secret = Zeroizing<String>;

struct Bench {
    shared: Arc<Shared>,
    keys: StreamKeys,
    admission: Admission,
    _following: AbortOnDropHandle<()>,
}

/// Fills an empty database and measures.
pub async fn run(config: Config, load: Load) -> Result<Figures, BenchmarkError> {
    let is_sqlite = matches!(config.database, DatabaseConfig::Sqlite { .. });
    let bench = Arc::new(Bench::open(config).await?);
    let started = Instant::now();
    let secrets = Arc::new(bench.fill(load).await?);
    let fill = started.elapsed();
    let table_bytes = bench.table_bytes(is_sqlite).await?;
    let alone = bench.clone().check_all(secrets.clone(), 1).await?;
    let together = bench.clone().check_all(secrets.clone(), CHECKS_AT_ONCE);
    let together = together.await?;
    let (from_commit, from_request) = bench.revoke(&secrets, load.revocations).await?;
    bench.shared.database.close().await;
    Ok(Figures {
        fill,
        table_bytes,
        alone,
        together,
        from_commit,
        from_request,
    })
}

impl Bench {
    async fn open(config: Config) -> Result<Self, BenchmarkError> {
        let dependencies = Dependencies {
            registry: Registry::Memory(MemoryRegistry::new()),
            metrics: Metrics::default(),
            readiness: Default::default(),
        };
        let control = Control::new(config, dependencies).await?;
        let shared = control.shared;
        Ok(Self {
            keys: StreamKeys(shared.clone()),
            admission: Admission::new(shared.clone(), Shutdown::default()),
            shared,
            _following: AbortOnDropHandle::new(tokio::spawn(control.follower.run())),
        })
    }

    /// Makes one key as everybody does, and the others like it; the secrets of those that are to be checked.
    async fn fill(&self, load: Load) -> Result<Vec<Secret>, BenchmarkError> {
        let request = CreateStreamKeyRequest {
            app: "live".to_owned(),
            stream: "benchmark".to_owned(),
            ..CreateStreamKeyRequest::default()
        };
        let first = self.keys.create_stream_key(of_backend(request)).await?;
        let first = first.into_inner().stream_key.unwrap_or_default().id;
        let every = (load.keys / load.checks.max(1)).max(1);
        let mut secrets = Vec::new();
        let mut made = 0;
        while made < load.keys {
            let mut values = String::new();
            let until = load.keys.min(made.saturating_add(KEYS_AT_ONCE));
            for number in made..until {
                let key = StreamKey::generate().map_err(|_none| BenchmarkError::Random)?;
                let mac = HEXLOWER.encode(&self.shared.peppers.load().mac(&key));
                let comma = if number == made { "" } else { "," };
                // Letters and digits of our own making alone.
                write!(
                    values,
                    "{comma}('{}','benchmark-{number}','{mac}')",
                    key.id()
                )
                .ok();
                if number % every == 0 {
                    secrets.push(key.reveal());
                }
            }
            self.insert(&first, &values).await?;
            made = until;
        }
        self.execute(format!(
            "UPDATE key_counts SET keys = keys + {made} WHERE tenant = '{TENANT}' AND quota_group = ''"
        ))
        .await?;
        self.execute("ANALYZE".to_owned()).await?;
        Ok(secrets)
    }

    async fn insert(&self, like: &str, values: &str) -> Result<(), BenchmarkError> {
        self.execute(format!(
            "INSERT INTO streams (app, name, tenant) SELECT 'live', column2, '{TENANT}' FROM (VALUES {values}) AS v"
        ))
        .await?;
        self.execute(format!(
            "INSERT INTO stream_keys (id, stream, secret_mac, tenant, app, description, takeover_policy, \
             pepper_version, create_ms, policy, labels) SELECT column1, column2, column3, k.tenant, k.app, \
             k.description, k.takeover_policy, k.pepper_version, k.create_ms, k.policy, k.labels \
             FROM (VALUES {values}) AS v, stream_keys AS k WHERE k.id = '{like}'"
        ))
        .await
    }

    async fn execute(&self, statement: String) -> Result<(), BenchmarkError> {
        let pool = self.shared.database.pool();
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(pool)
            .await?;
        Ok(())
    }

    async fn table_bytes(&self, is_sqlite: bool) -> Result<i64, BenchmarkError> {
        let statement = if is_sqlite {
            "SELECT CAST(SUM(pgsize) AS BIGINT) FROM dbstat WHERE name LIKE '%stream\\_keys%' ESCAPE '\\'"
        } else {
            "SELECT pg_total_relation_size('stream_keys')"
        };
        let bytes = sqlx::query_scalar(statement);
        Ok(bytes.fetch_one(self.shared.database.pool()).await?)
    }

    /// Checks each key once.
    async fn check_all(
        self: Arc<Self>,
        secrets: Arc<Vec<Secret>>,
        at_once: usize,
    ) -> Result<Durations, BenchmarkError> {
        let started = Instant::now();
        let mut tasks = Vec::new();
        for first in 0..at_once {
            let (bench, secrets) = (self.clone(), secrets.clone());
            tasks.push(tokio::spawn(async move {
                let mut durations = Vec::new();
                for (number, secret) in secrets.iter().enumerate().skip(first).step_by(at_once) {
                    durations.push(bench.check("live", number, secret).await?);
                }
                Ok::<_, BenchmarkError>(durations)
            }));
        }
        let mut durations = Vec::new();
        for task in tasks {
            durations.extend(task.await.map_err(|_panicked| BenchmarkError::Refused)??);
        }
        Ok(Durations::new(durations, started.elapsed()))
    }

    async fn check(
        &self,
        app: &str,
        number: usize,
        secret: &str,
    ) -> Result<Duration, BenchmarkError> {
        let request = AuthorizeRequest {
            credential: Some(Credential::StreamKey(secret.to_owned())),
            app: app.to_owned(),
            client_address: "192.0.2.1:40000".to_owned(),
            session_id: format!("session-{number}"),
            ..AuthorizeRequest::default()
        };
        let started = Instant::now();
        let answer = self.admission.authorize(of_edge(request)).await?;
        match answer.into_inner().decision {
            Some(Decision::SignedGrant(_)) => Ok(started.elapsed()),
            Some(Decision::AdobeChallenge(_) | Decision::Denial(_)) | None => {
                Err(BenchmarkError::Refused)
            }
        }
    }

    /// Revokes keys one by one, each when the one before was told.
    async fn revoke(
        &self,
        secrets: &[Secret],
        revocations: u32,
    ) -> Result<(Durations, Durations), BenchmarkError> {
        let watch = WatchRevocationsRequest::default();
        let watch = self.admission.watch_revocations(of_edge(watch)).await?;
        let mut watch = watch.into_inner();
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let _watching = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(Ok(answer)) = watch.next().await {
                let now = Instant::now();
                for revocation in answer.revocations {
                    if let Some(Target::StreamKeyId(id)) = revocation.target {
                        tell.send((id, now)).await.ok();
                    }
                }
            }
        }));
        let started = Instant::now();
        let (mut from_commit, mut from_request) = (Vec::new(), Vec::new());
        for secret in secrets
            .iter()
            .take(usize::try_from(revocations).unwrap_or(usize::MAX))
        {
            let id = crate::admission::claimed_id(secret).unwrap_or_default();
            let request = RevokeStreamKeyRequest {
                id: id.clone(),
                reason: "a benchmark".to_owned(),
            };
            let asked = Instant::now();
            self.keys.revoke_stream_key(of_backend(request)).await?;
            let answered = Instant::now();
            let at = loop {
                let (told, at) = told.recv().await.ok_or(BenchmarkError::Watch)?;
                if told == id {
                    break at;
                }
            };
            from_commit.push(at.saturating_duration_since(answered));
            from_request.push(at.saturating_duration_since(asked));
        }
        let total = started.elapsed();
        Ok((
            Durations::new(from_commit, total),
            Durations::new(from_request, total),
        ))
    }
}

impl Durations {
    fn new(mut durations: Vec<Duration>, total: Duration) -> Self {
        durations.sort_unstable();
        Self {
            sorted: durations,
            total,
        }
    }

    /// Below which so many of a hundred are.
    fn percentile(&self, percent: usize) -> Duration {
        let position = self.sorted.len().saturating_mul(percent) / 100;
        let longest = self.sorted.last().copied();
        let found = self.sorted.get(position).copied();
        found.or(longest).unwrap_or_default()
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.sorted.len() as f64 / self.total.as_secs_f64();
        let (half, most) = (self.percentile(50), self.percentile(99));
        let longest = self.percentile(100);
        write!(
            f,
            "{} at {rate:.0}/s; p50 {half:.3?}, p99 {most:.3?}, longest {longest:.3?}",
            self.sorted.len()
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "keys made in {:.1?}", self.fill)?;
        writeln!(f, "key table and its indices: {} bytes", self.table_bytes)?;
        writeln!(f, "Authorize, one at a time: {}", self.alone)?;
        writeln!(f, "Authorize, {CHECKS_AT_ONCE} at once: {}", self.together)?;
        writeln!(
            f,
            "revocation, from its commit until told: {}",
            self.from_commit
        )?;
        write!(
            f,
            "revocation, from its request until told: {}",
            self.from_request
        )
    }
}

fn of_backend<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(bearer) = format!("Bearer {API_TOKEN}").parse() {
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

fn of_edge<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer {
        role: Some(Role::Edge),
        ..Peer::default()
    });
    request
}

/// To be in the file of API tokens.
pub const API_TOKEN: &str = "of-the-benchmark";
const TENANT: &str = "default";
/// In one statement.
const KEYS_AT_ONCE: u32 = 1_000;
/// Twice the connections to the database.
const CHECKS_AT_ONCE: usize = 16;
