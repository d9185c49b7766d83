//! One connection to one server, shared by every command and supervised by one task.
//!
//! The crate's own `ConnectionManager` reconnects on broken sockets alone: after a failover behind a stable address it
//! keeps talking to the demoted node. Here a node that is not a primary, that stops answering, or that is no longer
//! the one to speak to, is dropped too, and with it what was sent to it: the caller decides whether to send it again.
//! Commands read the connection from a watch: nobody waits for a lock while it is rebuilt, and while the server is
//! known to be down commands fail at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, ServerErrorKind,
    Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    RedisEvent,
    config::{Address, RedisAccess},
    error::{CommandError, ConnectError, kind},
    pause::jittered,
    probe::{Role, read_role, skew_seconds},
    script::SCRIPTS,
    watcher::Watcher,
};

/// The handle that commands use. The connection ends with the last one.
#[derive(Clone)]
pub(super) struct Node {
    state: watch::Receiver<State>,
    target: Arc<Target>,
    place: watch::Receiver<Place>,
}

/// What is to be connected to, and how.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) access: RedisAccess,
    pub(super) database: i64,
    pub(super) duty: Duty,
    /// Per command, and per attempt to connect.
    pub(super) timeout: Duration,
    pub(super) watcher: Arc<Watcher>,
}

/// What a server is asked for.
#[derive(Clone)]
pub(super) enum Duty {
    /// The one primary there is: nothing else will do.
    Primary,
    /// A node of a cluster, which says by itself what is not its own.
    Member,
    /// Where the primary is. The `Notify` is told when that changes.
    Sentinel(Arc<Notify>),
}

/// Where a server is, as known by now.
#[derive(Clone)]
pub(super) enum Place {
    /// Somebody is being asked.
    Asking,
    At(Address),
    Unknown(Arc<ConnectError>),
}

#[derive(Clone)]
enum State {
    /// Commands wait, as long as a command may take.
    Connecting,
    Down(Arc<ConnectError>),
    Up(Arc<Live>),
}

struct Live {
    address: Address,
    connection: MultiplexedConnection,
    timeouts: AtomicU32,
    /// Claims since the replicas' acknowledgements were last looked at.
    claims: AtomicU64,
    given_up: AtomicBool,
    lost: mpsc::Sender<LostCause>,
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug)]
enum LostCause {
    Closed,
    Loading,
    Moved,
    NotPrimary,
    Timeouts,
}

impl Node {
    /// Connects in the background.
    pub(super) fn open(target: Target, place: watch::Receiver<Place>) -> Self {
        let target = Arc::new(target);
        let (sender, state) = watch::channel(State::Connecting);
        let supervisor = Supervisor {
            target: Arc::clone(&target),
            place: place.clone(),
            state: sender,
        };
        tokio::spawn(supervisor.run());
        Self {
            state,
            target,
            place,
        }
    }

    /// Another connection to the same server.
    pub(super) fn apart(&self, watcher: &Arc<Watcher>) -> Self {
        let mut target = Target::clone(&self.target);
        target.watcher = Arc::clone(watcher);
        Self::open(target, self.place.clone())
    }

    /// One that stays where it is.
    pub(super) fn at(target: Target, address: Address) -> Self {
        let (_fixed, place) = watch::channel(Place::At(address));
        Self::open(target, place)
    }

    /// Sends the commands and returns one value each; what Redis refused is a [`Value::ServerError`] in its place.
    pub(super) async fn send(
        &self,
        commands: &Pipeline,
        deadline: Instant,
    ) -> Result<Vec<Value>, CommandError> {
        let late = |_elapsed| CommandError::Timeout(self.target.timeout);
        let live = timeout_at(deadline, self.live()).await.map_err(late)??;
        let mut state = self.state.clone();
        tokio::select! {
            sent = timeout_at(deadline, live.exchange(commands)) => match sent {
                Ok(sent) => sent,
                Err(elapsed) => {
                    live.count_timeout();
                    Err(late(elapsed))
                }
            },
            _dropped = state.wait_for(|state| !state.is(&live)) => Err(CommandError::GivenUp),
        }
    }

