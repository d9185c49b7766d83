//! Requests that name themselves: sent again within a day they do nothing, and are answered as before.
//!
//! The answer holds a secret, which is nowhere in the database. So it is kept for that day, encrypted with a key derived
//! from the pepper: with a stolen database alone it is worth nothing, and with the pepper too it is worth something for
//! one day. (A secret computed from the pepper and the request's name would need no row, and would be known for ever to
//! whoever has the pepper and guesses the name.)

use aws_lc_rs::digest;
use prost::Message;
use proto::error::status;
use tonic::{Code, Status};

use super::StreamKeys;
use crate::{
    caller::Caller,
    database::{KeyRecord, KnownRequest, NewRequest},
    pepper::Peppers,
    stream_key::StreamKey,
};

/// A request with a name.
pub(super) struct Named<'a> {
    tenant: &'a str,
    id: &'a str,
    fingerprint: [u8; 32],
    now_ms: i64,
}

impl<'a> Named<'a> {
    /// `None` where the request does not name itself.
    pub(super) fn new(
        method: &str,
        request: &impl Message,
        id: &'a str,
        tenant: &'a str,
        now_ms: i64,
    ) -> Option<Self> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(method.as_bytes());
        context.update(&[0]);
        context.update(&request.encode_to_vec());
        let mut fingerprint = [0; 32];
        for (byte, hashed) in fingerprint.iter_mut().zip(context.finish().as_ref()) {
            *byte = *hashed;
        }
        (!id.is_empty()).then_some(Self {
            tenant,
            id,
            fingerprint,
            now_ms,
        })
    }

    /// What is kept when the request is answered with this stream key.
    pub(super) fn answered(
        &self,
        peppers: &Peppers,
        stream_key: &StreamKey,
    ) -> Result<NewRequest, Status> {
        let sealed = peppers.seal_answer(stream_key);
        Ok(NewRequest {
            tenant: self.tenant.to_owned(),
            id: self.id.to_owned(),
            now_ms: self.now_ms,
            expire_ms: self.now_ms.saturating_add(REMEMBERED_MS),
            known: KnownRequest {
                fingerprint: self.fingerprint,
                stream_key_id: stream_key.id(),
                sealed: sealed?,
                pepper_version: peppers.current(),
            },
        })
    }
}

impl StreamKeys {
    /// The answer to a request that was carried out before.
    pub(super) async fn answer_again(
        &self,
        caller: &Caller,
        named: Option<&Named<'_>>,
    ) -> Result<Option<(KeyRecord, StreamKey)>, Status> {
        let Some(named) = named else {
            return Ok(None);
        };
        let known = self
            .0
            .database
            .request(named.tenant, named.id, named.now_ms)
            .await?;
        match known {
            Some(known) => self.open(caller, named, known).await.map(Some),
            None => Ok(None),
        }
    }

    /// The key as it is now, and the secret as it was answered.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        named: &Named<'_>,
        known: KnownRequest,
    ) -> Result<(KeyRecord, StreamKey), Status> {
        if known.fingerprint != named.fingerprint {
            return Err(status(
                Code::AlreadyExists,
                "REQUEST_ID_REUSED",
                "another request has this request_id",
            ));
        }
        let id = known.stream_key_id;
        let record = self.find(caller, id).await?;
        let peppers = self.0.peppers.load();
        let stream_key = peppers.open_answer(known.pepper_version, id, &known.sealed);
        let stream_key = stream_key.ok_or_else(|| {
            status(
                Code::Unavailable,
                "PEPPER_UNKNOWN",
                "the pepper of the first answer is not known here",
            )
        })?;
        Ok((record, stream_key))
    }
}

/// For how long requests are known again.
const REMEMBERED_MS: i64 = 24 * 60 * 60 * 1000;
