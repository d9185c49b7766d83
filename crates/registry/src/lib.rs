//! Session ownership: who publishes which stream, on which edge, at which origin.
//!
//! A lease cache, not the judge: the judge is the origin, which takes the highest [`FencingToken`] it has seen.
//! One [`Registry`], two homes for the leases: Redis, and process memory for the standalone process. Both pass one
//! test suite.

#![deny(missing_docs)]

mod edge;
mod id;
mod lease;
mod memory;
mod redis;

pub use edge::{Command, CommandId, DrainOrder, Edge, EdgePhase, REASON_BYTES_MAX};
pub use id::{
    EdgeName, FencingToken, ID_BYTES_MAX, InvalidId, OriginName, SessionId, Slot, StreamId,
};
pub use lease::{
    Claim, ClaimOutcome, Home, LEASE_TRACKS_MAX, Lease, LeaseStats, LeaseTrack, Origin, Owner,
    Policy, Renewal, RenewalOutcome, Standing,
};
pub use memory::MemoryRegistry;
pub use redis::{
    RedisAccess, RedisCertificate, RedisConfig, RedisEvent, RedisPasswords, RedisRegistry,
    RedisSentinels, RedisServers, redis_users,
};

/// Where the leases live. A cheap handle.
#[derive(Clone)]
pub enum Registry {
    /// In this process: the standalone default.
    Memory(MemoryRegistry),
    /// In Redis.
    Redis(RedisRegistry),
}

