//! The internal CA of a cluster in the hands of a test: certificates as they should be, and as they should not.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use runtime::{
    identity::{Cluster, Role},
    tls::{CertificateFiles, InternalTls, InternalTlsFiles},
};

/// A CA and its key.
pub struct Authority {
    /// Its certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Expired,
    Now,
}

/// A certificate for one role.
pub struct Leaf {
    pub pem: String,
    pub key_pem: String,
    pub der: Vec<u8>,
}

impl Authority {
    /// What `headwater bootstrap` made.
    pub fn bootstrapped(internal: &Path, cluster: &Cluster) -> Self {
        let key = fs::read_to_string(internal.join("ca.key")).unwrap();
        Self {
            pem: fs::read_to_string(internal.join("ca.pem")).unwrap(),
            issuer: Issuer::new(params(cluster), KeyPair::from_pem(&key).unwrap()),
        }
    }

    /// Another one of the same name.
    pub fn another(cluster: &Cluster) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params(cluster).self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params(cluster), key),
        }
    }

    pub fn leaf(&self, cluster: &Cluster, role: Role, validity: Validity) -> Leaf {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("headwater {role}"));
        params.subject_alt_names = vec![SanType::URI(cluster.uri(role).try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }
}

impl Leaf {
    /// Puts it where `<role>.pem` and `<role>.key` are, or will be.
    pub fn write(&self, directory: &Path, role: Role) {
        fs::write(directory.join(format!("{role}.key")), &self.key_pem).unwrap();
        fs::write(directory.join(format!("{role}.pem")), &self.pem).unwrap();
    }
}

/// A role's identity from a directory of `ca.pem`, `<role>.pem` and `<role>.key`.
pub fn internal_tls(directory: &Path, cluster: &Cluster, role: Role) -> InternalTls {
    let files = InternalTlsFiles {
        identity: CertificateFiles {
            certificate: directory.join(format!("{role}.pem")),
            private_key: directory.join(format!("{role}.key")),
        },
        ca: directory.join("ca.pem"),
    };
    InternalTls::load(&files, cluster.clone()).unwrap()
}

/// As `headwater bootstrap` names the cluster.
pub fn bootstrapped_cluster() -> Cluster {
    Cluster {
        trust_domain: "headwater.local".to_owned(),
        namespace: "default".to_owned(),
        name: "dev".to_owned(),
    }
}

fn params(cluster: &Cluster) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(
        DnType::CommonName,
        format!(
            "Headwater internal CA of {}/{}",
            cluster.namespace, cluster.name
        ),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
