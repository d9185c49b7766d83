//! Requests that are answered again, instead of being carried out twice.

use data_encoding::HEXLOWER;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Database, DatabaseError, keys::number};
use crate::stream_key::StreamKeyId;

/// What is kept of a request that named itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownRequest {
    /// SHA-256 of what was asked for.
    pub(crate) fingerprint: [u8; 32],
    /// The key that it created or rotated.
    pub(crate) stream_key_id: StreamKeyId,
    /// The stream key that was answered, encrypted with the pepper of that version.
    pub(crate) sealed: Vec<u8>,
    pub(crate) pepper_version: u32,
}

/// A request that is carried out now.
#[derive(Clone, Debug)]
pub(crate) struct NewRequest {
    pub(crate) tenant: String,
    pub(crate) id: String,
    pub(crate) now_ms: i64,
    /// When it may be forgotten.
    pub(crate) expire_ms: i64,
    pub(crate) known: KnownRequest,
}

impl Database {
    /// The request, if it was carried out already.
    pub(crate) async fn request(
        &self,
        tenant: &str,
        id: &str,
        now_ms: i64,
    ) -> Result<Option<KnownRequest>, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query(
                "SELECT * FROM requests WHERE tenant = $1 AND request_id = $2 AND expire_ms > $3",
            )
            .bind(tenant)
            .bind(id)
            .bind(now_ms)
            .fetch_optional(&self.pool)
            .await?;
            row.as_ref().map(KnownRequest::read).transpose()
        })
        .await
    }

    /// Forgets requests whose time is over. How many.
    pub(crate) async fn prune_requests(&self, now_ms: i64) -> Result<u64, DatabaseError> {
        let statement = "DELETE FROM requests WHERE (tenant, request_id) IN \
                         (SELECT tenant, request_id FROM requests WHERE expire_ms <= $1 LIMIT $2)";
        self.prune(statement, now_ms).await
    }
}

/// Notes a request; the other one, if another of the same name was faster. Begins its transaction: a second one of that
/// name waits here until it is known what became of the first.
pub(super) async fn begin(
    transaction: &mut Transaction<'_, Any>,
    request: &NewRequest,
) -> Result<Option<KnownRequest>, DatabaseError> {
    sqlx::query("DELETE FROM requests WHERE tenant = $1 AND request_id = $2 AND expire_ms <= $3")
        .bind(&request.tenant)
        .bind(&request.id)
        .bind(request.now_ms)
        .execute(&mut **transaction)
        .await?;
    let noted = sqlx::query(
        "INSERT INTO requests (tenant, request_id, fingerprint, stream_key_id, sealed_key, pepper_version, expire_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, request_id) DO NOTHING",
    )
    .bind(&request.tenant)
    .bind(&request.id)
    .bind(HEXLOWER.encode(&request.known.fingerprint))
    .bind(request.known.stream_key_id.to_string())
    .bind(HEXLOWER.encode(&request.known.sealed))
    .bind(i64::from(request.known.pepper_version))
    .bind(request.expire_ms)
    .execute(&mut **transaction)
    .await?;
    if noted.rows_affected() > 0 {
        return Ok(None);
    }
    let row = sqlx::query("SELECT * FROM requests WHERE tenant = $1 AND request_id = $2")
        .bind(&request.tenant)
        .bind(&request.id)
        .fetch_one(&mut **transaction)
        .await?;
    KnownRequest::read(&row).map(Some)
}

impl KnownRequest {
    fn read(row: &AnyRow) -> Result<Self, DatabaseError> {
        let malformed = |what| DatabaseError::Malformed { what };
        let bytes = |column| -> Result<Vec<u8>, DatabaseError> {
            let text: String = row.try_get(column)?;
            let bytes = HEXLOWER.decode(text.as_bytes());
            bytes.map_err(|_other| malformed("request"))
        };
        let fingerprint = bytes("fingerprint")?.try_into();
        let stream_key_id: String = row.try_get("stream_key_id")?;
        Ok(Self {
            fingerprint: fingerprint.map_err(|_length| malformed("request"))?,
            stream_key_id: StreamKeyId::parse(&stream_key_id)
                .map_err(|_other| malformed("stream key id"))?,
            sealed: bytes("sealed_key")?,
            pepper_version: number(row.try_get("pepper_version")?, "pepper version")?,
        })
    }
}
