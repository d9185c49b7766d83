//! Leases in process memory: what `src/redis/*.lua` does, in Rust. For the standalone process, where all of a cluster
//! lives and dies together: nothing is kept across a restart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::sync::watch;

mod edges;

pub(crate) use edges::Commands;

use crate::{
    Claim, ClaimOutcome, EPOCH_AHEAD_MS_MAX, EPOCH_TTL, Edge, EdgeName, Home, LEASE_TTL, Lease,
    Origin, OriginName, Owner, Policy, Renewal, RenewalOutcome, SessionId, Slot, Standing,
    StreamId, millis,
};

/// Leases in process memory. A cheap handle.
#[derive(Clone)]
pub struct MemoryRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    now_ms: Box<dyn Fn() -> u64 + Send + Sync>,
    state: Mutex<State>,
    /// Changes with each command.
    commanded: watch::Sender<()>,
}

impl MemoryRegistry {
    /// Empty.
    pub fn new() -> Self {
        // Monotonic from here on: a wall clock that is set back must not revive leases.
        let (start, began) = (Instant::now(), SystemTime::now());
        let began_ms = millis(began.duration_since(UNIX_EPOCH).unwrap_or_default());
        Self::with_clock(move || began_ms.saturating_add(millis(start.elapsed())))
    }

    /// Empty, with the caller's clock: milliseconds since the Unix epoch, never going back.
    pub fn with_clock(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                now_ms: Box::new(now_ms),
                state: Mutex::default(),
                commanded: watch::Sender::new(()),
            }),
        }
    }

    pub(crate) fn claim(&self, claim: &Claim) -> ClaimOutcome {
        self.with_state(|state, now| state.claim(claim, now))
    }

    pub(crate) fn renew(&self, renewals: &[Renewal]) -> Vec<RenewalOutcome> {
        self.with_state(|state, now| {
            renewals
                .iter()
                .map(|renewal| state.renew(renewal, now))
                .collect()
        })
    }

    pub(crate) fn release(
        &self,
        stream: StreamId,
        slot: Slot,
        session: &SessionId,
        epoch: u64,
    ) -> bool {
        self.with_state(|state, _now| {
            let held = state
                .leases
                .get(&(stream, slot))
                .is_some_and(|held| held.lease.session == *session && held.lease.epoch == epoch);
            held && state.leases.remove(&(stream, slot)).is_some()
        })
    }

    pub(crate) fn kick(
        &self,
        stream: StreamId,
        slot: Slot,
        session: Option<&SessionId>,
    ) -> Option<EdgeName> {
        self.with_state(|state, now| state.kick((stream, slot), session, now))
    }

    pub(crate) fn owners(&self, streams: &[(StreamId, Slot)]) -> Vec<Owner> {
        self.with_state(|state, now| {
            let owner = |at: &(StreamId, Slot)| Owner {
                epoch: state.last_epoch(*at, now),
                lease: state.leases.get(at).map(|held| held.lease_at(now)),
                home: state.home(at.0, now).cloned(),
            };
            streams.iter().map(owner).collect()
        })
    }

    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.with_state(|state, now| {
            let mut leases: Vec<_> = state
                .leases
                .values()
                .map(|held| held.lease_at(now))
                .collect();
            leases.sort_unstable_by_key(|lease| (lease.stream, lease.slot));
            leases
        })
    }

    pub(crate) fn count_use(
        &self,
        what: [u8; 16],
        session: &SessionId,
        max: u32,
        ttl: Duration,
    ) -> bool {
        self.with_state(|state, now| {
            let there = state
                .uses
                .remove(&what)
                .filter(|uses| uses.expires_ms > now);
            let mut sessions = there.map_or_else(BTreeSet::new, |uses| uses.value);
            let room = sessions.len() < usize::try_from(max).unwrap_or(usize::MAX);
            let is_use = sessions.contains(session) || room && sessions.insert(session.clone());
            state.uses.insert(what, Expiring::new(sessions, now, ttl));
            is_use
        })
    }

    pub(crate) fn announce(&self, origin: &Origin) {
        self.with_state(|state, now| {
            let announcement = Expiring::new(origin.clone(), now, LEASE_TTL);
            state.origins.insert(origin.name.clone(), announcement);
        });
    }

    pub(crate) fn withdraw(&self, origin: &OriginName) {
        self.with_state(|state, _now| state.origins.remove(origin));
    }

    pub(crate) fn origins(&self) -> Vec<Origin> {
        self.with_state(|state, _now| {
            state
                .origins
                .values()
                .map(|announcement| announcement.value.clone())
                .collect()
        })
    }

    /// What is expired is gone before anybody looks.
    fn with_state<T>(&self, act: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = self.shared.state.lock();
        let now = (self.shared.now_ms)();
        state.expire(now);
        act(&mut state, now)
    }
}

