//! Edges, origins and a registry that exchange messages, and what must hold after each of them.

mod edges;
mod invariants;
mod leases;
mod origins;

use std::collections::BTreeMap;

use futures_util::{FutureExt as _, StreamExt as _};
use proto::internal::v1::{FollowRequest, follow_response};
use registry::{
    Claim, ClaimOutcome, FencingToken, LEASE_TTL, Owner, RENEW_PERIOD, Renewal, RenewalOutcome,
    Slot,
};
use tokio::sync::oneshot;

use super::{
    super::*,
    Mutant, ORIGINS, SESSIONS_MAX, Step, origin_name, place,
    registries::{LOST_MAX, Registries, Write, Written, policy},
    session::{Next, Session, State},
};
use crate::{
    OutagePolicy,
    fencing::{self, Refused},
    output::follow,
    ownership::Ownership,
    stream::{AttachError, Dismissal, End, Opening, Publication, Stream, Streams},
};

/// An invariant that does not hold.
pub(super) type Violation = String;

pub(super) struct World {
    mutant: Mutant,
    policy: OutagePolicy,
    registries: Registries,
    /// Of the registry's clock.
    skew_ms: i64,
    virtual_ms: u64,
    edges: Vec<Edge>,
    origins: Vec<Origin>,
    sessions: Vec<Session>,
    rpcs: Vec<Rpc>,
    flying: Vec<Message>,
    /// The highest token that each reader has seen.
    readers: Vec<FencingToken>,
    /// What the registry has been told and still knows.
    history: Vec<Done>,
    /// The highest epoch that the registry has forgotten.
    forgotten: u64,
    graces: Vec<Grace>,
}

#[derive(Clone, Copy, Default)]
struct Edge {
    /// Does nothing at all.
    paused: bool,
    cut_off: bool,
}

/// An origin's life; the next one begins without its memory.
struct Origin {
    life: usize,
    ownership: Ownership,
    cut_off: bool,
    /// The highest that was taken in this life.
    taken: FencingToken,
}

/// One accepted Publish RPC, as the origin has it.
struct Rpc {
    session: usize,
    origin: usize,
    token: FencingToken,
    writes: Option<(Publication, oneshot::Receiver<Dismissal>)>,
    fenced: bool,
}

/// A stream waits for its publisher.
struct Grace {
    until_ms: u64,
    stream: Arc<Stream>,
    lost: std::time::Instant,
}

/// A write that the registry has not forgotten.
struct Done {
    /// The stored epoch behind it.
    epoch: u64,
    /// Whom it kicked, and with which epoch.
    kicked: Option<(usize, u64)>,
}

/// An open on its way.
#[derive(Clone)]
struct Open {
    session: usize,
    origin: usize,
    presented: FencingToken,
    first_sequence: u64,
    /// What the origin has found out by itself, and in which life.
    known: Option<Known>,
}

#[derive(Clone)]
struct Known {
    life: usize,
    followed: Option<FencingToken>,
    registered: Option<FencingToken>,
}

type Answer<T> = Option<T>;

enum Message {
    Claim(usize),
    /// Of a session that does not wait for its answer any more.
    LateClaim(usize, Box<Claim>),
    Claimed(usize, Answer<ClaimOutcome>),
    Renew(usize, Box<Renewal>),
    Renewed(usize, Answer<RenewalOutcome>),
    Release(usize, u64),
    Open(Open),
    /// `Err(Some)`: fenced.
    Opened(Open, Result<usize, Option<FencingToken>>),
    /// The edge says that the session is over, or is gone.
    Closed(usize, bool),
    Fenced(usize, FencingToken),
    /// An origin hears who owns a stream of its.
    Told(usize, usize, Arc<Stream>, Box<Owner>),
}

const NONE: FencingToken = FencingToken {
    epoch: 0,
    attempt: 0,
};
/// By then no stream waits for a publisher that is gone.
const FORGIVEN_MS: u64 = 20_000;