    /// A claim was granted over this connection: whether a replica has it is looked at later.
    pub(super) fn count_claim(&self) {
        if let State::Up(live) = &*self.state.borrow() {
            live.claims.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn live(&self) -> Result<Arc<Live>, CommandError> {
        let mut state = self.state.clone();
        let decided = state
            .wait_for(|state| match state {
                State::Connecting => false,
                State::Down(_) => true,
                State::Up(live) => !live.given_up.load(Ordering::Relaxed),
            })
            .await;
        match decided.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            Ok(State::Down(error)) => Err(CommandError::Down(Arc::clone(error))),
            // The supervisor ends with its runtime.
            Ok(State::Connecting) | Err(_) => Err(CommandError::GivenUp),
        }
    }
}

impl State {
    fn is(&self, live: &Arc<Live>) -> bool {
        match self {
            Self::Connecting | Self::Down(_) => false,
            Self::Up(up) => Arc::ptr_eq(up, live),
        }
    }
}

/// Lives as long as a handle does.
struct Supervisor {
    target: Arc<Target>,
    place: watch::Receiver<Place>,
    state: watch::Sender<State>,
}

impl Supervisor {
    async fn run(mut self) {
        let mut pause = RECONNECT_PAUSE_MIN;
        let mut reported = false;
        loop {
            let connected = tokio::select! {
                () = self.state.closed() => return,
                connected = connect(&self.target, &mut self.place) => connected,
            };
            match connected {
                Ok((live, lost)) => {
                    let began = Instant::now();
                    if !self.keep(live, lost).await {
                        return;
                    }
                    reported = false;
                    if began.elapsed() > RECONNECT_PAUSE_MAX {
                        pause = RECONNECT_PAUSE_MIN;
                        continue;
                    }
                }
                Err(error) => {
                    if !reported {
                        let (server, reason) = (self.target.duty.name(), &*error);
                        let reason = reason as &dyn std::error::Error;
                        tracing::warn!(server, reason, "no connection to redis");
                    }
                    reported = true;
                    self.state.send_replace(State::Down(error));
                }
            }
            tokio::select! {
                () = self.state.closed() => return,
                () = changed(&mut self.place) => {}
                () = sleep(jittered(pause)) => {}
            }
            pause = pause.saturating_mul(2).min(RECONNECT_PAUSE_MAX);
        }
    }

