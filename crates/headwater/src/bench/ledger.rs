//! The account of every frame that a reader of one stream got. Pure: what arrived goes in, what was wrong comes out.
//!
//! Two accounts are kept. By the **stamps** of `bench publish`: end to end, across sessions and origins. And by the
//! cluster's own frame **sequence** of each session, which every frame has, whoever published it.

mod run;
mod slot;

use std::collections::BTreeMap;

use media::{Frame, FrameKind};
use serde::Serialize;

use self::{
    run::{Excuse, Run},
    slot::Slot,
};
use super::{
    histogram::{Histogram, Percentiles},
    payload::{self, Payload, Stamp},
};

/// Publishers and sessions of one stream that are told apart; what comes after them is counted as one.
const RUNS_LIMIT: usize = 1024;

/// Follows one stream.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Frames sent before this are not measured: a reader that joins gets the GOP so far.
    measured_from_us: u64,
    publishers: BTreeMap<u32, Run>,
    sessions: BTreeMap<String, Run>,
    session: String,
    broadcast: String,
    /// Primary and backup, whose tokens are not compared.
    slots: [Slot; 2],
    /// Why stamps may jump at the next one.
    excuse: Excuse,
    last_timestamps: BTreeMap<(FrameKind, u8), i64>,
    latency: Histogram,
    counts: Counts,
}

/// What is counted one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) headers: u64,
    pub(super) gaps: u64,
    pub(super) bytes: u64,
    pub(super) unnumbered: u64,
    pub(super) corrupted: u64,
    pub(super) timestamp_regressions: u64,
    pub(super) token_regressions: u64,
    pub(super) session_regressions: u64,
    pub(super) lost_between_sessions: u64,
}

/// How a run of numbers came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Account {
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) skipped: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
}

/// Everything, for the report.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LedgerReport {
    #[serde(flatten)]
    pub(super) stamps: Account,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// By the cluster's own numbers.
    pub(super) session_sequence: Account,
    pub(super) sessions: usize,
    /// Stamps of each publisher, by its number: the first and the next expected one.
    pub(super) publishers: BTreeMap<u32, Range>,
    pub(super) latency_ms: Percentiles,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) next: u64,
}

impl Ledger {
    pub(super) fn new(measured_from_us: u64) -> Self {
        Self {
            measured_from_us,
            ..Self::default()
        }
    }

    /// A header came: whose frames follow.
    pub(super) fn header(&mut self, broadcast: &str, session: &str, slot: u32, token: (u64, u32)) {
        self.counts.headers += 1;
        let [primary, backup] = &mut self.slots;
        let slot = if slot == 0 { primary } else { backup };
        slot.follow(session, token, &mut self.counts);
        if broadcast != self.broadcast {
            // Another broadcast has a clock of its own.
            broadcast.clone_into(&mut self.broadcast);
            self.last_timestamps.clear();
        }
        if session != self.session {
            if !self.session.is_empty() {
                self.excuse.rest = true;
                run_of(&mut self.sessions, session.to_owned(), Run::from_zero);
            }
            session.clone_into(&mut self.session);
        }
    }

    /// Frames `from..to` of a session will not come.
    pub(super) fn gap(&mut self, session: &str, from: u64, to: u64) {
        self.counts.gaps += 1;
        self.excuse.announced = self
            .excuse
            .announced
            .saturating_add(to.saturating_sub(from));
        run_of(&mut self.sessions, session.to_owned(), Run::default).skip(from, to);
    }

    /// A frame came.
    pub(super) fn frame(&mut self, sequence: u64, frame: &Frame, now_us: u64) {
        self.counts.bytes += frame.body.len() as u64;
        run_of(&mut self.sessions, self.session.clone(), Run::default)
            .receive(sequence, Excuse::default());
        self.check_timestamp(frame);
        match payload::read(frame.kind, &frame.body) {
            Payload::Stamped(stamp) => self.stamp(stamp, now_us),
            Payload::Corrupted => self.counts.corrupted += 1,
            // In a stamped stream, media without a stamp has lost it.
            Payload::Foreign if !self.publishers.is_empty() => self.counts.corrupted += 1,
            Payload::Foreign | Payload::NotMedia => self.counts.unnumbered += 1,
        }
    }

    pub(super) fn latency(&self) -> &Histogram {
        &self.latency
    }

