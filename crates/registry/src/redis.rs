//! Leases in Redis (6.2 or later, or Valkey): a cache that may lose a write, see the scripts in `redis/*.lua`.
//!
//! | key | holds | lives |
//! |---|---|---|
//! | `<prefix>:{s:<sid>}:<slot>:own` | the lease: a hash | [`LEASE_TTL`] |
//! | `<prefix>:{s:<sid>}:<slot>:epoch` | the last epoch granted | 7 days |
//! | `<prefix>:{s:<sid>}:home` | origin and broadcast: a hash | [`LEASE_TTL`] + `home_ttl` |
//! | `<prefix>:{e:<edge>}:sess` | the edge's `<sid>:<slot>`, scored by their expiry | 1 min |
//! | `<prefix>:{e:<edge>}:cmd` | what the edge is told to do: a stream | 1 h behind the last |
//! | `<prefix>:{e}:all` | edges, scored by their expiry | 1 min |
//! | `<prefix>:{e}:at:<edge>` | an edge's announcement: a hash | [`LEASE_TTL`] |
//! | `<prefix>:{o}:all` | origins, scored by their expiry | [`LEASE_TTL`] |
//! | `<prefix>:{o}:at:<origin>` | an origin's announcement: a hash | [`LEASE_TTL`] |
//! | `<prefix>:{u:<hash>}` | sessions that used what has a number of uses: a set | as long as what they used |
//!
//! The hash tag is the stream, without the slot: a claim decides lease, epoch and home in one atomic script, and a
//! script's keys must share a tag in Redis Cluster. The indexes have tags of their own and are written behind the
//! scripts: they say where to look, the lease alone says what is true. Nothing is ever scanned.
//!
//! ```text
//! connection   which server does a command, and whether it is sent again
//!   node       one supervised connection to one server
//!   sentinel   which server is the primary
//!   cluster    which servers have which slots
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use redis::{Cmd, Pipeline, Value, cmd};

use crate::{
    Claim, ClaimOutcome, EdgeName, LEASE_TTL, Lease, Owner, Policy, RegistryError, Renewal,
    RenewalOutcome, SessionId, Slot, StreamId, millis,
};

mod announcements;
mod ask;
mod cluster;
mod commands;
mod config;
mod connection;
mod error;
mod keys;
mod node;
mod pause;
mod probe;
mod script;
mod sentinel;
mod slot;
mod users;
mod value;
mod watcher;

pub(crate) use commands::Commands;
pub use config::{RedisAccess, RedisCertificate, RedisConfig, RedisSentinels, RedisServers};
pub use users::{RedisPasswords, redis_users};

use connection::{Connection, Repeat};
use error::refused;
use keys::Keys;
use script::call;

/// Leases in Redis. A cheap handle; the connection ends with the last one.
#[derive(Clone)]
pub struct RedisRegistry {
    connection: Connection,
    keys: Keys,
}

/// What metrics count.
#[derive(Clone, Copy, Debug)]
pub enum RedisEvent {
    /// Commands were sent, as one pipeline.
    Command {
        /// The registry's verb: `claim`, `renew`, …
        command: &'static str,
        /// `ok`, `refused` (Redis answered with an error), `timeout`, `unavailable`.
        outcome: &'static str,
        /// From the call to the answer.
        duration: Duration,
    },
    /// A connection was given up and is being rebuilt.
    Reconnect {
        /// `closed`, `loading`, `moved`, `not_primary`, `timeouts`.
        cause: &'static str,
    },
    /// Seconds that the clock of Redis is ahead of this process's; of several servers, the furthest off.
    ClockSkew {
        /// Below 0: behind.
        seconds: f64,
    },
    /// Claims were granted, and no replica is known to have them: a failover may lose them.
    Unreplicated {
        /// How many.
        claims: u64,
    },
}

impl RedisRegistry {
    /// Reads the files and connects in the background: a Redis that is down now is an
    /// [`Unavailable`](RegistryError::Unavailable) per command, not an error here. Needs a tokio runtime, and a
    /// process-wide rustls provider for `rediss://`.
    pub fn open(config: &RedisConfig) -> Result<Self, RegistryError> {
        Self::open_observed(config, |_event| {})
    }