impl World {
    pub(super) fn new(mutant: Mutant, keep: bool, registries: Registries, virtual_ms: u64) -> Self {
        let policy = if keep {
            OutagePolicy::Keep
        } else {
            OutagePolicy::FailClosed
        };
        let registry = registries.registry().clone();
        Self {
            mutant,
            policy,
            registries,
            skew_ms: 0,
            virtual_ms,
            edges: vec![Edge::default(); super::EDGES],
            origins: (0..ORIGINS)
                .map(|number| Origin::new(number, &registry))
                .collect(),
            sessions: Vec::new(),
            rpcs: Vec::new(),
            flying: Vec::new(),
            readers: vec![NONE; 2],
            history: Vec::new(),
            forgotten: 0,
            graces: Vec::new(),
        }
    }

    pub(super) async fn step(&mut self, step: Step) -> Result<(), Violation> {
        let pick = |which: u8, of: usize| usize::from(which) % of.max(1);
        let (edges, sessions) = (self.edges.len(), self.sessions.len());
        match step {
            Step::Publish(edge, with) => self.publish(pick(edge, edges), with),
            Step::Deliver(which) => self.deliver(usize::from(which)).await?,
            Step::Lose(which) => self.lose_one(usize::from(which)),
            Step::Delay(which) => self.delay(usize::from(which)),
            Step::Duplicate(which) => self.duplicate(usize::from(which)).await?,
            Step::Renew(which) => self.renew(pick(which, sessions)),
            Step::Send(which) => self.send(pick(which, self.rpcs.len()))?,
            Step::Cut(which) => self.cut(pick(which, sessions)),
            Step::Restart(which) => self.restart(pick(which, ORIGINS)),
            Step::CutOffOrigin(which) => self.origins[pick(which, ORIGINS)].cut_off ^= true,
            Step::CutOffEdge(which) => self.edges[pick(which, edges)].cut_off ^= true,
            Step::Pause(which) => self.edges[pick(which, edges)].paused ^= true,
            Step::Recheck(which) => self.recheck(pick(which, ORIGINS)).await,
            Step::Flush => {
                self.registries.flush().await;
                self.forget(0);
            }
            Step::FailOver(lost, skew) => self.fail_over(lost, skew).await,
            Step::Pass(tenths) => self.pass(u64::from(tenths) * 100).await,
            Step::Kick => self.kick().await?,
            Step::End(which) => self.end(pick(which, sessions)),
            Step::Leave(which) => self.leave(pick(which, sessions)),
            Step::Follow(reader, origin) => {
                let reader = pick(reader, self.readers.len());
                self.follow(reader, pick(origin, ORIGINS))?;
            }
        }
        self.settle();
        self.check()
    }

    // Messages.

    /// The first one from there on that can arrive.
    async fn deliver(&mut self, from: usize) -> Result<(), Violation> {
        let count = self.flying.len();
        let arrives = |at: &usize| !self.waits(&self.flying[*at]);
        let Some(at) = (0..count).map(|n| (from + n) % count).find(arrives) else {
            return Ok(());
        };
        let message = self.flying.remove(at);
        self.handle(message).await
    }

