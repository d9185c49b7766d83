//! API tokens as rows.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::HEXLOWER;
use sqlx::{Row as _, any::AnyRow};

use super::{Database, DatabaseError};
use crate::{
    caller::Scopes,
    page_token::Cursor,
    stream_key::{ApiTokenId, Hash},
};

/// An API token as stored. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRecord {
    pub(crate) id: ApiTokenId,
    /// `*`: every tenant.
    pub(crate) tenant: String,
    pub(crate) description: String,
    pub(crate) scopes: Scopes,
    pub(crate) hash: Hash,
    /// Before the last rotation, and until when it is good.
    pub(crate) previous: Option<(Hash, i64)>,
    pub(crate) creator: String,
    pub(crate) create_ms: i64,
    pub(crate) expire_ms: Option<i64>,
    pub(crate) revoke_ms: Option<i64>,
    pub(crate) last_use_ms: Option<i64>,
}

impl TokenRecord {
    /// Whether the bearer of a token with this hash is let in. In constant time as far as the hash goes.
    pub(crate) fn admits(&self, hash: &Hash, now_ms: i64) -> bool {
        let is = |stored: &Hash| verify_slices_are_equal(stored, hash).is_ok();
        let (current, previous) = (
            is(&self.hash),
            self.previous
                .as_ref()
                .is_some_and(|(previous, until_ms)| is(previous) && now_ms < *until_ms),
        );
        (current || previous)
            && self.revoke_ms.is_none()
            && self.expire_ms.is_none_or(|expire_ms| now_ms < expire_ms)
    }

    fn read(row: AnyRow) -> Result<Self, DatabaseError> {
        let malformed = |what| DatabaseError::Malformed { what };
        let hash = |text: String| {
            let hash = HEXLOWER.decode(text.as_bytes()).ok();
            let hash = hash.and_then(|hash| hash.try_into().ok());
            hash.ok_or_else(|| malformed("token hash"))
        };
        let id: String = row.try_get("id")?;
        let scopes: String = row.try_get("scopes")?;
        let previous = row.try_get::<Option<String>, _>("previous_hash")?;
        let until_ms = row.try_get::<Option<i64>, _>("previous_until_ms")?;
        Ok(Self {
            id: ApiTokenId::parse(&id).map_err(|_other| malformed("token id"))?,
            tenant: row.try_get("tenant")?,
            description: row.try_get("description")?,
            scopes: Scopes::parse(scopes.split(' ')).map_err(|_other| malformed("scope"))?,
            hash: hash(row.try_get("secret_hash")?)?,
            previous: previous.map(hash).transpose()?.zip(until_ms),
            creator: row.try_get("creator")?,
            create_ms: row.try_get("create_ms")?,
            expire_ms: row.try_get("expire_ms")?,
            revoke_ms: row.try_get("revoke_ms")?,
            last_use_ms: row.try_get("last_use_ms")?,
        })
    }
}

impl Database {
    pub(crate) async fn create_token(&self, token: &TokenRecord) -> Result<(), DatabaseError> {
        self.bounded(async {
            sqlx::query(
                "INSERT INTO api_tokens (id, tenant, description, scopes, secret_hash, creator, create_ms, expire_ms) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(token.id.to_string())
            .bind(&token.tenant)
            .bind(&token.description)
            .bind(token.scopes.names().join(" "))
            .bind(HEXLOWER.encode(&token.hash))
            .bind(&token.creator)
            .bind(token.create_ms)
            .bind(token.expire_ms)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    /// Whatever its tenant, revoked or not.
    pub(crate) async fn token(&self, id: ApiTokenId) -> Result<Option<TokenRecord>, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query("SELECT * FROM api_tokens WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&self.pool)
                .await?;
            row.map(TokenRecord::read).transpose()
        })
        .await
    }

    /// In order of creation, behind `after`; of every tenant where none is named.
    pub(crate) async fn tokens(
        &self,
        tenant: Option<&str>,
        include_revoked: bool,
        after: &Cursor,
        limit: u32,
    ) -> Result<Vec<TokenRecord>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(
                "SELECT * FROM api_tokens WHERE ($1 = '' OR tenant = $1) \
                 AND ($2 = 1 OR revoke_ms IS NULL) AND (create_ms, id) > ($3, $4) \
                 ORDER BY create_ms, id LIMIT $5",
            )
            .bind(tenant.unwrap_or_default())
            .bind(i64::from(include_revoked))
            .bind(after.time_ms)
            .bind(&after.id)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(TokenRecord::read).collect()
        })
        .await
    }

    /// Whether it did: a revoked token stays revoked.
    pub(crate) async fn rotate_token(
        &self,
        id: ApiTokenId,
        hash: &Hash,
        previous_until_ms: i64,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let updated = sqlx::query(
                "UPDATE api_tokens SET previous_hash = secret_hash, previous_until_ms = $1, secret_hash = $2 \
                 WHERE id = $3 AND revoke_ms IS NULL",
            )
            .bind(previous_until_ms)
            .bind(HEXLOWER.encode(hash))
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
            Ok(updated.rows_affected() > 0)
        })
        .await
    }

    /// Whether it did: one that is revoked already stays as it is.
    pub(crate) async fn revoke_token(
        &self,
        id: ApiTokenId,
        now_ms: i64,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let updated = sqlx::query(
                "UPDATE api_tokens SET revoke_ms = $1 WHERE id = $2 AND revoke_ms IS NULL",
            )
            .bind(now_ms)
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
            Ok(updated.rows_affected() > 0)
        })
        .await
    }

    pub(crate) async fn note_token_use(
        &self,
        id: ApiTokenId,
        hour_ms: i64,
    ) -> Result<(), DatabaseError> {
        self.bounded(async {
            sqlx::query(
                "UPDATE api_tokens SET last_use_ms = $1 WHERE id = $2 AND (last_use_ms IS NULL OR last_use_ms < $1)",
            )
            .bind(hour_ms)
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
