//! Stream keys as rows.

use data_encoding::HEXLOWER;
use sqlx::{Row as _, any::AnyRow};

use super::{Database, DatabaseError, revocations::append};
use crate::{
    client_certificate::CertificateBinding,
    database::Target,
    page_token::Cursor,
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
}

/// What became of a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CreateOutcome {
    Created,
    StreamOfAnotherTenant,
}

/// Which keys to list.
#[derive(Clone, Debug)]
pub(crate) struct KeyFilter {
    pub(crate) tenant: String,
    /// Empty: every app.
    pub(crate) app: String,
    pub(crate) include_revoked: bool,
}

impl Database {
    /// Gives the (app, stream) to the key's tenant, unless another one has it.
    pub(crate) async fn create_key(&self, key: &KeyRecord) -> Result<CreateOutcome, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            // A write first: SQLite then waits for its turn instead of failing halfway.
            sqlx::query("INSERT INTO streams (app, name, tenant) VALUES ($1, $2, $3) ON CONFLICT (app, name) DO NOTHING")
                .bind(&key.app)
                .bind(&key.stream)
                .bind(&key.tenant)
                .execute(&mut *transaction)
                .await?;
            let owner: String = sqlx::query_scalar("SELECT tenant FROM streams WHERE app = $1 AND name = $2")
                .bind(&key.app)
                .bind(&key.stream)
                .fetch_one(&mut *transaction)
                .await?;
            if owner != key.tenant {
                transaction.rollback().await?;
                return Ok(CreateOutcome::StreamOfAnotherTenant);
            }
            sqlx::query(
                "INSERT INTO stream_keys (id, tenant, app, stream, description, takeover_policy, secret_mac, \
                 pepper_version, create_ms, expire_ms, client_certificate, adobe_sealed, policy) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
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
            .bind(key.adobe.as_ref().map(|sealed| HEXLOWER.encode(sealed)))
            .bind(key.policy.encode())
            .execute(&mut *transaction)
            .await?;
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

    /// In order of creation, behind `after`.
    pub(crate) async fn keys(
        &self,
        filter: &KeyFilter,
        after: &Cursor,
        limit: u32,
    ) -> Result<Vec<KeyRecord>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(
                "SELECT * FROM stream_keys WHERE tenant = $1 AND ($2 = '' OR app = $2) \
                 AND ($3 = 1 OR revoke_ms IS NULL) AND (create_ms, id) > ($4, $5) \
                 ORDER BY create_ms, id LIMIT $6",
            )
            .bind(&filter.tenant)
            .bind(&filter.app)
            .bind(i64::from(filter.include_revoked))
            .bind(after.time_ms)
            .bind(&after.id)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(KeyRecord::read).collect()
        })
        .await
    }

    /// Revokes a tenant's key and appends that to the log, or neither. Whether it did: a revoked key stays as it is.
    pub(crate) async fn revoke_key(
        &self,
        tenant: &str,
        id: StreamKeyId,
        reason: &str,
        now_ms: i64,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let updated = sqlx::query(
                "UPDATE stream_keys SET revoke_ms = $1 WHERE id = $2 AND tenant = $3 AND revoke_ms IS NULL",
            )
            .bind(now_ms)
            .bind(id.to_string())
            .bind(tenant)
            .execute(&mut *transaction)
            .await?;
            if updated.rows_affected() == 0 {
                transaction.rollback().await?;
                return Ok(false);
            }
            append(&mut transaction, &Target::StreamKey(id.to_string()), reason, now_ms).await?;
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    /// The pepper versions that keys still depend on.
    pub(crate) async fn pepper_versions(&self) -> Result<Vec<u32>, DatabaseError> {
        self.bounded(async {
            let versions: Vec<i64> = sqlx::query_scalar(
                "SELECT pepper_version FROM stream_keys WHERE revoke_ms IS NULL UNION \
                 SELECT pepper_version FROM webhooks",
            )
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

    fn read(row: AnyRow) -> Result<Self, DatabaseError> {
        let malformed = |what| DatabaseError::Malformed { what };
        let id: String = row.try_get("id")?;
        let mac: String = row.try_get("secret_mac")?;
        let mac = HEXLOWER
            .decode(mac.as_bytes())
            .ok()
            .and_then(|mac| mac.try_into().ok());
        let adobe: Option<String> = row.try_get("adobe_sealed")?;
        let adobe = adobe.map(|sealed| HEXLOWER.decode(sealed.as_bytes()));
        Ok(Self {
            id: StreamKeyId::parse(&id).map_err(|_other| malformed("stream key id"))?,
            tenant: row.try_get("tenant")?,
            app: row.try_get("app")?,
            stream: row.try_get("stream")?,
            description: row.try_get("description")?,
            takeover_policy: number(row.try_get("takeover_policy")?, "takeover policy")?,
            mac: mac.ok_or_else(|| malformed("HMAC"))?,
            pepper_version: number(row.try_get("pepper_version")?, "pepper version")?,
            create_ms: row.try_get("create_ms")?,
            expire_ms: row.try_get("expire_ms")?,
            revoke_ms: row.try_get("revoke_ms")?,
            held_off_until_ms: row.try_get("held_off_until_ms")?,
            client_certificate: row
                .try_get::<Option<String>, _>("client_certificate")?
                .map(CertificateBinding::stored),
            adobe: adobe
                .transpose()
                .map_err(|_other| malformed("Adobe credential"))?,
            policy: Policy::decode(&row.try_get::<String, _>("policy")?)?,
        })
    }
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
