//! The real registry, in memory or in Redis, with what can befall it: a flush, a failover that loses the last writes, a clock
//! that is off.

use std::{
    net::TcpListener as Port,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ::redis::{AsyncConnectionConfig, Client, Value, aio::MultiplexedConnection, cmd};
use registry::{
    Claim, ClaimOutcome, LEASE_TTL, Owner, Policy, RedisConfig, RedisRegistry, Renewal,
    RenewalOutcome, SessionId,
};

use super::{super::*, place};

/// What a registry is asked to change.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Claim(Box<Claim>),
    Kick,
    Release(SessionId, u64),
    Renew(Box<Renewal>),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    Claimed(ClaimOutcome),
    Kicked(bool),
    Released,
    Renewed(RenewalOutcome),
}

pub(super) enum Registries {
    Memory(Memory),
    Redis(Redis),
}

/// Built again from its writes where it loses the last of them.
pub(super) struct Memory {
    registry: Registry,
    clock_ms: Arc<AtomicU64>,
    writes: Vec<(u64, Write)>,
    /// A clock that stands still grants epochs from 1.
    stands_still: bool,
}

/// A server of the test's own, whose keys are put back where it loses writes. Its clock cannot be set: time passes by
/// making what is stored older.
pub(super) struct Redis {
    registry: Registry,
    connection: MultiplexedConnection,
    /// What was stored before each of the last writes.
    before: Vec<Vec<Stored>>,
}

/// A key's value and time to live.
struct Stored {
    key: String,
    value: Value,
    ttl_ms: i64,
}

/// Most writes that a failover loses.
pub(super) const LOST_MAX: usize = 6;

impl Registries {
    pub(super) fn memory(clock_ms: u64, stands_still: bool) -> Self {
        let clock = Arc::new(AtomicU64::new(if stands_still { 1 } else { clock_ms }));
        Self::Memory(Memory {
            registry: fresh(&clock),
            clock_ms: clock,
            writes: Vec::new(),
            stands_still,
        })
    }

    pub(super) fn registry(&self) -> &Registry {
        match self {
            Self::Memory(memory) => &memory.registry,
            Self::Redis(redis) => &redis.registry,
        }
    }

    /// The time as origins have it.
    pub(super) fn true_ms(&self, virtual_ms: u64) -> u64 {
        match self {
            Self::Memory(_) => virtual_ms,
            Self::Redis(_) => now_ms(),
        }
    }

    pub(super) fn set_clock(&self, clock_ms: u64) {
        match self {
            Self::Memory(memory) if !memory.stands_still => {
                memory.clock_ms.fetch_max(clock_ms, Relaxed);
            }
            Self::Memory(_) | Self::Redis(_) => {}
        }
    }

    /// Also for what is expired by its time to live.
    pub(super) async fn pass(&mut self, elapsed_ms: u64) {
        if let Self::Redis(redis) = self {
            redis.grow_older(elapsed_ms).await;
        }
    }

    pub(super) async fn write(&mut self, write: &Write) -> Written {
        match self {
            Self::Memory(memory) => {
                let at = memory.clock_ms.load(Relaxed);
                memory.writes.push((at, write.clone()));
            }
            Self::Redis(redis) => {
                let stored = redis.stored().await;
                redis.before.push(stored);
            }
        }
        apply(self.registry(), write).await
    }

    pub(super) async fn owner(&self) -> Owner {
        let owners = self.registry().owners(&[place()]).await.unwrap();
        owners.into_iter().next().unwrap()
    }

    pub(super) async fn flush(&mut self) {
        match self {
            Self::Memory(memory) => {
                memory.writes.clear();
                memory.registry = fresh(&memory.clock_ms);
            }
            Self::Redis(redis) => {
                redis.before.clear();
                redis.put_back(&[]).await;
            }
        }
    }

    /// Another server goes on, without the last writes and by its own clock.
    pub(super) async fn fail_over(&mut self, lost: usize, clock_ms: u64) {
        match self {
            Self::Memory(memory) => {
                let kept = memory.writes.len().saturating_sub(lost);
                memory.writes.truncate(kept);
                memory.registry = fresh(&memory.clock_ms);
                for (at, write) in &memory.writes {
                    memory.clock_ms.store(*at, Relaxed);
                    apply(&memory.registry, write).await;
                }
                let clock_ms = if memory.stands_still { 1 } else { clock_ms };
                memory.clock_ms.store(clock_ms, Relaxed);
            }
            Self::Redis(redis) => {
                let kept = redis.before.len().saturating_sub(lost);
                let stored = redis.before.drain(kept..).next();
                if let Some(stored) = stored {
                    redis.put_back(&stored).await;
                }
            }
        }
    }
}

fn fresh(clock_ms: &Arc<AtomicU64>) -> Registry {
    let clock_ms = Arc::clone(clock_ms);
    let now = move || clock_ms.load(Relaxed);
    Registry::Memory(MemoryRegistry::with_clock(now))
}