    /// As [`open`](Self::open), and tells `observe` of what metrics count. It must not block.
    pub fn open_observed(
        config: &RedisConfig,
        observe: impl Fn(RedisEvent) + Send + Sync + 'static,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            connection: Connection::open(config, Arc::new(observe))?,
            keys: Keys::new(&config.prefix),
        })
    }

    pub(crate) async fn claim(&self, claim: &Claim) -> Result<ClaimOutcome, RegistryError> {
        let (policy, grace) = match claim.policy {
            Policy::Reject => ("reject", Duration::ZERO),
            Policy::Takeover => ("takeover", Duration::ZERO),
            Policy::TakeoverIfStale(grace) => ("stale", grace),
            Policy::Priority(grace) => ("priority", grace),
            Policy::SameAddress(grace) => ("address", grace),
        };
        let mut command = call(
            &script::CLAIM,
            &[
                &self.keys.own(claim.stream, claim.slot),
                &self.keys.epoch(claim.stream, claim.slot),
                &self.keys.home(claim.stream),
            ],
        );
        command
            .arg(claim.session.as_str())
            .arg(claim.edge.as_str())
            .arg(claim.candidate.as_str())
            .arg(ttl(LEASE_TTL))
            .arg(policy)
            .arg(ttl(grace))
            .arg(claim.floor)
            .arg(&claim.broadcast_id)
            .arg(ttl(LEASE_TTL.saturating_add(claim.home_ttl)))
            .arg(value::encode_stats(&claim.stats))
            .arg(claim.standing.priority)
            .arg(&claim.standing.address)
            .arg(u8::from(claim.patient));
        for origin in &claim.announced {
            command.arg(origin.as_str());
        }
        let reply = self.run_one("claim", command.clone(), Repeat::Always);
        let (outcome, now_ms) = value::claim_outcome(reply.await?)?;
        if let Some(now_ms) = now_ms {
            self.connection.count_claim(&command).await;
            let at = [(claim.stream, claim.slot)];
            self.index(&claim.edge, &at, now_ms).await;
        }
        Ok(outcome)
    }

    pub(crate) async fn renew(
        &self,
        renewals: &[Renewal],
    ) -> Result<Vec<RenewalOutcome>, RegistryError> {
        let mut outcomes = Vec::with_capacity(renewals.len());
        let mut failed = None;
        for renewals in renewals.chunks(PIPELINE_MAX) {
            let mut commands = Pipeline::with_capacity(renewals.len());
            for renewal in renewals {
                commands.add_command(self.renewal(renewal));
            }
            // Of several servers one may be down: what the others renewed is renewed.
            let (replies, lost) = self.connection.run_partly("renew", &commands).await;
            failed = failed.or(lost);
            let mut held = BTreeMap::<_, Vec<_>>::new();
            let mut now_ms = 0;
            for (renewal, reply) in renewals.iter().zip(replies) {
                let renewed = reply.map(|reply| accepted(reply).and_then(value::renewal_outcome));
                let (outcome, at_ms) = match renewed {
                    Some(Ok(renewed)) => renewed,
                    Some(Err(error)) => {
                        failed.get_or_insert(error);
                        (RenewalOutcome::Unavailable, now_ms)
                    }
                    None => (RenewalOutcome::Unavailable, now_ms),
                };
                outcomes.push(outcome);
                now_ms = at_ms;
                match outcome {
                    RenewalOutcome::Fenced { .. } | RenewalOutcome::Unavailable => {}
                    RenewalOutcome::Healed | RenewalOutcome::Renewed | RenewalOutcome::WonBack => {
                        let at = (renewal.stream, renewal.slot);
                        held.entry(&renewal.edge).or_default().push(at);
                    }
                }
            }
            // A lease that is not in the index is not listed.
            for (edge, held) in held {
                self.index(edge, &held, now_ms).await;
            }
        }
        let none = outcomes
            .iter()
            .all(|outcome| *outcome == RenewalOutcome::Unavailable);
        match failed {
            Some(error) if none => Err(error),
            Some(_) | None => Ok(outcomes),
        }
    }

    fn renewal(&self, renewal: &Renewal) -> Cmd {
        let mut command = call(
            &script::RENEW,
            &[
                &self.keys.own(renewal.stream, renewal.slot),
                &self.keys.epoch(renewal.stream, renewal.slot),
                &self.keys.home(renewal.stream),
                &self.keys.own(renewal.stream, Slot::PRIMARY),
            ],
        );
        command
            .arg(renewal.session.as_str())
            .arg(renewal.edge.as_str())
            .arg(renewal.epoch)
            .arg(renewal.attempt)
            .arg(renewal.origin.as_str())
            .arg(&renewal.broadcast_id)
            .arg(ttl(renewal.media_age))
            .arg(ttl(LEASE_TTL))
            .arg(ttl(LEASE_TTL.saturating_add(renewal.home_ttl)))
            .arg(value::encode_stats(&renewal.stats))
            .arg(renewal.slot.number())
            .arg(renewal.standing.priority)
            .arg(&renewal.standing.address)
            .arg(u8::from(renewal.standing.leaving));
        command
    }

    pub(crate) async fn release(
        &self,
        stream: StreamId,
        slot: Slot,
        session: &SessionId,
        epoch: u64,
    ) -> Result<bool, RegistryError> {
        let mut command = call(&script::RELEASE, &[&self.keys.own(stream, slot)]);
        command.arg(session.as_str()).arg(epoch);
        // The index entry stays until it expires: whoever follows it finds no lease.
        let released = self.run_one("release", command, Repeat::Always).await?;
        Ok(released == Value::Int(1))
    }

    pub(crate) async fn kick(
        &self,
        stream: StreamId,
        slot: Slot,
        session: Option<&SessionId>,
    ) -> Result<Option<EdgeName>, RegistryError> {
        let keys = [
            &*self.keys.own(stream, slot),
            &*self.keys.epoch(stream, slot),
        ];
        let mut command = call(&script::KICK, &keys);
        command.arg(session.map_or("", SessionId::as_str));
        let reply = self.run_one("kick", command, Repeat::Refused).await?;
        match value::texts(reply)?.as_slice() {
            [] => Ok(None),
            [edge, ..] => Ok(Some(value::name(edge.as_deref(), EdgeName::new, "edge")?)),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.connection.is_cluster()
    }

    pub(crate) async fn owners(
        &self,
        streams: &[(StreamId, Slot)],
    ) -> Result<Vec<Owner>, RegistryError> {
        let mut owners = Vec::with_capacity(streams.len());
        for chunk in streams.chunks(PIPELINE_MAX) {
            let mut commands = Pipeline::new();
            commands.add_command(cmd("TIME"));
            for (stream, slot) in chunk {
                commands.add_command(self.read_lease(*stream, *slot));
                commands.cmd("GET").arg(self.keys.epoch(*stream, *slot));
                commands
                    .cmd("HMGET")
                    .arg(self.keys.home(*stream))
                    .arg(&value::HOME_FIELDS);
            }
            let mut replies = self.run("owners", &commands).await?.into_iter();
            let now_ms = value::time_ms(next(&mut replies)?)?;
            for at in chunk {
                let lease = next(&mut replies).and_then(|reply| value::lease(*at, reply, now_ms));
                let epoch = next(&mut replies).and_then(value::epoch);
                let home = next(&mut replies).and_then(value::home);
                let tolerate = streams.len() > 1;
                let lease = known(lease, *at, tolerate)?;
                let epoch = known(epoch, *at, tolerate)?;
                let held = lease.as_ref().map_or(0, |lease| lease.epoch);
                owners.push(Owner {
                    epoch: epoch.max(held),
                    home: known(home, *at, tolerate)?,
                    lease,
                });
            }
        }
        Ok(owners)
    }

    pub(crate) async fn leases(&self) -> Result<Vec<Lease>, RegistryError> {
        let held = self.indexed().await?;
        let held: Vec<_> = held.into_iter().collect();
        let mut leases = Vec::new();
        for held in held.chunks(PIPELINE_MAX) {
            let mut commands = Pipeline::new();
            commands.add_command(cmd("TIME"));
            for (stream, slot) in held {
                commands.add_command(self.read_lease(*stream, *slot));
            }
            let mut replies = self.run("leases", &commands).await?.into_iter();
            let now_ms = value::time_ms(next(&mut replies)?)?;
            for at in held {
                let lease = next(&mut replies).and_then(|reply| value::lease(*at, reply, now_ms));
                leases.extend(known(lease, *at, true)?);
            }
        }
        Ok(leases)
    }

    /// Where leases may be: the sets of the edges.
    async fn indexed(&self) -> Result<BTreeSet<(StreamId, Slot)>, RegistryError> {
        let edges = self.run_one(
            "leases",
            range(&self.keys.edges(), EDGES_MAX),
            Repeat::Always,
        );
        let edges = value::texts(edges.await?)?;
        let mut held = BTreeSet::new();
        for edges in edges.chunks(PIPELINE_MAX) {
            let mut commands = Pipeline::new();
            let names = edges.iter().filter_map(|edge| {
                let edge = value::name(edge.as_deref(), EdgeName::new, "edge");
                skip_malformed(edge, "edge index")
            });
            for edge in names {
                commands.add_command(range(&self.keys.sessions(&edge), EDGE_LEASES_MAX));
            }
            if commands.is_empty() {
                continue;
            }
            for reply in self.run("leases", &commands).await? {
                let members = match accepted(reply).and_then(value::texts) {
                    // What cannot be read now is not an index that is not there.
                    Err(unavailable @ RegistryError::Unavailable(_)) => return Err(unavailable),
                    read => skip_malformed(read, "edge's index"),
                };
                for member in members.unwrap_or_default() {
                    held.extend(skip_malformed(
                        value::member(member.as_deref()),
                        "edge's index",
                    ));
                }
            }
        }
        Ok(held)
    }

    pub(crate) async fn count_use(
        &self,
        what: [u8; 16],
        session: &SessionId,
        max: u32,
        time: Duration,
    ) -> Result<bool, RegistryError> {
        let mut command = call(&script::USE, &[&self.keys.uses(what)]);
        command.arg(session.as_str()).arg(max).arg(ttl(time));
        let reply = self.run_one("use", command, Repeat::Always).await?;
        Ok(reply == Value::Int(1))
    }

    /// Says on which edge the leases are, for [`leases`](Self::leases). A failure hides them until the next renewal.
    async fn index(&self, edge: &EdgeName, held: &[(StreamId, Slot)], now_ms: u64) {
        let held = held
            .iter()
            .map(|(stream, slot)| value::encode_member(*stream, *slot));
        let mut commands = Pipeline::new();
        enter(
            &mut commands,
            &self.keys.sessions(edge),
            held.collect(),
            now_ms,
        );
        enter(
            &mut commands,
            &self.keys.edges(),
            vec![edge.to_string()],
            now_ms,
        );
        let indexed = self.run("index", &commands).await;
        let refusal = indexed.and_then(|replies| {
            replies
                .into_iter()
                .try_for_each(|reply| accepted(reply).map(drop))
        });
        if let Err(error) = refusal {
            tracing::warn!(%edge, reason = &error as &dyn std::error::Error, "leases are not listed for now");
        }
    }

    fn read_lease(&self, stream: StreamId, slot: Slot) -> Cmd {
        let mut command = cmd("HMGET");
        command
            .arg(self.keys.own(stream, slot))
            .arg(&value::LEASE_FIELDS);
        command
    }

    async fn run_one(
        &self,
        name: &'static str,
        command: Cmd,
        repeat: Repeat,
    ) -> Result<Value, RegistryError> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        let replies = self.connection.run(name, &commands, repeat).await?;
        next(&mut replies.into_iter())
    }

    /// Commands that change nothing when they are repeated.
    async fn run(
        &self,
        name: &'static str,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, RegistryError> {
        self.connection.run(name, commands, Repeat::Always).await
    }
}

