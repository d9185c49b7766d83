//! What control has in its database, opened at its start. A database that is down, slow, or lets nobody in yet is waited for:
//! control says so, and tries again. What no waiting can mend ends the start.

use std::{path::Path, pin::pin, time::Duration};

use runtime::{admin::Readiness, error::chain};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    ControlError,
    config::DatabaseConfig,
    credential_ids::CredentialIds,
    database::{Database, DatabaseError, EventEntry},
    log_tail::{self, LogFollower, LogTail},
    metrics::ControlMetrics,
    pepper::{PepperFile, Peppers},
};

/// All of it, as of one start.
pub(crate) struct Stored {
    pub(crate) database: Database,
    pub(crate) pepper_file: PepperFile,
    pub(crate) credential_ids: CredentialIds,
    pub(crate) revocations: (LogFollower, watch::Receiver<LogTail>),
    pub(crate) events: (
        LogFollower<EventEntry>,
        watch::Receiver<LogTail<EventEntry>>,
    ),
}

impl Stored {
    /// Tries until it succeeds, or until it is clear that it never will.
    pub(crate) async fn open(
        database: &DatabaseConfig,
        pepper_file: &Path,
        metrics: &ControlMetrics,
        readiness: &Readiness,
    ) -> Result<Self, ControlError> {
        // Also where the database is away: a file that holds no pepper is told at once.
        Peppers::read(pepper_file)?;
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = Self::attempt(database, pepper_file, metrics, readiness);
            let error = match attempt.await {
                Ok(stored) => return Ok(stored),
                Err(ControlError::Database(error)) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            let reason = chain(&error);
            tracing::warn!(reason, again_in = ?pause, "waiting for the database");
            readiness.unmet(log_tail::READINESS, format!("waiting for it: {reason}"));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(
        database: &DatabaseConfig,
        pepper_file: &Path,
        metrics: &ControlMetrics,
        readiness: &Readiness,
    ) -> Result<Self, ControlError> {
        let database = opened(database, readiness).await?;
        let pepper_file = PepperFile::open(pepper_file, database.clone()).await?;
        let peppers = pepper_file.peppers();
        let credential_ids = CredentialIds::open(&database, &peppers.load()).await?;
        // One database: its readiness is told by the other log.
        let untold = Readiness::default();
        let events = LogFollower::start(database.clone(), metrics.clone(), untold).await?;
        let told = readiness.clone();
        let revocations = LogFollower::start(database.clone(), metrics.clone(), told).await?;
        Ok(Self {
            database,
            pepper_file,
            credential_ids,
            revocations,
            events,
        })
    }
}

/// A migration takes as long as it takes, and one waits for another: it is told.
async fn opened(
    database: &DatabaseConfig,
    readiness: &Readiness,
) -> Result<Database, DatabaseError> {
    let mut opening = pin!(Database::open(database));
    if let Ok(opened) = timeout(OPENED_AFTER, &mut opening).await {
        return opened;
    }
    let what = "being opened: a migration is under way, here or at another control";
    tracing::info!(what, "waiting for the database");
    readiness.unmet(log_tail::READINESS, what);
    opening.await
}

/// For what is not a migration; connections have deadlines below it.
const OPENED_AFTER: Duration = Duration::from_secs(10);
/// Between two attempts; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Short: all that is missing is the database, and nobody is let in meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
