//! One connection to Redis, shared by every command and supervised by one task.
//!
//! The crate's own `ConnectionManager` reconnects on broken sockets alone: after a failover behind a stable address it
//! keeps talking to the demoted node. Here a node that is not a primary, or that stops answering, is dropped too.
//! Commands read the connection from a watch: nobody waits for a lock while it is rebuilt, and while Redis is known
//! to be down commands fail at once.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, PushKind, RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout, timeout_at},
};

use super::{RedisConfig, RedisEvent, script::SCRIPTS};
use crate::{EdgeName, RegistryError};

/// The handle that commands use.
#[derive(Clone)]
pub(super) struct Connection {
    state: watch::Receiver<State>,
    timeout: Duration,
    observer: Observer,
}

/// Told of what metrics count.
pub(super) type Observer = Arc<dyn Fn(RedisEvent) + Send + Sync>;

#[derive(Clone)]
enum State {
    /// Commands wait, as long as a command may take.
    Connecting,
    Down(Arc<ConnectError>),
    Up(Arc<Live>),
}

struct Live {
    connection: MultiplexedConnection,
    timeouts: AtomicU32,
    lost: mpsc::Sender<LostCause>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("redis refused the user or the password")]
    Credentials(#[source] RedisError),
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the key prefix {prefix:?} has other characters than letters, digits, '.', '_', ':' and '-'"
    )]
    KeyPrefix { prefix: String },
    #[error("no PEM certificate in {}", path.display())]
    NoCertificate { path: PathBuf },
    #[error("cannot connect to redis")]
    Redis(#[source] RedisError),
    #[error("no connection to redis within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("not a redis URL")]
    Url(#[source] RedisError),
    #[error("credentials belong in the username and the password file, not in the URL")]
    UrlCredentials,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("the connection to redis is down: {}", Chain(&**.0))]
    Down(Arc<ConnectError>),
    #[error("the connection to redis broke")]
    Broken(#[source] RedisError),
    #[error("redis refused the command: {0}")]
    Refused(redis::ServerError),
    #[error("redis did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug)]
enum LostCause {
    Closed,
    NotPrimary,
    Timeouts,
}

impl Connection {
    /// Reads the files once, so that a mistake shows at the start, and connects in the background.
    pub(super) fn open(config: &RedisConfig, observer: Observer) -> Result<Self, RegistryError> {
        client(config).map_err(|error| RegistryError::InvalidConfig(error.into()))?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| RegistryError::InvalidConfig(error.into()))?;
        let (sender, state) = watch::channel(State::Connecting);
        runtime.spawn(supervise(config.clone(), sender, Arc::clone(&observer)));
        Ok(Self {
            state,
            timeout: config.timeout,
            observer,
        })
    }

    /// Sends the commands and returns one value each; what Redis refused is a [`Value::ServerError`] in its place.
    /// Everything that is sent here may be sent twice.
    pub(super) async fn run(
        &self,
        command: &'static str,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, RegistryError> {
        let began = Instant::now();
        let result = self.try_run(commands).await;
        let outcome = match &result {
            Ok(values)
                if values
                    .iter()
                    .any(|value| matches!(value, Value::ServerError(_))) =>
            {
                "refused"
            }
            Ok(_) => "ok",
            Err(CommandError::Timeout(_)) => "timeout",
            Err(CommandError::Broken(_) | CommandError::Down(_) | CommandError::Refused(_)) => {
                "unavailable"
            }
        };
        (self.observer)(RedisEvent::Command {
            command,
            outcome,
            duration: began.elapsed(),
        });
        result.map_err(|error| RegistryError::Unavailable(error.into()))
    }

    async fn try_run(&self, commands: &Pipeline) -> Result<Vec<Value>, CommandError> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let late = |_elapsed| CommandError::Timeout(self.timeout);
        let live = timeout_at(deadline, self.live()).await.map_err(late)??;
        let mut connection = live.connection.clone();
        let mut loaded = false;
        loop {
            let sent = connection.req_packed_commands(commands, 0, commands.len());
            let values = match timeout_at(deadline, sent).await {
                Ok(Ok(values)) => values,
                Ok(Err(error)) => {
                    live.give_up(LostCause::Closed);
                    return Err(CommandError::Broken(error));
                }
                Err(elapsed) => {
                    live.count_timeout();
                    return Err(late(elapsed));
                }
            };
            live.timeouts.store(0, Ordering::Relaxed);
            if values.iter().any(is_not_primary) {
                live.give_up(LostCause::NotPrimary);
            }
            let forgotten = values
                .iter()
                .any(|value| is_kind(value, ServerErrorKind::NoScript));
            if !forgotten || loaded {
                return Ok(values);
            }
            // A flush or a failover empties the script cache.
            let loading = load_scripts(&mut connection);
            match timeout_at(deadline, loading).await.map_err(late)? {
                Ok(()) => loaded = true,
                Err(error) => return Err(CommandError::Broken(error)),
            }
        }
    }

    async fn live(&self) -> Result<Arc<Live>, CommandError> {
        let mut state = self.state.clone();
        let decided = state
            .wait_for(|state| !matches!(state, State::Connecting))
            .await;
        match decided.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            Ok(State::Down(error)) => Err(CommandError::Down(Arc::clone(error))),
            // The supervisor ends with its runtime.
            Ok(State::Connecting) | Err(_) => Err(CommandError::Timeout(Duration::ZERO)),
        }
    }
}