async fn apply(registry: &Registry, write: &Write) -> Written {
    let (stream, slot) = place();
    match write {
        Write::Claim(claim) => Written::Claimed(registry.claim(claim).await.unwrap()),
        Write::Kick => {
            let kicked = registry.kick(stream, slot, None).await.unwrap();
            Written::Kicked(kicked.is_some())
        }
        Write::Release(session, epoch) => {
            let released = registry.release(stream, slot, session, *epoch);
            released.await.unwrap();
            Written::Released
        }
        Write::Renew(renewal) => {
            let renewals = [renewal.as_ref().clone()];
            let outcomes = registry.renew(&renewals).await.unwrap();
            Written::Renewed(outcomes[0])
        }
    }
}

impl Redis {
    pub(super) async fn connect(url: &str) -> Self {
        let client = Client::open(url).unwrap();
        // Nothing here is about a Redis that is late.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&patient);
        let connection = connection.await.unwrap();
        let mut config = RedisConfig::from_url(url).unwrap();
        config.timeout = PATIENCE;
        let registry = Registry::Redis(RedisRegistry::open(&config).unwrap());
        eventually("the registry answers", async || {
            registry.origins().await.is_ok()
        })
        .await;
        let mut this = Self {
            registry,
            connection,
            before: Vec::new(),
        };
        this.put_back(&[]).await;
        this
    }

    async fn stored(&mut self) -> Vec<Stored> {
        let mut all = Vec::new();
        for key in keys() {
            let dump = cmd("DUMP").arg(&key).to_owned();
            let value: Value = dump.query_async(&mut self.connection).await.unwrap();
            let ttl = cmd("PTTL").arg(&key).to_owned();
            let ttl_ms: i64 = ttl.query_async(&mut self.connection).await.unwrap();
            if value != Value::Nil {
                all.push(Stored { key, value, ttl_ms });
            }
        }
        all
    }

    async fn put_back(&mut self, stored: &[Stored]) {
        let flush = cmd("FLUSHALL");
        let _: Value = flush.query_async(&mut self.connection).await.unwrap();
        for Stored { key, value, ttl_ms } in stored {
            let Value::BulkString(dump) = value else {
                panic!("{value:?}");
            };
            let ttl_ms = (*ttl_ms).max(1);
            let restore = cmd("RESTORE").arg(key).arg(ttl_ms).arg(dump).to_owned();
            let _: Value = restore.query_async(&mut self.connection).await.unwrap();
        }
    }

    async fn grow_older(&mut self, elapsed_ms: u64) {
        let elapsed_ms = i64::try_from(elapsed_ms).unwrap();
        let [own, _epoch, home] = keys();
        for key in [&own, &home] {
            let ttl = cmd("PTTL").arg(key).to_owned();
            let ttl_ms: i64 = ttl.query_async(&mut self.connection).await.unwrap();
            let ttl_ms = ttl_ms - elapsed_ms;
            let expire = cmd("PEXPIRE").arg(key).arg(ttl_ms).to_owned();
            let _: Value = expire.query_async(&mut self.connection).await.unwrap();
        }
        let exists = cmd("EXISTS").arg(&own).to_owned();
        if exists
            .query_async::<i64>(&mut self.connection)
            .await
            .unwrap()
            == 1
        {
            let heard = cmd("HINCRBY")
                .arg(&own)
                .arg("hb")
                .arg(-elapsed_ms)
                .to_owned();
            let _: Value = heard.query_async(&mut self.connection).await.unwrap();
        }
    }
}

/// Of the stream's lease, epoch and home.
fn keys() -> [String; 3] {
    let (stream, slot) = place();
    let slot = slot.number();
    [
        format!("hw:{{s:{stream}}}:{slot}:own"),
        format!("hw:{{s:{stream}}}:{slot}:epoch"),
        format!("hw:{{s:{stream}}}:home"),
    ]
}

/// redis-server on a port of its own, killed by its id.
pub(super) struct RedisServer {
    child: Child,
    pub(super) url: String,
}

impl RedisServer {
    pub(super) fn start() -> Self {
        let port = Port::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let port = port.port().to_string();
        let options = ["--port", &port, "--bind", "127.0.0.1", "--save", ""];
        let child = Command::new("redis-server")
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        Self {
            child,
            url: format!("redis://127.0.0.1:{port}"),
        }
    }

    pub(super) async fn answers(&self) {
        eventually("redis-server answers", async || {
            let client = Client::open(self.url.as_str()).unwrap();
            client.get_multiplexed_async_connection().await.is_ok()
        })
        .await;
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Which policy a claim has.
pub(super) fn policy(number: u8) -> Policy {
    match number % 4 {
        0 => Policy::Takeover,
        1 => Policy::TakeoverIfStale(Duration::from_secs(3)),
        2 => Policy::Reject,
        _ => Policy::TakeoverIfStale(LEASE_TTL),
    }
}
