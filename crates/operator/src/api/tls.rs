//! Certificates: those that encoders see, and those by which the roles know each other.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
