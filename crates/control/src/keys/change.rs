//! What happens to a key after its creation: updates, rotations, and its end.

use proto::{
    error::status,
    v1::{
        DeleteStreamKeyRequest, DeleteStreamKeyResponse, EventType, RevokeStreamKeyRequest,
        RotateStreamKeyRequest, RotateStreamKeyResponse, StreamKey as StreamKeyMessage,
        UpdateStreamKeyRequest,
    },
};
use tonic::{Code, Request, Status};

use super::{
    StreamKeys, event, id, password, quota_exceeded,
    request::Named,
    settings::{Mask, Settings, etag, message},
};
use crate::{
    caller::Scope,
    database::{ChangeOutcome, Deletion, KeyChange, KeyRecord, PreviousSecret},
    field::{self, Violations, now_ms},
    stream_key::StreamKey,
};

impl StreamKeys {
    pub(super) async fn update(
        &self,
        request: Request<UpdateStreamKeyRequest>,
    ) -> Result<StreamKeyMessage, Status> {
        let caller = self.0.caller(&request, Scope::KeysWrite).await?;
        let request = request.into_inner();
        let given = request.stream_key.unwrap_or_default();
        let id = id("stream_key.id", &given.id)?;
        let mask = Mask::parse(request.update_mask);
        let mask = mask.map_err(|expected| field::invalid("update_mask", expected))?;
        for _attempt in 0..ATTEMPTS_MAX {
            let old = self.find(&caller, id).await?;
            changeable(&old, &request.etag)?;
            let now_ms = now_ms();
            let wanted = mask.apply(&given, message(old.clone(), now_ms));
            let mut violations = Violations::below("stream_key.");
            let new_expiry = mask.names("expire_time");
            let settings = Settings::check(wanted, now_ms, new_expiry, &mut violations);
            violations.finish()?;
            let new = settings.of(next_version(old.clone(), now_ms));
            let change = KeyChange {
                old: &old,
                new: &new,
                event: &event(EventType::KeyUpdated, &old, &caller, "", now_ms),
                request: None,
            };
            match self.0.database.change_key(change).await? {
                ChangeOutcome::Changed => {
                    self.audit("update_stream_key", &new, &caller, "");
                    return Ok(message(new, now_ms));
                }
                ChangeOutcome::Conflict => {}
                ChangeOutcome::QuotaExceeded | ChangeOutcome::RequestKnown(_) => {
                    return Err(quota_exceeded());
                }
            }
        }
        Err(changed_since())
    }

    pub(super) async fn rotate(
        &self,
        request: Request<RotateStreamKeyRequest>,
    ) -> Result<RotateStreamKeyResponse, Status> {
        let caller = self.0.caller(&request, Scope::KeysWrite).await?;
        let request = request.into_inner();
        let id = id("id", &request.id)?;
        let mut violations = Violations::default();
        violations.check("request_id", field::request_id(&request.request_id));
        let overlap_ms = violations.check(
            "overlap",
            field::period_ms(request.overlap.unwrap_or_default()),
        );
        violations.finish()?;
        let overlap_ms = overlap_ms.unwrap_or_default();
        let tenant = self.find(&caller, id).await?.tenant;
        let name = &request.request_id;
        let named = Named::new("RotateStreamKey", &request, name, &tenant, now_ms());
        if let Some(known) = self.answer_again(&caller, named.as_ref()).await? {
            return Ok(rotated(known));
        }
        for _attempt in 0..ATTEMPTS_MAX {
            let old = self.find(&caller, id).await?;
            changeable(&old, &request.etag)?;
            let (new, stream_key) = self.with_new_secret(&old, overlap_ms)?;
            let peppers = self.0.peppers.load();
            let answer = named.as_ref();
            let answer = answer.map(|named| named.answered(&peppers, &stream_key));
            let answer = answer.transpose()?;
            let change = KeyChange {
                old: &old,
                new: &new,
                event: &event(EventType::KeyRotated, &old, &caller, "", now_ms()),
                request: answer.as_ref(),
            };
            match (self.0.database.change_key(change).await?, &named) {
                (ChangeOutcome::Changed, _) => {
                    self.audit("rotate_stream_key", &new, &caller, "");
                    return Ok(rotated((new, stream_key)));
                }
                (ChangeOutcome::RequestKnown(known), Some(named)) => {
                    return self.open(&caller, named, known).await.map(rotated);
                }
                (ChangeOutcome::Conflict | ChangeOutcome::RequestKnown(_), _) => {}
                (ChangeOutcome::QuotaExceeded, _) => return Err(quota_exceeded()),
            }
        }
        Err(changed_since())
    }