    /// Until the connection is of no use any more; false where nobody wants it.
    async fn keep(&mut self, live: Arc<Live>, mut lost: mpsc::Receiver<LostCause>) -> bool {
        let (target, server) = (&self.target, self.target.duty.name());
        tracing::info!(server, address = %live.address, "connected to redis");
        self.state.send_replace(State::Up(Arc::clone(&live)));
        let mut unconfirmed = Unconfirmed::default();
        let cause = tokio::select! {
            () = self.state.closed() => None,
            cause = lost.recv() => Some(cause.unwrap_or(LostCause::Closed)),
            () = changed(&mut self.place) => Some(LostCause::Moved),
            cause = watch_over(target, &live, &mut unconfirmed) => Some(cause),
        };
        target.watcher.forget(&live.address);
        let Some(cause) = cause else {
            return false;
        };
        live.given_up.store(true, Ordering::Relaxed);
        self.state.send_replace(State::Connecting);
        let reason = cause.name();
        tracing::warn!(server, address = %live.address, reason, "lost the connection to redis");
        let claims = unconfirmed.claims + live.claims.load(Ordering::Relaxed);
        target.watcher.unreplicated(claims);
        if !matches!(target.duty, Duty::Sentinel(_)) {
            target.watcher.tell(RedisEvent::Reconnect { cause: reason });
        }
        true
    }
}

/// When the server is to be looked for elsewhere.
async fn changed(place: &mut watch::Receiver<Place>) {
    // What is fixed has no sender.
    if place.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Claims that a replica is yet to acknowledge, and the offset at which it will have.
#[derive(Default)]
struct Unconfirmed {
    claims: u64,
    offset: i64,
}

/// Commands may be rare: a silent or demoted server must be found before one of them finds it.
async fn watch_over(target: &Target, live: &Live, unconfirmed: &mut Unconfirmed) -> LostCause {
    loop {
        let claims = live.claims.swap(0, Ordering::Relaxed);
        match timeout(target.timeout, probe(target, live)).await {
            Ok(Ok(Some(Role::Primary {
                offset,
                acknowledged,
            }))) => {
                if let Some(acknowledged) = acknowledged {
                    target.watcher.replica_seen();
                    if acknowledged >= unconfirmed.offset {
                        unconfirmed.claims = 0;
                    }
                }
                target.watcher.unreplicated(unconfirmed.claims);
                *unconfirmed = Unconfirmed { claims, offset };
            }
            Ok(Ok(Some(Role::Other(_)))) => {
                if matches!(target.duty, Duty::Primary) {
                    return LostCause::NotPrimary;
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(cause)) => return cause,
            Err(_elapsed) => {
                unconfirmed.claims += claims;
                live.count_timeout();
            }
        }
        sleep(jittered(PROBE_PERIOD)).await;
    }
}

/// Asks what the server is and what time it has. `None` where it is no business of ours, or its user may not know.
async fn probe(target: &Target, live: &Live) -> Result<Option<Role>, LostCause> {
    let mut commands = Pipeline::with_capacity(2);
    match target.duty {
        Duty::Sentinel(_) => commands.cmd("PING"),
        Duty::Primary | Duty::Member => commands.cmd("ROLE").cmd("TIME"),
    };
    let asked = std::time::SystemTime::now();
    let sent = Instant::now();
    let values = live
        .exchange(&commands)
        .await
        .map_err(|_broken| LostCause::Closed)?;
    let middle = asked + sent.elapsed() / 2;
    let mut values = values.into_iter();
    let role = values.next().and_then(|role| read_role(&role));
    if let Some(seconds) = values.next().and_then(|time| skew_seconds(time, middle)) {
        target.watcher.skew(&live.address, seconds);
    }
    Ok(role)
}

async fn connect(
    target: &Target,
    place: &mut watch::Receiver<Place>,
) -> Result<(Arc<Live>, mpsc::Receiver<LostCause>), Arc<ConnectError>> {
    let address = whereabouts(target, place).await?;
    let late = |_elapsed| ConnectError::Timeout(target.timeout);
    let (sender, lost) = mpsc::channel(1);
    let opened = open(target, &address, sender.clone());
    // The handshakes are not in the connection's own deadline.
    let connection = timeout(target.timeout, opened).await.map_err(late)??;
    let live = Live {
        address,
        connection,
        timeouts: AtomicU32::new(0),
        claims: AtomicU64::new(0),
        given_up: AtomicBool::new(false),
        lost: sender,
    };
    Ok((Arc::new(live), lost))
}

async fn whereabouts(
    target: &Target,
    place: &mut watch::Receiver<Place>,
) -> Result<Address, Arc<ConnectError>> {
    let known = place.wait_for(|place| !matches!(place, Place::Asking));
    let known = timeout(target.timeout, known).await;
    match known.as_ref().map(|known| known.as_deref()) {
        Ok(Ok(Place::At(address))) => Ok(address.clone()),
        Ok(Ok(Place::Unknown(error))) => Err(Arc::clone(error)),
        // Who asks ends with the runtime.
        Ok(Ok(Place::Asking) | Err(_)) | Err(_) => Err(ConnectError::NoSentinel.into()),
    }
}

async fn open(
    target: &Target,
    address: &Address,
    lost: mpsc::Sender<LostCause>,
) -> Result<MultiplexedConnection, ConnectError> {
    let switched = match &target.duty {
        Duty::Sentinel(switched) => Some(Arc::clone(switched)),
        Duty::Primary | Duty::Member => None,
    };
    let options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(target.timeout))
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                return lost.try_send(LostCause::Closed);
            }
            if let Some(switched) = &switched
                && push.kind == PushKind::Message
            {
                switched.notify_one();
            }
            Ok(())
        });
    // Files are read again each time: passwords and authorities rotate.
    let client = target.access.client(address, target.database)?;
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&options)
        .await
        .map_err(not_let_in)?;
    let failed = ConnectError::Redis;
    match target.duty {
        Duty::Member => {}
        Duty::Primary => {
            let role = cmd("ROLE");
            let role = connection
                .send_packed_command(&role)
                .await
                .map_err(failed)?;
            if let Some(Role::Other(role)) = read_role(&role) {
                let address = address.to_string();
                return Err(ConnectError::NotPrimary { address, role });
            }
            load_scripts(&mut connection).await.map_err(failed)?;
        }
        Duty::Sentinel(_) => {
            let follow = connection.subscribe(SWITCHED).await;
            // They are asked from time to time in any case.
            follow.unwrap_or_else(|error| {
                tracing::warn!(%address, %error, "the sentinel tells of no failover by itself");
            });
        }
    }
    Ok(connection)
}

