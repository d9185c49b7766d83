//! What is known of credentials that are no rows of ours: that they are refused, and whose streams they publish.

use sqlx::{Any, Transaction};

use super::{Database, DatabaseError, NewEvent, Target, events::append_event, revocations::append};

/// Why a credential is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its session was terminated a moment ago.
    HeldOff,
    Revoked,
}

impl Database {
    /// Whether a credential is refused at this time.
    pub(crate) async fn refused(
        &self,
        credential_id: &str,
        now_ms: i64,
    ) -> Result<Option<Refused>, DatabaseError> {
        self.bounded(async {
            let revoked: Option<i64> = sqlx::query_scalar(
                "SELECT revoked FROM refused_credentials WHERE id = $1 AND until_ms > $2",
            )
            .bind(credential_id)
            .bind(now_ms)
            .fetch_optional(&self.pool)
            .await?;
            Ok(revoked.map(|revoked| match revoked {
                0 => Refused::HeldOff,
                _ => Refused::Revoked,
            }))
        })
        .await
    }

    /// Refuses a credential until then, and ends its sessions. Whether that is new.
    pub(crate) async fn revoke_credential(
        &self,
        credential_id: &str,
        until_ms: i64,
        event: &NewEvent,
        reason: &str,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let now_ms = event.create_ms;
            let revoked = Refused::Revoked;
            let new = refuse(&mut transaction, credential_id, until_ms, revoked, now_ms).await?;
            if !new {
                transaction.commit().await?;
                return Ok(false);
            }
            append_event(&mut transaction, event).await?;
            let target = Target::StreamKey(credential_id.to_owned());
            append(&mut transaction, &target, reason, now_ms).await?;
            self.commit(transaction).await?;
            Ok(true)
        })
        .await
    }

    /// Gives the (app, stream) to the tenant, unless another one has it. Whether it is the tenant's now.
    pub(crate) async fn claim_stream(
        &self,
        app: &str,
        stream: &str,
        tenant: &str,
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            if let Some(owner) = self.owner(app, stream).await? {
                return Ok(owner == tenant);
            }
            sqlx::query("INSERT INTO streams (app, name, tenant) VALUES ($1, $2, $3) ON CONFLICT (app, name) DO NOTHING")
                .bind(app)
                .bind(stream)
                .bind(tenant)
                .execute(&self.pool)
                .await?;
            Ok(self.owner(app, stream).await?.is_some_and(|owner| owner == tenant))
        })
        .await
    }

    async fn owner(&self, app: &str, stream: &str) -> Result<Option<String>, sqlx::Error> {
        sqlx::query_scalar("SELECT tenant FROM streams WHERE app = $1 AND name = $2")
            .bind(app)
            .bind(stream)
            .fetch_optional(&self.pool)
            .await
    }

    /// Forgets credentials that are not refused any more. How many.
    pub(crate) async fn prune_credentials(&self, now_ms: i64) -> Result<u64, DatabaseError> {
        let statement = "DELETE FROM refused_credentials WHERE id IN \
                         (SELECT id FROM refused_credentials WHERE until_ms <= $1 LIMIT $2)";
        self.prune(statement, now_ms).await
    }
}

/// Refuses a credential until then; what refuses it for longer, or for good, stays. Whether it was not refused like this
/// before.
pub(super) async fn refuse(
    transaction: &mut Transaction<'_, Any>,
    credential_id: &str,
    until_ms: i64,
    refused: Refused,
    now_ms: i64,
) -> Result<bool, DatabaseError> {
    let revoked = match refused {
        Refused::HeldOff => 0_i64,
        Refused::Revoked => 1,
    };
    let new = sqlx::query(
        "INSERT INTO refused_credentials (id, until_ms, revoked) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE \
         SET until_ms = excluded.until_ms, revoked = excluded.revoked \
         WHERE refused_credentials.revoked < excluded.revoked OR refused_credentials.until_ms <= $4",
    )
    .bind(credential_id)
    .bind(until_ms)
    .bind(revoked)
    .bind(now_ms)
    .execute(&mut **transaction)
    .await?;
    if new.rows_affected() > 0 {
        return Ok(true);
    }
    sqlx::query(
        "UPDATE refused_credentials SET until_ms = $1 WHERE id = $2 AND revoked = $3 AND until_ms < $1",
    )
    .bind(until_ms)
    .bind(credential_id)
    .bind(revoked)
    .execute(&mut **transaction)
    .await?;
    Ok(false)
}
