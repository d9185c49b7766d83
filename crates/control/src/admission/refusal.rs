//! Why a publish is refused: what our own log and metrics hear, and what the publisher does.

use proto::internal::v1::{Denial, DenialReason};

/// Told to our own log and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The policy takes other addresses alone.
    AddressNotAllowed,
    AppNotFound,
    /// The key is of the primary alone.
    BackupNotAllowed,
    CertificateMissing,
    CertificateWrong,
    Expired,
    HeldOff,
    Malformed,
    Mistyped,
    NotYetValid,
    /// User and password, whatever is wrong with them.
    Password(PasswordFault),
    /// The platform's backend said no, with its reason where it gave one.
    Platform(String),
    QuotaOfBitrate,
    QuotaOfSessions,
    Revoked,
    /// A signed key, whatever is wrong with it.
    Signed(SignedFault),
    /// What decides does not, whatever is wrong with it.
    Source(SourceFault),
    /// The stream that it names belongs to another tenant.
    StreamOfAnotherTenant,
    /// Who is behind the address has guessed too much, and this may be one more guess: nothing was looked up.
    TooManyAttempts,
    Unknown,
    /// As many uses as the key has.
    UsedUp,
    WrongApp,
    /// Right user and password, another name.
    WrongName,
    WrongSecret,
}

/// What is wrong with a user and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordFault {
    /// The challenge is of another user or address, or not ours.
    Forged,
    /// The key is not what it was when it was in force: revoked, expired, or of another app.
    KeyNotAdmissible,
    Late,
    /// The key was created without.
    NoPassword,
    /// The application's keys are not ours to check: nobody has a password.
    NotManaged,
    Replayed,
    UnknownUser,
    Wrong,
}

/// What is wrong with a signed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignedFault {
    /// A claim is missing, or not what it may be.
    Claims,
    /// It was published under another name than its stream's.
    Name,
    /// Its issuer, its audience, its signature, or the key that it names.
    NotAuthentic,
    /// It lives too long.
    TooLongLived,
}

/// Why nothing decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceFault {
    /// The platform's answer is none that we know.
    AnswerInvalid,
    /// The platform's backend says that it cannot answer.
    BackendFailed,
    /// As many questions are under way as may be.
    Busy,
    /// It failed so often that it is left alone for a while.
    BreakerOpen,
    /// There are no keys to check signatures with.
    KeysUnavailable,
    /// Uses cannot be counted.
    RegistryUnavailable,
    TimedOut,
    /// No connection, or no good answer.
    Unreachable,
}

