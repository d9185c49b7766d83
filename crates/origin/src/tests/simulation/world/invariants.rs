//! What must hold, at every step and once faults are over.

use super::*;

impl World {
    pub(super) fn check(&mut self) -> Result<(), Violation> {
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
    pub(in super::super) async fn heal(&mut self) -> Result<(), Violation> {
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

    pub(super) async fn arrive(&mut self) -> Result<(), Violation> {
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
    pub(super) async fn rightful(&self) -> Option<usize> {
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
        let below = registered.epoch <= highest.epoch;
        let seen = match registered.lease {
            // What is above its epoch there is a claim that it gave up.
            Some(lease) if lease.session == rightful => below || lease.epoch == registered.epoch,
            Some(lease) => below && lease.epoch < highest.epoch,
            None => below,
        };
        let position = self.sessions.iter().position(|it| it.id == rightful);
        position.filter(|_| unique && seen)
    }

    pub(super) async fn agreed(&mut self, rightful: Option<usize>) -> Result<(), Violation> {
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
                && lease.origin == origin_name(origin),
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