impl Default for MemoryRegistry {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Default)]
struct State {
    leases: HashMap<(StreamId, Slot), Held>,
    epochs: HashMap<(StreamId, Slot), Expiring<u64>>,
    homes: HashMap<StreamId, Expiring<Home>>,
    origins: BTreeMap<OriginName, Expiring<Origin>>,
    uses: HashMap<[u8; 16], Expiring<BTreeSet<SessionId>>>,
    edges: BTreeMap<EdgeName, Expiring<Edge>>,
    commands: HashMap<EdgeName, Expiring<edges::Kept>>,
    /// When epochs, homes, uses and commands were last rid of the expired.
    swept_ms: u64,
}

/// A lease as stored: `lease.media_age` is made when it is read.
struct Held {
    lease: Lease,
    /// When the last media came from the encoder, by the registry's clock.
    media_ms: u64,
    expires_ms: u64,
    standing: Standing,
    /// Whom the holder replaced: a claim that is repeated gets the same answer.
    previous: Option<(SessionId, EdgeName)>,
}

struct Expiring<T> {
    value: T,
    expires_ms: u64,
}

impl State {
    fn claim(&mut self, claim: &Claim, now: u64) -> ClaimOutcome {
        let at = (claim.stream, claim.slot);
        let last = self.last_epoch(at, now);
        let (since_ms, previous) = match self.leases.get(&at) {
            Some(mine) if mine.lease.session == claim.session => {
                let previous = mine.previous.clone();
                let epoch = mine.lease.epoch;
                if epoch == last && epoch > claim.floor {
                    return self.repeat(claim, epoch, previous, now);
                }
                (mine.lease.since_ms, previous)
            }
            Some(other) => {
                let owner = other.lease.session.clone();
                let edge = other.lease.edge.clone();
                let media_age = Duration::from_millis(now.saturating_sub(other.media_ms));
                if other.standing.leaving && claim.patient {
                    return ClaimOutcome::Leaving;
                }
                if !replaces(claim, &other.standing, media_age) {
                    return ClaimOutcome::Refused {
                        owner,
                        edge,
                        media_age,
                    };
                }
                (now, Some((owner, edge)))
            }
            None => (now, None),
        };
        let Some(epoch) = next_epoch(last, claim.floor, now) else {
            return ClaimOutcome::EpochInFuture;
        };
        let home = self.settle_home(claim, now);
        let lease = Lease {
            stream: claim.stream,
            slot: claim.slot,
            session: claim.session.clone(),
            edge: claim.edge.clone(),
            origin: home.origin.clone(),
            epoch,
            attempt: 0,
            since_ms,
            media_age: Duration::ZERO,
            stats: claim.stats.clone(),
        };
        self.hold(lease, claim.standing.clone(), now, previous.clone(), now);
        ClaimOutcome::Granted {
            epoch,
            home,
            previous,
        }
    }

