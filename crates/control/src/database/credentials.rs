//! What is known of credentials that are no rows of ours: that they are refused, and whose streams they publish.

use data_encoding::HEXLOWER;
use sqlx::{Any, Row as _, Transaction};

use super::{
    Database, DatabaseError, NewEvent, Target, events::append_event, keys::number,
    revocations::append,
};

/// Why a credential is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its session was terminated a moment ago.
    HeldOff,
    Revoked,
}

/// How it stands with a credential, and with the stream that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) refused: Option<Refused>,
    /// The tenant that the stream belongs to.
    pub(crate) owner: Option<String>,
}

impl Database {
    /// At this time. `stream`: `None` where nobody knows yet which it is.
    pub(crate) async fn standing(
        &self,
        credential_id: &str,
        app: &str,
        stream: Option<&str>,
        now_ms: i64,
    ) -> Result<Standing, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query(
                "SELECT (SELECT revoked FROM refused_credentials WHERE id = $1 AND until_ms > $2) AS revoked, \
                 (SELECT tenant FROM streams WHERE app = $3 AND name = $4) AS owner",
            )
            .bind(credential_id)
            .bind(now_ms)
            .bind(app)
            .bind(stream)
            .fetch_one(&self.pool)
            .await?;
            let revoked: Option<i64> = row.try_get("revoked")?;
            Ok(Standing {
                refused: revoked.map(|revoked| match revoked {
                    0 => Refused::HeldOff,
                    _ => Refused::Revoked,
                }),
                owner: row.try_get("owner")?,
            })
        })
        .await
    }

    /// What ids of credentials are made with: the version of the pepper that it is encrypted with, and that.
    pub(crate) async fn credential_key(&self) -> Result<Option<(u32, Vec<u8>)>, DatabaseError> {
        self.bounded(async {
            let row: Option<(i64, String)> =
                sqlx::query_as("SELECT pepper_version, sealed FROM credential_key")
                    .fetch_optional(&self.pool)
                    .await?;
            let read = |(version, sealed): (i64, String)| {
                let malformed = DatabaseError::Malformed {
                    what: "credential key",
                };
                let sealed = HEXLOWER.decode(sealed.as_bytes());
                Ok((
                    number(version, "pepper version")?,
                    sealed.map_err(|_not_hex| malformed)?,
                ))
            };
            row.map(read).transpose()
        })
        .await
    }

    /// Stores it, in the place of the one before: unless that was replaced meanwhile. Whether it was stored.
    pub(crate) async fn store_credential_key(
        &self,
        before: Option<&[u8]>,
        pepper_version: u32,
        sealed: &[u8],
    ) -> Result<bool, DatabaseError> {
        self.bounded(async {
            let stored = match before {
                Some(before) => sqlx::query(
                    "UPDATE credential_key SET sealed = $1, pepper_version = $2 WHERE sealed = $3",
                )
                .bind(HEXLOWER.encode(sealed))
                .bind(i64::from(pepper_version))
                .bind(HEXLOWER.encode(before)),
                None => sqlx::query(
                    "INSERT INTO credential_key (only_row, sealed, pepper_version) VALUES (1, $1, $2) \
                     ON CONFLICT (only_row) DO NOTHING",
                )
                .bind(HEXLOWER.encode(sealed))
                .bind(i64::from(pepper_version)),
            };
            Ok(stored.execute(&self.pool).await?.rows_affected() > 0)
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