fn not_let_in(error: RedisError) -> ConnectError {
    let wrong_password = error.code() == Some("WRONGPASS");
    if wrong_password || error.kind() == ErrorKind::AuthenticationFailed {
        ConnectError::Credentials(error)
    } else {
        ConnectError::Redis(error)
    }
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    for script in SCRIPTS.iter() {
        script.load_async(connection).await?;
    }
    Ok(())
}

impl Live {
    async fn exchange(&self, commands: &Pipeline) -> Result<Vec<Value>, CommandError> {
        let mut connection = self.connection.clone();
        let broken = |error| {
            self.give_up(LostCause::Closed);
            CommandError::Broken(error)
        };
        let mut loaded = false;
        loop {
            let sent = connection.req_packed_commands(commands, 0, commands.len());
            let values = sent.await.map_err(broken)?;
            self.timeouts.store(0, Ordering::Relaxed);
            if let Some(cause) = values.iter().find_map(no_primary) {
                self.give_up(cause);
            }
            let forgotten = values
                .iter()
                .any(|value| kind(value) == Some(ServerErrorKind::NoScript));
            if !forgotten || loaded {
                return Ok(values);
            }
            // A flush or a failover empties the script cache.
            load_scripts(&mut connection)
                .await
                .map_err(CommandError::Broken)?;
            loaded = true;
        }
    }

    /// The first cause counts: the supervisor takes one and drops the connection.
    fn give_up(&self, cause: LostCause) {
        self.given_up.store(true, Ordering::Relaxed);
        self.lost.try_send(cause).ok();
    }

    fn count_timeout(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            self.give_up(LostCause::Timeouts);
        }
    }
}

/// What such an answer makes of the connection.
fn no_primary(value: &Value) -> Option<LostCause> {
    match kind(value) {
        Some(ServerErrorKind::BusyLoading) => Some(LostCause::Loading),
        Some(ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly) => {
            Some(LostCause::NotPrimary)
        }
        _ => None,
    }
}

impl Duty {
    fn name(&self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Member => "member",
            Self::Sentinel(_) => "sentinel",
        }
    }
}

impl LostCause {
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Loading => "loading",
            Self::Moved => "moved",
            Self::NotPrimary => "not_primary",
            Self::Timeouts => "timeouts",
        }
    }
}

/// What sentinels publish when a primary has been replaced.
const SWITCHED: &str = "+switch-master";

/// Commands in a row that may go unanswered before the connection is rebuilt.
const TIMEOUTS_MAX: u32 = 3;

/// How often a connection is tried, and its server asked what it is.
const PROBE_PERIOD: Duration = Duration::from_secs(2);

/// Between two attempts to connect: the first, doubled up to the last.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(50);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
