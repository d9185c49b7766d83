//! The fields of the section `edge` that say who is let in over which TLS.

use runtime::tls::MinimumVersion;
use serde::Deserialize;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PlainRtmp {
    Allow,
    Refuse,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TerminatedTls {
    Announced,
    Assumed,
    Refuse,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum TlsVersion {
    #[serde(rename = "tls1.2")]
    Tls12,
    #[serde(rename = "tls1.3")]
    Tls13,
}

impl TlsVersion {
    pub(super) fn version(self) -> MinimumVersion {
        match self {
            Self::Tls12 => MinimumVersion::Tls12,
            Self::Tls13 => MinimumVersion::Tls13,
        }
    }
}
