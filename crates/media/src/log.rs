//! One log per stream; its tail is the GOP cache; a subscriber is a cursor ([`Reader`]).
//!
//! A log holds the newest frames of one broadcast, of one session after the other, within [`LogLimits`]. Appending
//! never waits: what does not fit any more leaves at the old end, whoever still wanted to read it.
//!
//! Positions count the frames of the broadcast as they are appended; they never leave this module.

mod headers;
mod reader;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{Frame, FrameKind, Part, RandomAccess};
use headers::Headers;
pub use headers::{HEADER_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX};
pub use reader::{Class, Event, Gap, Header, LagError, Reader, Start};

/// What one log may hold. Readers that fall behind this are lagging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bodies and bookkeeping, in bytes.
    pub bytes_max: usize,
    /// Frames.
    pub frames_max: usize,
    /// Since a frame was appended.
    pub age_max: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            bytes_max: 32 * 1024 * 1024,
            frames_max: 16 * 1024,
            age_max: Duration::from_secs(10),
        }
    }
}

/// Who may write: of those of one slot the higher one, epoch before attempt. Those of two slots say nothing of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// Which of the stream's publishers.
    pub slot: u8,
    /// Granted per session.
    pub epoch: u64,
    /// Counts the session's Publish RPCs.
    pub attempt: u32,
}

impl Token {
    /// Whether one of these fences it.
    pub fn is_below(self, seen: &[Self]) -> bool {
        seen.iter().any(|seen| self < *seen)
    }
}

impl PartialOrd for Token {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let rank = |token: &Self| (token.epoch, token.attempt);
        (self.slot == other.slot).then(|| rank(self).cmp(&rank(other)))
    }
}

/// A frame in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its session's id.
    pub session_id: Arc<str>,
    /// Its number in the session.
    pub sequence: u64,
    /// Under which its publisher wrote.
    pub token: Token,
    /// With its timestamp on output, which never decreases per (kind, track).
    pub frame: Frame,
    /// Whether a decoder can start here.
    pub random_access: bool,
    ordinal: u64,
    appended: Instant,
    /// What a decoder needs that starts here: as it was before this frame.
    headers: Arc<Headers>,
    /// What `headers` cost, charged to the first of the entries that share them.
    headers_bytes: usize,
}

impl Entry {
    /// What the entry costs, in bytes: its body's buffer (bodies have buffers of their exact size), bookkeeping, and
    /// headers that no entry before it holds.
    pub fn charged_bytes(&self) -> usize {
        let parts = self
            .frame
            .parts
            .capacity()
            .saturating_mul(size_of::<Part>());
        self.frame
            .body
            .len()
            .saturating_add(parts)
            .saturating_add(size_of::<Self>())
            .saturating_add(self.headers_bytes)
    }

    /// What a decoder needs that starts here: metadata and sequence headers with their sequences.
    pub fn headers(&self) -> Vec<(u64, Frame)> {
        self.headers.to_vec()
    }

    /// When it came into its log.
    pub fn appended(&self) -> Instant {
        self.appended
    }
}

/// A frame that cannot be appended: those before it are missing.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("frame {sequence} came where {expected} was expected")]
pub struct SequenceError {
    /// What came.
    pub sequence: u64,
    /// What was expected.
    pub expected: u64,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It was in the log before: a publisher repeats what was not acknowledged.
    Duplicate,
    /// It is in the log now.
    Stored,
}

/// One stream's log.
#[derive(Debug)]
pub struct Log {
    limits: LogLimits,
    entries: VecDeque<Entry>,
    /// Position of the first entry.
    first: u64,
    /// The first session here began before its first entry: a decoder may not be able to start at that.
    cut: bool,
    bytes: usize,
    headers: Arc<Headers>,
    /// The latest sessions, the current one last. One that others came in between of is there once for each stretch of it.
    sessions: VecDeque<Session>,
    sessions_begun: u64,
    /// Last timestamp on output, for "never decreases".
    output_ms: BTreeMap<(FrameKind, u8), i64>,
    latest_random_access: Option<u64>,
}

