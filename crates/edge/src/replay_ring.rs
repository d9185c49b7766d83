//! What an edge keeps of a session, so that another origin can go on where one was lost. Pure: time is passed in.
//!
//! The ring holds everything from the latest random-access point that is both older than the replay window and at or
//! before the first unacknowledged frame: a decoder can start there, and a subscriber that was at most the window
//! behind finds its place. What left the ring and still matters to a decoder (metadata, sequence headers) stays in the
//! header cache.
//!
//! Only unacknowledged bytes make the ring [`full`](ReplayRing::full); an acknowledged frame is history, which goes
//! first when space runs out. A group of pictures beyond the cap leaves the ring without a random-access point at its
//! start: nothing unacknowledged is lost, but what is replayed begins behind a gap until the next one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use media::{Frame, FrameKind, Part, PartType, RandomAccess, flv};
use tokio::time::Instant;

/// Bounds of one ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    /// How far back history reaches at least.
    pub(crate) window: Duration,
    /// Unacknowledged bytes that make the ring full.
    pub(crate) unacknowledged_bytes_max: usize,
    /// Bytes beyond which history goes, whatever the window says.
    pub(crate) bytes_max: usize,
}

/// The ring of one session. Frames are numbered from 0 in the order of [`push`](Self::push).
#[derive(Debug)]
pub(crate) struct ReplayRing {
    limits: RingLimits,
    entries: VecDeque<Entry>,
    /// Sequence of the first entry.
    start: u64,
    /// The first frame that the origin has not acknowledged.
    acknowledged: u64,
    /// Sequences of the entries where a decoder can start.
    random_access: VecDeque<u64>,
    bytes: usize,
    unacknowledged_bytes: usize,
    headers: HeaderCache,
    points: RandomAccess,
    /// No origin has the session: nothing leaves the ring, so that what is presented to the next one stays true.
    held: bool,
}

/// Where a replay begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replay {
    /// Sequence of the oldest frame that can be sent.
    pub(crate) first_sequence: u64,
    /// No decoder can start at `first_sequence`: history before it had to go.
    pub(crate) gap: bool,
    /// Metadata and sequence headers in force at `first_sequence`, by their own sequence.
    pub(crate) headers: Vec<(u64, Frame)>,
}

#[derive(Debug)]
struct Entry {
    frame: Frame,
    received: Instant,
}

/// The latest metadata, sequence header and configuration of every track among the frames that left the ring.
#[derive(Debug, Default)]
struct HeaderCache {
    slots: BTreeMap<HeaderSlot, (u64, Frame)>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HeaderSlot {
    Metadata,
    SequenceHeader(FrameKind, u8),
    Configuration(FrameKind, u8),
}

/// While video pauses for longer (a phone in the background), the ring may start at audio.
const VIDEO_PAUSE: Duration = Duration::from_secs(10);
/// All headers of a session travel in one batch, which ends at 1 MiB.
const HEADER_BYTES_MAX: usize = 512 * 1024;

impl ReplayRing {
    pub(crate) fn new(limits: RingLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            start: 0,
            acknowledged: 0,
            random_access: VecDeque::new(),
            bytes: 0,
            unacknowledged_bytes: 0,
            headers: HeaderCache::default(),
            points: RandomAccess::new(VIDEO_PAUSE),
            held: false,
        }
    }

    /// Takes the session's next frame, full or not: whoever pushes looks at [`full`](Self::full) before it reads on.
    /// Whether a decoder can start at it.
    pub(crate) fn push(&mut self, frame: Frame, now: Instant) -> bool {
        let sequence = self.next_sequence();
        let can_start = self.points.opens_at(&frame, now.into_std());
        if can_start {
            self.random_access.push_back(sequence);
        }
        let charge = charge(&frame);
        self.bytes += charge;
        self.unacknowledged_bytes += charge;
        self.entries.push_back(Entry {
            frame,
            received: now,
        });
        self.trim(now);
        can_start
    }

    /// The origin has every frame before `next_sequence`. What was never pushed or is acknowledged already changes
    /// nothing.
    pub(crate) fn acknowledge(&mut self, next_sequence: u64, now: Instant) {
        let next_sequence = next_sequence.min(self.next_sequence());
        for sequence in self.acknowledged..next_sequence {
            if let Some(entry) = self.entry(sequence) {
                self.unacknowledged_bytes -= charge(&entry.frame);
            }
        }
        self.acknowledged = self.acknowledged.max(next_sequence);
        self.trim(now);
    }

    /// What another origin would get now. From here to [`rewind`](Self::rewind) nothing leaves the ring.
    pub(crate) fn hold(&mut self) -> Replay {
        self.held = true;
        self.replay()
    }

    /// What was held for another origin is not needed: the one that has the session keeps it.
    pub(crate) fn keep(&mut self, now: Instant) {
        self.held = false;
        self.trim(now);
    }