    /// The holder asks again: the same answer, unless its origin is gone.
    fn repeat(
        &mut self,
        claim: &Claim,
        epoch: u64,
        previous: Option<(SessionId, EdgeName)>,
        now: u64,
    ) -> ClaimOutcome {
        let home = self.settle_home(claim, now);
        if let Some(held) = self.leases.get_mut(&(claim.stream, claim.slot)) {
            held.lease.origin = home.origin.clone();
            held.expires_ms = now.saturating_add(millis(LEASE_TTL));
        }
        ClaimOutcome::Granted {
            epoch,
            home,
            previous,
        }
    }

    /// The stream's home where its origin is there, else the candidate's and the claim's broadcast.
    fn settle_home(&mut self, claim: &Claim, now: u64) -> Home {
        let there =
            |origin: &OriginName| *origin == claim.candidate || claim.announced.contains(origin);
        let kept = self.home(claim.stream, now);
        let home = match kept {
            Some(home) if there(&home.origin) => home.clone(),
            Some(_) | None => Home {
                origin: claim.candidate.clone(),
                // Whoever read the broadcast, by way of another origin too, reads on.
                broadcast_id: kept
                    .map_or(&claim.broadcast_id, |home| &home.broadcast_id)
                    .clone(),
            },
        };
        self.keep_home(claim.stream, home.clone(), now, claim.home_ttl);
        home
    }

    fn renew(&mut self, renewal: &Renewal, now: u64) -> RenewalOutcome {
        let at = (renewal.stream, renewal.slot);
        let last = self.last_epoch(at, now);
        if last > renewal.epoch {
            return RenewalOutcome::Fenced { epoch: last };
        }
        let held = self.leases.get(&at);
        let taken = held.is_some_and(|held| {
            held.lease.epoch == renewal.epoch && held.lease.session != renewal.session
        });
        let (outcome, since_ms, previous) = match held {
            Some(held) if held.lease.epoch == renewal.epoch && !taken => {
                let previous = held.previous.clone();
                (RenewalOutcome::Renewed, held.lease.since_ms, previous)
            }
            // An epoch from the future would shut the stream for everybody who claims it later.
            Some(_) | None if taken || renewal.epoch > now.saturating_add(EPOCH_AHEAD_MS_MAX) => {
                return RenewalOutcome::Fenced { epoch: last };
            }
            // An epoch is the time of its claim, or a little above.
            Some(_) => (RenewalOutcome::WonBack, renewal.epoch.min(now), None),
            None => (RenewalOutcome::Healed, renewal.epoch.min(now), None),
        };
        let lease = Lease {
            stream: renewal.stream,
            slot: renewal.slot,
            session: renewal.session.clone(),
            edge: renewal.edge.clone(),
            origin: renewal.origin.clone(),
            epoch: renewal.epoch,
            attempt: renewal.attempt,
            since_ms,
            media_age: Duration::ZERO,
            stats: renewal.stats.clone(),
        };
        self.hold(
            lease,
            renewal.standing.clone(),
            now.saturating_sub(millis(renewal.media_age)),
            previous,
            now,
        );
        // The backup follows the primary's home and does not move it.
        let primary = (renewal.stream, Slot::PRIMARY);
        if renewal.slot == Slot::PRIMARY || !self.leases.contains_key(&primary) {
            let home = Home {
                origin: renewal.origin.clone(),
                broadcast_id: renewal.broadcast_id.clone(),
            };
            self.keep_home(renewal.stream, home, now, renewal.home_ttl);
        }
        outcome
    }

    /// Raises the epoch first: else the holder's next renewal would heal it back in.
    fn kick(
        &mut self,
        at: (StreamId, Slot),
        session: Option<&SessionId>,
        now: u64,
    ) -> Option<EdgeName> {
        let held = self.leases.get(&at)?;
        if session.is_some_and(|session| held.lease.session != *session) {
            return None;
        }
        // Beyond the limit the renewal refuses the holder's epoch by itself.
        if let Some(epoch) = next_epoch(self.last_epoch(at, now), 0, now) {
            self.epochs.insert(at, Expiring::new(epoch, now, EPOCH_TTL));
        }
        self.leases.remove(&at).map(|held| held.lease.edge)
    }

