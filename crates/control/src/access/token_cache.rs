//! API tokens as they were in the database a moment ago.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use runtime::error::chain;
use tokio::time::Instant;

use crate::{
    database::{Database, DatabaseError, TokenRecord},
    recent::Recent,
    stream_key::ApiTokenId,
};

/// Spares the database one look-up for each request. What is changed here is forgotten at once; what another replica
/// changes, within [`KEPT`].
pub(crate) struct TokenCache(Mutex<Known>);

struct Known {
    /// Counts what was forgotten: a look-up that began before must not bring it back.
    generation: u64,
    records: Recent<ApiTokenId, Option<Arc<TokenRecord>>>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self(Mutex::new(Known {
            generation: 0,
            records: Recent::new(KEPT, RECORDS_MAX),
        }))
    }
}

impl TokenCache {
    /// `None`: there is no such token. Notes its use.
    pub(super) async fn record(
        &self,
        id: ApiTokenId,
        database: &Database,
        now_ms: i64,
    ) -> Result<Option<Arc<TokenRecord>>, DatabaseError> {
        let generation = {
            let known = self.0.lock();
            if let Some(record) = known.records.get(&id) {
                return Ok(record.clone());
            }
            known.generation
        };
        let asked = Instant::now();
        let record = database.token(id).await?.map(Arc::new);
        if let Some(record) = &record {
            note_use(record, database, now_ms);
        }
        let mut known = self.0.lock();
        if known.generation == generation {
            known.records.insert(id, record.clone(), asked);
        }
        Ok(record)
    }

    /// After a change.
    pub(crate) fn forget(&self, id: ApiTokenId) {
        let mut known = self.0.lock();
        known.generation = known.generation.wrapping_add(1);
        known.records.remove(&id);
    }
}

/// Aside: no request waits for it, and none fails with it.
fn note_use(record: &TokenRecord, database: &Database, now_ms: i64) {
    let hour_ms = now_ms.saturating_sub(now_ms.rem_euclid(HOUR_MS));
    if record.last_use_ms.is_some_and(|last| last >= hour_ms) {
        return;
    }
    let (id, database) = (record.id, database.clone());
    tokio::spawn(async move {
        if let Err(error) = database.note_token_use(id, hour_ms).await {
            tracing::debug!(token_id = %id, reason = chain(&error), "the use of a token is not noted");
        }
    });
}

/// What another replica revokes is refused here after this long, and a query.
const KEPT: Duration = Duration::from_millis(500);
/// Tokens in use at a time; more are looked up each time.
const RECORDS_MAX: usize = 10_000;
const HOUR_MS: i64 = 60 * 60 * 1000;
