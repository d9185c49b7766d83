//! Who publishes in one of a stream's two slots, as the headers tell that a reader gets.

use std::{collections::BTreeSet, mem};

use super::{Counts, RUNS_LIMIT};

/// An origin accepts one token at a time, and no session comes back behind a later one.
#[derive(Debug, Default)]
pub(super) struct Slot {
    session: String,
    token: (u64, u32),
    /// Sessions that others have followed.
    past: BTreeSet<String>,
}

impl Slot {
    /// Frames of this session follow, under this token.
    pub(super) fn follow(&mut self, session: &str, token: (u64, u32), counts: &mut Counts) {
        if token < self.token {
            counts.token_regressions += 1;
        }
        if session != self.session {
            let shared = !self.session.is_empty() && token == self.token;
            if shared || self.past.contains(session) {
                counts.session_regressions += 1;
            }
            let before = mem::replace(&mut self.session, session.to_owned());
            if self.past.len() < RUNS_LIMIT {
                self.past.insert(before);
            }
        }
        self.token = self.token.max(token);
    }
}
