//! Who delivers to which webhook, and what is still to be delivered.

use sqlx::Row as _;

use super::{
    Database, DatabaseError,
    events::EventEntry,
    keys::number,
    log::Logged as _,
    webhooks::{WebhookRecord, note_outcome},
};

/// An event on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Of the event.
    pub(crate) position: u64,
    /// Deliveries of one lane keep their order.
    pub(crate) lane: i64,
    pub(crate) create_ms: i64,
    pub(crate) attempts: u32,
    /// Not to be tried before.
    pub(crate) next_ms: i64,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Delivered,
    /// To be tried again.
    Failed {
        attempts: u32,
        next_ms: i64,
        error: String,
    },
    /// Given up; an empty error is the one before.
    Dead {
        attempts: u32,
        error: String,
    },
}

/// A delivery that was given up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeadDelivery {
    pub(crate) event: EventEntry,
    pub(crate) attempts: u32,
    pub(crate) last_error: String,
}

/// A webhook's deliveries and what happened to some of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settlement<'a> {
    /// Who delivers; nothing is noted where that is somebody else by now.
    pub(crate) holder: &'a str,
    pub(crate) webhook_id: &'a str,
    pub(crate) settled: &'a [(u64, Settled)],
    pub(crate) last_success_ms: Option<i64>,
    pub(crate) last_error: Option<&'a str>,
    pub(crate) now_ms: i64,
}

impl Database {
    /// Says that this process goes on delivering to the webhooks that it holds, and takes over those that nobody does.
    /// All that it holds now, at most `limit`, and the ids of those that are new.
    pub(crate) async fn hold_webhooks(
        &self,
        holder: &str,
        now_ms: i64,
        until_ms: i64,
        limit: u32,
    ) -> Result<(Vec<WebhookRecord>, Vec<String>), DatabaseError> {
        self.bounded(async {
            sqlx::query("UPDATE webhooks SET held_until_ms = $1 WHERE holder = $2 AND disable_ms IS NULL")
                .bind(until_ms)
                .bind(holder)
                .execute(&self.pool)
                .await?;
            // The condition stands twice: of two replicas that find the same webhook free, the second looks at it again
            // when the first has it.
            let acquired: Vec<String> = sqlx::query_scalar(
                "UPDATE webhooks SET holder = $1, held_until_ms = $2 \
                 WHERE disable_ms IS NULL AND held_until_ms < $3 AND id IN \
                 (SELECT id FROM webhooks WHERE disable_ms IS NULL AND holder <> $1 AND held_until_ms < $3 \
                  ORDER BY id LIMIT $4) RETURNING id",
            )
            .bind(holder)
            .bind(until_ms)
            .bind(now_ms)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            let rows = sqlx::query(
                "SELECT webhooks.*, CAST(0 AS BIGINT) AS pending, CAST(0 AS BIGINT) AS dead FROM webhooks \
                 WHERE holder = $1 AND disable_ms IS NULL ORDER BY id LIMIT $2",
            )
            .bind(holder)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            let held: Result<_, _> = rows.iter().map(WebhookRecord::read).collect();
            Ok((held?, acquired))
        })
        .await
    }

    /// Lets go of all webhooks, so that another process takes them over at once.
    pub(crate) async fn release_webhooks(&self, holder: &str) -> Result<(), DatabaseError> {
        self.bounded(async {
            sqlx::query("UPDATE webhooks SET holder = '', held_until_ms = 0 WHERE holder = $1")
                .bind(holder)
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    /// A webhook's deliveries that are under way, in order.
    pub(crate) async fn deliveries(
        &self,
        webhook_id: &str,
        limit: u32,
    ) -> Result<Vec<Delivery>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(
                "SELECT position, lane, create_ms, attempts, next_ms FROM deliveries \
                 WHERE webhook_id = $1 AND dead_ms IS NULL ORDER BY position LIMIT $2",
            )
            .bind(webhook_id)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            let delivery = |row: &sqlx::any::AnyRow| {
                Ok(Delivery {
                    position: number(row.try_get("position")?, "position")?,
                    lane: row.try_get("lane")?,
                    create_ms: row.try_get("create_ms")?,
                    attempts: number(row.try_get("attempts")?, "count")?,
                    next_ms: row.try_get("next_ms")?,
                })
            };
            rows.iter().map(delivery).collect()
        })
        .await
    }

