//! A subscriber's place in a log.
//!
//! Every stretch of one publisher's frames starts with a [`Header`]; what is missing inside a session is said by a [`Gap`], which a
//! `Header` follows.

use std::sync::Arc;

use super::{Entry, Log, Session, Token};
use crate::{Frame, Tracks};

/// What happens to a reader that falls behind the log's old end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Players: goes on at a random-access point, behind a [`Gap`].
    Live,
    /// Archives and relays: ends with [`LagError`].
    Lossless,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// At the latest random-access point; where there is none yet, at the first frame or the next such point.
    CurrentGop,
    /// At the oldest frame that can be read: for who waited for the stream.
    Oldest,
    /// Behind what the reader had before, here or at another origin.
    Resume {
        /// The session that it read last.
        session_id: &'a str,
        /// The first frame of it that the reader has not had.
        next_sequence: u64,
    },
    /// Behind what another log of this broadcast has; where that is not known here, at the oldest frame behind all that lower
    /// tokens wrote: what came before it there does not come behind it. A decoder need not be able to start there.
    Follow {
        /// The session that it got last, and the first frame of it that it does not have.
        position: Option<(&'a str, u64)>,
        /// The highest that it has seen, of each slot.
        seen: &'a [Token],
    },
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Event {
    /// Frames of one session without a gap; at least one.
    Frames(Vec<Entry>),
    /// Frames that will not come.
    Gap(Gap),
    /// What a decoder needs before the frames that follow.
    Header(Header),
}

/// Frames `from_sequence..to_sequence` of a session will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Of which session.
    pub session_id: Arc<str>,
    /// The first that is missing.
    pub from_sequence: u64,
    /// The first that may come; [`u64::MAX`]: nothing more of a session that this log does not know.
    pub to_sequence: u64,
}

/// What a decoder needs before the frames that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose frames follow.
    pub session_id: Arc<str>,
    /// Its fencing token.
    pub token: Token,
    /// What is in the timestamps of its frames.
    pub timeline_offset_ms: i64,
    /// Of the frame that comes next.
    pub sequence: u64,
    /// Metadata and sequence headers with their sequences, in the publisher's order.
    pub headers: Vec<(u64, Frame)>,
    /// The tracks that frames before those that follow have told of.
    pub tracks: Tracks,
}

/// A lossless reader fell behind.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{frames} frames left the log before they were read")]
pub struct LagError {
    /// How many.
    pub frames: u64,
}

/// A subscriber's place in a log.
#[derive(Clone, Debug)]
pub struct Reader {
    class: Class,
    /// Position of the next entry.
    next: u64,
    /// Passes over entries up to a random-access point.
    seeking: bool,
    /// What the reader counts on; `None` before its first frame.
    expected: Option<Expected>,
    /// The session and the token that the last header was of; `None`: a header is due.
    header_of: Option<(u64, Token)>,
}

#[derive(Clone, Debug)]
struct Expected {
    /// `None`: a session that the log does not know.
    ordinal: Option<u64>,
    session_id: Arc<str>,
    sequence: u64,
}

impl Log {
    /// A reader that begins at `start`.
    pub fn reader(&self, class: Class, start: Start<'_>) -> Reader {
        let mut reader = Reader {
            class,
            next: self.first,
            seeking: false,
            expected: None,
            header_of: None,
        };
        let complete = self.first == 0 && !self.cut;
        match start {
            Start::CurrentGop => match self.latest_random_access.filter(|at| *at >= self.first) {
                Some(position) => reader.next = position,
                None => reader.seeking = !complete,
            },
            Start::Oldest => reader.seeking = !complete,
            Start::Resume {
                session_id,
                next_sequence,
            } => self.resume(&mut reader, session_id, next_sequence),
            Start::Follow { position, seen } => {
                let lower = |entry: &Entry| entry.token.is_below(seen);
                let behind = self
                    .entries
                    .iter()
                    .rposition(lower)
                    .map_or(0, |last| last + 1);
                reader.next = self.first.saturating_add(behind as u64);
                if let Some((session_id, next_sequence)) = position {
                    self.resume(&mut reader, session_id, next_sequence);
                    reader.seeking = false;
                }
            }
        }
        reader
    }

