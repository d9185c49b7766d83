//! What edges do.

use super::*;

impl World {
    pub(super) fn act(&mut self, session: usize, next: Next) {
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
    pub(super) fn hang_up(&mut self, session: usize, for_good: bool) {
        let open = |rpc: &Rpc| rpc.session == session && rpc.writes.is_some();
        let rpcs = self.rpcs.iter().enumerate().filter(|(_, rpc)| open(rpc));
        let closed = rpcs.map(|(number, _)| Message::Closed(number, for_good));
        let closed: Vec<_> = closed.collect();
        self.flying.extend(closed);
    }

    pub(super) fn publish(&mut self, edge: usize, with: u8) {
        if self.sessions.len() < SESSIONS_MAX && !self.edges[edge].paused {
            let session = Session::new(self.sessions.len(), edge, policy(with));
            self.sessions.push(session);
            self.flying.push(Message::Claim(self.sessions.len() - 1));
        }
    }

    /// The encoder is asked to go on elsewhere.
    pub(super) fn leave(&mut self, session: usize) {
        if let Some(this) = self.sessions.get_mut(session) {
            this.note_leaving();
            self.renew(session);
        }
    }

    /// The encoder is done.
    pub(super) fn end(&mut self, session: usize) {
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
    pub(super) fn cut(&mut self, session: usize) {
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

    pub(super) fn broken(&mut self, rpc: usize) {
        let session = self.rpcs[rpc].session;
        if matches!(self.sessions[session].state, State::Live { rpc: current, .. } if current == rpc)
        {
            let next = self.sessions[session].refused();
            self.act(session, next);
        }
    }

    pub(super) fn opened(
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

    pub(super) fn fenced(&mut self, rpc: usize, by: FencingToken) -> Result<(), Violation> {
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
}
