//! Stream keys as rows.

mod change;
mod list;

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

pub(crate) use self::{
    change::{ChangeOutcome, Deletion, KeyChange},
    list::KeyFilter,
};
use super::{
    Database, DatabaseError, NewEvent,
    events::append_event,
    quotas::count_in,
    requests::{self, KnownRequest, NewRequest},
};
use crate::{
    client_certificate::CertificateBinding,
    config::Quota,
    pepper::Mac,
    policy::{Policy, Terms},
    stream_key::StreamKeyId,
};

/// A stream key as stored. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    pub(crate) id: StreamKeyId,
    pub(crate) tenant: String,
    pub(crate) app: String,
    pub(crate) stream: String,
    pub(crate) description: String,
    /// As `headwater.v1.TakeoverPolicy`.
    pub(crate) takeover_policy: i32,
    pub(crate) mac: Mac,
    pub(crate) pepper_version: u32,
    pub(crate) create_ms: i64,
    pub(crate) expire_ms: Option<i64>,
    pub(crate) revoke_ms: Option<i64>,
    pub(crate) held_off_until_ms: i64,
    pub(crate) client_certificate: Option<CertificateBinding>,
    /// Encrypted with the pepper of the same version; `None`: the key has no password.
    pub(crate) adobe: Option<Vec<u8>>,
    pub(crate) policy: Policy,
    pub(crate) labels: BTreeMap<String, String>,
    /// Counts the changes.
    pub(crate) version: i64,
    pub(crate) update_ms: Option<i64>,
    pub(crate) previous: Option<PreviousSecret>,
}

/// What a key's secret was before it was rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PreviousSecret {
    pub(crate) mac: Mac,
    pub(crate) pepper_version: u32,
    /// As [`KeyRecord::adobe`].
    pub(crate) adobe: Option<Vec<u8>>,
    pub(crate) until_ms: i64,
}

/// A new key, and what is to be written with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Creation<'a> {
    pub(crate) record: &'a KeyRecord,
    pub(crate) event: &'a NewEvent,
    pub(crate) request: Option<&'a NewRequest>,
    /// Of a tenant that has no quota of its own.
    pub(crate) default_quota: Quota,
}

/// What became of a new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CreateOutcome {
    Created,
    QuotaExceeded,
    /// The request was carried out before.
    RequestKnown(KnownRequest),
    StreamOfAnotherTenant,
}

impl Database {
    /// Gives the (app, stream) to the key's tenant, unless another one has it.
    pub(crate) async fn create_key(
        &self,
        creation: Creation<'_>,
    ) -> Result<CreateOutcome, DatabaseError> {
        let Creation {
            record: key,
            event,
            request,
            default_quota,
        } = creation;
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            // Begins with a write, here and elsewhere: SQLite then waits for its turn instead of failing halfway.
            if let Some(request) = request
                && let Some(known) = requests::begin(&mut transaction, request).await?
            {
                transaction.rollback().await?;
                return Ok(CreateOutcome::RequestKnown(known));
            }
            // An update where it is there: nobody deletes the stream before the key is in.
            let owner: String = sqlx::query_scalar(
                "INSERT INTO streams (app, name, tenant) VALUES ($1, $2, $3) \
                 ON CONFLICT (app, name) DO UPDATE SET tenant = streams.tenant RETURNING tenant",
            )
            .bind(&key.app)
            .bind(&key.stream)
            .bind(&key.tenant)
            .fetch_one(&mut *transaction)
            .await?;
            if owner != key.tenant {
                transaction.rollback().await?;
                return Ok(CreateOutcome::StreamOfAnotherTenant);
            }
            insert(&mut transaction, key).await?;
            let group = &key.policy.quota_group;
            if !count_in(&mut transaction, &key.tenant, group, default_quota).await? {
                transaction.rollback().await?;
                return Ok(CreateOutcome::QuotaExceeded);
            }
            append_event(&mut transaction, event).await?;
            transaction.commit().await?;
            Ok(CreateOutcome::Created)
        })
        .await
    }

    /// Whatever its tenant: for admission, where the key itself names the tenant.
    pub(crate) async fn key(&self, id: StreamKeyId) -> Result<Option<KeyRecord>, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query("SELECT * FROM stream_keys WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&self.pool)
                .await?;
            row.map(KeyRecord::read).transpose()
        })
        .await
    }

    /// The pepper versions that keys still depend on.
    pub(crate) async fn pepper_versions(&self, now_ms: i64) -> Result<Vec<u32>, DatabaseError> {
        self.bounded(async {
            let versions: Vec<i64> = sqlx::query_scalar(
                "SELECT pepper_version FROM stream_keys WHERE revoke_ms IS NULL UNION \
                 SELECT previous_pepper_version FROM stream_keys WHERE revoke_ms IS NULL AND previous_until_ms > $1 UNION \
                 SELECT pepper_version FROM webhooks UNION SELECT pepper_version FROM credential_key",
            )
            .bind(now_ms)
            .fetch_all(&self.pool)
            .await?;
            versions
                .into_iter()
                .map(|version| number(version, "pepper version"))
                .collect()
        })
        .await
    }
}