/// A reply that is an error of Redis, as the caller's error.
pub(super) fn refused(error: redis::ServerError) -> RegistryError {
    match error.code() {
        // Our scripts say so; WRONGTYPE is said by Redis.
        "MALFORMED"
            if error
                .details()
                .is_some_and(|what| what.starts_with("epoch")) =>
        {
            RegistryError::Malformed { what: "epoch" }
        }
        "MALFORMED" => RegistryError::Malformed { what: "lease" },
        "WRONGTYPE" => RegistryError::Malformed { what: "key" },
        _ => RegistryError::Unavailable(CommandError::Refused(error).into()),
    }
}

/// Lives as long as a handle does.
async fn supervise(config: RedisConfig, state: watch::Sender<State>, observer: Observer) {
    let mut pause = RECONNECT_PAUSE_MIN;
    let mut reported = false;
    loop {
        match connect(&config).await {
            Ok((live, lost)) => {
                tracing::info!(url = config.url, "connected to redis");
                (pause, reported) = (RECONNECT_PAUSE_MIN, false);
                state.send_replace(State::Up(Arc::clone(&live)));
                let cause = tokio::select! {
                    () = state.closed() => return,
                    cause = watch_over(&live, lost, config.timeout) => cause,
                };
                tracing::warn!(
                    url = config.url,
                    reason = cause.name(),
                    "lost the connection to redis"
                );
                observer(RedisEvent::Reconnect {
                    cause: cause.name(),
                });
                state.send_replace(State::Connecting);
            }
            Err(error) => {
                // Once per outage: the rest is repetition.
                if !reported {
                    tracing::warn!(url = config.url, reason = %Chain(&error), "cannot connect to redis");
                }
                reported = true;
                state.send_replace(State::Down(Arc::new(error)));
                pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
            }
        }
        tokio::select! {
            () = state.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Until the connection is of no use any more.
async fn watch_over(
    live: &Live,
    mut lost: mpsc::Receiver<LostCause>,
    limit: Duration,
) -> LostCause {
    loop {
        tokio::select! {
            cause = lost.recv() => return cause.unwrap_or(LostCause::Closed),
            () = sleep(PING_PERIOD) => {}
        }
        let mut connection = live.connection.clone();
        let ping = redis::cmd("PING");
        // Commands may be rare: a silent peer must be found before one of them finds it.
        match timeout(limit, connection.send_packed_command(&ping)).await {
            Ok(Ok(_pong)) => live.timeouts.store(0, Ordering::Relaxed),
            Ok(Err(_broken)) => return LostCause::Closed,
            Err(_elapsed) => live.count_timeout(),
        }
    }
}

async fn connect(
    config: &RedisConfig,
) -> Result<(Arc<Live>, mpsc::Receiver<LostCause>), ConnectError> {
    // Files are read again each time: passwords and authorities rotate.
    let client = client(config)?;
    let (sender, lost) = mpsc::channel(1);
    let closed = sender.clone();
    let options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.timeout))
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.try_send(LostCause::Closed)
            } else {
                Ok(())
            }
        });
    let connecting = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&options)
            .await?;
        load_scripts(&mut connection).await?;
        Ok(connection)
    };
    // The handshakes are not in the connection's own deadline.
    let connection = timeout(config.timeout, connecting)
        .await
        .map_err(|_elapsed| ConnectError::Timeout(config.timeout))?
        .map_err(|error: RedisError| {
            let wrong_password = error.code() == Some("WRONGPASS");
            if wrong_password || error.kind() == ErrorKind::AuthenticationFailed {
                ConnectError::Credentials(error)
            } else {
                ConnectError::Redis(error)
            }
        })?;
    let live = Live {
        connection,
        timeouts: AtomicU32::new(0),
        lost: sender,
    };
    Ok((Arc::new(live), lost))
}