    /// What a paused edge would send or read.
    fn waits(&self, message: &Message) -> bool {
        let paused = |session: usize| self.edges[self.sessions[session].edge].paused;
        match message {
            Message::Claimed(session, _) | Message::Renewed(session, _) => paused(*session),
            Message::Opened(open, _) => paused(open.session),
            Message::Fenced(rpc, _) => paused(self.rpcs[*rpc].session),
            // Sent before the pause.
            Message::Claim(_)
            | Message::LateClaim(..)
            | Message::Renew(..)
            | Message::Release(..)
            | Message::Open(_)
            | Message::Closed(..)
            | Message::Told(..) => false,
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), Violation> {
        match message {
            Message::Claim(session) => {
                let outcome = self.claim(session).await?;
                self.flying.push(Message::Claimed(session, outcome));
            }
            Message::LateClaim(session, claim) => self.late_claim(session, claim).await,
            Message::Claimed(session, outcome) => self.claimed(session, outcome),
            Message::Renew(session, renewal) => {
                let outcome = self.renewal(session, renewal).await?;
                self.flying.push(Message::Renewed(session, outcome));
            }
            Message::Renewed(session, outcome) => {
                self.sessions[session].renewing = false;
                if let Some(outcome) = outcome {
                    self.renewed(session, outcome).await?;
                }
            }
            Message::Release(session, epoch) => {
                if !self.cut_off(session) {
                    let id = self.sessions[session].id.clone();
                    self.write(&Write::Release(id, epoch), None).await;
                }
            }
            Message::Open(open) => self.open(open).await?,
            Message::Opened(open, answer) => self.opened(&open, answer)?,
            Message::Closed(rpc, for_good) => self.closed(rpc, for_good),
            Message::Fenced(rpc, token) => self.fenced(rpc, token)?,
            Message::Told(origin, life, stream, owner) => {
                if self.origins[origin].life == life {
                    let ownership = &self.origins[origin].ownership;
                    ownership.judge(&stream, Slot::PRIMARY, &owner);
                }
            }
        }
        Ok(())
    }

    fn lose_one(&mut self, which: usize) {
        if !self.flying.is_empty() {
            let at = which % self.flying.len();
            let message = self.flying.remove(at);
            self.lose(message);
        }
    }

    /// Whoever waits for an answer hears that there is none.
    fn lose(&mut self, message: Message) {
        match message {
            Message::Claim(session) | Message::Claimed(session, _) => {
                self.flying.push(Message::Claimed(session, None));
            }
            Message::Renew(session, _) | Message::Renewed(session, _) => {
                self.flying.push(Message::Renewed(session, None));
            }
            Message::Open(open) => self.flying.push(Message::Opened(open, Err(None))),
            Message::Opened(open, answer) => {
                if let Ok(rpc) = answer {
                    self.flying.push(Message::Closed(rpc, false));
                }
                self.flying.push(Message::Opened(open, Err(None)));
            }
            // An end that is not heard of is found out by keepalives.
            Message::Closed(rpc, _) => self.flying.push(Message::Closed(rpc, false)),
            Message::Fenced(rpc, _) => self.broken(rpc),
            Message::LateClaim(..) | Message::Release(..) | Message::Told(..) => {}
        }
    }

    fn delay(&mut self, which: usize) {
        let at = which % self.flying.len().max(1);
        if let Some(Message::Claim(session)) = self.flying.get(at) {
            let session = *session;
            let claim = Box::new(self.sessions[session].claim());
            self.flying[at] = Message::LateClaim(session, claim);
            self.flying.push(Message::Claimed(session, None));
        }
    }

    /// What the registry is asked may reach it twice.
    async fn duplicate(&mut self, which: usize) -> Result<(), Violation> {
        let count = self.flying.len().max(1);
        match self.flying.get(which % count) {
            Some(Message::Claim(session)) => {
                let session = *session;
                self.claim(session).await.map(drop)
            }
            Some(Message::Renew(session, renewal)) => {
                let (session, renewal) = (*session, renewal.clone());
                self.renewal(session, renewal).await.map(drop)
            }
            _ => Ok(()),
        }
    }
}

impl Origin {
    fn new(number: usize, registry: &Registry) -> Self {
        let config = Arc::new(Config::new(origin_name(number)));
        let ownership = Ownership {
            registry: registry.clone(),
            shutdown: Shutdown::default(),
            streams: Streams::new(&config, &Metrics::default()),
            config,
        };
        Self {
            life: 0,
            ownership,
            cut_off: false,
            taken: NONE,
        }
    }
}

impl Rpc {
    fn next_sequence(&self) -> u64 {
        let publication = self.writes.as_ref().map(|(publication, _)| publication);
        publication.map_or(0, |publication| publication.progress().next_sequence)
    }
}

/// The highest token that a stream has seen of its primary.
fn seen(stream: &Stream) -> FencingToken {
    *stream.tokens().of(Slot::PRIMARY)
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
