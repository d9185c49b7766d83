//! The tail of a log, as this process knows it: one task asks the database, when it is told that there is something and now
//! and then; every watcher reads from here.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::error::status;
use runtime::{admin::Readiness, error::chain};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tonic::{Code, Status};

use crate::{
    database::{Database, DatabaseError, LogEntry, Logged},
    field::{self, now_ms},
    metrics::ControlMetrics,
};

/// What is known of the log.
#[derive(Debug)]
pub(crate) struct LogTail<E = LogEntry> {
    /// The last position.
    pub(crate) position: u64,
    /// The newest entries; nothing is missing between the first of them and `position`.
    pub(crate) recent: Arc<VecDeque<Arc<E>>>,
    /// Whether the database answered lately: if it did not, nobody can say that nothing was revoked.
    pub(crate) fresh: bool,
}

// Not derived: an entry need not be `Clone`.
impl<E> Clone for LogTail<E> {
    fn clone(&self) -> Self {
        Self {
            position: self.position,
            recent: self.recent.clone(),
            fresh: self.fresh,
        }
    }
}

impl<E: Logged> LogTail<E> {
    /// What comes behind a position, a page of it: from memory where it is there, else from the database; `None` where it was
    /// forgotten.
    pub(crate) async fn page_behind(
        &self,
        database: &Database,
        position: u64,
    ) -> Result<Option<Vec<Arc<E>>>, DatabaseError> {
        let limit = usize::try_from(ENTRIES_PER_PAGE).unwrap_or(usize::MAX);
        if let Some(entries) = self.behind(position, limit) {
            return Ok(Some(entries));
        }
        let page = database.log_page::<E>(position, ENTRIES_PER_PAGE).await?;
        let entries = page.entries.into_iter().map(Arc::new).collect();
        Ok((!page.truncated).then_some(entries))
    }

    /// The entries behind a position; `None` where they reach further back than is kept here.
    pub(crate) fn behind(&self, after: u64, limit: usize) -> Option<Vec<Arc<E>>> {
        let missing = usize::try_from(self.position.checked_sub(after)?).ok()?;
        let skipped = self.recent.len().checked_sub(missing)?;
        let entries = self.recent.iter().skip(skipped).take(limit);
        Some(entries.cloned().collect())
    }
}

/// One watcher's place in a log.
pub(crate) struct Following<E = LogEntry> {
    database: Database,
    tail: watch::Receiver<LogTail<E>>,
    /// Everything up to here was taken.
    pub(crate) position: u64,
    /// How far the tail was at the last look: one that goes back is another log.
    tail_position: u64,
    /// When the watcher is to hear something, whatever happens.
    sign_of_life: Instant,
}

/// What a log has for a watcher.
pub(crate) enum News<E> {
    /// What comes next is gone.
    Forgotten,
    /// In order.
    Page(Vec<Arc<E>>),
    /// Nothing, for as long as a watcher goes without a sign of life.
    Quiet,
}

impl<E: Logged> Following<E> {
    pub(crate) fn new(
        database: Database,
        tail: watch::Receiver<LogTail<E>>,
        position: u64,
    ) -> Self {
        let tail_position = tail.borrow().position;
        Self {
            database,
            tail,
            position,
            tail_position,
            sign_of_life: Instant::now() + SIGN_OF_LIFE_PERIOD,
        }
    }

    /// The watcher was told something.
    pub(crate) fn answered(&mut self) {
        self.sign_of_life = Instant::now() + SIGN_OF_LIFE_PERIOD;
    }

    /// Whether a watcher that is not told what is taken for it has waited for long enough.
    pub(crate) fn is_quiet(&self) -> bool {
        self.sign_of_life <= Instant::now()
    }

    /// What comes behind the position, once there is something, or a sign of life is due.
    pub(crate) async fn next(&mut self) -> Result<News<E>, Status> {
        loop {
            let tail = self.tail.borrow_and_update().clone();
            if !tail.fresh {
                return Err(unavailable::<E>());
            }
            if tail.position < self.tail_position {
                let description = format!("the {} was replaced", E::NAME);
                return Err(status(Code::Unavailable, "LOG_REPLACED", description));
            }
            self.tail_position = tail.position;
            if tail.position > self.position {
                let page = tail.page_behind(&self.database, self.position).await?;
                let Some(page) = page else {
                    return Ok(News::Forgotten);
                };
                self.position = page.last().map_or(self.position, |last| last.position());
                return Ok(News::Page(page));
            }
            match timeout_at(self.sign_of_life, self.tail.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_no_follower)) => return Err(unavailable::<E>()),
                Err(_quiet) => return Ok(News::Quiet),
            }
        }
    }
}

/// The log is not known to be complete.
pub(crate) fn unavailable<E: Logged>() -> Status {
    let description = format!("the {} cannot be followed", E::NAME);
    status(Code::Unavailable, "DATABASE_UNAVAILABLE", description)
}

/// Asks the database for new entries, and has old ones forgotten.
pub(crate) struct LogFollower<E = LogEntry> {
    database: Database,
    metrics: ControlMetrics,
    readiness: Readiness,
    tail: watch::Sender<LogTail<E>>,
    answered: Instant,
    poll_period: Duration,
    growth: watch::Receiver<()>,
}

