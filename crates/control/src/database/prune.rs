//! What is forgotten by its age, of every table: a bounded step at a time. One statement for all of it would run into its
//! time limit once a table has grown while nothing was forgotten, and then never end any more.

use std::time::Duration;

use tokio::time::sleep;

use super::{Database, DatabaseError};

impl Database {
    /// Carries out a statement that deletes what is older than `$1`, at most `$2` rows of it, until there are fewer. How
    /// many went.
    pub(super) async fn prune(
        &self,
        statement: &'static str,
        before_ms: i64,
    ) -> Result<u64, DatabaseError> {
        let mut pruned = 0_u64;
        loop {
            let step = self.bounded(async {
                let step = sqlx::query(statement)
                    .bind(before_ms)
                    .bind(ROWS_PER_STEP)
                    .execute(&self.pool)
                    .await?;
                Ok(step.rows_affected())
            });
            let step = step.await?;
            pruned = pruned.saturating_add(step);
            if step < ROWS_PER_STEP.unsigned_abs() {
                return Ok(pruned);
            }
            sleep(STEP_PAUSE).await;
        }
    }
}

/// Some tens of milliseconds' work, far from an operation's time.
pub(crate) const ROWS_PER_STEP: i64 = 5000;
/// Lets others write in between: SQLite has one writer at a time.
const STEP_PAUSE: Duration = Duration::from_millis(10);
