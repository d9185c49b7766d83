//! The programme: which log an input writes to, and the cut from one input to the other.
//!
//! The input on air writes to the log that readers read. The other one writes to a log of its own, of which its latest GOP
//! is kept; a cut puts that GOP behind what was put out, with one constant offset of its timestamps, and goes on from there.

use std::time::{Duration, Instant};

use media::{
    Frame,
    log::{Appended, Log, SequenceError},
};
use registry::{FencingToken, OriginName, Slot};
use runtime::budget::{Budget, Share};

use super::{Input, Opening, Slots, State, Stream, Streams, log_token};
use crate::{
    config::Backup,
    metrics::{OriginMetrics, SwitchLabels},
};

/// The log of an input that is not on air.
#[derive(Debug)]
pub(super) struct Standby {
    log: Log,
    share: Share,
}

/// How long whoever is on air at an origin that both leave may be silent before the other one comes on air there: longer than
/// an edge with thousands of sessions, which move in turns, takes to move the other one too. Readers that had it here in
/// between would get some of its frames again at the next origin, where the one on air has gone on.
const HELD_FOR: Duration = Duration::from_secs(10);

/// Longest pause of the programme that a cut keeps in the timestamps: players take a longer one for a fault.
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Stream {
    /// Lets the input on standby come on air, where it is time.
    pub(super) fn select(&self, state: &mut State, now: Instant) {
        let to = state.selection.on_air().other();
        let Some(standby) = &mut state.inputs.of_mut(to).standby else {
            return;
        };
        let keyframe = standby.keep_gop(&self.streams);
        // One that goes on elsewhere is silent here, and readers follow it once the other one has left too.
        let stays = state.held && state.selection.is_heard(HELD_FOR, now);
        if stays || state.end.is_some() {
            return;
        }
        let Some(reason) = state.selection.decide(keyframe, now) else {
            return;
        };
        let begins = state.log.session().is_none();
        state.cut_to(to, now, &self.streams);
        let reason = reason.word();
        tracing::info!(stream_id = %self.id, to = to.number(), reason, "another publisher is on air");
        let switches = &self.streams.metrics().switches;
        switches.get_or_create(&SwitchLabels { reason }).inc();
        self.changed.send_replace(());
        self.switched.send_replace(());
        if begins {
            self.streams.announce_opened();
        }
    }
}

impl Standby {
    fn new(streams: &Streams) -> Self {
        Self {
            log: Log::new(streams.log_limits()),
            share: streams.budget().share(),
        }
    }

    /// Lets everything before the latest GOP go, and that too where the process holds too much. When it began.
    fn keep_gop(&mut self, streams: &Streams) -> Option<Instant> {
        let began = self.log.keep_gop();
        let budget = streams.budget();
        if budget.exhausted() && self.log.bytes() > budget.bytes_max() / streams.held().max(1) {
            self.forget_gop();
            return None;
        }
        self.share.set(self.log.bytes());
        began
    }

    /// What was kept does not go on without a break.
    fn forget_gop(&mut self) {
        self.log.take_gop();
        self.share.set(self.log.bytes());
    }
}

impl State {
    /// Begins or continues an input's session, in the log that it writes to. Its timeline offset.
    pub(super) fn open_session(
        &mut self,
        opening: &Opening,
        now: Instant,
        streams: &Streams,
    ) -> i64 {
        if opening.place.1 == self.selection.on_air() {
            return self.open_on_air(opening);
        }
        let slot = opening.place.1;
        let token = log_token(slot, opening.token);
        let known = self.log.next_sequence_of(&opening.session_id);
        let first_sequence = opening.first_sequence.max(known.unwrap_or_default());
        // Alone the other one was not measured.
        let other = slot.other();
        if !self.inputs.of(slot).is_present() && self.inputs.of(other).publisher.is_some() {
            self.selection.joined(other, now);
        }
        let standby = &mut self.inputs.of_mut(slot).standby;
        match standby {
            Some(standby)
                if standby
                    .log
                    .session()
                    .is_some_and(|(session_id, _, _)| session_id == opening.session_id) =>
            {
                standby.forget_gop();
                standby.log.continue_session(token, first_sequence);
            }
            Some(_) | None => {
                let begun = standby.insert(Standby::new(streams));
                let log = &mut begun.log;
                log.begin_session(&opening.session_id, token, 0, first_sequence);
            }
        }
        opening.timeline_offset_ms.unwrap_or_default()
    }