/// Enters members into an index, which forgets whoever was not entered for a while.
fn enter(commands: &mut Pipeline, key: &str, members: Vec<String>, now_ms: u64) {
    commands
        .cmd("ZREMRANGEBYSCORE")
        .arg(key)
        .arg("-inf")
        .arg(now_ms);
    let expiry_ms = now_ms.saturating_add(millis(LEASE_TTL));
    let add = commands.cmd("ZADD").arg(key);
    for member in members {
        add.arg(expiry_ms).arg(member);
    }
    commands.cmd("PEXPIRE").arg(key).arg(ttl(INDEX_TTL));
}

fn range(key: &str, members_max: usize) -> Cmd {
    let mut command = cmd("ZRANGE");
    command.arg(key).arg(0).arg(members_max.saturating_sub(1));
    command
}

fn accepted(reply: Value) -> Result<Value, RegistryError> {
    if let Value::ServerError(error) = reply {
        return Err(refused(error));
    }
    Ok(reply)
}

fn next(replies: &mut impl Iterator<Item = Value>) -> Result<Value, RegistryError> {
    accepted(replies.next().ok_or_else(|| value::malformed("reply"))?)
}

/// What is malformed, as unknown; any other failure stays one.
fn known<T: Default>(
    read: Result<T, RegistryError>,
    (stream, slot): (StreamId, Slot),
    tolerate: bool,
) -> Result<T, RegistryError> {
    match read {
        Err(RegistryError::Malformed { what }) if tolerate => {
            tracing::warn!(stream_id = %stream, slot = slot.number(), what, "ignoring a malformed record in the registry");
            Ok(T::default())
        }
        read => read,
    }
}

/// One malformed entry of a list does not hide the others.
fn skip_malformed<T>(read: Result<T, RegistryError>, list: &'static str) -> Option<T> {
    read.inspect_err(|error| {
        tracing::warn!(list, reason = %error, "ignoring a malformed entry in the registry");
    })
    .ok()
}

/// For Redis, which refuses a time to live that overflows.
fn ttl(duration: Duration) -> u64 {
    millis(duration).min(TTL_MS_MAX)
}

const TTL_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1000;

/// An index outlives its entries, which carry their own expiry.
const INDEX_TTL: Duration = Duration::from_secs(60);

/// Streams in one pipeline: bounds what Redis and we buffer for it.
const PIPELINE_MAX: usize = 256;

/// What a listing reads at most.
const EDGES_MAX: usize = 10_000;
const EDGE_LEASES_MAX: usize = 50_000;
const ORIGINS_MAX: usize = 10_000;
