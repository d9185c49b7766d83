//! What happens to a key after its creation. Each is one transaction with its event and its entry in the revocation log,
//! the key's row first: of two changes the second sees what the first has left.

use data_encoding::HEXLOWER;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{
    Database, DatabaseError, KeyRecord, KnownRequest, NewEvent, NewRequest, encode_labels, hex,
    insert_labels, requests,
};
use crate::{
    client_certificate::CertificateBinding,
    database::{
        ChangedTerms, Target,
        events::append_event,
        quotas::{count_out, count_over},
        revocations::append,
    },
    policy::Policy,
};

/// A key as it was read, and as it is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyChange<'a> {
    pub(crate) old: &'a KeyRecord,
    pub(crate) new: &'a KeyRecord,
    pub(crate) event: &'a NewEvent,
    pub(crate) request: Option<&'a NewRequest>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChangeOutcome {
    Changed,
    /// The key is not what it was when it was read.
    Conflict,
    QuotaExceeded,
    /// The request was carried out before.
    RequestKnown(KnownRequest),
}

/// The end of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deletion<'a> {
    pub(crate) key: &'a KeyRecord,
    /// Only if the key is still what it was when it was read.
    pub(crate) unchanged: bool,
    pub(crate) reason: &'a str,
    pub(crate) event: &'a NewEvent,
    pub(crate) now_ms: i64,
}

impl Database {
    /// Writes what may change of a key, if nobody was faster. Sessions of the key hear of their terms.
    pub(crate) async fn change_key(
        &self,
        change: KeyChange<'_>,
    ) -> Result<ChangeOutcome, DatabaseError> {
        let KeyChange {
            old,
            new,
            event,
            request,
        } = change;
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            if let Some(request) = request
                && let Some(known) = requests::begin(&mut transaction, request).await?
            {
                transaction.rollback().await?;
                return Ok(ChangeOutcome::RequestKnown(known));
            }
            if !write(&mut transaction, old.version, new).await? {
                transaction.rollback().await?;
                return Ok(ChangeOutcome::Conflict);
            }
            if old.labels != new.labels {
                sqlx::query("DELETE FROM stream_key_labels WHERE stream_key_id = $1")
                    .bind(new.id.to_string())
                    .execute(&mut *transaction)
                    .await?;
                insert_labels(&mut transaction, new).await?;
            }
            let [from, to] = [old, new].map(|key| key.policy.quota_group.as_str());
            if !count_over(&mut transaction, &new.tenant, from, to).await? {
                transaction.rollback().await?;
                return Ok(ChangeOutcome::QuotaExceeded);
            }
            append_event(&mut transaction, event).await?;
            let terms = ChangedTerms::of(new.expire_ms, &new.policy);
            let target = Target::Change(new.id.to_string(), Box::new(terms));
            append(&mut transaction, &target, "", event.create_ms).await?;
            self.commit(transaction).await?;
            Ok(ChangeOutcome::Changed)
        })
        .await
    }

    /// Revokes a key and appends that to the log, or neither. Whether it did: a revoked key stays as it is.
    pub(crate) async fn revoke_key(
        &self,
        key: &KeyRecord,
        reason: &str,
        event: &NewEvent,
        now_ms: i64,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let revoked = sqlx::query(
                "UPDATE stream_keys SET revoke_ms = $1, update_ms = $1, version = version + 1 \
                 WHERE id = $2 AND revoke_ms IS NULL RETURNING policy",
            )
            .bind(now_ms)
            .bind(key.id.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(revoked) = revoked else {
                transaction.rollback().await?;
                return Ok(false);
            };
            count_out(&mut transaction, &key.tenant, &group(&revoked)?).await?;
            append_event(&mut transaction, event).await?;
            let target = Target::StreamKey(key.id.to_string());
            append(&mut transaction, &target, reason, now_ms).await?;
            self.commit(transaction).await?;
            Ok(true)
        })
        .await
    }

    /// Ends a key's sessions and forgets it; with the last key of a stream, whose the stream was. Whether it did.
    pub(crate) async fn delete_key(&self, deletion: Deletion<'_>) -> Result<bool, DatabaseError> {
        let key = deletion.key;
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            // Locked, so that no key of the stream is created between the two statements on it below.
            sqlx::query("UPDATE streams SET tenant = tenant WHERE app = $1 AND name = $2")
                .bind(&key.app)
                .bind(&key.stream)
                .execute(&mut *transaction)
                .await?;
            let deleted = sqlx::query(
                "DELETE FROM stream_keys WHERE id = $1 AND ($2 = 0 OR version = $2) RETURNING policy, revoke_ms",
            )
            .bind(key.id.to_string())
            .bind(if deletion.unchanged { key.version } else { 0 })
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(deleted) = deleted else {
                transaction.rollback().await?;
                return Ok(false);
            };
            sqlx::query(
                "DELETE FROM streams WHERE app = $1 AND name = $2 \
                 AND NOT EXISTS (SELECT 1 FROM stream_keys WHERE app = $1 AND stream = $2)",
            )
            .bind(&key.app)
            .bind(&key.stream)
            .execute(&mut *transaction)
            .await?;
            if deleted.try_get::<Option<i64>, _>("revoke_ms")?.is_none() {
                count_out(&mut transaction, &key.tenant, &group(&deleted)?).await?;
            }
            append_event(&mut transaction, deletion.event).await?;
            let target = Target::StreamKey(key.id.to_string());
            append(&mut transaction, &target, deletion.reason, deletion.now_ms).await?;
            self.commit(transaction).await?;
            Ok(true)
        })
        .await
    }
}

/// Whether the key had that version.
async fn write(
    transaction: &mut Transaction<'_, Any>,
    old_version: i64,
    new: &KeyRecord,
) -> Result<bool, DatabaseError> {
    let previous = new.previous.as_ref();
    let written = sqlx::query(
        "UPDATE stream_keys SET description = $1, takeover_policy = $2, expire_ms = $3, client_certificate = $4, \
         policy = $5, not_before_ms = $6, labels = $7, update_ms = $8, secret_mac = $9, pepper_version = $10, \
         adobe_sealed = $11, previous_mac = $12, previous_pepper_version = $13, previous_adobe_sealed = $14, \
         previous_until_ms = $15, version = $16 WHERE id = $17 AND version = $18 AND revoke_ms IS NULL",
    )
    .bind(&new.description)
    .bind(i64::from(new.takeover_policy))
    .bind(new.expire_ms)
    .bind(new.client_certificate.as_ref().map(CertificateBinding::as_str))
    .bind(new.policy.encode())
    .bind(new.policy.not_before_ms)
    .bind(encode_labels(&new.labels))
    .bind(new.update_ms)
    .bind(HEXLOWER.encode(&new.mac))
    .bind(i64::from(new.pepper_version))
    .bind(hex(new.adobe.as_ref()))
    .bind(previous.map(|previous| HEXLOWER.encode(&previous.mac)))
    .bind(previous.map(|previous| i64::from(previous.pepper_version)))
    .bind(previous.and_then(|previous| hex(previous.adobe.as_ref())))
    .bind(previous.map(|previous| previous.until_ms))
    .bind(new.version)
    .bind(new.id.to_string())
    .bind(old_version)
    .execute(&mut **transaction)
    .await?;
    Ok(written.rows_affected() > 0)
}

/// The quota group of a row's policy.
fn group(row: &AnyRow) -> Result<String, DatabaseError> {
    let policy: String = row.try_get("policy")?;
    Ok(Policy::decode(&policy)?.quota_group)
}
