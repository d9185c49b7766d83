//! Quotas as rows, and how many keys count against them.

use std::collections::BTreeMap;

use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Database, DatabaseError, keys::number};
use crate::config::Quota;

/// What one tenant may have: by group; the group of no name is the tenant as a whole.
pub(crate) type QuotaByGroup = BTreeMap<String, Quota>;

/// Groups of one tenant that have a quota.
const GROUPS_MAX: u32 = 1000;

impl Database {
    /// What was set for a tenant.
    pub(crate) async fn quotas(&self, tenant: &str) -> Result<QuotaByGroup, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query("SELECT * FROM quotas WHERE tenant = $1")
                .bind(tenant)
                .fetch_all(&self.pool)
                .await?;
            let group = |row: AnyRow| Ok((row.try_get("quota_group")?, read(&row)?));
            rows.into_iter().map(group).collect()
        })
        .await
    }

    /// Sets or removes a quota; false where the tenant has [`GROUPS_MAX`] groups with one already.
    pub(crate) async fn set_quota(
        &self,
        tenant: &str,
        group: &str,
        quota: Option<Quota>,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("DELETE FROM quotas WHERE tenant = $1 AND quota_group = $2")
                .bind(tenant)
                .bind(group)
                .execute(&mut *transaction)
                .await?;
            let Some(quota) = quota else {
                transaction.commit().await?;
                return Ok(true);
            };
            let groups: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM quotas WHERE tenant = $1 AND quota_group <> ''",
            )
            .bind(tenant)
            .fetch_one(&mut *transaction)
            .await?;
            if !group.is_empty() && groups >= i64::from(GROUPS_MAX) {
                transaction.rollback().await?;
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO quotas (tenant, quota_group, max_keys, max_sessions, max_bitrate_bps) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, quota_group) DO UPDATE SET max_keys = $3, \
                 max_sessions = $4, max_bitrate_bps = $5",
            )
            .bind(tenant)
            .bind(group)
            .bind(i64::from(quota.max_keys))
            .bind(i64::from(quota.max_sessions))
            // The field has its bound, which is far below.
            .bind(i64::try_from(quota.max_bitrate_bps).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    /// How many keys of a tenant count: as a whole, and in each group that has a quota.
    pub(crate) async fn key_counts(
        &self,
        tenant: &str,
    ) -> Result<BTreeMap<String, u32>, DatabaseError> {
        self.bounded(async {
            let rows = sqlx::query(
                "SELECT quota_group, keys FROM key_counts WHERE tenant = $1 AND (quota_group = '' \
                 OR quota_group IN (SELECT quota_group FROM quotas WHERE tenant = $1))",
            )
            .bind(tenant)
            .fetch_all(&self.pool)
            .await?;
            let count = |row: AnyRow| {
                let keys: i64 = row.try_get("keys")?;
                Ok((row.try_get("quota_group")?, number(keys.max(0), "count")?))
            };
            rows.into_iter().map(count).collect()
        })
        .await
    }
}

/// Counts a key in; false where that is one too many. Whoever changes counts has its tenant's row first: two that want
/// the rows of the same groups do not wait for each other crosswise.
pub(super) async fn count_in(
    transaction: &mut Transaction<'_, Any>,
    tenant: &str,
    group: &str,
    default: Quota,
) -> Result<bool, DatabaseError> {
    Ok(add(transaction, tenant, "", default).await?
        && (group.is_empty() || add(transaction, tenant, group, Quota::default()).await?))
}

/// Counts a key out again.
pub(super) async fn count_out(
    transaction: &mut Transaction<'_, Any>,
    tenant: &str,
    group: &str,
) -> Result<(), DatabaseError> {
    subtract(transaction, tenant, "").await?;
    if !group.is_empty() {
        subtract(transaction, tenant, group).await?;
    }
    Ok(())
}

/// Counts a key from one group into another, where it is one; false where that is one too many there.
pub(super) async fn count_over(
    transaction: &mut Transaction<'_, Any>,
    tenant: &str,
    from: &str,
    to: &str,
) -> Result<bool, DatabaseError> {
    if from == to {
        return Ok(true);
    }
    sqlx::query("UPDATE key_counts SET keys = keys WHERE tenant = $1 AND quota_group = ''")
        .bind(tenant)
        .execute(&mut **transaction)
        .await?;
    if !from.is_empty() {
        subtract(transaction, tenant, from).await?;
    }
    Ok(to.is_empty() || add(transaction, tenant, to, Quota::default()).await?)
}

async fn add(
    transaction: &mut Transaction<'_, Any>,
    tenant: &str,
    group: &str,
    default: Quota,
) -> Result<bool, DatabaseError> {
    let keys: i64 = sqlx::query_scalar(
        "INSERT INTO key_counts (tenant, quota_group, keys) VALUES ($1, $2, 1) \
         ON CONFLICT (tenant, quota_group) DO UPDATE SET keys = key_counts.keys + 1 RETURNING keys",
    )
    .bind(tenant)
    .bind(group)
    .fetch_one(&mut **transaction)
    .await?;
    let row = sqlx::query("SELECT * FROM quotas WHERE tenant = $1 AND quota_group = $2")
        .bind(tenant)
        .bind(group)
        .fetch_optional(&mut **transaction)
        .await?;
    let quota = row.as_ref().map(read).transpose()?.unwrap_or(default);
    Ok(quota.max_keys == 0 || keys <= i64::from(quota.max_keys))
}

async fn subtract(
    transaction: &mut Transaction<'_, Any>,
    tenant: &str,
    group: &str,
) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE key_counts SET keys = keys - 1 WHERE tenant = $1 AND quota_group = $2")
        .bind(tenant)
        .bind(group)
        .execute(&mut **transaction)
        .await?;
    sqlx::query("DELETE FROM key_counts WHERE tenant = $1 AND quota_group = $2 AND keys <= 0")
        .bind(tenant)
        .bind(group)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Quota, DatabaseError> {
    Ok(Quota {
        max_keys: number(row.try_get("max_keys")?, "quota")?,
        max_sessions: number(row.try_get("max_sessions")?, "quota")?,
        max_bitrate_bps: number(row.try_get("max_bitrate_bps")?, "quota")?,
    })
}