    fn hold(
        &mut self,
        lease: Lease,
        standing: Standing,
        media_ms: u64,
        previous: Option<(SessionId, EdgeName)>,
        now: u64,
    ) {
        let at = (lease.stream, lease.slot);
        // A session may live longer than its epoch's time to live.
        let epoch = Expiring::new(lease.epoch, now, EPOCH_TTL);
        self.epochs.insert(at, epoch);
        let held = Held {
            lease,
            media_ms,
            expires_ms: now.saturating_add(millis(LEASE_TTL)),
            standing,
            previous,
        };
        self.leases.insert(at, held);
    }

    fn keep_home(&mut self, stream: StreamId, home: Home, now: u64, behind_lease: Duration) {
        let ttl = LEASE_TTL.saturating_add(behind_lease);
        self.homes.insert(stream, Expiring::new(home, now, ttl));
    }

    fn last_epoch(&self, at: (StreamId, Slot), now: u64) -> u64 {
        let stored = self.epochs.get(&at).and_then(|epoch| epoch.at(now));
        let held = self.leases.get(&at).map_or(0, |held| held.lease.epoch);
        held.max(stored.copied().unwrap_or(0))
    }

    fn home(&self, stream: StreamId, now: u64) -> Option<&Home> {
        self.homes.get(&stream).and_then(|home| home.at(now))
    }

    /// Leases and announcements, which are few, at every call; what outlives them, at times.
    fn expire(&mut self, now: u64) {
        self.leases.retain(|_at, held| held.expires_ms > now);
        self.origins
            .retain(|_name, origin| origin.at(now).is_some());
        self.edges.retain(|_name, edge| edge.at(now).is_some());
        if self.swept_ms.saturating_add(millis(SWEEP_PERIOD)) <= now {
            self.epochs.retain(|_at, epoch| epoch.at(now).is_some());
            self.homes.retain(|_stream, home| home.at(now).is_some());
            self.uses.retain(|_what, uses| uses.at(now).is_some());
            self.commands.retain(|_edge, kept| kept.at(now).is_some());
            self.swept_ms = now;
        }
    }
}

fn replaces(claim: &Claim, owner: &Standing, media_age: Duration) -> bool {
    let mine = &claim.standing;
    let replaces = match claim.policy {
        Policy::Reject => false,
        Policy::Takeover => true,
        Policy::TakeoverIfStale(grace) => media_age >= grace,
        Policy::Priority(grace) => mine.priority > owner.priority || media_age >= grace,
        Policy::SameAddress(grace) => {
            !mine.address.is_empty() && mine.address == owner.address || media_age >= grace
        }
    };
    replaces || owner.leaving
}

/// `None`: it would be too far ahead of the clock.
fn next_epoch(last: u64, floor: u64, now: u64) -> Option<u64> {
    let epoch = now.max(last.checked_add(1)?).max(floor.checked_add(1)?);
    (epoch <= now.saturating_add(EPOCH_AHEAD_MS_MAX)).then_some(epoch)
}

impl Held {
    fn lease_at(&self, now: u64) -> Lease {
        Lease {
            media_age: Duration::from_millis(now.saturating_sub(self.media_ms)),
            ..self.lease.clone()
        }
    }
}

impl<T> Expiring<T> {
    fn new(value: T, now: u64, ttl: Duration) -> Self {
        Self {
            value,
            expires_ms: now.saturating_add(millis(ttl)),
        }
    }
    fn at(&self, now: u64) -> Option<&T> {
        (self.expires_ms > now).then_some(&self.value)
    }
}

/// How often expired epochs, homes, uses and commands are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);
