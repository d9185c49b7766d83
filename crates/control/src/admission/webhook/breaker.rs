//! Leaves a backend alone that does not answer.

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Fingerprint;
use crate::metrics::ControlMetrics;

/// Opens when questions about several keys failed and none was answered in between: a backend that hangs on one key
/// answers the others.
pub(super) struct Breaker {
    state: Mutex<State>,
    metrics: ControlMetrics,
}

enum State {
    /// The keys with which questions failed since the last answer.
    Closed(BTreeSet<Fingerprint>),
    /// Nothing is asked until then; after that, one question at a time finds out.
    Open { until: Instant, probing: bool },
}

/// A question that may be asked. Dropped without an outcome, it tells nothing.
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    probes: bool,
}

impl Breaker {
    pub(super) fn new(metrics: ControlMetrics) -> Self {
        Self {
            state: Mutex::new(State::Closed(BTreeSet::new())),
            metrics,
        }
    }

    /// `None`: not now.
    pub(super) fn admit(&self) -> Option<Attempt<'_>> {
        let probes = match &mut *self.state.lock() {
            State::Closed(_) => false,
            State::Open { until, probing } => {
                if *probing || Instant::now() < *until {
                    return None;
                }
                *probing = true;
                true
            }
        };
        Some(Attempt {
            breaker: self,
            probes,
        })
    }

    fn open(&self, state: &mut State) {
        if matches!(state, State::Closed(_)) {
            self.metrics.breaker_opened();
            tracing::warn!("an admission webhook is left alone for a while: it answers nobody");
        }
        *state = State::Open {
            until: Instant::now() + OPEN_TIME,
            probing: false,
        };
    }

    fn close(&self, state: &mut State) {
        if matches!(state, State::Open { .. }) {
            self.metrics.breaker_closed();
            tracing::info!("an admission webhook answers again");
        }
        *state = State::Closed(BTreeSet::new());
    }
}

impl Attempt<'_> {
    pub(super) fn succeeded(self) {
        self.breaker.close(&mut self.breaker.state.lock());
    }

    pub(super) fn failed(mut self, key: Fingerprint) {
        let mut state = self.breaker.state.lock();
        let opens = match &mut *state {
            State::Closed(keys) => {
                keys.insert(key);
                keys.len() >= FAILED_KEYS_MAX
            }
            State::Open { .. } => self.probes,
        };
        if opens {
            self.breaker.open(&mut state);
        }
        drop(state);
        self.probes = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probes
            && let State::Open { probing, .. } = &mut *self.breaker.state.lock()
        {
            *probing = false;
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if matches!(self.state.get_mut(), State::Open { .. }) {
            self.metrics.breaker_closed();
        }
    }
}

/// Keys with which questions fail in a row before the breaker opens.
const FAILED_KEYS_MAX: usize = 5;
/// For how long a backend is left alone.
const OPEN_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(ControlMetrics::register(&Default::default()))
    }

    fn fail(breaker: &Breaker, keys: std::ops::Range<u8>) {
        for key in keys {
            breaker.admit().unwrap().failed([key; 32]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_and_one_question_finds_out() {
        let breaker = breaker();
        fail(&breaker, 0..5);
        assert!(breaker.admit().is_none());
        tokio::time::advance(OPEN_TIME).await;
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_none(), "one at a time");
        drop(probe);
        breaker.admit().unwrap().failed([9; 32]);
        assert!(breaker.admit().is_none(), "for another while");
        tokio::time::advance(OPEN_TIME).await;
        breaker.admit().unwrap().succeeded();
        let all: Vec<_> = [(); 8].map(|()| breaker.admit()).into_iter().collect();
        assert!(all.iter().all(Option::is_some));
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_does_not_open_it_and_nor_do_failures_between_answers() {
        let breaker = breaker();
        for _ in 0..20 {
            fail(&breaker, 0..1);
        }
        fail(&breaker, 1..4);
        breaker.admit().unwrap().succeeded();
        fail(&breaker, 4..8);
        assert!(breaker.admit().is_some());
    }
}
