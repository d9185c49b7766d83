//! User and password instead of a stream key.

use proto::internal::v1::{
    AdobeResponse, AuthorizeRequest, AuthorizeResponse, authorize_response::Decision,
};
use tonic::Status;
use zeroize::Zeroize as _;

use super::{
    Admission, PasswordFault, Refusal, Source, Verdict,
    managed::{Checked, admissible},
};
use crate::{
    adobe::{self, Opaque, OpaqueFault},
    database::KeyRecord,
    field::client_ip,
    pepper::Peppers,
    stream_key::{StreamKey, StreamKeyId},
};

/// An encoder's answer to a challenge, and where it came from. Wiped when dropped.
pub(super) struct Attempt<'a> {
    user: String,
    response: AdobeResponse,
    request: &'a AuthorizeRequest,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        user: String,
        response: AdobeResponse,
        request: &'a AuthorizeRequest,
    ) -> Self {
        Self {
            user,
            response,
            request,
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.response.response.zeroize();
        self.response.name.zeroize();
    }
}

impl Admission {
    /// Everybody gets one: whether the user exists is not looked up.
    pub(super) fn challenge(
        &self,
        user: &str,
        client_address: &str,
        now_ms: i64,
    ) -> Result<AuthorizeResponse, Status> {
        let peppers = self.shared.peppers.load();
        let challenge = adobe::challenge(&peppers, user, client_address, now_ms);
        let challenge = challenge?;
        self.shared.metrics.key_check("challenged", "request");
        Ok(AuthorizeResponse {
            decision: Some(Decision::AdobeChallenge(challenge)),
        })
    }

    /// The key whose id is the user, if the password is its own.
    pub(super) async fn check_password(
        &self,
        attempt: &Attempt<'_>,
        now_ms: i64,
    ) -> Result<Verdict, Status> {
        let claimed_id = StreamKeyId::parse(&attempt.user).ok();
        let checked = self
            .check_response(attempt, now_ms)
            .await
            .inspect_err(|_undecided| self.undecided())?;
        let claimed_id = claimed_id.map(|id| id.to_string());
        Ok(Verdict::of_key(checked, claimed_id))
    }

    async fn check_response(&self, attempt: &Attempt<'_>, now_ms: i64) -> Result<Checked, Status> {
        let refuse = |fault, by| Ok(Err((Refusal::Password(fault), by)));
        match self.shared.live.source(&attempt.request.app).as_deref() {
            None => return Ok(Err((Refusal::AppNotFound, "request"))),
            Some(Source::Managed) => {}
            Some(Source::Signed(_) | Source::Webhook(_)) => {
                return refuse(PasswordFault::NotManaged, "request");
            }
        }
        let peppers = self.shared.peppers.load();
        let (opaque, user) = (attempt.response.opaque.as_str(), attempt.user.as_str());
        let opaque = Opaque::verify(
            &peppers,
            opaque,
            user,
            &attempt.request.client_address,
            now_ms,
        );
        let opaque = match opaque {
            Ok(opaque) => opaque,
            Err(OpaqueFault::Expired) => return refuse(PasswordFault::Late, "request"),
            Err(OpaqueFault::Forged) => return refuse(PasswordFault::Forged, "request"),
        };
        let Ok(id) = StreamKeyId::parse(user) else {
            return refuse(PasswordFault::UnknownUser, "request");
        };
        let address = &attempt.request.client_address;
        let guess = self.guesses.guess(address, (client_ip(address), user));
        let Some(_turn) = self.guesses.turn(&guess).await else {
            return Ok(Err((Refusal::TooManyAttempts, "request")));
        };
        let checked = self.compare_response(attempt, id, &opaque, now_ms).await?;
        self.guesses.learn(&guess, checked.as_ref());
        Ok(checked.map_err(|refusal| (refusal, "database")))
    }