    /// Continues the session that the programme has, or begins another one behind it. Its timeline offset.
    ///
    /// Frames that the edge has no more are a gap, declared or not: where the session was at another origin in between,
    /// that one has acknowledged them.
    fn open_on_air(&mut self, opening: &Opening) -> i64 {
        let unplaced = std::mem::take(&mut self.unplaced);
        let token = log_token(opening.place.1, opening.token);
        let latest_ms = self.log.latest_output_ms();
        // Assigned once, at the session's first acceptance: its own clock continues behind what was put out.
        let assigned_ms = opening
            .timeline_offset_ms
            .unwrap_or_else(|| latest_ms.map_or(0, |latest_ms| latest_ms.saturating_add(1)));
        if let Some((session_id, _expected, timeline_offset_ms)) = self.log.session()
            && session_id == opening.session_id
        {
            self.log.continue_session(token, opening.first_sequence);
            if unplaced {
                self.log.move_session(assigned_ms);
                return assigned_ms;
            }
            return timeline_offset_ms;
        }
        if opening.gap_before {
            self.log.begin_cut();
        }
        self.log.begin_session(
            &opening.session_id,
            token,
            assigned_ms,
            opening.first_sequence,
        );
        assigned_ms
    }

    /// The log that an input writes to.
    pub(super) fn log_of(&mut self, slot: Slot) -> &mut Log {
        log_of(
            &mut self.log,
            &mut self.inputs,
            self.selection.on_air(),
            slot,
        )
    }

    /// An input's next frame, and its timeline offset where it is on air.
    pub(super) fn progress_of(&mut self, slot: Slot) -> (u64, Option<i64>) {
        let on_air = self.selection.on_air() == slot;
        let session = self.log_of(slot).session();
        session.map_or((0, None), |(_, next_sequence, offset_ms)| {
            (next_sequence, on_air.then_some(offset_ms))
        })
    }

    /// Takes an input's frames up to one that does not follow.
    pub(super) fn store(
        &mut self,
        slot: Slot,
        frames: Vec<(u64, Frame)>,
        now: Instant,
        metrics: &OriginMetrics,
    ) -> Result<(), SequenceError> {
        let on_air = self.selection.on_air();
        // Nobody to compare it with: nothing is measured.
        let alone = slot == on_air && !self.inputs.of(slot.other()).is_present();
        let log = log_of(&mut self.log, &mut self.inputs, on_air, slot);
        frames.into_iter().try_for_each(|(sequence, frame)| {
            let media = (!alone && frame.coded()).then_some((frame.kind, frame.timestamp_ms));
            match log.append(sequence, frame, now)? {
                Appended::Duplicate => {
                    metrics.duplicate_frames.inc();
                }
                Appended::Stored => {
                    if let Some((kind, timestamp_ms)) = media {
                        self.selection.heard(slot, kind, timestamp_ms, now);
                    }
                }
            }
            Ok(())
        })
    }

    /// The budget knows what the logs hold now.
    pub(super) fn charge(&mut self, streams: &Streams) {
        self.share.set(self.log.bytes());
        self.give_way(streams.budget(), streams.held());
    }

    /// Lets history go where the process holds too much: down to an equal share, whoever caused it.
    fn give_way(&mut self, budget: &Budget, streams: usize) {
        if budget.exhausted() {
            self.log.shrink(budget.bytes_max() / streams.max(1));
            self.share.set(self.log.bytes());
        }
    }