    /// Another origin took the session and has every frame before `next_sequence` alone: what comes behind that is
    /// outstanding again.
    pub(crate) fn rewind(&mut self, next_sequence: u64, now: Instant) {
        self.held = false;
        self.acknowledged = next_sequence.clamp(self.start, self.next_sequence());
        let skip = usize::try_from(self.acknowledged - self.start).unwrap_or(usize::MAX);
        self.unacknowledged_bytes = self
            .entries
            .iter()
            .skip(skip)
            .map(|entry| charge(&entry.frame))
            .sum();
        self.trim(now);
    }

    /// Gives all acknowledged history up, because the process is short of memory.
    pub(crate) fn shed(&mut self) {
        while !self.held && self.start < self.acknowledged {
            self.evict_first();
        }
    }

    /// What another origin would get now.
    fn replay(&self) -> Replay {
        Replay {
            first_sequence: self.start,
            gap: !self.replayable(),
            headers: self.headers.frames(),
        }
    }

    /// Frames from `sequence` on: at least one where there is one, then as many as fit `bytes_max` of bodies.
    pub(crate) fn batch(&self, sequence: u64, bytes_max: usize) -> Vec<(u64, Frame)> {
        let skip = usize::try_from(sequence.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let mut bytes = 0_usize;
        let mut batch = Vec::new();
        for (sequence, entry) in (sequence.max(self.start)..).zip(self.entries.iter().skip(skip)) {
            bytes = bytes.saturating_add(entry.frame.body.len());
            if bytes > bytes_max && !batch.is_empty() {
                break;
            }
            batch.push((sequence, entry.frame.clone()));
        }
        batch
    }

    /// Whether a replay would begin where a decoder can.
    pub(crate) fn replayable(&self) -> bool {
        self.start == 0 || self.random_access.front() == Some(&self.start)
    }

    /// Whether reading from the encoder has to stop until the origin acknowledges.
    pub(crate) fn full(&self) -> bool {
        self.unacknowledged_bytes >= self.limits.unacknowledged_bytes_max
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.start + u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn unacknowledged_bytes(&self) -> usize {
        self.unacknowledged_bytes
    }

    /// Memory held, headers included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.headers.bytes
    }

    fn entry(&self, sequence: u64) -> Option<&Entry> {
        let index = usize::try_from(sequence.checked_sub(self.start)?).ok()?;
        self.entries.get(index)
    }

    fn trim(&mut self, now: Instant) {
        if self.held {
            return;
        }
        while let Some(&next) = self.random_access.get(1)
            && self.may_start_at(next, now)
        {
            self.random_access.pop_front();
        }
        if let Some(&first) = self.random_access.front()
            && self.may_start_at(first, now)
        {
            while self.start < first {
                self.evict_first();
            }
        }
        while self.bytes > self.limits.bytes_max && self.start < self.acknowledged {
            self.evict_first();
        }
    }

    fn may_start_at(&self, sequence: u64, now: Instant) -> bool {
        sequence <= self.acknowledged
            && self.entry(sequence).is_some_and(|entry| {
                now.saturating_duration_since(entry.received) >= self.limits.window
            })
    }

    /// Only acknowledged frames are evicted.
    fn evict_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.bytes -= charge(&entry.frame);
        self.headers.insert(self.start, entry.frame);
        self.start += 1;
        while self
            .random_access
            .front()
            .is_some_and(|&first| first < self.start)
        {
            self.random_access.pop_front();
        }
    }
}

impl HeaderCache {
    fn insert(&mut self, sequence: u64, frame: Frame) {
        for slot in header_slots(&frame) {
            if let Some((_, replaced)) = self.slots.remove(&slot) {
                self.bytes -= charge(&replaced);
            }
            if self.bytes + charge(&frame) <= HEADER_BYTES_MAX {
                self.bytes += charge(&frame);
                self.slots.insert(slot, (sequence, frame.clone()));
            }
        }
    }

    /// A frame that fills several slots comes once.
    fn frames(&self) -> Vec<(u64, Frame)> {
        let by_sequence: BTreeMap<u64, &Frame> = self
            .slots
            .values()
            .map(|(sequence, frame)| (*sequence, frame))
            .collect();
        by_sequence
            .into_iter()
            .map(|(sequence, frame)| (sequence, frame.clone()))
            .collect()
    }
}

fn header_slots(frame: &Frame) -> Vec<HeaderSlot> {
    if frame.kind == FrameKind::Script {
        return if flv::metadata(frame) {
            vec![HeaderSlot::Metadata]
        } else {
            Vec::new()
        };
    }
    frame
        .parts
        .iter()
        .filter_map(|part| match part.part_type {
            PartType::SequenceHeader => Some(HeaderSlot::SequenceHeader(frame.kind, part.track)),
            PartType::Metadata => Some(HeaderSlot::Configuration(frame.kind, part.track)),
            PartType::Coded | PartType::SequenceEnd => None,
        })
        .collect()
}

/// What a frame costs: its body's buffer is of its exact size.
fn charge(frame: &Frame) -> usize {
    frame.body.len() + frame.parts.capacity() * size_of::<Part>() + size_of::<Entry>()
}

#[cfg(test)]
mod tests;