impl<E: Logged> LogFollower<E> {
    /// Starts at the end of the log.
    pub(crate) async fn start(
        database: Database,
        metrics: ControlMetrics,
        readiness: Readiness,
    ) -> Result<(Self, watch::Receiver<LogTail<E>>), DatabaseError> {
        // Before the head is read: what is told since then is not missed.
        let growth = database.log_growth();
        let head = database.log_page::<E>(u64::MAX, 1).await?.head;
        let (tail, receiver) = watch::channel(LogTail {
            position: head,
            recent: Arc::default(),
            fresh: true,
        });
        readiness.met(READINESS);
        Ok((
            Self {
                database,
                metrics,
                readiness,
                tail,
                answered: Instant::now(),
                poll_period: POLL_PERIOD,
                growth,
            },
            receiver,
        ))
    }

    /// For a test of what is told without being asked for.
    #[cfg(test)]
    pub(crate) fn poll_every(&mut self, period: Duration) {
        self.poll_period = period;
    }

    /// Follows the log until it is dropped. It is pruned beside that: nobody hears late of an entry because much is old.
    pub(crate) async fn run(self) {
        tokio::join!(prune::<E>(self.database.clone()), self.follow());
    }

    async fn follow(mut self) {
        let mut poll = interval(self.poll_period);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => self.poll().await,
                Ok(()) = self.growth.changed() => self.poll().await,
            }
        }
    }

    async fn poll(&mut self) {
        match self.advance().await {
            Ok(()) => {
                self.answered = Instant::now();
                if self.set_fresh(true) {
                    self.readiness.met(READINESS);
                    tracing::info!("the database answers again");
                }
            }
            Err(error) => {
                if self.answered.elapsed() > STALE_AFTER && self.set_fresh(false) {
                    self.readiness
                        .unmet(READINESS, "the database does not answer");
                    tracing::warn!(reason = chain(&error), "the database does not answer");
                }
            }
        }
    }

    /// Whether that was a change.
    fn set_fresh(&self, fresh: bool) -> bool {
        self.tail
            .send_if_modified(|tail| std::mem::replace(&mut tail.fresh, fresh) != fresh)
    }

    /// Reads to the end of the log.
    async fn advance(&self) -> Result<(), DatabaseError> {
        loop {
            let after = self.tail.borrow().position;
            let page = self.database.log_page::<E>(after, ENTRIES_PER_PAGE).await?;
            if page.truncated {
                // Pruned while we were away, or another database: watchers find out by asking it themselves.
                tracing::warn!(
                    position = after,
                    head = page.head,
                    "the {} does not continue here",
                    E::NAME
                );
                self.tail.send_modify(|tail| {
                    tail.position = page.head;
                    tail.recent = Arc::default();
                });
                return Ok(());
            }
            let Some(last) = page.entries.last().map(E::position) else {
                return Ok(());
            };
            for entry in &page.entries {
                let age_ms = now_ms().saturating_sub(entry.create_ms()).max(0);
                let age = Duration::from_millis(age_ms.unsigned_abs());
                E::seen(&self.metrics, age.as_secs_f64());
            }
            self.tail.send_modify(|tail| {
                let recent = Arc::make_mut(&mut tail.recent);
                recent.extend(page.entries.into_iter().map(Arc::new));
                recent.drain(..recent.len().saturating_sub(RECENT_ENTRIES_MAX));
                tail.position = last;
            });
            if last >= page.head {
                return Ok(());
            }
        }
    }
}

/// Has old entries forgotten, and what goes with them, now and then.
async fn prune<E: Logged>(database: Database) {
    let mut due = interval(PRUNE_PERIOD);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let before_ms = now_ms().saturating_sub(field::millis(RETENTION));
        match database.prune_log::<E>(before_ms).await {
            Ok(0) => {}
            Ok(pruned) => tracing::info!(pruned, "the {} was pruned", E::NAME),
            Err(error) => {
                tracing::info!(reason = chain(&error), "the {} is not pruned yet", E::NAME)
            }
        }
        if let Err(error) = E::prune_beside(&database, now_ms()).await {
            tracing::info!(
                reason = chain(&error),
                "what goes with the {} is not pruned yet",
                E::NAME
            );
        }
    }
}

/// The readiness condition that says whether the database answers.
pub(crate) const READINESS: &str = "database";
/// An entry is known to every control process at most this long (and a query) after it was made, also where nobody tells
/// that there is one.
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// Without an answer for this long, watches end: their edges cannot trust what they remember of keys.
const STALE_AFTER: Duration = Duration::from_secs(5);
/// For how long a watcher may be away and still catch up entry by entry.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const PRUNE_PERIOD: Duration = Duration::from_secs(60 * 60);
/// Entries kept in memory for watchers.
const RECENT_ENTRIES_MAX: usize = 1024;
/// Entries in one answer of the database, or to an edge: at most some 600 KiB, with the longest reasons and codec lists.
const ENTRIES_PER_PAGE: u32 = 500;
/// How often a watcher hears that there is nothing to tell.
const SIGN_OF_LIFE_PERIOD: Duration = Duration::from_secs(5);