    pub(super) fn report(&self) -> LedgerReport {
        let range = |(publisher, run): (&u32, &Run)| (*publisher, run.range());
        LedgerReport {
            stamps: total(self.publishers.values()),
            counts: self.counts.clone(),
            session_sequence: total(self.sessions.values()),
            sessions: self.sessions.len(),
            publishers: self.publishers.iter().map(range).collect(),
            latency_ms: self.latency.percentiles(),
        }
    }

    fn stamp(&mut self, stamp: Stamp, now_us: u64) {
        if stamp.sent_us >= self.measured_from_us {
            self.latency.record_us(now_us.saturating_sub(stamp.sent_us));
        }
        let excuse = std::mem::take(&mut self.excuse);
        let run = run_of(&mut self.publishers, stamp.publisher, Run::default);
        self.counts.lost_between_sessions += run.receive(stamp.sequence, excuse);
    }

    fn check_timestamp(&mut self, frame: &Frame) {
        let tracks = frame.parts.iter().map(|part| part.track);
        let tracks: Vec<u8> = if frame.parts.is_empty() {
            vec![0]
        } else {
            tracks.collect()
        };
        for track in tracks {
            let last = self
                .last_timestamps
                .entry((frame.kind, track))
                .or_insert(frame.timestamp_ms);
            if frame.timestamp_ms < *last {
                self.counts.timestamp_regressions += 1;
            }
            *last = frame.timestamp_ms.max(*last);
        }
    }
}

impl LedgerReport {
    /// Whether something came, and nothing of it was wrong.
    pub(super) fn is_clean(&self, gaps_allowed: bool) -> bool {
        self.session_sequence.received > 0
            && self.stamps.is_clean()
            && self.session_sequence.is_clean()
            && self.counts.corrupted == 0
            && self.counts.timestamp_regressions == 0
            && self.counts.token_regressions == 0
            && self.counts.session_regressions == 0
            && (gaps_allowed || self.counts.gaps == 0)
    }

    /// Adds another stream's.
    pub(super) fn add(&mut self, other: &Self) {
        self.stamps.add(&other.stamps);
        self.session_sequence.add(&other.session_sequence);
        self.sessions += other.sessions;
        self.counts.headers += other.counts.headers;
        self.counts.gaps += other.counts.gaps;
        self.counts.bytes += other.counts.bytes;
        self.counts.unnumbered += other.counts.unnumbered;
        self.counts.corrupted += other.counts.corrupted;
        self.counts.timestamp_regressions += other.counts.timestamp_regressions;
        self.counts.token_regressions += other.counts.token_regressions;
        self.counts.session_regressions += other.counts.session_regressions;
        self.counts.lost_between_sessions += other.counts.lost_between_sessions;
    }
}

impl Account {
    fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0
    }

    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.skipped += other.skipped;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

impl std::fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stamps, counts) = (&self.stamps, &self.counts);
        write!(
            f,
            "{} received, {} lost, {} duplicated, {} reordered, {} corrupted, {} skipped in {} gaps, \
             {} lost between sessions, {} unnumbered, {} timestamp regressions, {} token regressions, \
             {} session regressions",
            stamps.received,
            stamps.lost,
            stamps.duplicated,
            stamps.reordered,
            counts.corrupted,
            stamps.skipped,
            counts.gaps,
            counts.lost_between_sessions,
            counts.unnumbered,
            counts.timestamp_regressions,
            counts.token_regressions,
            counts.session_regressions,
        )?;
        let own = &self.session_sequence;
        write!(
            f,
            "; by session sequence: {} received, {} lost, {} duplicated, {} reordered",
            own.received, own.lost, own.duplicated, own.reordered
        )
    }
}

/// A stream with ever new sessions must not grow the account for ever.
fn run_of<K: Ord + Clone>(
    runs: &mut BTreeMap<K, Run>,
    key: K,
    new: impl FnOnce() -> Run,
) -> &mut Run {
    let key = if runs.len() < RUNS_LIMIT || runs.contains_key(&key) {
        key
    } else {
        runs.last_key_value().map_or(key, |(last, _)| last.clone())
    };
    runs.entry(key).or_insert_with(new)
}

fn total<'a>(runs: impl Iterator<Item = &'a Run>) -> Account {
    let mut total = Account::default();
    for run in runs {
        total.add(&run.account());
    }
    total
}

#[cfg(test)]
mod tests;
