//! The fields of the section `edge` that say who is let in over which TLS.

use std::path::PathBuf;

use runtime::tls::{ClientCertificateFiles, ClientCertificates, MinimumVersion};
use serde::Deserialize;

use super::super::{check::Check, scalar::OneOrMany};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClientCertificatesSection {
    ca: Option<PathBuf>,
    crls: Option<OneOrMany<PathBuf>>,
    mode: Option<ClientCertificatesMode>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClientCertificatesMode {
    #[default]
    Off,
    Optional,
    Required,
}

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

impl ClientCertificatesSection {
    pub(super) fn finish(self, check: &mut Check) -> Option<ClientCertificates> {
        const CA: &str = "edge.client_certificates.ca";
        const CRLS: &str = "edge.client_certificates.crls";
        let mode = self.mode.unwrap_or_default();
        let ca = match mode {
            ClientCertificatesMode::Off => check.optional_file(CA, self.ca),
            ClientCertificatesMode::Optional | ClientCertificatesMode::Required => {
                check.file(CA, self.ca)
            }
        };
        let crls = self.crls.map(|crls| crls.finish(CRLS, check));
        let crls = crls.unwrap_or_default().into_iter().enumerate();
        let crls = crls
            .filter_map(|(index, crl)| check.file(&format!("{CRLS}[{index}]"), Some(crl)))
            .collect();
        let files = |ca| ClientCertificateFiles { ca, crls };
        match mode {
            ClientCertificatesMode::Off => Some(ClientCertificates::Off),
            ClientCertificatesMode::Optional => {
                ca.map(|ca| ClientCertificates::Optional(files(ca)))
            }
            ClientCertificatesMode::Required => {
                ca.map(|ca| ClientCertificates::Required(files(ca)))
            }
        }
    }
}