    /// A slot's publisher is gone, and may come back.
    pub(super) fn lose(&mut self, slot: Slot) {
        self.selection.lost(slot);
        if let Some(standby) = &mut self.inputs.of_mut(slot).standby {
            standby.forget_gop();
        }
    }

    /// The origin that the log comes from, where it still does.
    pub(super) fn fed_by(&self, policy: Backup, now: Instant) -> Option<OriginName> {
        let followed = self.followed.as_ref()?;
        let fed = now.saturating_duration_since(followed.fed?) < policy.starve_after;
        fed.then(|| followed.owner.clone())
    }

    /// A slot's token was seen elsewhere.
    pub(super) fn raise_token(&mut self, slot: Slot, token: FencingToken) {
        let input = self.inputs.of_mut(slot);
        input.token = input.token.max(token);
    }

    /// Keeps the number of streams with two publishers.
    pub(super) fn count_backup(&mut self, metrics: &OriginMetrics) {
        let publishes = |slot| self.inputs.of(slot).publisher.is_some();
        let backed_up = self.end.is_none() && Slot::ALL.into_iter().all(publishes);
        if backed_up != std::mem::replace(&mut self.backed_up, backed_up) {
            let change = if backed_up { 1 } else { -1 };
            metrics.backed_up_streams.inc_by(change);
        }
    }

    /// Puts an input's GOP behind what was put out. It writes to the programme from now on, the other one to a log of its own.
    fn cut_to(&mut self, to: Slot, now: Instant, streams: &Streams) {
        let from = to.other();
        let Some(mut standby) = self.inputs.of_mut(to).standby.take() else {
            return;
        };
        if self.inputs.of(from).is_present() {
            let left = self.stand_by(from, streams);
            self.inputs.of_mut(from).standby = left;
        }
        let gop = standby.log.take_gop();
        let Some(first) = gop.first() else {
            return;
        };
        // Time goes on as it went on for who watches; behind what was put out in any case.
        let pause = self.log.latest_appended().map(|latest| {
            let pause = first.appended().saturating_duration_since(latest);
            i64::try_from(pause.min(PAUSE_MAX).as_millis()).unwrap_or_default()
        });
        let begins_ms = match self.log.latest_output_ms() {
            Some(latest_ms) => latest_ms.saturating_add(pause.unwrap_or_default().max(1)),
            None => first.frame.timestamp_ms,
        };
        let offset_ms = begins_ms.saturating_sub(first.frame.timestamp_ms);
        let token = log_token(to, self.inputs.of(to).token);
        self.unplaced = false;
        self.log
            .begin_session(&first.session_id, token, offset_ms, first.sequence);
        for (sequence, frame) in first.headers() {
            self.log.seed_header(sequence, &frame);
        }
        for entry in gop {
            // They follow each other: what does not is forgotten with the break.
            self.log.append(entry.sequence, entry.frame, now).ok();
        }
        self.charge(streams);
    }

    /// Where the input that was on air goes on.
    fn stand_by(&self, slot: Slot, streams: &Streams) -> Option<Standby> {
        let header = self.log.next_header()?;
        let mut standby = Standby::new(streams);
        let token = log_token(slot, self.inputs.of(slot).token);
        standby
            .log
            .begin_session(&header.session_id, token, 0, header.sequence);
        for (sequence, frame) in &header.headers {
            standby.log.seed_header(*sequence, frame);
        }
        Some(standby)
    }
}

fn log_of<'a>(
    programme: &'a mut Log,
    inputs: &'a mut Slots<Input>,
    on_air: Slot,
    slot: Slot,
) -> &'a mut Log {
    match &mut inputs.of_mut(slot).standby {
        Some(standby) if slot != on_air => &mut standby.log,
        Some(_) | None => programme,
    }
}