    async fn compare_response(
        &self,
        attempt: &Attempt<'_>,
        id: StreamKeyId,
        opaque: &Opaque,
        now_ms: i64,
    ) -> Result<Result<KeyRecord, Refusal>, Status> {
        let peppers = self.shared.peppers.load();
        let record = self.find(id).await?;
        if let Some(record) = &record {
            self.check_pepper(&peppers, record.pepper_version, id)?;
        }
        // Each challenge is one guess, right or wrong.
        if !self.used_opaques.first_use(opaque, now_ms) {
            return Ok(Err(Refusal::Password(PasswordFault::Replayed)));
        }
        let is_right = is_right(&peppers, id, record.as_ref(), &attempt.response, now_ms)?;
        let checked = match record {
            None => Err(PasswordFault::UnknownUser),
            Some(KeyRecord { adobe: None, .. }) => Err(PasswordFault::NoPassword),
            Some(_) if !is_right => Err(PasswordFault::Wrong),
            Some(record) => Ok(record),
        };
        Ok(checked
            .map_err(Refusal::Password)
            .and_then(|record| publishable(&peppers, record, attempt, now_ms)))
    }
}

/// Whether the password is the key's, or the one before while that is good.
fn is_right(
    peppers: &Peppers,
    id: StreamKeyId,
    record: Option<&KeyRecord>,
    response: &AdobeResponse,
    now_ms: i64,
) -> Result<bool, Status> {
    let current = record.and_then(|record| Some((record.pepper_version, record.adobe.as_ref()?)));
    let previous = record.and_then(|record| record.previous_at(now_ms));
    let previous =
        previous.and_then(|previous| Some((previous.pepper_version, previous.adobe.as_ref()?)));
    let is_current = is_password(peppers, id, current, response)?;
    let is_previous = is_password(peppers, id, previous, response)?;
    Ok(is_current | is_previous)
}

/// An unknown user, and a key without a password, cost the same as a wrong password.
fn is_password(
    peppers: &Peppers,
    id: StreamKeyId,
    stored: Option<(u32, &Vec<u8>)>,
    response: &AdobeResponse,
) -> Result<bool, Status> {
    let (version, sealed) = match stored {
        Some((version, sealed)) => (version, sealed.clone()),
        None => {
            let nobodys = [0; 24];
            let sealed = peppers.seal(id, &nobodys)?;
            (peppers.current(), sealed)
        }
    };
    let Some(equivalent) = peppers.open(version, id, &sealed) else {
        tracing::error!(stream_key_id = %id, "what is stored for the password cannot be opened");
        return Ok(false);
    };
    Ok(adobe::is_response(response, &equivalent) && stored.is_some())
}

/// Whether the key that somebody logged in with may publish what was asked for.
fn publishable(
    peppers: &Peppers,
    record: KeyRecord,
    attempt: &Attempt<'_>,
    now_ms: i64,
) -> Result<KeyRecord, Refusal> {
    let record = admissible(record, attempt.request, now_ms).map_err(|refusal| {
        match refusal {
            // Who knows the password may know what else the key needs.
            Refusal::AddressNotAllowed
            | Refusal::CertificateMissing
            | Refusal::CertificateWrong
            | Refusal::HeldOff
            | Refusal::NotYetValid
            | Refusal::QuotaOfBitrate
            | Refusal::QuotaOfSessions => refusal,
            Refusal::AppNotFound
            | Refusal::BackupNotAllowed
            | Refusal::Expired
            | Refusal::Malformed
            | Refusal::Mistyped
            | Refusal::Password(_)
            | Refusal::Platform(_)
            | Refusal::Revoked
            | Refusal::Signed(_)
            | Refusal::Source(_)
            | Refusal::StreamOfAnotherTenant
            | Refusal::TooManyAttempts
            | Refusal::Unknown
            | Refusal::UsedUp
            | Refusal::WrongApp
            | Refusal::WrongName
            | Refusal::WrongSecret => Refusal::Password(PasswordFault::KeyNotAdmissible),
        }
    })?;
    let name = &attempt.response.name;
    let is_key = StreamKey::parse(name).is_ok_and(|stream_key| {
        stream_key.id() == record.id && peppers.is_secret_of(Some(&record), &stream_key, now_ms)
    });
    if *name == record.stream || is_key {
        Ok(record)
    } else {
        Err(Refusal::WrongName)
    }
}