/// The registry could not answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file is not there, or a value is not usable. Only at the start.
    #[error("the registry's configuration is not usable")]
    InvalidConfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored is not what we write: somebody else writes under our prefix.
    #[error("the registry holds a malformed {what}")]
    Malformed {
        /// Which value.
        what: &'static str,
    },
    /// No answer in time, no connection, or not a primary. Try again.
    #[error("the registry is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Registry {
    /// What keeps it, as OpenTelemetry's `db.system.name` has it.
    pub fn system(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }

    /// Whether streams are spread over servers, of which one may answer while another one does not.
    pub fn is_spread(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(redis) => redis.is_cluster(),
        }
    }

    /// Asks for the right to publish. Idempotent per session: a retry after a timeout gets the same answer.
    pub async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.claim(claim)),
            Self::Redis(redis) => redis.claim(claim).await,
        }
    }

    /// Extends leases; one outcome per renewal, in order. Pipelined. Can be repeated. An error where none was extended.
    pub async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewalOutcome>, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.renew(renewals)),
            Self::Redis(redis) => redis.renew(renewals).await,
        }
    }

    /// Gives a lease back, if it is still this session's with this epoch. Whether it was.
    pub async fn release(
        &self,
        stream: StreamId,
        slot: Slot,
        session: &SessionId,
        epoch: u64,
    ) -> Result<bool, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.release(stream, slot, session, epoch)),
            Self::Redis(redis) => redis.release(stream, slot, session, epoch).await,
        }
    }

    /// Ends a lease (of `session` alone, where given) and fences its holder. The edge that held it.
    pub async fn kick(
        &self,
        stream: StreamId,
        slot: Slot,
        session: Option<&SessionId>,
    ) -> Result<Option<EdgeName>, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.kick(stream, slot, session)),
            Self::Redis(redis) => redis.kick(stream, slot, session).await,
        }
    }

    /// Ownership of many streams as stored: `None` where no lease is live. In order. Pipelined.
    ///
    /// Asked for one stream, a malformed record is an error. Among several it reads as unknown, with a warning: one
    /// must not hide the others.
    pub async fn owners(&self, streams: &[(StreamId, Slot)]) -> Result<Vec<Owner>, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.owners(streams)),
            Self::Redis(redis) => redis.owners(streams).await,
        }
    }

    /// Every live lease, by stream and slot. A malformed one is left out, with a warning.
    pub async fn leases(&self) -> Result<Vec<Lease>, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.leases()),
            Self::Redis(redis) => redis.leases().await,
        }
    }

    /// Counts a session as one of the uses of something that has at most `max` of them, until `ttl` after the last
    /// count. Whether it is one. Idempotent per session: a retry after a timeout is not another use.
    pub async fn count_use(
        &self,
        what: [u8; 16],
        session: &SessionId,
        max: u32,
        ttl: std::time::Duration,
    ) -> Result<bool, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.count_use(what, session, max, ttl)),
            Self::Redis(redis) => redis.count_use(what, session, max, ttl).await,
        }
    }

    /// Tells edges that an origin is there; to be repeated every [`ANNOUNCE_PERIOD`].
    pub async fn announce(&self, origin: &Origin) -> Result<(), RegistryError> {
        match self {
            Self::Memory(memory) => {
                memory.announce(origin);
                Ok(())
            }
            Self::Redis(redis) => redis.announce(origin).await,
        }
    }

    /// Takes an announcement back.
    pub async fn withdraw(&self, origin: &OriginName) -> Result<(), RegistryError> {
        match self {
            Self::Memory(memory) => {
                memory.withdraw(origin);
                Ok(())
            }
            Self::Redis(redis) => redis.withdraw(origin).await,
        }
    }

    /// Tells who looks after edges that one is there; to be repeated every [`ANNOUNCE_PERIOD`].
    pub async fn announce_edge(&self, edge: &Edge) -> Result<(), RegistryError> {
        match self {
            Self::Memory(memory) => {
                memory.announce_edge(edge);
                Ok(())
            }
            Self::Redis(redis) => redis.announce_edge(edge).await,
        }
    }

    /// Takes an edge's announcement back.
    pub async fn withdraw_edge(&self, edge: &EdgeName) -> Result<(), RegistryError> {
        match self {
            Self::Memory(memory) => {
                memory.withdraw_edge(edge);
                Ok(())
            }
            Self::Redis(redis) => redis.withdraw_edge(edge).await,
        }
    }

    /// Edges with a live announcement, by name. A malformed one is left out, with a warning.
    pub async fn edges(&self) -> Result<Vec<Edge>, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.edges()),
            Self::Redis(redis) => redis.edges().await,
        }
    }

    /// Tells an edge what to do, whether it listens or not. Repeated, it may come twice.
    pub async fn command(
        &self,
        edge: &EdgeName,
        command: &Command,
    ) -> Result<CommandId, RegistryError> {
        self.command_after(edge, command, CommandId::default())
            .await
    }

    /// The same, numbered above `after` whatever the registry has lost and its clock says: an edge does not heed an order
    /// whose number is below that of one it has heard of.
    pub async fn command_after(
        &self,
        edge: &EdgeName,
        command: &Command,
        after: CommandId,
    ) -> Result<CommandId, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.command(edge, command, after)),
            Self::Redis(redis) => redis.command(edge, command, after).await,
        }
    }

    /// What an edge is told to do. Needs a tokio runtime.
    pub fn commands(&self, edge: &EdgeName) -> Commands {
        Commands(match self {
            Self::Memory(memory) => Source::Memory(memory.commands(edge)),
            Self::Redis(redis) => Source::Redis(Box::new(redis.commands(edge))),
        })
    }

    /// Origins with a live announcement, by name.
    pub async fn origins(&self) -> Result<Vec<Origin>, RegistryError> {
        match self {
            Self::Memory(memory) => Ok(memory.origins()),
            Self::Redis(redis) => redis.origins().await,
        }
    }
}

/// What one edge is told, from the first command that is kept.
pub struct Commands(Source);

enum Source {
    Memory(memory::Commands),
    Redis(Box<redis::Commands>),
}

impl Commands {
    /// The next one, once there is one; waits for as long as the registry does not answer. Nothing is lost where it is
    /// given up on.
    pub async fn next(&mut self) -> (CommandId, Command) {
        match &mut self.0 {
            Source::Memory(commands) => commands.next().await,
            Source::Redis(commands) => commands.next().await,
        }
    }
}

/// How long a lease or an announcement lives without renewal.
pub const LEASE_TTL: std::time::Duration = std::time::Duration::from_secs(15);

/// How often an edge renews a lease, and says with it when the last media came: more often than a publisher may be silent
/// that others must not replace ([`Policy::TakeoverIfStale`]).
pub const RENEW_PERIOD: std::time::Duration = std::time::Duration::from_secs(2);

/// How often an origin or an edge announces itself.
pub const ANNOUNCE_PERIOD: std::time::Duration = std::time::Duration::from_secs(5);

/// An epoch further ahead of the clock than this is refused, in milliseconds.
pub const EPOCH_AHEAD_MS_MAX: u64 = 60_000;

/// How long the last epoch of a stream is remembered behind its last lease.
const EPOCH_TTL: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 60 * 60);

/// Whole milliseconds, as the registry counts.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