    fn resume(&self, reader: &mut Reader, session_id: &str, next_sequence: u64) {
        let of_it = || self.sessions.iter().filter(|s| &*s.id == session_id);
        // Where others came in between, the stretch that this is a place in.
        let known = of_it()
            .find(|session| next_sequence <= session.next_sequence)
            .or_else(|| of_it().next_back());
        reader.expected = Some(Expected {
            ordinal: known.map(|session| session.ordinal),
            session_id: session_id.into(),
            sequence: next_sequence,
        });
        match known {
            Some(Session { ordinal, .. }) => {
                let behind = self.entries.partition_point(|entry| {
                    (entry.ordinal, entry.sequence) < (*ordinal, next_sequence)
                });
                reader.next = self.first.saturating_add(behind as u64);
            }
            None => reader.seeking = true,
        }
    }

    /// What comes next for a reader; `None`: nothing yet. [`Frames`](Event::Frames) hold up to `bytes_max` of bodies,
    /// or one frame.
    pub fn read(&self, reader: &mut Reader, bytes_max: usize) -> Result<Option<Event>, LagError> {
        if reader.next < self.first {
            self.lagged(reader)?;
        }
        loop {
            if reader.seeking {
                let Some(position) = self.random_access_from(reader.next) else {
                    return Ok(None);
                };
                reader.next = position;
                reader.seeking = false;
            }
            let Some(entry) = self.entry(reader.next) else {
                return Ok(None);
            };
            if reader.had(entry) {
                reader.next = reader.next.saturating_add(1);
                continue;
            }
            let gap = self.gap_before(reader, entry);
            let broken = gap.is_some() || self.resumes_at(reader, entry);
            if reader.class == Class::Live && broken && !entry.random_access {
                reader.seeking = true;
                continue;
            }
            if let Some((gap, behind)) = gap {
                reader.header_of = None;
                reader.expected = Some(behind);
                return Ok(Some(Event::Gap(gap)));
            }
            let publisher = (entry.ordinal, entry.token);
            if reader.header_of != Some(publisher) {
                reader.header_of = Some(publisher);
                return Ok(Some(Event::Header(self.header(entry))));
            }
            return Ok(Some(Event::Frames(self.frames(reader, bytes_max))));
        }
    }

    /// The log's old end has passed the reader.
    fn lagged(&self, reader: &mut Reader) -> Result<(), LagError> {
        // A reader that has not begun, or whose gap is about to be said, has lost nothing that it was promised.
        let begun = reader.header_of.is_some();
        match reader.class {
            Class::Lossless if begun => Err(LagError {
                frames: self.first.saturating_sub(reader.next),
            }),
            Class::Live | Class::Lossless => {
                reader.next = match reader.class {
                    Class::Live => self
                        .latest_random_access
                        .unwrap_or_default()
                        .max(self.first),
                    Class::Lossless => self.first,
                };
                reader.seeking = true;
                Ok(())
            }
        }
    }

    /// What the reader counts on and will not get, if `entry` comes next: one session's share of it, and the reader's
    /// place behind that.
    fn gap_before(&self, reader: &Reader, entry: &Entry) -> Option<(Gap, Expected)> {
        let expected = reader.expected.as_ref()?;
        if expected.ordinal == Some(entry.ordinal) {
            return expected.gap_to(entry.sequence);
        }
        let rest = match expected.ordinal {
            Some(ordinal) => self.remembered(ordinal).map_or(u64::MAX, Session::end),
            None => u64::MAX,
        };
        // Sessions that came and went in between, then the beginning of the entry's own. Which ones came behind an
        // unknown session is unknown.
        let missed = |session: &&Session| {
            let behind = |ordinal| ordinal < session.ordinal && session.ordinal < entry.ordinal;
            expected.ordinal.is_some_and(behind)
        };
        expected.gap_to(rest).or_else(|| {
            let mut between = self.sessions.iter().filter(missed);
            let own = || Expected::first(self.remembered(entry.ordinal)?).gap_to(entry.sequence);
            between
                .find_map(|session| Expected::first(session).gap_to(session.end()))
                .or_else(own)
        })
    }

