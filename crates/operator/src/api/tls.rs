//! Certificates: those that encoders see, and those by which the roles know each other.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeyReference;

/// One of the three.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.secretName), has(self.issuerRef), has(self.selfSigned)].exists_one(x, x)")
    .message("tls: exactly one of secretName, issuerRef and selfSigned"))]
#[x_kube(validation = Rule::new("!has(self.issuerRef) || self.dnsNames.size() > 0")
    .message("tls.issuerRef needs dnsNames"))]
#[serde(rename_all = "camelCase")]
pub struct PublicTls {
    /// A Secret with `tls.crt` and `tls.key`, yours. Renewals are seen without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// cert-manager makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerReference>,
    /// The operator makes it: for trying things out. Encoders that check certificates refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSigned>,
    /// Names in a certificate of `issuerRef` or `selfSigned`.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub dns_names: Vec<String>,
    /// Further Secrets with `tls.crt` and `tls.key`, yours: encoders get the certificate that has the server name which
    /// they ask for, and the one above where none has. One more, one less and renewals restart nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 249)))]
    pub additional_secrets: Vec<String>,
    /// Certificates that encoders show. By default none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
    /// The oldest version of TLS. Hardware, and OBS before 30, speak no other than 1.2.
    #[serde(default)]
    pub minimum_version: TlsVersion,
}

/// Certificates that encoders show. A change of the Secrets restarts nothing, a change here makes new edges.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificates {
    /// Whether an encoder without one may come.
    #[serde(default)]
    pub mode: ClientCertificatesMode,
    /// The CAs (PEM) that issue them.
    pub ca_secret_ref: KeyReference,
    /// Their revocation lists (PEM or DER). A CA without one revokes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_secret_ref: Option<KeyReference>,
}

/// Whether somebody without a certificate may come.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientCertificatesMode {
    /// They may; encoders for stream keys that are not bound to one.
    Optional,
    /// They may not.
    #[default]
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// No settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct SelfSigned {}

/// An issuer of cert-manager.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer`, `ClusterIssuer`, or an external issuer's kind.
    #[serde(default = "IssuerReference::kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Of an external issuer.
    #[serde(default = "IssuerReference::group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

impl IssuerReference {
    fn kind() -> String {
        "Issuer".to_owned()
    }

    fn group() -> String {
        "cert-manager.io".to_owned()
    }
}

/// Mutual TLS between the roles.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InternalTls {
    /// An issuer of cert-manager with a CA of its own, which fills `ca.crt` and signs URI names. By default, a CA of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerReference>,
}
