//! A publisher's side of a stream.

use std::{sync::Arc, time::Instant};

use media::Frame;
use parking_lot::MutexGuard;
use registry::{FencingToken, Slot};
use runtime::budget::Share;

use super::{AppendError, End, State, Stream};

/// The right to write to a stream, until another token takes it. Dropped without [`close`](Self::close): the publisher
/// was lost and may come back.
#[derive(Debug)]
pub(crate) struct Publication {
    stream: Arc<Stream>,
    slot: Slot,
    token: FencingToken,
    /// Half-received bodies.
    partial: Share,
    pub(crate) timeline_offset_ms: i64,
}

/// How far a publisher has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The first frame that is wanted.
    pub(crate) next_sequence: u64,
    /// What its timestamps get added; `None`: it is on standby.
    pub(crate) on_air: Option<i64>,
}

impl Publication {
    pub(super) fn new(
        stream: &Arc<Stream>,
        slot: Slot,
        token: FencingToken,
        timeline_offset_ms: i64,
    ) -> Self {
        Self {
            stream: Arc::clone(stream),
            slot,
            token,
            partial: stream.streams.budget().share(),
            timeline_offset_ms,
        }
    }

    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress_in(&mut self.stream.state.lock())
    }

    fn progress_in(&self, state: &mut State) -> Progress {
        let (next_sequence, on_air) = state.progress_of(self.slot);
        Progress {
            next_sequence,
            on_air,
        }
    }

    /// Tells the session's headers from before its first frame here.
    pub(crate) fn seed(&self, headers: &[(u64, Frame)]) -> Result<(), AppendError> {
        let mut state = self.lock()?;
        let log = state.log_of(self.slot);
        for (sequence, frame) in headers {
            log.seed_header(*sequence, frame);
        }
        Ok(())
    }

    /// Takes frames; those before the [`progress`](Self::progress) were taken before and are passed over.
    /// `partial_bytes`: of a body whose end is still to come.
    pub(crate) fn append(
        &mut self,
        frames: Vec<(u64, Frame)>,
        partial_bytes: usize,
    ) -> Result<Progress, AppendError> {
        let streams = &self.stream.streams;
        self.partial.set(partial_bytes);
        let now = Instant::now();
        let (stored, progress) = {
            let mut state = self.lock()?;
            let stored = state.store(self.slot, frames, now, streams.metrics());
            if state.selection.on_air() == self.slot {
                state.charge(streams);
            } else {
                self.stream.select(&mut state, now);
            }
            (stored, self.progress_in(&mut state))
        };
        // Also where a frame was refused: those before it are in the log.
        if progress.on_air.is_some() {
            self.stream.changed.send_replace(());
        }
        stored?;
        if streams.budget().overrun() {
            return Err(AppendError::Budget);
        }
        Ok(progress)
    }

    /// The publisher finished: the stream goes on with the other one, or ends. Whether this was still the publisher.
    pub(crate) fn close(&self, reason: &str) -> bool {
        let token = self.token;
        let end = End::Ended {
            reason: reason.to_owned(),
        };
        let mut departed = false;
        let departs = |input: &super::Input| {
            departed = input.published_by(token);
            departed
        };
        self.stream.depart_if(self.slot, end, departs);
        departed
    }

    /// What the stream holds, as long as this may write.
    fn lock(&self) -> Result<MutexGuard<'_, State>, AppendError> {
        let state = self.stream.state.lock();
        if state.inputs.of(self.slot).published_by(self.token) {
            Ok(state)
        } else {
            Err(AppendError::Dismissed)
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let mut state = self.stream.state.lock();
        if state.inputs.of(self.slot).published_by(self.token) {
            state.inputs.of_mut(self.slot).publisher = None;
            self.stream.publisher_lost(&mut state, self.slot);
        }
    }
}
