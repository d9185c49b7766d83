//! What is stored under an old pepper, written anew under a newer one.
//!
//! A key's `version` stays: nothing of it changes for anybody. A change that was read before and is written behind it
//! puts the old HMAC back with its own pepper's version: still a right one.

use data_encoding::HEXLOWER;

use sqlx::Row as _;

use super::{Database, DatabaseError, KeyRecord, WebhookRecord, keys::hex};
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

/// How much still needs a pepper before the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outdated {
    pub(crate) stream_keys: i64,
    /// Secrets before a rotation that are still good.
    pub(crate) previous_secrets: i64,
    pub(crate) webhooks: i64,
    /// Answers to requests that name themselves.
    pub(crate) answers: i64,
    pub(crate) credential_keys: i64,
}

impl Database {
    /// What needs a pepper before this one.
    pub(crate) async fn outdated(
        &self,
        pepper_version: u32,
        now_ms: i64,
    ) -> Result<Outdated, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query(OUTDATED)
                .bind(i64::from(pepper_version))
                .bind(now_ms)
                .fetch_one(&self.pool)
                .await?;
            Ok(Outdated {
                stream_keys: row.try_get("stream_keys")?,
                previous_secrets: row.try_get("previous_secrets")?,
                webhooks: row.try_get("webhooks")?,
                answers: row.try_get("answers")?,
                credential_keys: row.try_get("credential_keys")?,
            })
        })
        .await
    }

    /// Keys with a password under a pepper before this one, behind the one with that id.
    pub(crate) async fn passwords_before(
        &self,
        pepper_version: u32,
        after: Option<StreamKeyId>,
        limit: u32,
    ) -> Result<Vec<KeyRecord>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(
                "SELECT * FROM stream_keys WHERE revoke_ms IS NULL AND adobe_sealed IS NOT NULL \
                 AND pepper_version < $1 AND id > $2 ORDER BY id LIMIT $3",
            )
            .bind(i64::from(pepper_version))
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(KeyRecord::read).collect()
        })
        .await
    }

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

    /// Replaces a webhook's encrypted secret, unless it was replaced meanwhile. Whether it was still to be done.
    pub(crate) async fn reseal_webhook(
        &self,
        id: &str,
        old_version: u32,
        new_version: u32,
        sealed: &[u8],
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let written = sqlx::query(
                "UPDATE webhooks SET secret_sealed = $1, pepper_version = $2 WHERE id = $3 AND pepper_version = $4",
            )
            .bind(HEXLOWER.encode(sealed))
            .bind(i64::from(new_version))
            .bind(id)
            .bind(i64::from(old_version))
            .execute(&self.pool)
            .await?;
            Ok(written.rows_affected() > 0)
        })
        .await
    }
}

const OUTDATED: &str = "SELECT \
    (SELECT COUNT(*) FROM stream_keys WHERE revoke_ms IS NULL AND pepper_version < $1) AS stream_keys, \
    (SELECT COUNT(*) FROM stream_keys WHERE revoke_ms IS NULL AND previous_until_ms > $2 \
     AND previous_pepper_version < $1) AS previous_secrets, \
    (SELECT COUNT(*) FROM webhooks WHERE pepper_version < $1) AS webhooks, \
    (SELECT COUNT(*) FROM requests WHERE expire_ms > $2 AND pepper_version < $1) AS answers, \
    (SELECT COUNT(*) FROM credential_key WHERE pepper_version < $1) AS credential_keys";