    /// The key with another secret, its password too if it has one, and the secret before for an overlap.
    fn with_new_secret(
        &self,
        old: &KeyRecord,
        overlap_ms: i64,
    ) -> Result<(KeyRecord, StreamKey), Status> {
        let now_ms = now_ms();
        // One version of the file for everything: a reload may come between.
        let peppers = self.0.peppers.load_full();
        let stream_key = StreamKey::generate()?;
        let stream_key = stream_key.with_id(old.id);
        let previous = (overlap_ms > 0).then(|| PreviousSecret {
            mac: old.mac,
            pepper_version: old.pepper_version,
            adobe: old.adobe.clone(),
            until_ms: now_ms.saturating_add(overlap_ms),
        });
        let new = KeyRecord {
            mac: peppers.mac(&stream_key),
            pepper_version: peppers.current(),
            adobe: password(&peppers, &stream_key, old.adobe.is_some())?,
            previous,
            ..next_version(old.clone(), now_ms)
        };
        Ok((new, stream_key))
    }

    pub(super) async fn revoke(
        &self,
        request: Request<RevokeStreamKeyRequest>,
    ) -> Result<StreamKeyMessage, Status> {
        let caller = self.0.caller(&request, Scope::KeysWrite).await?;
        let RevokeStreamKeyRequest { id: named, reason } = request.into_inner();
        let id = id("id", &named)?;
        check_reason(&reason)?;
        let key = self.find(&caller, id).await?;
        let now_ms = now_ms();
        let event = event(EventType::KeyRevoked, &key, &caller, &reason, now_ms);
        let database = &self.0.database;
        let revoked = database.revoke_key(&key, &reason, &event, now_ms).await?;
        let record = self.find(&caller, id).await?;
        if revoked {
            self.0.tell_of_revocation(key.id.to_string());
            self.audit("revoke_stream_key", &record, &caller, &reason);
        }
        Ok(message(record, now_ms))
    }

    pub(super) async fn delete(
        &self,
        request: Request<DeleteStreamKeyRequest>,
    ) -> Result<DeleteStreamKeyResponse, Status> {
        let caller = self.0.caller(&request, Scope::KeysWrite).await?;
        let request = request.into_inner();
        let id = id("id", &request.id)?;
        check_reason(&request.reason)?;
        let key = self.find(&caller, id).await?;
        check_etag(&key, &request.etag)?;
        let (reason, now_ms) = (request.reason.as_str(), now_ms());
        let deletion = Deletion {
            key: &key,
            unchanged: !request.etag.is_empty(),
            reason,
            event: &event(EventType::KeyDeleted, &key, &caller, reason, now_ms),
            now_ms,
        };
        if !self.0.database.delete_key(deletion).await? {
            // Changed, or deleted by somebody else, since it was read.
            self.find(&caller, id).await?;
            return Err(changed_since());
        }
        self.0.tell_of_revocation(key.id.to_string());
        self.audit("delete_stream_key", &key, &caller, reason);
        Ok(DeleteStreamKeyResponse {})
    }
}

fn rotated((record, stream_key): (KeyRecord, StreamKey)) -> RotateStreamKeyResponse {
    RotateStreamKeyResponse {
        stream_key: Some(message(record, now_ms())),
        secret: (*stream_key.reveal()).clone(),
    }
}

fn next_version(record: KeyRecord, now_ms: i64) -> KeyRecord {
    KeyRecord {
        version: record.version.saturating_add(1),
        update_ms: Some(now_ms),
        ..record
    }
}

fn changeable(record: &KeyRecord, expected: &str) -> Result<(), Status> {
    if record.revoke_ms.is_some() {
        let description = "a revoked key does not change";
        return Err(status(Code::FailedPrecondition, "KEY_REVOKED", description));
    }
    check_etag(record, expected)
}

/// Whether the key is what the caller has read; it may have read nothing.
fn check_etag(record: &KeyRecord, expected: &str) -> Result<(), Status> {
    if expected.is_empty() || expected == etag(record) {
        Ok(())
    } else {
        Err(changed_since())
    }
}

fn check_reason(reason: &str) -> Result<(), Status> {
    field::reason(reason).map_err(|expected| field::invalid("reason", expected))
}

fn changed_since() -> Status {
    status(
        Code::Aborted,
        "ETAG_MISMATCH",
        "the key has changed since: read it again",
    )
}

/// A change that names no etag is tried again where another was faster.
const ATTEMPTS_MAX: u32 = 5;
