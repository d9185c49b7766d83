//! What is stored under an old pepper, written anew under a newer one.
//!
//! A key's `version` stays: nothing of it changes for anybody. A change that was read before and is written behind it
//! puts the old HMAC back with its own pepper's version: still a right one.

use data_encoding::HEXLOWER;

use super::{Database, DatabaseError, WebhookRecord, keys::hex};
use crate::{pepper::Mac, stream_key::StreamKeyId};

/// A key's HMAC as it was read, and as it is to be.
#[derive(Clone, Debug)]
pub(crate) struct Rehash {
    pub(crate) id: StreamKeyId,
    pub(crate) old_version: u32,
    pub(crate) old_mac: Mac,
    pub(crate) new_version: u32,
    pub(crate) new_mac: Mac,
    /// Of the new version; `None`: the key has no password.
    pub(crate) adobe: Option<Vec<u8>>,
}

impl Database {
    /// Whether it was still to be done.
    pub(crate) async fn rehash_key(&self, rehash: &Rehash) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let written = sqlx::query(
                "UPDATE stream_keys SET secret_mac = $1, pepper_version = $2, adobe_sealed = $3 \
                 WHERE id = $4 AND secret_mac = $5 AND pepper_version = $6",
            )
            .bind(HEXLOWER.encode(&rehash.new_mac))
            .bind(i64::from(rehash.new_version))
            .bind(hex(rehash.adobe.as_ref()))
            .bind(rehash.id.to_string())
            .bind(HEXLOWER.encode(&rehash.old_mac))
            .bind(i64::from(rehash.old_version))
            .execute(&self.pool)
            .await?;
            Ok(written.rows_affected() > 0)
        })
        .await
    }

    /// Webhooks whose secret is encrypted with a pepper before this one.
    pub(crate) async fn webhooks_before(
        &self,
        pepper_version: u32,
        limit: u32,
    ) -> Result<Vec<(String, u32, Vec<u8>)>, DatabaseError> {
        self.bounded(async {
            let rows: Vec<(String, i64, String)> = sqlx::query_as(
                "SELECT id, pepper_version, secret_sealed FROM webhooks WHERE pepper_version < $1 ORDER BY id LIMIT $2",
            )
            .bind(i64::from(pepper_version))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(WebhookRecord::sealed).collect()
        })
        .await
    }

    /// Replaces a webhook's encrypted secret, unless it was replaced meanwhile.
    pub(crate) async fn reseal_webhook(
        &self,
        id: &str,
        old_version: u32,
        new_version: u32,
        sealed: &[u8],
    ) -> Result<(), DatabaseError> {
        self.bounded(async {
            sqlx::query(
                "UPDATE webhooks SET secret_sealed = $1, pepper_version = $2 WHERE id = $3 AND pepper_version = $4",
            )
            .bind(HEXLOWER.encode(sealed))
            .bind(i64::from(new_version))
            .bind(id)
            .bind(i64::from(old_version))
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
