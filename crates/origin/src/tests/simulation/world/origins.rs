//! What origins do, with the product's own streams and decisions.

use super::*;

impl World {
    /// What `Relay::accept` does, in two steps where the registry is asked in between.
    pub(super) async fn open(&mut self, mut open: Open) -> Result<(), Violation> {
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

    pub(super) fn attach(
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
            gap_before: false,
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

    pub(super) fn send(&mut self, rpc: usize) -> Result<(), Violation> {
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
    pub(super) fn closed(&mut self, rpc: usize, for_good: bool) {
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

    pub(super) fn wait_for_publisher(&mut self, stream: Arc<Stream>) {
        if let Some(lost) = stream.lost(Slot::PRIMARY) {
            self.graces.push(Grace {
                until_ms: self.virtual_ms + u64::try_from(LEASE_TTL.as_millis()).unwrap(),
                stream,
                lost,
            });
        }
    }

    pub(super) async fn recheck(&mut self, origin: usize) {
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
    pub(super) fn restart(&mut self, number: usize) {
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
    pub(super) fn follow(&mut self, reader: usize, origin: usize) -> Result<(), Violation> {
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
    pub(super) fn settle(&mut self) {
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
}
