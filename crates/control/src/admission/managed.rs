//! Stream keys that are rows of ours. Each is asked of the database each time: a revocation is in force with its commit.

use proto::{error::status, internal::v1::AuthorizeRequest};
use tonic::{Code, Status};

use super::{Admission, Refusal, Verdict, certified, guesses::Guess};
use crate::{
    database::KeyRecord,
    pepper::Peppers,
    stream_key::{StreamKey, StreamKeyError, StreamKeyId},
};

/// The key that may publish, or why none may and what that was decided with.
pub(super) type Checked = Result<KeyRecord, (Refusal, &'static str)>;

impl Verdict {
    pub(super) fn of_key(checked: Checked, claimed_id: Option<String>) -> Self {
        let (outcome, by) = match checked {
            Ok(record) => (Ok(record.terms()), "database"),
            Err((refusal, by)) => (Err(refusal), by),
        };
        Self {
            outcome,
            by,
            claimed_id,
            uses: None,
            claims: false,
        }
    }
}

impl Admission {
    /// The terms of the key that was accepted, or why none was.
    pub(super) async fn check_key(
        &self,
        credential: &str,
        request: &AuthorizeRequest,
        now_ms: i64,
    ) -> Result<Verdict, Status> {
        let stream_key = match StreamKey::parse(credential) {
            Ok(stream_key) => stream_key,
            Err(error) => {
                let refusal = match error {
                    StreamKeyError::Malformed => Refusal::Malformed,
                    StreamKeyError::Mistyped => Refusal::Mistyped,
                };
                return Ok(Verdict::refused(refusal, "request", None));
            }
        };
        let guess = self.guesses.guess(&request.client_address, credential);
        let checked = self.check(&stream_key, &guess, request, now_ms).await?;
        Ok(Verdict::of_key(checked, Some(stream_key.id().to_string())))
    }

    async fn check(
        &self,
        stream_key: &StreamKey,
        guess: &Guess,
        request: &AuthorizeRequest,
        now_ms: i64,
    ) -> Result<Checked, Status> {
        let Some(_turn) = self.guesses.turn(guess).await else {
            return Ok(Err((Refusal::TooManyAttempts, "request")));
        };
        let record = self.find(stream_key.id()).await?;
        let peppers = self.shared.peppers.load();
        if let Some(record) = &record {
            self.check_pepper(&peppers, record.pepper_version, record.id)?;
        }
        let authentic = peppers.is_secret_of(record.as_ref(), stream_key, now_ms);
        if let Some(record) = record.as_ref().filter(|_| authentic) {
            self.shared.rehashes.tell(&peppers, record, stream_key);
        }
        let checked = match record {
            None => Err(Refusal::Unknown),
            Some(_) if !authentic => Err(Refusal::WrongSecret),
            Some(record) => admissible(record, request, now_ms),
        };
        self.guesses.learn(guess, checked.as_ref());
        Ok(checked.map_err(|refusal| (refusal, "database")))
    }

    pub(super) async fn find(&self, id: StreamKeyId) -> Result<Option<KeyRecord>, Status> {
        Ok(self.shared.database.key(id).await?)
    }

    /// Fails where this control cannot decide on the key.
    pub(super) fn check_pepper(
        &self,
        peppers: &Peppers,
        version: u32,
        id: StreamKeyId,
    ) -> Result<(), Status> {
        if peppers.has(version) {
            return Ok(());
        }
        tracing::error!(stream_key_id = %id, pepper_version = version, "the pepper file lacks this version");
        Err(status(
            Code::Unavailable,
            "PEPPER_UNKNOWN",
            "the key's pepper is not known here",
        ))
    }
}

/// Whether an authentic key may publish to this app, from this client, now.
pub(super) fn admissible(
    record: KeyRecord,
    request: &AuthorizeRequest,
    now_ms: i64,
) -> Result<KeyRecord, Refusal> {
    if record.app != request.app {
        return Err(Refusal::WrongApp);
    } else if record.revoke_ms.is_some() {
        return Err(Refusal::Revoked);
    } else if record
        .expire_ms
        .is_some_and(|expire_ms| expire_ms <= now_ms)
    {
        return Err(Refusal::Expired);
    } else if record.held_off_until_ms > now_ms {
        return Err(Refusal::HeldOff);
    }
    certified(record.client_certificate.as_ref(), request)?;
    Ok(record)
}

/// The id that a stream key names, right or wrong.
pub(crate) fn claimed_id(credential: &str) -> Option<String> {
    let stream_key = StreamKey::parse(credential).ok()?;
    Some(stream_key.id().to_string())
}
