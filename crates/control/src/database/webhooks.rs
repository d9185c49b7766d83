//! Webhooks, and the events on their way to them.

use data_encoding::HEXLOWER;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Database, DatabaseError, keys::number};
use crate::page_token::Cursor;

/// A webhook as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebhookRecord {
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) url: String,
    /// As headwater.v1.EventType; empty: every type.
    pub(crate) types: Vec<i32>,
    pub(crate) description: String,
    pub(crate) secret_sealed: Vec<u8>,
    pub(crate) pepper_version: u32,
    pub(crate) create_ms: i64,
    /// Every event up to here was delivered, or is a delivery.
    pub(crate) position: u64,
    pub(crate) disable_ms: Option<i64>,
    pub(crate) last_error: String,
    pub(crate) last_success_ms: Option<i64>,
    /// Deliveries under way, and given up.
    pub(crate) pending: u64,
    pub(crate) dead: u64,
}

/// What became of the wish for a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebhookOutcome {
    Created,
    TooMany,
}

impl Database {
    /// Adds a webhook, unless its tenant or all tenants have as many as may be. It hears of what happens from now on.
    pub(crate) async fn create_webhook(
        &self,
        webhook: &WebhookRecord,
        tenant_max: u32,
        total_max: u32,
    ) -> Result<WebhookOutcome, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            // Locks the head: no event comes between, and no other webhook.
            let position: i64 = sqlx::query_scalar(
                "UPDATE events_head SET position = position + 0 RETURNING position",
            )
            .fetch_one(&mut *transaction)
            .await?;
            let row = sqlx::query(
                "SELECT COUNT(*) AS total, COUNT(CASE WHEN tenant = $1 THEN 1 END) AS own FROM webhooks",
            )
            .bind(&webhook.tenant)
            .fetch_one(&mut *transaction)
            .await?;
            let (total, own): (i64, i64) = (row.try_get("total")?, row.try_get("own")?);
            if own >= i64::from(tenant_max) || total >= i64::from(total_max) {
                return Ok(WebhookOutcome::TooMany);
            }
            sqlx::query(
                "INSERT INTO webhooks (id, tenant, url, types, description, secret_sealed, pepper_version, create_ms, \
                 position) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(&webhook.id)
            .bind(&webhook.tenant)
            .bind(&webhook.url)
            .bind(encode_types(&webhook.types))
            .bind(&webhook.description)
            .bind(HEXLOWER.encode(&webhook.secret_sealed))
            .bind(i64::from(webhook.pepper_version))
            .bind(webhook.create_ms)
            .bind(position)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(WebhookOutcome::Created)
        })
        .await
    }

    /// `None` where there is none.
    pub(crate) async fn webhook(&self, id: &str) -> Result<Option<WebhookRecord>, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query(WEBHOOK)
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
            row.map(|row| WebhookRecord::read(&row)).transpose()
        })
        .await
    }

    /// By their creation; of one tenant, or of all.
    pub(crate) async fn webhooks(
        &self,
        tenant: Option<&str>,
        after: &Cursor,
        limit: u32,
    ) -> Result<Vec<WebhookRecord>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(WEBHOOKS)
                .bind(tenant.unwrap_or_default())
                .bind(after.time_ms)
                .bind(&after.id)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(WebhookRecord::read).collect()
        })
        .await
    }

    /// With all that is on its way to it. Whether it was there.
    pub(crate) async fn delete_webhook(&self, id: &str) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let deleted = sqlx::query("DELETE FROM webhooks WHERE id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("DELETE FROM deliveries WHERE webhook_id = $1")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(deleted.rows_affected() == 1)
        })
        .await
    }

    /// Puts dead letters behind a position on their way again, and with them every event behind it. How many events of
    /// `types` (empty: all) that are.
    pub(crate) async fn replay_webhook(
        &self,
        webhook: &WebhookRecord,
        after: Option<u64>,
        now_ms: i64,
    ) -> Result<u64, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let position: i64 = sqlx::query_scalar(
                "UPDATE webhooks SET disable_ms = NULL WHERE id = $1 RETURNING position",
            )
            .bind(&webhook.id)
            .fetch_one(&mut *transaction)
            .await?;
            let after = match after {
                Some(after) => i64::try_from(after).unwrap_or(i64::MAX).min(position),
                None => position,
            };
            let mut replayed = 0_u64;
            let types: Vec<Option<i32>> = match webhook.types.as_slice() {
                [] => vec![None],
                types => types.iter().copied().map(Some).collect(),
            };
            for event_type in types {
                let events: i64 = sqlx::query_scalar(
                    "SELECT COUNT(*) FROM events WHERE position > $1 AND position <= $2 AND tenant = $3 \
                     AND (type = $4 OR $4 < 0) AND position NOT IN \
                     (SELECT position FROM deliveries WHERE webhook_id = $5)",
                )
                .bind(after)
                .bind(position)
                .bind(&webhook.tenant)
                .bind(event_type.map_or(-1, i64::from))
                .bind(&webhook.id)
                .fetch_one(&mut *transaction)
                .await?;
                replayed = replayed.saturating_add(number(events, "count")?);
            }
            let dead_after = if after == position { -1 } else { after };
            let revived = sqlx::query(
                "UPDATE deliveries SET dead_ms = NULL, attempts = 0, create_ms = $1, next_ms = $1 \
                 WHERE webhook_id = $2 AND dead_ms IS NOT NULL AND position > $3",
            )
            .bind(now_ms)
            .bind(&webhook.id)
            .bind(dead_after)
            .execute(&mut *transaction)
            .await?;
            // Another holder starts from what stands here now.
            sqlx::query("UPDATE webhooks SET position = $1, holder = '', held_until_ms = 0 WHERE id = $2")
                .bind(after)
                .bind(&webhook.id)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(replayed.saturating_add(revived.rows_affected()))
        })
        .await
    }
}

