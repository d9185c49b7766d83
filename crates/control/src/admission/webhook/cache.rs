//! Answers that are remembered for a while.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Fingerprint, answer::Answer};

/// Two memories, so that a flood of wrong keys does not displace good ones.
#[derive(Default)]
pub(super) struct Cache {
    allowed: Memory,
    denied: Memory,
}

#[derive(Default)]
struct Memory(Mutex<HashMap<Fingerprint, (Arc<Answer>, Instant)>>);

impl Cache {
    pub(super) fn find(&self, question: &Fingerprint) -> Option<Arc<Answer>> {
        let found = self.allowed.find(question);
        found.or_else(|| self.denied.find(question))
    }

    pub(super) fn keep(&self, question: Fingerprint, answer: &Arc<Answer>, time: Duration) {
        match &**answer {
            Answer::Allow(_) => self.allowed.keep(question, answer, time),
            Answer::Deny(_) => self.denied.keep(question, answer, time),
        }
    }

    pub(super) fn forget(&self, question: &Fingerprint) {
        self.allowed.0.lock().remove(question);
        self.denied.0.lock().remove(question);
    }
}

impl Memory {
    fn find(&self, question: &Fingerprint) -> Option<Arc<Answer>> {
        let answers = self.0.lock();
        let (answer, until) = answers.get(question)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    fn keep(&self, question: Fingerprint, answer: &Arc<Answer>, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut answers = self.0.lock();
        if answers.len() >= ENTRIES_MAX {
            answers.retain(|_question, (_answer, until)| now < *until);
        }
        // Full of what still holds: the new one is asked for again.
        if answers.len() < ENTRIES_MAX {
            answers.insert(question, (answer.clone(), now + time));
        }
    }
}

/// Answers in one memory of one application: some 10 MB with ordinary ones.
const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> Arc<Answer> {
        Arc::new(Answer::Deny(String::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_forgotten_in_time_or_when_told() {
        let cache = Cache::default();
        cache.keep([0; 32], &denied(), Duration::ZERO);
        assert!(cache.find(&[0; 32]).is_none());
        for question in [[1; 32], [2; 32]] {
            cache.keep(question, &denied(), Duration::from_secs(5));
        }
        cache.forget(&[1; 32]);
        assert!(cache.find(&[1; 32]).is_none());
        assert!(cache.find(&[2; 32]).is_some());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(cache.find(&[2; 32]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_holds_more_than_it_may() {
        let memory = Memory::default();
        let question = |number: usize| {
            let mut question = [0; 32];
            question[..8].copy_from_slice(&number.to_be_bytes());
            question
        };
        for number in 0..=ENTRIES_MAX {
            memory.keep(question(number), &denied(), Duration::from_secs(1));
        }
        assert_eq!(memory.0.lock().len(), ENTRIES_MAX);
        tokio::time::advance(Duration::from_secs(1)).await;
        memory.keep(question(ENTRIES_MAX), &denied(), Duration::from_secs(1));
        assert_eq!(memory.0.lock().len(), 1);
    }
}