impl Refusal {
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AppNotFound => "app_not_found",
            Self::BackupNotAllowed => "backup_not_allowed",
            Self::CertificateMissing => "client_certificate_missing",
            Self::CertificateWrong => "client_certificate_wrong",
            Self::Expired => "expired",
            Self::HeldOff => "held_off",
            Self::Malformed => "malformed",
            Self::Mistyped => "mistyped",
            Self::NotYetValid => "not_yet_valid",
            Self::Password(fault) => fault.outcome(),
            Self::Platform(_reason) => "refused_by_platform",
            Self::QuotaOfBitrate => "quota_bitrate",
            Self::QuotaOfSessions => "quota_sessions",
            Self::Revoked => "revoked",
            Self::Signed(fault) => fault.outcome(),
            Self::Source(fault) => fault.outcome(),
            Self::StreamOfAnotherTenant => "stream_of_another_tenant",
            Self::TooManyAttempts => "too_many_attempts",
            Self::Unknown => "unknown",
            Self::UsedUp => "used_up",
            Self::WrongApp => "wrong_app",
            Self::WrongName => "wrong_name",
            Self::WrongSecret => "wrong_secret",
        }
    }

    /// Whether somebody may have tried a key that is not theirs, and the database was asked about it. Who has the secret
    /// of a key that lapsed guesses nothing.
    pub(super) fn may_be_a_guess(&self) -> bool {
        matches!(
            self,
            Self::Unknown
                | Self::WrongSecret
                | Self::Password(
                    PasswordFault::NoPassword
                        | PasswordFault::Replayed
                        | PasswordFault::UnknownUser
                        | PasswordFault::Wrong
                )
        )
    }

    /// Whether nobody's key is behind it, or perhaps nobody's: the key is not there, or was not looked for.
    pub(crate) fn is_of_no_key(&self) -> bool {
        matches!(
            self,
            Self::AppNotFound
                | Self::Malformed
                | Self::Mistyped
                | Self::Password(
                    PasswordFault::Forged
                        | PasswordFault::Late
                        | PasswordFault::NotManaged
                        | PasswordFault::UnknownUser
                )
                | Self::TooManyAttempts
                | Self::Unknown
        )
    }

    /// What the publisher learns: one text for every fault of the key, so that nobody can probe for keys. Who has the
    /// whole key may know what else it needs.
    pub(crate) fn denial(&self) -> Denial {
        let retryable = matches!(
            self,
            Self::HeldOff
                | Self::NotYetValid
                | Self::QuotaOfBitrate
                | Self::QuotaOfSessions
                | Self::Source(_)
                | Self::TooManyAttempts
        );
        let (reason, mut description) = self.told();
        if let Self::Platform(reason) = &self
            && !reason.is_empty()
        {
            description = reason;
        }
        Denial {
            reason: reason.into(),
            description: description.to_owned(),
            retryable,
        }
    }

    fn told(&self) -> (DenialReason, &'static str) {
        match self {
            Self::AddressNotAllowed => (
                DenialReason::AddressNotAllowed,
                "This stream key may not be used from this address",
            ),
            Self::AppNotFound => (DenialReason::AppNotFound, "Application not found"),
            Self::BackupNotAllowed => (
                DenialReason::BackupNotAllowed,
                "This stream key is not for a backup: leave backup=1 out",
            ),
            Self::CertificateMissing => (
                DenialReason::ClientCertificateMissing,
                "This stream key needs its client certificate",
            ),
            Self::CertificateWrong => (
                DenialReason::ClientCertificateWrong,
                "This stream key belongs to another client certificate",
            ),
            Self::HeldOff => (DenialReason::HeldOff, "Session was ended; try again later"),
            Self::NotYetValid => (
                DenialReason::NotYetValid,
                "This stream key is not valid yet",
            ),
            Self::Password(_) => (
                DenialReason::PasswordNotAccepted,
                "User or password not accepted",
            ),
            Self::Platform(_) => (DenialReason::RefusedByPlatform, "Stream key not accepted"),
            Self::QuotaOfBitrate => (
                DenialReason::QuotaExceeded,
                "The bitrate of all streams together is used up; try again when one has ended",
            ),
            Self::QuotaOfSessions => (
                DenialReason::QuotaExceeded,
                "As many streams are live as may be; try again when one has ended",
            ),
            Self::Source(_) => (
                DenialReason::SourceUnavailable,
                "Stream keys cannot be checked right now, please try again",
            ),
            Self::TooManyAttempts => (
                DenialReason::TooManyAttempts,
                "Too many attempts were refused, please try again in a minute",
            ),
            Self::UsedUp => (
                DenialReason::KeyUsedUp,
                "Stream key used up: it was good for a number of publishes",
            ),
            Self::WrongName => (
                DenialReason::NameNotAccepted,
                "Stream name not accepted: user and password are of another stream",
            ),
            Self::Expired
            | Self::Malformed
            | Self::Mistyped
            | Self::Revoked
            | Self::Signed(_)
            | Self::StreamOfAnotherTenant
            | Self::Unknown
            | Self::WrongApp
            | Self::WrongSecret => (DenialReason::KeyNotAccepted, "Stream key not accepted"),
        }
    }
}

impl PasswordFault {
    fn outcome(self) -> &'static str {
        match self {
            Self::Forged => "challenge_forged",
            Self::KeyNotAdmissible => "password_of_lapsed_key",
            Self::Late => "challenge_expired",
            Self::NoPassword => "no_password",
            Self::NotManaged => "password_not_managed",
            Self::Replayed => "challenge_replayed",
            Self::UnknownUser => "unknown_user",
            Self::Wrong => "wrong_password",
        }
    }
}

impl SignedFault {
    fn outcome(self) -> &'static str {
        match self {
            Self::Claims => "claims_invalid",
            Self::Name => "wrong_stream",
            Self::NotAuthentic => "not_authentic",
            Self::TooLongLived => "lifetime_too_long",
        }
    }
}

impl SourceFault {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Self::AnswerInvalid => "answer_invalid",
            Self::BackendFailed => "backend_failed",
            Self::BreakerOpen => "breaker_open",
            Self::Busy => "busy",
            Self::KeysUnavailable => "keys_unavailable",
            Self::RegistryUnavailable => "registry_unavailable",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
        }
    }
}
