//! From errors to sentences: what went wrong, and what that usually means.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of the many errors of libraries, those that users meet are told apart"
)]

use std::{io, time::Duration};

use rtmp::ProtocolError;
use rustls::{AlertDescription, CertificateError};

use super::{Step, report::Outcome};
use crate::{bench::connection::Fault, output::printable};

fn failed(what: impl ToString, meaning: impl Into<String>) -> Outcome {
    Outcome::Failed {
        what: what.to_string(),
        meaning: meaning.into(),
    }
}

pub(super) fn no_address(host: &str) -> Outcome {
    failed(
        format!("{host} has no address"),
        "The name exists without an A or AAAA record.",
    )
}

pub(super) fn name(host: &str, error: &io::Error) -> Outcome {
    failed(
        error,
        format!(
            "{host} cannot be resolved here: is the name right, and does this machine's DNS know it?"
        ),
    )
}

pub(super) fn name_timeout(within: Duration) -> Outcome {
    failed(
        format!("no answer within {within:?}"),
        "This machine's DNS servers do not answer.",
    )
}

pub(super) fn tcp(error: &io::Error) -> Outcome {
    failed(
        error,
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "The host is there and nothing listens on this port: is the port right? Without one, rtmps:// means 443 \
                 and rtmp:// 1935."
            }
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                "There is no way to this address from here."
            }
            io::ErrorKind::TimedOut => FIREWALL,
            _ => "The connection cannot be made.",
        },
    )
}

const FIREWALL: &str = "Nobody answers: most often a firewall or a security group drops the packets, or the address is \
                        not the server's.";

pub(super) fn silence(within: Duration) -> Outcome {
    failed(format!("no answer within {within:?}"), FIREWALL)
}

pub(super) fn tls_silence(within: Duration) -> Outcome {
    failed(
        format!("no TLS handshake within {within:?}"),
        "The port is open and does not speak TLS, or something on the way holds the handshake back.",
    )
}

pub(super) fn tls_on_plain() -> Outcome {
    failed(
        "the port speaks TLS",
        "This is an RTMPS port: use rtmps:// in place of rtmp://.",
    )
}

/// `plain`: the port answers RTMP without TLS.
pub(super) fn tls(error: &io::Error, plain: bool) -> Outcome {
    if plain {
        return failed(
            "the port speaks RTMP without TLS",
            "This is an rtmp:// port: use the server's RTMPS port, or rtmp:// if the way to it is safe.",
        );
    }
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref());
    failed(
        error,
        match rustls {
            Some(rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                // Of another authority with the same name.
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied,
            )) => "The server wants a client certificate that it trusts: --cert and --cert-key.",
            Some(rustls::Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity,
            )) => {
                "The server offers nothing that this side takes: TLS 1.2 with an ECDHE suite, or 1.3."
            }
            Some(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)) => {
                "The server has no certificate for this name: is the host name right?"
            }
            Some(rustls::Error::AlertReceived(_)) => "The server refused the handshake.",
            Some(rustls::Error::InvalidMessage(_)) => {
                "Something that is not TLS answers: is the port right?"
            }
            Some(rustls::Error::PeerIncompatible(_)) => {
                "The server speaks a TLS that is too old: 1.2 with an ECDHE suite, or 1.3, is needed."
            }
            Some(_) => "The handshake failed.",
            None => {
                "The server closed in the handshake: the port is not a TLS port, or a load balancer has no server behind it."
            }
        },
    )
}

pub(super) fn is_tls_alert(error: &io::Error) -> bool {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(rustls, Some(rustls::Error::AlertReceived(_)))
}

/// `who`: the names in the certificate, `until`: the end of its time, `self_signed`: by itself.
pub(super) struct Certificate<'a> {
    pub(super) host: &'a str,
    pub(super) issuer: &'a str,
    pub(super) names: &'a str,
    pub(super) self_signed: bool,
    pub(super) until: &'a str,
}

pub(super) fn certificate(error: &rustls::Error, certificate: &Certificate<'_>) -> Outcome {
    let Certificate {
        host,
        issuer,
        names,
        self_signed,
        until,
    } = certificate;
    let (what, meaning) = match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => (
            "the certificate has expired".to_owned(),
            format!("It was valid until {until}: it has to be renewed, or this machine's clock is wrong."),
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (
            "the certificate is not valid yet".to_owned(),
            "This machine's clock or the issuer's is wrong.".to_owned(),
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            format!("the certificate is not for {host}"),
            format!("It is for {names}: publish to such a name, or have the certificate hold {host}."),
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) if *self_signed => (
            "the certificate is self-signed".to_owned(),
            "Encoders that check certificates refuse it: trust it by --ca-file here and in the encoder, or use one of a \
             public authority."
                .to_owned(),
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "the certificate's issuer is not trusted here".to_owned(),
            format!(
                "It was issued by {issuer}: trust its authority by --ca-file, or have the server send the intermediate \
                 certificates too."
            ),
        ),
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => (
            "the certificate's issuer is not the one that is trusted here".to_owned(),
            format!("Both are called {issuer}, with another key each: an old --ca-file, or a server that was not renewed."),
        ),
        rustls::Error::InvalidCertificate(CertificateError::Revoked) => (
            "the certificate was revoked".to_owned(),
            "The server needs another one.".to_owned(),
        ),
        other => (other.to_string(), "The certificate cannot be trusted.".to_owned()),
    };
    failed(what, meaning)
}

pub(super) fn rtmp_silence(step: Step, within: Duration) -> Outcome {
    failed(
        format!("no answer within {within:?}"),
        match step {
            Step::Handshake => "The port is open and does not answer RTMP.",
            Step::Dns | Step::Tcp | Step::Tls | Step::Connect | Step::Publish | Step::Media => {
                "The server does not answer: it may wait for what it depends on."
            }
        },
    )
}

pub(super) fn rtmp(step: Step, fault: &Fault) -> Outcome {
    let (what, meaning) = match fault {
        Fault::Rejected { code, description } => (
            printable(format!("{code}: {description}")),
            match step {
                Step::Connect => "The server refuses the application: is the URL's path right?",
                Step::Publish => {
                    "The server refuses the stream: its own words are above. Is the key right, of this application, and \
                     nobody else live with it?"
                }
                Step::Dns | Step::Tcp | Step::Tls | Step::Handshake | Step::Media => {
                    "The server ended the session: its own words are above."
                }
            },
        ),
        Fault::Protocol(ProtocolError::Http) => (
            "an HTTP server answers".to_owned(),
            "This is a web server's port: is the host right, and the port?",
        ),
        Fault::Protocol(error) => (
            error.to_string(),
            "Something that is not RTMP answers: is the port right?",
        ),
        Fault::Closed | Fault::Io(_) => (
            fault.to_string(),
            match step {
                Step::Handshake => {
                    "The connection was closed at RTMP's first bytes: this is no RTMP server, or one that refuses this \
                     client's address."
                }
                Step::Media => "The connection broke while media were sent.",
                Step::Dns | Step::Tcp | Step::Tls | Step::Connect | Step::Publish => {
                    "The server closed without a word."
                }
            },
        ),
        Fault::Stuck | Fault::TooSlow(_) => (
            fault.to_string(),
            "The server or the way to it does not take what is sent.",
        ),
    };
    failed(what, meaning)
}

/// This side's own.
pub(super) fn own(error: &anyhow::Error) -> Outcome {
    failed(format!("{error:#}"), "The probe cannot speak TLS.")
}
