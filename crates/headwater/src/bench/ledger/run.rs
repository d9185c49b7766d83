//! One run of numbers that should come in once each and in order.

use std::collections::BTreeMap;

use super::{Account, Range};

/// Holes that are remembered; numbers of further ones are lost for good.
const HOLES_LIMIT: usize = 4096;

/// The account of one publisher or session.
#[derive(Debug, Default)]
pub(super) struct Run {
    first: Option<u64>,
    next: u64,
    /// Numbers that may still come late: from the first to before the second.
    holes: BTreeMap<u64, u64>,
    lost_for_good: u64,
    received: u64,
    skipped: u64,
    duplicated: u64,
    reordered: u64,
    /// A gap was announced whose end nobody knows: it lasts until the next number.
    broken_off: bool,
}

/// What is known about numbers that are passed over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuse {
    /// So many of them were announced not to come.
    pub(super) announced: u64,
    /// Whatever else is missing was lost before it reached the cluster.
    pub(super) rest: bool,
}

impl Run {
    /// A run that must begin with zero.
    pub(super) fn from_zero() -> Self {
        Self {
            first: Some(0),
            ..Self::default()
        }
    }

    /// Takes a number; returns how many before it are missing for [`Excuse::rest`].
    pub(super) fn receive(&mut self, number: u64, excuse: Excuse) -> u64 {
        if self.first.is_none() {
            self.first = Some(number);
            self.next = number;
        }
        if number < self.next {
            self.receive_late(number);
            return 0;
        }
        self.received += 1;
        let announced = if std::mem::take(&mut self.broken_off) {
            u64::MAX
        } else {
            excuse.announced
        };
        let skipped = (number - self.next).min(announced);
        self.skipped += skipped;
        // Which ones were announced is not known here: the account is the same.
        let from = self.next + skipped;
        self.next = number.saturating_add(1);
        if from == number {
            return 0;
        }
        if excuse.rest {
            return number - from;
        }
        self.open_hole(from, number);
        0
    }

    /// Numbers `from..to` are announced not to come; to the greatest one: how many is not known.
    pub(super) fn skip(&mut self, from: u64, to: u64) {
        if self.first.is_none() {
            self.first = Some(from);
            self.next = from;
        }
        if from > self.next {
            self.open_hole(self.next, from);
            self.next = from;
        }
        if to == u64::MAX {
            self.broken_off = true;
            return;
        }
        self.skipped += to.saturating_sub(self.next);
        self.next = self.next.max(to);
    }

    pub(super) fn account(&self) -> Account {
        let open: u64 = self.holes.iter().map(|(from, to)| to - from).sum();
        Account {
            received: self.received,
            lost: self.lost_for_good + open,
            skipped: self.skipped,
            duplicated: self.duplicated,
            reordered: self.reordered,
        }
    }

    pub(super) fn range(&self) -> Range {
        Range {
            first: self.first.unwrap_or_default(),
            next: self.next,
        }
    }

    fn open_hole(&mut self, from: u64, to: u64) {
        if self.holes.len() < HOLES_LIMIT {
            self.holes.insert(from, to);
        } else {
            self.lost_for_good += to - from;
        }
    }

    /// A number behind the newest: one that was missing, or one that came before.
    fn receive_late(&mut self, number: u64) {
        let hole = self.holes.range(..=number).next_back();
        match hole.map(|(from, to)| (*from, *to)) {
            Some((from, to)) if number < to => {
                self.holes.remove(&from);
                if from < number {
                    self.holes.insert(from, number);
                }
                if number + 1 < to {
                    self.holes.insert(number + 1, to);
                }
                self.received += 1;
                self.reordered += 1;
            }
            Some(_) | None => self.duplicated += 1,
        }
    }
}