async fn insert(
    transaction: &mut Transaction<'_, Any>,
    key: &KeyRecord,
) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO stream_keys (id, tenant, app, stream, description, takeover_policy, secret_mac, pepper_version, \
         create_ms, expire_ms, client_certificate, adobe_sealed, policy, not_before_ms, labels) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(key.id.to_string())
    .bind(&key.tenant)
    .bind(&key.app)
    .bind(&key.stream)
    .bind(&key.description)
    .bind(i64::from(key.takeover_policy))
    .bind(HEXLOWER.encode(&key.mac))
    .bind(i64::from(key.pepper_version))
    .bind(key.create_ms)
    .bind(key.expire_ms)
    .bind(key.client_certificate.as_ref().map(CertificateBinding::as_str))
    .bind(hex(key.adobe.as_ref()))
    .bind(key.policy.encode())
    .bind(key.policy.not_before_ms)
    .bind(encode_labels(&key.labels))
    .execute(&mut **transaction)
    .await?;
    insert_labels(transaction, key).await
}

async fn insert_labels(
    transaction: &mut Transaction<'_, Any>,
    key: &KeyRecord,
) -> Result<(), DatabaseError> {
    for (label, value) in &key.labels {
        sqlx::query(
            "INSERT INTO stream_key_labels (stream_key_id, label, value) VALUES ($1, $2, $3)",
        )
        .bind(key.id.to_string())
        .bind(label)
        .bind(value)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

impl KeyRecord {
    /// What the key allows.
    pub(crate) fn terms(self) -> Terms {
        Terms {
            tenant: self.tenant,
            app: self.app,
            stream: self.stream,
            credential_id: self.id.to_string(),
            takeover_policy: self.takeover_policy,
            expire_ms: self.expire_ms,
            policy: self.policy,
        }
    }

    /// The secret before, while it is good.
    pub(crate) fn previous_at(&self, now_ms: i64) -> Option<&PreviousSecret> {
        let previous = self.previous.as_ref();
        previous.filter(|previous| previous.until_ms > now_ms)
    }

    pub(super) fn read(row: AnyRow) -> Result<Self, DatabaseError> {
        let malformed = |what| DatabaseError::Malformed { what };
        let id: String = row.try_get("id")?;
        Ok(Self {
            id: StreamKeyId::parse(&id).map_err(|_other| malformed("stream key id"))?,
            tenant: row.try_get("tenant")?,
            app: row.try_get("app")?,
            stream: row.try_get("stream")?,
            description: row.try_get("description")?,
            takeover_policy: number(row.try_get("takeover_policy")?, "takeover policy")?,
            mac: mac(&row.try_get::<String, _>("secret_mac")?)?,
            pepper_version: number(row.try_get("pepper_version")?, "pepper version")?,
            create_ms: row.try_get("create_ms")?,
            expire_ms: row.try_get("expire_ms")?,
            revoke_ms: row.try_get("revoke_ms")?,
            held_off_until_ms: row.try_get("held_off_until_ms")?,
            client_certificate: row
                .try_get::<Option<String>, _>("client_certificate")?
                .map(CertificateBinding::stored),
            adobe: sealed(row.try_get("adobe_sealed")?)?,
            policy: Policy::decode(&row.try_get::<String, _>("policy")?)?,
            labels: serde_json::from_str(&row.try_get::<String, _>("labels")?)
                .map_err(|_other| malformed("labels"))?,
            version: row.try_get("version")?,
            update_ms: row.try_get("update_ms")?,
            previous: PreviousSecret::read(&row)?,
        })
    }
}

impl PreviousSecret {
    fn read(row: &AnyRow) -> Result<Option<Self>, DatabaseError> {
        let Some(text) = row.try_get::<Option<String>, _>("previous_mac")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            mac: mac(&text)?,
            pepper_version: number(row.try_get("previous_pepper_version")?, "pepper version")?,
            adobe: sealed(row.try_get("previous_adobe_sealed")?)?,
            until_ms: row.try_get("previous_until_ms")?,
        }))
    }
}

fn mac(stored: &str) -> Result<Mac, DatabaseError> {
    let mac = HEXLOWER.decode(stored.as_bytes()).ok();
    mac.and_then(|mac| mac.try_into().ok())
        .ok_or(DatabaseError::Malformed { what: "HMAC" })
}

fn sealed(stored: Option<String>) -> Result<Option<Vec<u8>>, DatabaseError> {
    let sealed = stored.map(|sealed| HEXLOWER.decode(sealed.as_bytes()));
    let what = "Adobe credential";
    sealed
        .transpose()
        .map_err(|_other| DatabaseError::Malformed { what })
}

pub(super) fn hex(bytes: Option<&Vec<u8>>) -> Option<String> {
    bytes.map(|bytes| HEXLOWER.encode(bytes))
}

fn encode_labels(labels: &BTreeMap<String, String>) -> String {
    // Texts alone: always JSON.
    serde_json::to_string(labels).unwrap_or_default()
}

pub(super) fn number<T: TryFrom<i64>>(stored: i64, what: &'static str) -> Result<T, DatabaseError> {
    T::try_from(stored).map_err(|_out_of_range| DatabaseError::Malformed { what })
}

impl Policy {
    fn encode(&self) -> String {
        // Numbers, names and networks alone: always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn decode(text: &str) -> Result<Self, DatabaseError> {
        serde_json::from_str(text).map_err(|_other| DatabaseError::Malformed { what: "policy" })
    }
}
