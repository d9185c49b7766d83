//! A session as its edge holds it: what `edge::publish::attach`, `edge::relay` and `edge::leases` do with answers.

use registry::{
    Claim, EdgeName, FencingToken, LeaseStats, Policy, Renewal, RenewalOutcome, SessionId, Standing,
};

use super::{super::*, ORIGINS, origin_name, place};

/// Claims and origins that a new publish tries before it is refused, as `edge::publish::attach` has it.
const TRIES_MAX: usize = 5;
/// Origins that are asked before a session that lost its own ends; the edge has a time for it.
const REOPENS_MAX: usize = 12;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) edge: usize,
    pub(super) state: State,
    pub(super) epoch: u64,
    pub(super) attempt: u32,
    pub(super) next_sequence: u64,
    pub(super) renewing: bool,
    /// What a renewal says: where it publishes, and with which token.
    lease: Option<(usize, u32)>,
    pub(super) broadcast_id: String,
    /// Of the claim that was granted last.
    claimed: Option<u64>,
    policy: Policy,
    patient: bool,
    leaving: bool,
    floor: u64,
    failed: Vec<usize>,
    tries: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Claiming,
    /// Asks this origin; the first one of the session, or another one.
    Opening(usize),
    Live {
        origin: usize,
        rpc: usize,
    },
    Over,
}

/// What the edge does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Claim,
    /// At this origin, with the session's next attempt.
    Open(usize),
    /// The session is over: gives back what it holds.
    Leave,
    Nothing,
}

impl Session {
    pub(super) fn new(number: usize, edge: usize, policy: Policy) -> Self {
        Self {
            id: SessionId::new(&format!("s{number}")).unwrap(),
            edge,
            state: State::Claiming,
            epoch: 0,
            attempt: 0,
            next_sequence: 0,
            renewing: false,
            lease: None,
            broadcast_id: format!("b{number}"),
            claimed: None,
            policy,
            patient: true,
            leaving: false,
            floor: 0,
            failed: Vec::new(),
            tries: 0,
        }
    }

    pub(super) fn claim(&self) -> Claim {
        let (stream, slot) = place();
        let candidates: Vec<_> = (0..ORIGINS)
            .filter(|origin| !self.failed.contains(origin))
            .map(origin_name)
            .collect();
        Claim {
            stream,
            slot,
            session: self.id.clone(),
            edge: edge_name(self.edge),
            candidate: candidates[0].clone(),
            announced: candidates,
            broadcast_id: self.broadcast_id.clone(),
            policy: self.policy,
            standing: self.standing(),
            patient: self.patient,
            floor: self.floor,
            home_ttl: Duration::from_secs(60),
            stats: LeaseStats::default(),
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            leaving: self.leaving,
            ..Standing::default()
        }
    }

    pub(super) fn granted(&mut self, epoch: u64, origin: usize, broadcast_id: &str) -> Next {
        self.claimed = Some(epoch);
        self.epoch = epoch;
        broadcast_id.clone_into(&mut self.broadcast_id);
        self.open(origin)
    }

    /// The registry does not answer: the origin grants an epoch, or nobody does.
    pub(super) fn unregistered(&mut self, keep: bool) -> Next {
        if !keep {
            return self.over();
        }
        self.epoch = 0;
        match (0..ORIGINS).find(|origin| !self.failed.contains(origin)) {
            Some(first) => self.open(first),
            None => self.over(),
        }
    }

    pub(super) fn waits_for_another_to_leave(&mut self) -> Next {
        self.patient = false;
        Next::Claim
    }

    fn open(&mut self, origin: usize) -> Next {
        self.state = State::Opening(origin);
        self.attempt += 1;
        Next::Open(origin)
    }

    /// Whether an origin has ever taken it.
    fn begun(&self) -> bool {
        self.lease.is_some()
    }

    pub(super) fn accepted(&mut self, token: FencingToken, rpc: usize, next_sequence: u64) {
        let State::Opening(origin) = self.state else {
            panic!("{self:?}")
        };
        if self.epoch == 0 {
            self.epoch = token.epoch;
        }
        self.next_sequence = next_sequence;
        self.lease = Some((origin, token.attempt));
        self.state = State::Live { origin, rpc };
    }

    /// An origin has seen a higher token.
    pub(super) fn fenced(&mut self, epoch: u64) -> Next {
        if self.begun() {
            return self.over();
        }
        self.floor = epoch;
        self.again()
    }

    /// An origin did not take it, or does not have it any more.
    pub(super) fn refused(&mut self) -> Next {
        let (State::Opening(origin) | State::Live { origin, .. }) = self.state else {
            return Next::Nothing;
        };
        if !self.begun() {
            self.failed.push(origin);
            return self.again();
        }
        self.tries += 1;
        if self.tries > REOPENS_MAX {
            return self.over();
        }
        self.open((origin + 1) % ORIGINS)
    }

    fn again(&mut self) -> Next {
        self.tries += 1;
        if self.tries >= TRIES_MAX || self.failed.len() == ORIGINS {
            return self.over();
        }
        self.state = State::Claiming;
        Next::Claim
    }

    pub(super) fn over(&mut self) -> Next {
        self.state = State::Over;
        Next::Leave
    }

    /// What it gives back when it is over.
    pub(super) fn held(&self) -> Option<u64> {
        if self.begun() {
            Some(self.epoch)
        } else {
            self.claimed
        }
    }

    pub(super) fn note_leaving(&mut self) {
        self.leaving = true;
    }

    pub(super) fn token(&self) -> FencingToken {
        FencingToken {
            epoch: self.epoch,
            attempt: self.lease.map_or(0, |(_, attempt)| attempt),
        }
    }

    /// As `LiveSession::renewal`: one at a time, and none before the session has an origin or once it is over.
    pub(super) fn renewal(&mut self) -> Option<Renewal> {
        let (origin, attempt) = self.lease?;
        if self.state == State::Over || self.renewing {
            return None;
        }
        self.renewing = true;
        let (stream, slot) = place();
        Some(Renewal {
            stream,
            slot,
            session: self.id.clone(),
            edge: edge_name(self.edge),
            epoch: self.epoch,
            attempt,
            origin: origin_name(origin),
            broadcast_id: self.broadcast_id.clone(),
            media_age: Duration::ZERO,
            standing: self.standing(),
            home_ttl: Duration::from_secs(60),
            stats: LeaseStats::default(),
        })
    }

    /// Only an explicit answer fences.
    pub(super) fn renewed(&mut self, outcome: RenewalOutcome) -> Next {
        match outcome {
            RenewalOutcome::Fenced { .. } if self.state != State::Over => self.over(),
            RenewalOutcome::Fenced { .. }
            | RenewalOutcome::Healed
            | RenewalOutcome::Renewed
            | RenewalOutcome::Unavailable
            | RenewalOutcome::WonBack => Next::Nothing,
        }
    }
}

fn edge_name(edge: usize) -> EdgeName {
    EdgeName::new(&format!("edge-{edge}")).unwrap()
}
