//! What joins a session's socket to its relay: the replay ring behind one small lock.

use std::{sync::Arc, time::Duration};

use media::Frame;
use parking_lot::Mutex;
use runtime::budget::Share;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::{
    end::End,
    metrics::EdgeMetrics,
    replay_ring::{Replay, ReplayRing},
};

/// A cheap handle: the socket's task pushes, the relay's task takes.
#[derive(Clone)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    metrics: EdgeMetrics,
    /// For the relay: there is something new.
    pushed: Notify,
    /// For the socket: there may be room again.
    room: Notify,
    /// For whoever prepares the publish: nobody waits for it any more.
    finished: Notify,
}

struct State {
    ring: ReplayRing,
    share: Share,
    finished: Option<(End, Instant)>,
}

/// While the process's budget is exhausted a session may have this many unacknowledged bytes: enough to go on slowly.
const FLOOR_BYTES: usize = 256 * 1024;
/// How often a full session looks whether the process's budget has room again.
const BUDGET_PERIOD: Duration = Duration::from_millis(100);

impl Feed {
    pub(crate) fn new(ring: ReplayRing, share: Share, metrics: EdgeMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    ring,
                    share,
                    finished: None,
                }),
                metrics,
                pushed: Notify::new(),
                room: Notify::new(),
                finished: Notify::new(),
            }),
        }
    }

    /// Takes the session's next frame. Look at [`has_room`](Self::has_room) before reading on. Whether a decoder can
    /// start at it.
    pub(crate) fn push(&self, frame: Frame) -> bool {
        let can_start = self.change(|state, now| state.ring.push(frame, now));
        self.shared.pushed.notify_one();
        can_start
    }

    /// Whether the socket may be read.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.shared.state.lock();
        let squeezed =
            state.share.budget().exhausted() && state.ring.unacknowledged_bytes() >= FLOOR_BYTES;
        !state.ring.full() && !squeezed
    }

    /// Waits until the socket may be read.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            // Another session may free the budget, and does not know of this one.
            timeout(BUDGET_PERIOD, self.shared.room.notified())
                .await
                .ok();
        }
    }

    /// The session is over; what was pushed is still to be delivered. The first reason stays.
    pub(crate) fn finish(&self, end: End) {
        self.shared
            .state
            .lock()
            .finished
            .get_or_insert_with(|| (end, Instant::now()));
        self.shared.pushed.notify_one();
        self.shared.finished.notify_one();
    }

    /// Ends when the session is over.
    pub(crate) async fn until_finished(&self) -> End {
        loop {
            let finished = self.shared.finished.notified();
            if let Some(end) = self.finished() {
                return end;
            }
            finished.await;
        }
    }

    pub(crate) fn finished(&self) -> Option<End> {
        self.shared.state.lock().finished.map(|(end, _)| end)
    }

    /// Whether the session has been over for this long.
    pub(crate) fn finish_overdue(&self, timeout: Duration) -> bool {
        let finished = self.shared.state.lock().finished;
        finished.is_some_and(|(_, at)| at.elapsed() >= timeout)
    }

    /// Whether the origin has everything that was pushed.
    pub(super) fn delivered(&self) -> bool {
        let state = self.shared.state.lock();
        state.ring.acknowledged() == state.ring.next_sequence()
    }

    /// Ends after the next push or finish, or at once if there was one since the last call.
    pub(super) async fn pushed(&self) {
        self.shared.pushed.notified().await;
    }

    /// Frames from `sequence` on; see [`ReplayRing::batch`].
    pub(super) fn batch(&self, sequence: u64, bytes_max: usize) -> Vec<(u64, Frame)> {
        self.shared.state.lock().ring.batch(sequence, bytes_max)
    }

    /// The origin has every frame before `next_sequence`. Whether that was news.
    pub(super) fn acknowledge(&self, next_sequence: u64) -> bool {
        let news = self.change(|state, now| {
            let news = next_sequence > state.ring.acknowledged();
            state.ring.acknowledge(next_sequence, now);
            news
        });
        self.shared.room.notify_one();
        news
    }

    /// See [`ReplayRing::hold`].
    pub(super) fn hold(&self) -> Replay {
        self.shared.state.lock().ring.hold()
    }

    /// The origin that has the session keeps it; see [`ReplayRing::keep`].
    pub(super) fn keep(&self) {
        self.change(|state, now| state.ring.keep(now));
    }

    /// Another origin goes on from here; see [`ReplayRing::rewind`].
    pub(super) fn resume(&self, next_sequence: u64) {
        self.change(|state, now| state.ring.rewind(next_sequence, now));
        self.shared.room.notify_one();
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.shared.state.lock().ring.next_sequence()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.shared.state.lock();
        let replayable = state.ring.replayable();
        let changed = change(&mut state, Instant::now());
        if state.share.budget().exhausted() {
            state.ring.shed();
        }
        let bytes = state.ring.bytes();
        state.share.set(bytes);
        if replayable && !state.ring.replayable() {
            self.shared.metrics.not_replayable.inc();
            drop(state);
            warn!(
                bytes,
                "the group of pictures outgrew its ring: not replayable until the next keyframe"
            );
        }
        changed
    }
}