    /// Puts events on their way to a webhook, and moves it on in the log: unless another process holds it by now, or it
    /// was sent back in the log. Whether that was done.
    pub(crate) async fn schedule_deliveries(
        &self,
        holder: &str,
        webhook_id: &str,
        from_to: (u64, u64),
        deliveries: &[Delivery],
    ) -> Result<bool, DatabaseError> {
        let stored = |position: u64| i64::try_from(position).unwrap_or(i64::MAX);
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let moved = sqlx::query(
                "UPDATE webhooks SET position = $1 WHERE id = $2 AND holder = $3 AND position = $4",
            )
            .bind(stored(from_to.1))
            .bind(webhook_id)
            .bind(holder)
            .bind(stored(from_to.0))
            .execute(&mut *transaction)
            .await?;
            if moved.rows_affected() != 1 {
                return Ok(false);
            }
            for delivery in deliveries {
                sqlx::query(
                    "INSERT INTO deliveries (webhook_id, position, lane, create_ms, next_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (webhook_id, position) DO NOTHING",
                )
                .bind(webhook_id)
                .bind(stored(delivery.position))
                .bind(delivery.lane)
                .bind(delivery.create_ms)
                .bind(delivery.next_ms)
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Notes what became of deliveries: unless another process holds the webhook by now. Whether that was done.
    pub(crate) async fn settle_deliveries(
        &self,
        settlement: Settlement<'_>,
    ) -> Result<bool, DatabaseError> {
        let Settlement {
            holder,
            webhook_id,
            settled,
            last_success_ms,
            last_error,
            now_ms,
        } = settlement;
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            // Locks it: nobody takes it over in between.
            let held =
                sqlx::query("UPDATE webhooks SET holder = holder WHERE id = $1 AND holder = $2")
                    .bind(webhook_id)
                    .bind(holder)
                    .execute(&mut *transaction)
                    .await?;
            if held.rows_affected() != 1 {
                return Ok(false);
            }
            for (position, settled) in settled {
                let position = i64::try_from(*position).unwrap_or(i64::MAX);
                let (attempts, next_ms, dead_ms, error) = match settled {
                    Settled::Delivered => {
                        sqlx::query(
                            "DELETE FROM deliveries WHERE webhook_id = $1 AND position = $2",
                        )
                        .bind(webhook_id)
                        .bind(position)
                        .execute(&mut *transaction)
                        .await?;
                        continue;
                    }
                    Settled::Failed {
                        attempts,
                        next_ms,
                        error,
                    } => (*attempts, *next_ms, None, error),
                    Settled::Dead { attempts, error } => (*attempts, 0, Some(now_ms), error),
                };
                sqlx::query(
                    "UPDATE deliveries SET attempts = $1, next_ms = $2, dead_ms = $3, \
                     last_error = CASE WHEN $4 = '' THEN last_error ELSE $4 END \
                     WHERE webhook_id = $5 AND position = $6",
                )
                .bind(i64::from(attempts))
                .bind(next_ms)
                .bind(dead_ms)
                .bind(error)
                .bind(webhook_id)
                .bind(position)
                .execute(&mut *transaction)
                .await?;
            }
            note_outcome(&mut transaction, webhook_id, last_success_ms, last_error).await?;
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Nothing more is delivered, since the receiver said that it is gone: unless another process holds the webhook by now.
    /// Whether that was done.
    pub(crate) async fn disable_webhook(
        &self,
        holder: &str,
        webhook_id: &str,
        now_ms: i64,
        error: &str,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let disabled = sqlx::query(
                "UPDATE webhooks SET disable_ms = $1, last_error = $2, holder = '' WHERE id = $3 AND holder = $4",
            )
            .bind(now_ms)
            .bind(error)
            .bind(webhook_id)
            .bind(holder)
            .execute(&self.pool)
            .await?;
            Ok(disabled.rows_affected() == 1)
        })
        .await
    }

    /// A webhook's deliveries that were given up, behind a position.
    pub(crate) async fn dead_deliveries(
        &self,
        webhook_id: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<DeadDelivery>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(
                "SELECT events.position, id, events.create_ms, tenant, type, subject, attempts, last_error \
                 FROM deliveries JOIN events ON events.position = deliveries.position \
                 WHERE webhook_id = $1 AND dead_ms IS NOT NULL AND deliveries.position > $2 \
                 ORDER BY deliveries.position LIMIT $3",
            )
            .bind(webhook_id)
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            let dead = |row: &sqlx::any::AnyRow| {
                let event = EventEntry::read(row)?;
                Ok(DeadDelivery {
                    event: event.ok_or(DatabaseError::Malformed { what: "event" })?,
                    attempts: number(row.try_get("attempts")?, "count")?,
                    last_error: row.try_get("last_error")?,
                })
            };
            rows.iter().map(dead).collect()
        })
        .await
    }

    /// Forgets dead letters whose event is forgotten: nobody can read or replay them. How many.
    pub(super) async fn prune_deliveries(&self, now_ms: i64) -> Result<u64, DatabaseError> {
        let statement = "DELETE FROM deliveries WHERE (webhook_id, position) IN \
                         (SELECT webhook_id, position FROM deliveries WHERE dead_ms IS NOT NULL AND dead_ms <= $1 \
                          AND position < (SELECT MIN(position) FROM events) LIMIT $2)";
        self.prune(statement, now_ms).await
    }
}
