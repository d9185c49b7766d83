//! What is asked of the registry, and what becomes of that.

use super::*;

impl World {
    pub(super) fn clock_ms(&self) -> u64 {
        self.virtual_ms.saturating_add_signed(self.skew_ms)
    }

    pub(super) fn cut_off(&self, session: usize) -> bool {
        self.edges[self.sessions[session].edge].cut_off
    }

    pub(super) async fn write(&mut self, write: &Write, kicked: Option<(usize, u64)>) -> Written {
        self.registries.set_clock(self.clock_ms());
        let written = self.registries.write(write).await;
        let epoch = self.registries.owner().await.epoch;
        self.history.push(Done { epoch, kicked });
        written
    }

    /// The highest epoch that the registry has not forgotten.
    pub(super) fn highest(&self) -> u64 {
        let epochs = self.history.iter().map(|done| done.epoch);
        epochs.max().unwrap_or_default()
    }

    pub(super) async fn claim(
        &mut self,
        session: usize,
    ) -> Result<Answer<ClaimOutcome>, Violation> {
        if self.cut_off(session) {
            return Ok(None);
        }
        let claim = self.sessions[session].claim();
        let (floor, highest, forgotten) = (claim.floor, self.highest(), self.forgotten);
        let mine = self.registries.owner().await.lease;
        let mine = mine.filter(|lease| lease.session == claim.session);
        // A server's own clock goes on meanwhile.
        let clock_ms = self.registries.true_ms(self.clock_ms());
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

    pub(super) async fn late_claim(&mut self, session: usize, claim: Box<Claim>) {
        if !self.cut_off(session) {
            self.write(&Write::Claim(claim), None).await;
        }
    }

    /// What an edge does about an answer.
    pub(super) async fn renewed(
        &mut self,
        session: usize,
        outcome: RenewalOutcome,
    ) -> Result<(), Violation> {
        let fenced = matches!(outcome, RenewalOutcome::Fenced { .. });
        if fenced && self.mutant != Mutant::FencesItself && self.raised_to_own(session).await {
            self.renew(session);
            return Ok(());
        }
        let next = self.sessions[session].renewed(outcome);
        if next == Next::Leave && !self.cut_off(session) {
            let lease = self.registries.owner().await.lease;
            let Session { id, epoch, .. } = &self.sessions[session];
            let own = lease.filter(|lease| lease.session == *id && lease.epoch > *epoch);
            ensure(own.is_none(), || {
                format!("nobody is fenced by itself: {id} by {own:?}")
            })?;
        }
        self.act(session, next);
        Ok(())
    }

    /// As `edge::leases::raise_to_own`.
    async fn raised_to_own(&mut self, session: usize) -> bool {
        if self.cut_off(session) {
            return false;
        }
        let lease = self.registries.owner().await.lease;
        let this = &mut self.sessions[session];
        let own = lease.filter(|lease| lease.session == this.id && lease.epoch > this.epoch);
        let raised = own.is_some();
        this.epoch = own.map_or(this.epoch, |lease| lease.epoch);
        raised
    }

    pub(super) fn claimed(&mut self, session: usize, outcome: Answer<ClaimOutcome>) {
        let this = &mut self.sessions[session];
        if this.state != State::Claiming {
            return;
        }
        let next = match outcome {
            Some(ClaimOutcome::Granted { epoch, home, .. }) => {
                let origin = (0..ORIGINS).find(|n| origin_name(*n) == home.origin);
                this.granted(epoch, origin.unwrap(), &home.broadcast_id)
            }
            Some(ClaimOutcome::Leaving) => this.waits_for_another_to_leave(),
            Some(ClaimOutcome::Refused { .. } | ClaimOutcome::EpochInFuture) => this.over(),
            None => this.unregistered(self.policy == OutagePolicy::Keep),
        };
        self.act(session, next);
    }

    pub(super) fn renew(&mut self, session: usize) {
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

    pub(super) async fn renewal(
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

    pub(super) async fn kick(&mut self) -> Result<(), Violation> {
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
    pub(super) fn forget(&mut self, kept: usize) {
        let forgotten = self.history.drain(kept..).map(|done| done.epoch);
        self.forgotten = forgotten.fold(self.forgotten, u64::max);
    }

    pub(super) async fn fail_over(&mut self, lost: u8, skew: i8) {
        let lost = usize::from(lost) % LOST_MAX;
        self.skew_ms = i64::from(skew) * 100;
        self.registries.fail_over(lost, self.clock_ms()).await;
        self.forget(self.history.len().saturating_sub(lost));
    }

    pub(super) async fn pass(&mut self, elapsed_ms: u64) {
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
}
