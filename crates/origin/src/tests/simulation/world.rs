//! Edges, origins and a registry that exchange messages, and what must hold after each of them.

use std::collections::BTreeMap;

use futures_util::{FutureExt as _, StreamExt as _};
use proto::internal::v1::{FollowRequest, follow_response};
use registry::{
    ClaimOutcome, FencingToken, LEASE_TTL, Owner, RENEW_PERIOD, Renewal, RenewalOutcome, Slot,
};
use tokio::sync::oneshot;

use super::{
    super::*,
    Mutant, ORIGINS, Step, place,
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
            Message::Claimed(session, outcome) => self.claimed(session, outcome),
            Message::Renew(session, renewal) => {
                let outcome = self.renewal(session, renewal).await?;
                self.flying.push(Message::Renewed(session, outcome));
            }
            Message::Renewed(session, outcome) => {
                self.sessions[session].renewing = false;
                if let Some(outcome) = outcome {
                    let next = self.sessions[session].renewed(outcome);
                    self.act(session, next);
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
            Message::Release(..) | Message::Told(..) => {}
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

    // The registry.

    fn clock_ms(&self) -> u64 {
        self.virtual_ms.saturating_add_signed(self.skew_ms)
    }

    fn cut_off(&self, session: usize) -> bool {
        self.edges[self.sessions[session].edge].cut_off
    }

    async fn write(&mut self, write: &Write, kicked: Option<(usize, u64)>) -> Written {
        self.registries.set_clock(self.clock_ms());
        let written = self.registries.write(write).await;
        let epoch = self.registries.owner().await.epoch;
        self.history.push(Done { epoch, kicked });
        written
    }

    /// The highest epoch that the registry has not forgotten.
    fn highest(&self) -> u64 {
        let epochs = self.history.iter().map(|done| done.epoch);
        epochs.max().unwrap_or_default()
    }

    async fn claim(&mut self, session: usize) -> Result<Answer<ClaimOutcome>, Violation> {
        if self.cut_off(session) {
            return Ok(None);
        }
        let claim = self.sessions[session].claim();
        let (floor, highest, forgotten) = (claim.floor, self.highest(), self.forgotten);
        let mine = self.registries.owner().await.lease;
        let mine = mine.filter(|lease| lease.session == claim.session);
        let write = Write::Claim(Box::new(claim));
        let Written::Claimed(outcome) = self.write(&write, None).await else {
            unreachable!()
        };
        if let ClaimOutcome::Granted { epoch, .. } = &outcome {
            let again = mine.is_some_and(|lease| lease.epoch == *epoch);
            let above = *epoch > highest || again && *epoch >= highest;
            ensure(above && *epoch > floor, || {
                format!("epochs grow: {epoch} behind {highest}, with the floor {floor}")
            })?;
            let clock_ms = self.registries.true_ms(self.clock_ms());
            ensure(again || *epoch > forgotten || clock_ms <= forgotten, || {
                format!("epochs are above those that were forgotten: {epoch}, {forgotten}")
            })?;
            if self.mutant == Mutant::ClaimsAgain {
                let (id, epoch) = (self.sessions[session].id.clone(), *epoch);
                self.write(&Write::Release(id, epoch), None).await;
            }
            let Written::Claimed(repeated) = self.write(&write, None).await else {
                unreachable!()
            };
            ensure(repeated == outcome, || {
                format!("a claim that is repeated gets the same answer: {outcome:?}, {repeated:?}")
            })?;
        }
        Ok(Some(outcome))
    }

    fn claimed(&mut self, session: usize, outcome: Answer<ClaimOutcome>) {
        let this = &mut self.sessions[session];
        if this.state != State::Claiming {
            return;
        }
        let next = match outcome {
            Some(ClaimOutcome::Granted { epoch, home, .. }) => {
                let origin = (0..ORIGINS).find(|n| super::origin_name(*n) == home.origin);
                this.granted(epoch, origin.unwrap(), &home.broadcast_id)
            }
            Some(ClaimOutcome::Leaving) => this.waits_for_another_to_leave(),
            Some(ClaimOutcome::Refused { .. } | ClaimOutcome::EpochInFuture) => this.over(),
            None => this.unregistered(self.policy == OutagePolicy::Keep),
        };
        self.act(session, next);
    }

    fn renew(&mut self, session: usize) {
        let Some(this) = self.sessions.get_mut(session) else {
            return;
        };
        if self.edges[this.edge].paused {
            return;
        }
        if let Some(renewal) = this.renewal() {
            self.flying.push(Message::Renew(session, Box::new(renewal)));
        }
    }

    async fn renewal(
        &mut self,
        session: usize,
        renewal: Box<Renewal>,
    ) -> Result<Answer<RenewalOutcome>, Violation> {
        if self.cut_off(session) {
            return Ok(None);
        }
        let (epoch, id) = (renewal.epoch, renewal.session.clone());
        let owner = self.registries.owner().await;
        let other = owner.lease.filter(|lease| lease.session != id);
        let outcome = match (&other, self.mutant) {
            (Some(lease), Mutant::RenewalCompares) => RenewalOutcome::Fenced { epoch: lease.epoch },
            _ => match self.write(&Write::Renew(renewal), None).await {
                Written::Renewed(outcome) => outcome,
                other => unreachable!("{other:?}"),
            },
        };
        if outcome == RenewalOutcome::Unavailable {
            return Ok(None);
        }
        if let RenewalOutcome::Fenced { epoch: by } = outcome {
            let tie = other.is_some_and(|lease| lease.epoch == epoch);
            ensure(by > epoch || tie, || {
                format!("nobody is fenced by a lower epoch: {id} with {epoch} by {by}")
            })?;
            return Ok(Some(outcome));
        }
        let kicked = |done: &Done| {
            let hit = |(who, with)| who == session && with >= epoch;
            done.kicked.is_some_and(hit)
        };
        ensure(!self.history.iter().any(kicked), || {
            format!("a kicked session does not come back: {id} with {epoch}")
        })?;
        let highest = self.highest();
        ensure(epoch >= highest, || {
            format!("the highest epoch owns: {id} with {epoch}, {highest} was granted")
        })?;
        Ok(Some(outcome))
    }

    async fn kick(&mut self) -> Result<(), Violation> {
        let lease = self.registries.owner().await.lease;
        let Some(lease) = lease else { return Ok(()) };
        let kicked = self.sessions.iter().position(|it| it.id == lease.session);
        let kicked = kicked.map(|session| (session, lease.epoch));
        if self.mutant == Mutant::KickDeletes {
            let write = Write::Release(lease.session, lease.epoch);
            self.write(&write, kicked).await;
            return Ok(());
        }
        let done = self.write(&Write::Kick, kicked).await;
        ensure(done == Written::Kicked(true), || "a kick hits".to_owned())?;
        let raised = self.registries.owner().await.epoch;
        ensure(raised > lease.epoch, || {
            format!("a kick is above its session: {raised}, {}", lease.epoch)
        })
    }

    /// All but the first `kept` writes.
    fn forget(&mut self, kept: usize) {
        let forgotten = self.history.drain(kept..).map(|done| done.epoch);
        self.forgotten = forgotten.fold(self.forgotten, u64::max);
    }

    async fn fail_over(&mut self, lost: u8, skew: i8) {
        let lost = usize::from(lost) % LOST_MAX;
        self.skew_ms = i64::from(skew) * 100;
        self.registries.fail_over(lost, self.clock_ms()).await;
        self.forget(self.history.len().saturating_sub(lost));
    }

    async fn pass(&mut self, elapsed_ms: u64) {
        self.virtual_ms += elapsed_ms;
        self.registries.pass(elapsed_ms).await;
        self.registries.set_clock(self.clock_ms());
        let now_ms = self.virtual_ms;
        let due = |grace: &mut Grace| grace.until_ms <= now_ms;
        for grace in self.graces.extract_if(.., due) {
            let reason = "publisher lost".to_owned();
            let end = End::Ended { reason };
            grace.stream.depart_if_lost(Slot::PRIMARY, grace.lost, end);
        }
    }

    // Edges.

    fn act(&mut self, session: usize, next: Next) {
        let this = &self.sessions[session];
        match next {
            Next::Claim => self.flying.push(Message::Claim(session)),
            Next::Open(origin) => self.flying.push(Message::Open(Open {
                session,
                origin,
                presented: FencingToken {
                    epoch: this.epoch,
                    attempt: this.attempt,
                },
                first_sequence: this.next_sequence,
                known: None,
            })),
            Next::Leave => {
                if let Some(epoch) = this.held() {
                    self.flying.push(Message::Release(session, epoch));
                }
                self.hang_up(session, false);
            }
            Next::Nothing => {}
        }
    }

    /// The edge lets its RPCs go; the origin hears of it at some time.
    fn hang_up(&mut self, session: usize, for_good: bool) {
        let open = |rpc: &Rpc| rpc.session == session && rpc.writes.is_some();
        let rpcs = self.rpcs.iter().enumerate().filter(|(_, rpc)| open(rpc));
        let closed = rpcs.map(|(number, _)| Message::Closed(number, for_good));
        let closed: Vec<_> = closed.collect();
        self.flying.extend(closed);
    }

    fn publish(&mut self, edge: usize, with: u8) {
        if self.sessions.len() < super::SESSIONS_MAX && !self.edges[edge].paused {
            let session = Session::new(self.sessions.len(), edge, policy(with));
            self.sessions.push(session);
            self.flying.push(Message::Claim(self.sessions.len() - 1));
        }
    }

    /// The encoder is asked to go on elsewhere.
    fn leave(&mut self, session: usize) {
        if let Some(this) = self.sessions.get_mut(session) {
            this.note_leaving();
            self.renew(session);
        }
    }

    /// The encoder is done.
    fn end(&mut self, session: usize) {
        let Some(this) = self.sessions.get_mut(session) else {
            return;
        };
        if self.edges[this.edge].paused || !matches!(this.state, State::Live { .. }) {
            return;
        }
        this.over();
        let epoch = this.epoch;
        self.hang_up(session, true);
        self.flying.push(Message::Release(session, epoch));
    }

    /// The RPC breaks, and the edge notices first.
    fn cut(&mut self, session: usize) {
        let Some(this) = self.sessions.get(session) else {
            return;
        };
        if let State::Live { rpc, .. } = this.state
            && !self.edges[this.edge].paused
        {
            self.flying.push(Message::Closed(rpc, false));
            self.broken(rpc);
        }
    }

    fn broken(&mut self, rpc: usize) {
        let session = self.rpcs[rpc].session;
        if matches!(self.sessions[session].state, State::Live { rpc: current, .. } if current == rpc)
        {
            let next = self.sessions[session].refused();
            self.act(session, next);
        }
    }

    fn opened(
        &mut self,
        open: &Open,
        answer: Result<usize, Option<FencingToken>>,
    ) -> Result<(), Violation> {
        let this = &mut self.sessions[open.session];
        let awaited =
            this.state == State::Opening(open.origin) && this.attempt == open.presented.attempt;
        let next = match answer {
            Ok(rpc) if awaited => {
                let next_sequence = self.rpcs[rpc].next_sequence();
                this.accepted(self.rpcs[rpc].token, rpc, next_sequence);
                // What ended the RPC comes behind the acceptance.
                match &self.rpcs[rpc] {
                    Rpc {
                        writes: Some(_), ..
                    } => Next::Nothing,
                    Rpc { fenced: true, .. } => this.over(),
                    Rpc { .. } => this.refused(),
                }
            }
            Ok(rpc) => {
                self.flying.push(Message::Closed(rpc, false));
                Next::Nothing
            }
            Err(Some(seen)) => {
                ensure(seen >= open.presented, || {
                    format!("no lower token refuses one: {:?}, {seen:?}", open.presented)
                })?;
                if awaited {
                    this.fenced(seen.epoch)
                } else {
                    Next::Nothing
                }
            }
            Err(None) if awaited => this.refused(),
            Err(None) => Next::Nothing,
        };
        // As `Relay::moved`.
        let live = matches!(self.sessions[open.session].state, State::Live { .. });
        self.act(open.session, next);
        if live {
            self.renew(open.session);
        }
        Ok(())
    }

    fn fenced(&mut self, rpc: usize, by: FencingToken) -> Result<(), Violation> {
        let Rpc { session, token, .. } = self.rpcs[rpc];
        ensure(by >= token, || {
            format!("nobody is fenced by a lower token: {token:?} by {by:?}")
        })?;
        let this = &mut self.sessions[session];
        if matches!(this.state, State::Live { rpc: current, .. } if current == rpc) {
            let next = this.over();
            self.act(session, next);
        }
        Ok(())
    }

    // Origins.

    /// What `Relay::accept` does, in two steps where the registry is asked in between.
    async fn open(&mut self, mut open: Open) -> Result<(), Violation> {
        let origin = &self.origins[open.origin];
        let streams = origin.ownership.streams.clone();
        let held = streams.owned(place().0).map(|stream| seen(&stream));
        let seen = match (held, open.known.clone()) {
            (Some(seen), None) => Ok(seen),
            (None, None) => {
                let registered = if origin.cut_off {
                    None
                } else {
                    Some(fencing::token(&self.registries.owner().await))
                };
                open.known = Some(Known {
                    life: origin.life,
                    followed: streams.find(place().0).map(|stream| seen(&stream)),
                    registered,
                });
                self.flying.push(Message::Open(open));
                return Ok(());
            }
            (_, Some(known)) if known.life != origin.life => Err(Refused::Unchecked),
            (_, Some(known)) => fencing::known(known.followed, known.registered, self.policy),
        };
        let now_ms = self.registries.true_ms(self.virtual_ms);
        let admit = |seen| fencing::admit(open.presented, seen, self.policy, now_ms);
        let answer = match seen.and_then(admit) {
            Ok(token) => self.attach(&open, token)?,
            Err(Refused::Fenced(_)) if self.mutant == Mutant::TakesLower => {
                self.attach(&open, open.presented)?
            }
            Err(Refused::Fenced(seen)) => Err(Some(seen)),
            Err(Refused::EpochInFuture | Refused::NoEpochs | Refused::Unchecked) => Err(None),
        };
        self.flying.push(Message::Opened(open, answer));
        Ok(())
    }

    fn attach(
        &mut self,
        open: &Open,
        token: FencingToken,
    ) -> Result<Result<usize, Option<FencingToken>>, Violation> {
        let session = &self.sessions[open.session];
        let origin = &mut self.origins[open.origin];
        if origin.ownership.streams.find(place().0).is_none() {
            // What it had seen went with the stream, and the registry was asked.
            origin.taken = NONE;
        }
        let opening = |token| Opening {
            place: place(),
            session_id: session.id.to_string(),
            broadcast_id: session.broadcast_id.clone(),
            token,
            first_sequence: open.first_sequence,
            timeline_offset_ms: None,
            standby: false,
            window: None,
        };
        let streams = &origin.ownership.streams;
        let attached = match streams.attach(&opening(token)) {
            Err(AttachError::Fenced(seen)) if self.mutant == Mutant::TakesLower => {
                let attempt = seen.attempt + 1;
                streams.attach(&opening(FencingToken { attempt, ..seen }))
            }
            attached => attached,
        };
        let writes = match attached {
            Ok(attached) => (attached.publication, attached.dismissed),
            Err(AttachError::Fenced(seen)) => return Ok(Err(Some(seen))),
            Err(AttachError::Elsewhere(_) | AttachError::StreamsExceeded) => {
                return Ok(Err(None));
            }
        };
        ensure(token > origin.taken, || {
            format!(
                "an origin takes higher tokens alone: {token:?} behind {:?}",
                origin.taken
            )
        })?;
        origin.taken = token;
        self.rpcs.push(Rpc {
            session: open.session,
            origin: open.origin,
            token,
            writes: Some(writes),
            fenced: false,
        });
        Ok(Ok(self.rpcs.len() - 1))
    }

    fn send(&mut self, rpc: usize) -> Result<(), Violation> {
        let Some(rpc) = self.rpcs.get_mut(rpc) else {
            return Ok(());
        };
        let sequence = rpc.next_sequence();
        let time_ms = i64::try_from(sequence * 40).unwrap();
        let highest = self.origins[rpc.origin].taken;
        let Some((publication, _)) = &mut rpc.writes else {
            return Ok(());
        };
        let appended = publication.append(vec![(sequence, keyframe(time_ms))], 0);
        ensure(appended.is_err() || rpc.token == highest, || {
            format!("one token writes: {:?} beside {highest:?}", rpc.token)
        })?;
        let session = &mut self.sessions[rpc.session];
        session.next_sequence = session.next_sequence.max(sequence + 1);
        Ok(())
    }

    /// The origin hears that its RPC is over.
    fn closed(&mut self, rpc: usize, for_good: bool) {
        let Some((publication, _)) = self.rpcs[rpc].writes.take() else {
            return;
        };
        let stream = Arc::clone(publication.stream());
        if for_good {
            publication.close("done");
        } else {
            drop(publication);
        }
        self.wait_for_publisher(stream);
    }

    fn wait_for_publisher(&mut self, stream: Arc<Stream>) {
        if let Some(lost) = stream.lost(Slot::PRIMARY) {
            self.graces.push(Grace {
                until_ms: self.virtual_ms + u64::try_from(LEASE_TTL.as_millis()).unwrap(),
                stream,
                lost,
            });
        }
    }

    async fn recheck(&mut self, origin: usize) {
        let Origin {
            life,
            ownership,
            cut_off,
            ..
        } = &self.origins[origin];
        if *cut_off {
            return;
        }
        for stream in ownership.streams.all_owned() {
            let owner = self.registries.owner().await;
            self.flying
                .push(Message::Told(origin, *life, stream, Box::new(owner)));
        }
    }

    /// Its memory is gone, and its RPCs break.
    fn restart(&mut self, number: usize) {
        let life = self.origins[number].life + 1;
        let mut origin = Origin::new(number, self.registries.registry());
        origin.life = life;
        self.origins[number] = origin;
        for rpc in 0..self.rpcs.len() {
            if self.rpcs[rpc].origin == number && self.rpcs[rpc].writes.take().is_some() {
                self.broken(rpc);
            }
        }
    }

    /// Another origin asks for the log, on behalf of a reader.
    fn follow(&mut self, reader: usize, origin: usize) -> Result<(), Violation> {
        let seen = self.readers[reader];
        let request = FollowRequest {
            stream_id: place().0.as_bytes().to_vec(),
            epoch: seen.epoch,
            attempt: seen.attempt,
            ..FollowRequest::default()
        };
        let streams = &self.origins[origin].ownership.streams;
        let Ok(mut answers) = follow::follow(streams, &request) else {
            return Ok(());
        };
        while let Some(Some(Ok(answer))) = answers.next().now_or_never() {
            let token = match answer.response {
                Some(follow_response::Response::Header(header)) => FencingToken {
                    epoch: header.epoch,
                    attempt: header.attempt,
                },
                Some(follow_response::Response::Accepted(accepted)) => FencingToken {
                    epoch: accepted.epoch,
                    attempt: accepted.attempt,
                },
                _ => continue,
            };
            let before = self.readers[reader];
            // The acceptance tells the highest, the log begins with older ones.
            ensure(token >= seen, || {
                format!("no reader goes back: {token:?} behind {before:?}")
            })?;
            self.readers[reader] = before.max(token);
        }
        Ok(())
    }

    /// What happens by itself at once: dismissed RPCs end.
    fn settle(&mut self) {
        for number in 0..self.rpcs.len() {
            let Some((publication, dismissed)) = &mut self.rpcs[number].writes else {
                continue;
            };
            let stream = Arc::clone(publication.stream());
            let by = match dismissed.try_recv() {
                Ok(Dismissal::Fenced(token)) => token,
                Err(oneshot::error::TryRecvError::Closed) => seen(&stream),
                Err(oneshot::error::TryRecvError::Empty) => continue,
            };
            self.rpcs[number].writes = None;
            self.rpcs[number].fenced = true;
            self.flying.push(Message::Fenced(number, by));
            self.wait_for_publisher(stream);
        }
    }

    // What must hold.

    fn check(&mut self) -> Result<(), Violation> {
        let mut writers: BTreeMap<usize, FencingToken> = BTreeMap::new();
        for rpc in &mut self.rpcs {
            let Some((publication, _)) = &mut rpc.writes else {
                continue;
            };
            if publication.append(Vec::new(), 0).is_err() {
                continue;
            }
            let origin = &self.origins[rpc.origin];
            let other = writers.insert(rpc.origin, rpc.token);
            ensure(other.is_none() && rpc.token == origin.taken, || {
                format!("one token writes: {:?} and {other:?}", rpc.token)
            })?;
            let seen = seen(publication.stream());
            ensure(seen >= rpc.token, || {
                format!(
                    "the stream has seen its publisher: {seen:?}, {:?}",
                    rpc.token
                )
            })?;
        }
        Ok(())
    }

    /// Faults are over: everything arrives, every session renews once, every origin asks once.
    pub(super) async fn heal(&mut self) -> Result<(), Violation> {
        self.edges.fill(Edge::default());
        for origin in &mut self.origins {
            origin.cut_off = false;
        }
        self.arrive().await?;
        let rightful = self.rightful().await;
        self.pass(u64::try_from(RENEW_PERIOD.as_millis()).unwrap())
            .await;
        for session in 0..self.sessions.len() {
            self.renew(session);
        }
        self.arrive().await?;
        for origin in 0..ORIGINS {
            self.recheck(origin).await;
        }
        self.arrive().await?;
        self.agreed(rightful).await?;
        // Streams that wait for a publisher that is gone are over by then.
        self.pass(FORGIVEN_MS).await;
        self.settle();
        self.check()
    }

    async fn arrive(&mut self) -> Result<(), Violation> {
        for _ in 0..10_000 {
            if self.flying.is_empty() {
                return Ok(());
            }
            let message = self.flying.remove(0);
            self.handle(message).await?;
            self.settle();
            self.check()?;
        }
        Err("messages come to an end".to_owned())
    }

    /// The live session above which there is nothing.
    async fn rightful(&self) -> Option<usize> {
        let live = |it: &&Session| matches!(it.state, State::Live { .. });
        let highest = self
            .sessions
            .iter()
            .filter(live)
            .map(Session::token)
            .max()?;
        let above = |session: &Session| session.token().epoch >= highest.epoch;
        let mut first = self.sessions.iter().filter(live).filter(|it| above(it));
        let rightful = first.next()?.id.clone();
        let unique = first.next().is_none();
        let registered = self.registries.owner().await;
        let seen = registered.epoch <= highest.epoch
            && registered
                .lease
                .is_none_or(|lease| lease.session == rightful || lease.epoch < highest.epoch);
        let position = self.sessions.iter().position(|it| it.id == rightful);
        position.filter(|_| unique && seen)
    }

    async fn agreed(&mut self, rightful: Option<usize>) -> Result<(), Violation> {
        let live = |it: &Session| matches!(it.state, State::Live { .. });
        let live: Vec<_> = (0..self.sessions.len())
            .filter(|number| live(&self.sessions[*number]))
            .collect();
        ensure(live.len() <= 1, || {
            let live = live.iter().map(|number| self.sessions[*number].token());
            format!("one owner remains: {:?}", live.collect::<Vec<_>>())
        })?;
        ensure(rightful.is_none_or(|it| live.contains(&it)), || {
            format!("the rightful owner remains: {rightful:?}, not {live:?}")
        })?;
        let writing = self
            .rpcs
            .iter_mut()
            .enumerate()
            .filter_map(|(number, rpc)| {
                let (publication, _) = rpc.writes.as_mut()?;
                publication.append(Vec::new(), 0).ok().map(|_| number)
            });
        let writing: Vec<_> = writing.collect();
        let lease = self.registries.owner().await.lease;
        let Some(owner) = live.first().map(|number| &self.sessions[*number]) else {
            return ensure(writing.is_empty(), || "nobody writes".to_owned());
        };
        let State::Live { origin, rpc } = owner.state else {
            unreachable!()
        };
        ensure(writing == [rpc], || {
            format!("every origin agrees: {writing:?}, the owner's is {rpc}")
        })?;
        let lease = lease.ok_or("the owner has a lease")?;
        ensure(
            lease.session == owner.id
                && lease.epoch == owner.epoch
                && lease.origin == super::origin_name(origin),
            || format!("the registry agrees: {lease:?}, {owner:?}"),
        )?;
        for (number, other) in self.origins.iter().enumerate() {
            let held = other.ownership.streams.owned(place().0);
            let lower = |stream: Arc<Stream>| seen(&stream) < owner.token();
            ensure(number == origin || !held.is_some_and(lower), || {
                format!("origin {number} knows that it has lost the stream")
            })?;
        }
        Ok(())
    }
}

impl Origin {
    fn new(number: usize, registry: &Registry) -> Self {
        let config = Arc::new(Config::new(super::origin_name(number)));
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
