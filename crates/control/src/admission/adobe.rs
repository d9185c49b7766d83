//! User and password instead of a stream key.

use proto::error::status;
use proto::internal::v1::{
    AdobeResponse, AuthorizeRequest, AuthorizeResponse, authorize_response::Decision,
};
use tonic::{Code, Status};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Admission, PasswordFault, Refusal, Source, Verdict,
    managed::{Checked, admissible},
};
use crate::{
    adobe::{self, Opaque, OpaqueFault},
    database::KeyRecord,
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
        let challenge = challenge.map_err(|_no_random| no_random())?;
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
            .inspect_err(|_undecided| self.shared.metrics.key_check("undecided", "database"))?;
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
        let record = self.find(id).await?;
        if let Some(record) = &record {
            self.check_pepper(&peppers, record.pepper_version, id)?;
        }
        // Each challenge is one guess, right or wrong.
        if !self.used_opaques.first_use(&opaque, now_ms) {
            return refuse(PasswordFault::Replayed, "request");
        }
        let is_right = is_right(&peppers, id, record.as_ref(), &attempt.response)?;
        let checked = match record {
            None => Err(PasswordFault::UnknownUser),
            Some(KeyRecord { adobe: None, .. }) => Err(PasswordFault::NoPassword),
            Some(_) if !is_right => Err(PasswordFault::Wrong),
            Some(record) => Ok(record),
        };
        Ok(checked
            .map_err(Refusal::Password)
            .and_then(|record| publishable(&peppers, record, attempt, now_ms))
            .map_err(|refusal| (refusal, "database")))
    }
}

/// An unknown user, and a key without a password, cost the same as a wrong password.
fn is_right(
    peppers: &Peppers,
    id: StreamKeyId,
    record: Option<&KeyRecord>,
    response: &AdobeResponse,
) -> Result<bool, Status> {
    let sealed = record.and_then(|record| Some((record.pepper_version, record.adobe.as_ref()?)));
    let (version, sealed) = match sealed {
        Some((version, sealed)) => (version, sealed.clone()),
        None => {
            let nobodys = Zeroizing::new([0; 24]);
            let sealed = peppers
                .seal(id, &nobodys)
                .map_err(|_no_random| no_random())?;
            (peppers.current(), sealed)
        }
    };
    let Some(equivalent) = peppers.open(version, id, &sealed) else {
        tracing::error!(stream_key_id = %id, "what is stored for the password cannot be opened");
        return Ok(false);
    };
    let is_right = adobe::is_response(response, &equivalent);
    Ok(is_right && record.is_some_and(|record| record.adobe.is_some()))
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
            | Refusal::NotYetValid => refusal,
            Refusal::AppNotFound
            | Refusal::Expired
            | Refusal::Malformed
            | Refusal::Mistyped
            | Refusal::Password(_)
            | Refusal::Platform(_)
            | Refusal::Revoked
            | Refusal::Signed(_)
            | Refusal::Source(_)
            | Refusal::StreamOfAnotherTenant
            | Refusal::Unknown
            | Refusal::UsedUp
            | Refusal::WrongApp
            | Refusal::WrongName
            | Refusal::WrongSecret => Refusal::Password(PasswordFault::KeyNotAdmissible),
        }
    })?;
    let name = &attempt.response.name;
    let is_key = StreamKey::parse(name).is_ok_and(|stream_key| {
        stream_key.id() == record.id
            && peppers.verify(record.pepper_version, &stream_key, &record.mac)
    });
    if *name == record.stream || is_key {
        Ok(record)
    } else {
        Err(Refusal::WrongName)
    }
}

fn no_random() -> Status {
    status(Code::Unavailable, "RANDOM_UNAVAILABLE", "no random bytes")
}
