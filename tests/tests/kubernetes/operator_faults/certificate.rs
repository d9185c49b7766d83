//! A certificate whose time has come, of the cluster's own CA.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use runtime::identity::{Cluster, Role};
use serde_json::Value;

use super::safety::pem;
use crate::operator_harness::Installation;

const DAY: u64 = 24 * 3600;
/// Of its 30 days: renewed after 20.
const AGE: Duration = Duration::from_secs(25 * DAY);
const LEFT: Duration = Duration::from_secs(5 * DAY);

/// Certificate and key, as PEM.
pub(super) fn due(installation: &Installation, role: Role, authority: &Value) -> (String, String) {
    let text = |key: &str| String::from_utf8(pem(&authority["data"][key])).unwrap();
    let key = KeyPair::from_pem(&text("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&text("ca.crt"), key).unwrap();
    let cluster = Cluster {
        trust_domain: "cluster.local".to_owned(),
        namespace: installation.namespace.clone(),
        name: "live".to_owned(),
    };
    let mut params = CertificateParams::default();
    let uri = cluster.uri(role).try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = date_time_ymd(1970, 1, 1) + now.unwrap();
    params.not_before = now - AGE;
    params.not_after = now + LEFT;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}