    /// Whether the entry goes on inside of a session that the reader had left for another one.
    fn resumes_at(&self, reader: &Reader, entry: &Entry) -> bool {
        let left = |expected: &Expected| expected.ordinal != Some(entry.ordinal);
        reader.expected.as_ref().is_some_and(left)
            && self.remembered(entry.ordinal).is_some_and(|it| it.resumed)
    }

    fn header(&self, entry: &Entry) -> Header {
        let session = self.remembered(entry.ordinal);
        Header {
            session_id: Arc::clone(&entry.session_id),
            token: entry.token,
            timeline_offset_ms: session.map_or(0, |session| session.timeline_offset_ms),
            sequence: entry.sequence,
            headers: entry.headers.to_vec(),
            tracks: entry.headers.tracks().clone(),
        }
    }

    /// What comes before the frame that is appended next, if the current session goes on.
    pub fn next_header(&self) -> Option<Header> {
        let session = self.sessions.back()?;
        Some(Header {
            session_id: Arc::clone(&session.id),
            token: session.token,
            timeline_offset_ms: session.timeline_offset_ms,
            sequence: session.next_sequence,
            headers: self.headers.to_vec(),
            tracks: self.headers.tracks().clone(),
        })
    }

    /// Frames from the reader's place on: one publisher's, no gap, up to `bytes_max` of bodies.
    fn frames(&self, reader: &mut Reader, bytes_max: usize) -> Vec<Entry> {
        let mut frames: Vec<Entry> = Vec::new();
        let mut bytes = 0_usize;
        while let Some(entry) = self.entry(reader.next) {
            let follows = frames.last().is_none_or(|last| {
                (last.ordinal, last.token) == (entry.ordinal, entry.token)
                    && last.sequence.checked_add(1) == Some(entry.sequence)
            });
            bytes = bytes.saturating_add(entry.frame.body.len());
            if !follows || (bytes > bytes_max && !frames.is_empty()) {
                break;
            }
            reader.next = reader.next.saturating_add(1);
            frames.push(entry.clone());
        }
        if let Some(last) = frames.last() {
            reader.expected = Some(Expected {
                ordinal: Some(last.ordinal),
                session_id: Arc::clone(&last.session_id),
                sequence: last.sequence.saturating_add(1),
            });
        }
        frames
    }
}

impl Reader {
    /// A replay for somebody else: the reader had this frame at another origin.
    fn had(&self, entry: &Entry) -> bool {
        self.expected.as_ref().is_some_and(|expected| {
            expected.ordinal == Some(entry.ordinal) && entry.sequence < expected.sequence
        })
    }
}

impl Expected {
    /// All of a session.
    fn first(session: &Session) -> Self {
        Self {
            ordinal: Some(session.ordinal),
            session_id: Arc::clone(&session.id),
            sequence: session.first_sequence,
        }
    }

    /// What is missing up to there, if anything is, and what is expected behind it.
    fn gap_to(&self, sequence: u64) -> Option<(Gap, Self)> {
        (self.sequence < sequence).then(|| {
            let gap = Gap {
                session_id: Arc::clone(&self.session_id),
                from_sequence: self.sequence,
                to_sequence: sequence,
            };
            let behind = Self {
                sequence,
                ..self.clone()
            };
            (gap, behind)
        })
    }
}
