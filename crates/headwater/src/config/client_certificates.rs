//! Which client certificates a port asks for.

use std::path::PathBuf;

use runtime::tls::{ClientCertificateFiles, ClientCertificates};
use serde::Deserialize;

use super::{check::Check, scalar::OneOrMany};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClientCertificatesSection {
    ca: Option<PathBuf>,
    crls: Option<OneOrMany<PathBuf>>,
    mode: Option<Mode>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Off,
    Optional,
    Required,
}

impl ClientCertificatesSection {
    /// `path` is the section's own.
    pub(super) fn finish(self, path: &str, check: &mut Check) -> Option<ClientCertificates> {
        let ca_path = format!("{path}.ca");
        let mode = self.mode.unwrap_or_default();
        let ca = match mode {
            Mode::Off => check.optional_file(&ca_path, self.ca),
            Mode::Optional | Mode::Required => check.file(&ca_path, self.ca),
        };
        let crls_path = format!("{path}.crls");
        let crls = self.crls.map(|crls| crls.finish(&crls_path, check));
        let crls = crls.unwrap_or_default().into_iter().enumerate();
        let crls = crls
            .filter_map(|(index, crl)| check.file(&format!("{crls_path}[{index}]"), Some(crl)))
            .collect();
        let files = |ca| ClientCertificateFiles { ca, crls };
        match mode {
            Mode::Off => Some(ClientCertificates::Off),
            Mode::Optional => ca.map(|ca| ClientCertificates::Optional(files(ca))),
            Mode::Required => ca.map(|ca| ClientCertificates::Required(files(ca))),
        }
    }
}