/// What the log knows of a session, also when its frames are gone.
#[derive(Debug)]
struct Session {
    ordinal: u64,
    id: Arc<str>,
    token: Token,
    timeline_offset_ms: i64,
    /// The first frame that this log was offered.
    first_sequence: u64,
    /// Behind the last frame.
    next_sequence: u64,
    /// How many more frames it had is not known.
    broken_off: bool,
    /// Begins inside of the session, of which an earlier stretch is here or at an origin before: a decoder may not be able to
    /// start there.
    resumed: bool,
    random_access: RandomAccess,
}

/// How far a followed session may begin before what was put out, in milliseconds: tracks do not begin at the same time.
const REWIND_MS_MAX: i64 = 1000;

/// How many sessions are remembered, so that a cursor of an ended one can tell whether it missed anything.
const SESSIONS_REMEMBERED: usize = 8;

impl Log {
    /// Empty.
    pub fn new(limits: LogLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            first: 0,
            cut: false,
            bytes: 0,
            headers: Arc::default(),
            sessions: VecDeque::new(),
            sessions_begun: 0,
            output_ms: BTreeMap::new(),
            latest_random_access: None,
        }
    }

    /// A new session writes from now on; its frames start at `first_sequence`, or behind an earlier stretch of it that others
    /// came after. Its timestamps get `timeline_offset_ms` added.
    pub fn begin_session(
        &mut self,
        id: &str,
        token: Token,
        timeline_offset_ms: i64,
        first_sequence: u64,
    ) {
        let had = self.next_sequence_of(id).unwrap_or_default();
        let begins_at = first_sequence.max(had);
        if self.sessions.len() == SESSIONS_REMEMBERED {
            self.sessions.pop_front();
        }
        self.sessions.push_back(Session {
            ordinal: self.sessions_begun,
            id: id.into(),
            token,
            timeline_offset_ms,
            first_sequence: begins_at,
            next_sequence: begins_at,
            broken_off: false,
            resumed: begins_at > 0,
            random_access: RandomAccess::new(self.limits.age_max),
        });
        self.sessions_begun = self.sessions_begun.saturating_add(1);
        self.headers = Arc::default();
    }

    /// The next session begins where no decoder can start.
    pub fn begin_cut(&mut self) {
        self.cut |= self.sessions.is_empty();
    }

    /// The current session writes under a new token, if that is a higher one. Frames before `first_sequence` will not come any more.
    pub fn continue_session(&mut self, token: Token, first_sequence: u64) {
        if let Some(session) = self.sessions.back_mut() {
            if !token.is_below(&[session.token]) {
                session.token = token;
            }
            session.next_sequence = session.next_sequence.max(first_sequence);
            session.broken_off = false;
        }
    }

    /// Goes on as another log of this broadcast, which says this before its frames: with the current session, or with
    /// one behind it, that has no place in time yet. Whether it is a new one.
    pub fn follow_session(&mut self, id: &str, token: Token, next_sequence: u64) -> bool {
        let new = self.session().is_none_or(|(current, _, _)| current != id);
        if new {
            if next_sequence > 0 {
                self.begin_cut();
            }
            self.begin_session(id, token, 0, next_sequence);
        } else {
            self.continue_session(token, next_sequence);
        }
        new
    }

    /// Gives the current session its place in time, before its first frame: as in the log that is followed, where that frame
    /// has the timestamp `first_ms`. One that begins long before what was put out here began in another time, at an
    /// origin that did not have this log: it goes on behind.
    pub fn place_session(&mut self, timeline_offset_ms: i64, first_ms: i64) {
        let latest_ms = self.latest_output_ms();
        let before_ms = latest_ms.map_or(0, |latest_ms| latest_ms.saturating_sub(first_ms));
        let shift_ms = if before_ms > REWIND_MS_MAX {
            before_ms.saturating_add(1)
        } else {
            0
        };
        self.move_session(timeline_offset_ms.saturating_add(shift_ms));
    }

    /// What the timestamps of the current session's frames get added, from before its first frame on.
    pub fn move_session(&mut self, timeline_offset_ms: i64) {
        if let Some(session) = self.sessions.back_mut() {
            session.timeline_offset_ms = timeline_offset_ms;
        }
    }

    /// What another log of this broadcast does not have: its readers' gap is one of this log's readers. Whether the session
    /// is a new one.
    pub fn follow_gap(&mut self, id: &str, from_sequence: u64, to_sequence: u64) -> bool {
        let token = self.sessions.back().map(|session| session.token);
        let token = token.unwrap_or_default();
        let new = self.follow_session(id, token, from_sequence);
        if to_sequence < u64::MAX {
            self.continue_session(token, to_sequence);
        } else if let Some(session) = self.sessions.back_mut() {
            session.broken_off = true;
        }
        new
    }

    /// The current session's id, next frame and timeline offset.
    pub fn session(&self) -> Option<(&str, u64, i64)> {
        let session = self.sessions.back()?;
        Some((
            &session.id,
            session.next_sequence,
            session.timeline_offset_ms,
        ))
    }

    /// Behind the last frame of a session, also of one that others came after.
    pub fn next_sequence_of(&self, id: &str) -> Option<u64> {
        let session = self.sessions.iter().rev().find(|s| &*s.id == id)?;
        Some(session.next_sequence)
    }

    /// Tells what a decoder needs and the log has not seen: the current session's metadata and sequence headers from
    /// before its first frame here.
    pub fn seed_header(&mut self, sequence: u64, frame: &Frame) {
        let Some(session) = self.sessions.back_mut() else {
            return;
        };
        session.random_access.note_tracks(frame);
        if self.headers.accepts_seed(sequence, frame) {
            Arc::make_mut(&mut self.headers).update(sequence, frame);
        }
    }

    /// Takes the current session's next frame.
    pub fn append(
        &mut self,
        sequence: u64,
        mut frame: Frame,
        now: Instant,
    ) -> Result<Appended, SequenceError> {
        let Some(session) = self.sessions.back_mut() else {
            return Err(SequenceError {
                sequence,
                expected: 0,
            });
        };
        let expected = session.next_sequence;
        if sequence < expected {
            if sequence < session.first_sequence {
                // A decoder needs it all the same.
                self.seed_header(sequence, &frame);
            }
            return Ok(Appended::Duplicate);
        }
        if sequence > expected {
            return Err(SequenceError { sequence, expected });
        }
        session.next_sequence = expected.saturating_add(1);
        // The edge has counted them.
        let _corrections = self.headers.tracks().correct(&mut frame);
        let offset_ms = session.timeline_offset_ms;
        let shared = |last: &Entry| Arc::ptr_eq(&last.headers, &self.headers);
        let entry = Entry {
            session_id: Arc::clone(&session.id),
            sequence,
            token: session.token,
            random_access: session.random_access.opens_at(&frame, now),
            ordinal: session.ordinal,
            appended: now,
            headers: Arc::clone(&self.headers),
            headers_bytes: if self.entries.back().is_some_and(shared) {
                0
            } else {
                self.headers.charged_bytes()
            },
            frame: {
                frame.timestamp_ms =
                    output_ms(&mut self.output_ms, &frame, frame.timestamp_ms, offset_ms);
                frame
            },
        };
        if self.headers.changed_by(&entry.frame) {
            Arc::make_mut(&mut self.headers).update(sequence, &entry.frame);
        }
        if entry.random_access {
            self.latest_random_access = Some(self.end());
        }
        self.bytes = self.bytes.saturating_add(entry.charged_bytes());
        self.entries.push_back(entry);
        self.evict(self.limits.bytes_max, now);
        Ok(Appended::Stored)
    }

    /// What the entries cost, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The latest timestamp on output, in milliseconds; `None` before the first frame.
    pub fn latest_output_ms(&self) -> Option<i64> {
        self.output_ms.values().max().copied()
    }

    /// When the latest frame came; `None`: there is none.
    pub fn latest_appended(&self) -> Option<Instant> {
        self.entries.back().map(Entry::appended)
    }

    /// Lets the oldest frames go until the log costs no more than this, save the newest frame.
    pub fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.entries.len() > 1 {
            self.evict_first();
        }
    }

    /// Lets everything before the latest random-access point go, or, where there is none, all frames. When that point came.
    pub fn keep_gop(&mut self) -> Option<Instant> {
        let held = self.latest_random_access.filter(|at| *at >= self.first);
        let from = held.unwrap_or(u64::MAX);
        while self.first < from && !self.entries.is_empty() {
            self.evict_first();
        }
        self.entries.front().map(Entry::appended)
    }

    /// Hands out what [`keep_gop`](Self::keep_gop) keeps.
    pub fn take_gop(&mut self) -> Vec<Entry> {
        self.keep_gop();
        let gop: Vec<_> = self.entries.iter().cloned().collect();
        self.latest_random_access = None;
        self.keep_gop();
        gop
    }

    /// Lets everything go: the stream has ended, and who has not read it by now does not read.
    pub fn clear(&mut self) {
        while !self.entries.is_empty() {
            self.evict_first();
        }
        self.headers = Arc::default();
    }

    fn evict(&mut self, bytes_max: usize, now: Instant) {
        self.shrink(bytes_max);
        while self.entries.len() > 1
            && self.entries.front().is_some_and(|entry| {
                self.entries.len() > self.limits.frames_max
                    || now.saturating_duration_since(entry.appended) > self.limits.age_max
            })
        {
            self.evict_first();
        }
    }

    fn evict_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes = self.bytes.saturating_sub(entry.charged_bytes());
            self.first = self.first.saturating_add(1);
            if let Some(heir) = self.entries.front_mut()
                && Arc::ptr_eq(&heir.headers, &entry.headers)
            {
                heir.headers_bytes = entry.headers_bytes;
                self.bytes = self.bytes.saturating_add(entry.headers_bytes);
            }
        }
    }

    fn entry(&self, position: u64) -> Option<&Entry> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.entries.get(index)
    }

    /// Position behind the last entry.
    fn end(&self) -> u64 {
        self.first.saturating_add(self.entries.len() as u64)
    }

    /// First random-access point in the log at or behind a position.
    fn random_access_from(&self, position: u64) -> Option<u64> {
        let latest = self
            .latest_random_access
            .filter(|latest| *latest >= position.max(self.first))?;
        (position.max(self.first)..=latest)
            .find(|position| self.entry(*position).is_some_and(|e| e.random_access))
    }

    fn remembered(&self, ordinal: u64) -> Option<&Session> {
        self.sessions
            .iter()
            .find(|session| session.ordinal == ordinal)
    }
}

impl Session {
    /// Behind the last frame that it had, as far as that is known.
    fn end(&self) -> u64 {
        if self.broken_off {
            u64::MAX
        } else {
            self.next_sequence
        }
    }
}

/// The timestamp on output: the session's offset added, and never below an earlier one of the same tracks.
fn output_ms(
    last_ms: &mut BTreeMap<(FrameKind, u8), i64>,
    frame: &Frame,
    timestamp_ms: i64,
    offset_ms: i64,
) -> i64 {
    // What is not understood counts as track 0.
    let tracks = || {
        let parts = frame.parts.iter().map(|part| part.track);
        parts.chain(frame.parts.is_empty().then_some(0))
    };
    let floor_ms = tracks()
        .filter_map(|track| last_ms.get(&(frame.kind, track)).copied())
        .max();
    let output_ms = timestamp_ms
        .saturating_add(offset_ms)
        .max(floor_ms.unwrap_or(i64::MIN));
    for track in tracks() {
        last_ms.insert((frame.kind, track), output_ms);
    }
    output_ms
}

#[cfg(test)]
mod tests;