impl WebhookRecord {
    /// Whether an event of this type and tenant is for it.
    pub(crate) fn wants(&self, tenant: &str, event_type: i32) -> bool {
        self.tenant == tenant && (self.types.is_empty() || self.types.contains(&event_type))
    }

    /// Id, pepper version and encrypted secret, from their columns.
    pub(super) fn sealed(
        (id, version, sealed): (String, i64, String),
    ) -> Result<(String, u32, Vec<u8>), DatabaseError> {
        let sealed = HEXLOWER
            .decode(sealed.as_bytes())
            .map_err(|_malformed| DatabaseError::Malformed { what: "webhook" })?;
        Ok((id, number(version, "pepper version")?, sealed))
    }

    pub(super) fn read(row: &AnyRow) -> Result<Self, DatabaseError> {
        let malformed = || DatabaseError::Malformed { what: "webhook" };
        let types: String = row.try_get("types")?;
        let sealed: String = row.try_get("secret_sealed")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant: row.try_get("tenant")?,
            url: row.try_get("url")?,
            types: decode_types(&types).ok_or_else(malformed)?,
            description: row.try_get("description")?,
            secret_sealed: HEXLOWER
                .decode(sealed.as_bytes())
                .map_err(|_malformed| malformed())?,
            pepper_version: number(row.try_get("pepper_version")?, "pepper version")?,
            create_ms: row.try_get("create_ms")?,
            position: number(row.try_get("position")?, "position")?,
            disable_ms: row.try_get("disable_ms")?,
            last_error: row.try_get("last_error")?,
            last_success_ms: row.try_get("last_success_ms")?,
            pending: number(row.try_get("pending")?, "count")?,
            dead: number(row.try_get("dead")?, "count")?,
        })
    }
}

/// A webhook's last outcome, in the transaction that settles its deliveries.
pub(super) async fn note_outcome(
    transaction: &mut Transaction<'_, Any>,
    webhook_id: &str,
    last_success_ms: Option<i64>,
    last_error: Option<&str>,
) -> Result<(), DatabaseError> {
    if let Some(last_success_ms) = last_success_ms {
        sqlx::query("UPDATE webhooks SET last_success_ms = $1, last_error = '' WHERE id = $2")
            .bind(last_success_ms)
            .bind(webhook_id)
            .execute(&mut **transaction)
            .await?;
    }
    if let Some(last_error) = last_error {
        sqlx::query("UPDATE webhooks SET last_error = $1 WHERE id = $2")
            .bind(last_error)
            .bind(webhook_id)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

fn encode_types(types: &[i32]) -> String {
    let types: Vec<String> = types.iter().map(i32::to_string).collect();
    types.join(",")
}

fn decode_types(text: &str) -> Option<Vec<i32>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part.parse().ok()).collect()
}

const WEBHOOK: &str = "SELECT webhooks.*, \
    (SELECT COUNT(*) FROM deliveries WHERE webhook_id = webhooks.id AND dead_ms IS NULL) AS pending, \
    (SELECT COUNT(*) FROM deliveries WHERE webhook_id = webhooks.id AND dead_ms IS NOT NULL) AS dead \
    FROM webhooks WHERE id = $1";
const WEBHOOKS: &str = "SELECT webhooks.*, \
    (SELECT COUNT(*) FROM deliveries WHERE webhook_id = webhooks.id AND dead_ms IS NULL) AS pending, \
    (SELECT COUNT(*) FROM deliveries WHERE webhook_id = webhooks.id AND dead_ms IS NOT NULL) AS dead \
    FROM webhooks WHERE (tenant = $1 OR $1 = '') AND (create_ms > $2 OR (create_ms = $2 AND id > $3)) \
    ORDER BY create_ms, id LIMIT $4";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_survive_their_text() {
        for types in [vec![], vec![1], vec![1, 9]] {
            assert_eq!(decode_types(&encode_types(&types)), Some(types));
        }
        assert_eq!(decode_types("1,x"), None);
    }
}