fn client(config: &RedisConfig) -> Result<Client, ConnectError> {
    // A brace would move the hash tag.
    if EdgeName::new(&config.prefix).is_err() {
        return Err(ConnectError::KeyPrefix {
            prefix: config.prefix.clone(),
        });
    }
    let info = config
        .url
        .as_str()
        .into_connection_info()
        .map_err(ConnectError::Url)?;
    if info.redis_settings().password().is_some() || info.redis_settings().username().is_some() {
        return Err(ConnectError::UrlCredentials);
    }
    let mut settings = RedisConnectionInfo::default()
        .set_db(info.redis_settings().db())
        // Only there is a closed connection told to us without a command that finds it.
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(path) = &config.password_file {
        settings = settings.set_password(read(path)?.trim_end());
    }
    let root_cert = match &config.ca_file {
        Some(path) => {
            let pem = read(path)?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                return Err(ConnectError::NoCertificate { path: path.clone() });
            }
            Some(pem.into_bytes())
        }
        None => None,
    };
    let info = info.set_redis_settings(settings);
    if config.url.starts_with("rediss:") {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert,
        };
        Client::build_with_tls(info, certificates).map_err(ConnectError::Url)
    } else {
        Client::open(info).map_err(ConnectError::Url)
    }
}

fn read(path: &Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map_err(|source| ConnectError::File {
        path: path.to_owned(),
        source,
    })
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    for script in SCRIPTS.iter() {
        script.load_async(connection).await?;
    }
    Ok(())
}

fn is_not_primary(value: &Value) -> bool {
    [
        ServerErrorKind::BusyLoading,
        ServerErrorKind::MasterDown,
        ServerErrorKind::ReadOnly,
    ]
    .into_iter()
    .any(|kind| is_kind(value, kind))
}

fn is_kind(value: &Value, kind: ServerErrorKind) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(kind))
}

impl Live {
    /// The first cause counts: the supervisor takes one and drops the connection.
    fn give_up(&self, cause: LostCause) {
        self.lost.try_send(cause).ok();
    }

    fn count_timeout(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            self.give_up(LostCause::Timeouts);
        }
    }
}

impl LostCause {
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::NotPrimary => "not_primary",
            Self::Timeouts => "timeouts",
        }
    }
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Commands in a row that may go unanswered before the connection is rebuilt.
const TIMEOUTS_MAX: u32 = 3;

/// How often an idle connection is tried.
const PING_PERIOD: Duration = Duration::from_secs(2);

/// Between two attempts to connect: the first, doubled up to the last.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
