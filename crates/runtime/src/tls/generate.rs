//! Certificates made on the spot, for the standalone process, development and tests. On Kubernetes the operator or
//! cert-manager does this.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::{CertificateFiles, TlsError};
use crate::identity::{Cluster, Role};

const VALIDITY_YEARS: i32 = 10;
const SECONDS_PER_YEAR: u64 = 31_556_952;
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a self-signed certificate for these names (DNS names or addresses) where the files do not exist yet; the key
/// gets mode 0600. For the standalone process and for development.
pub fn ensure_self_signed(files: &CertificateFiles, names: &[String]) -> Result<(), TlsError> {
    if complete(files)? {
        return Ok(());
    }
    let fault = |error| fault(&files.certificate, error);
    let mut params = leaf(names.to_vec()).map_err(fault)?;
    let name = names.first().map_or("headwater", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(fault)?;
    let certificate = params.self_signed(&key).map_err(fault)?;
    write_pair(files, &certificate, &key)
}

/// Writes a CA and one certificate per role into a directory (`ca.pem`, `ca.key`, `<role>.pem`, `<role>.key`) where they
/// do not exist yet. For development and tests; on Kubernetes the operator does this.
pub fn ensure_internal_ca(
    directory: &Path,
    cluster: &Cluster,
    roles: &[Role],
) -> Result<(), TlsError> {
    let ca = CertificateFiles {
        certificate: directory.join("ca.pem"),
        private_key: directory.join("ca.key"),
    };
    let fault_ca = |error| fault(&ca.certificate, error);
    // A CA's key may have been taken away once every role has its certificate.
    if roles
        .iter()
        .all(|role| role_files(directory, *role).exist())
        && ca.certificate.exists()
    {
        return Ok(());
    }
    let params = authority(cluster);
    let key = if complete(&ca)? {
        let pem = std::fs::read_to_string(&ca.private_key)
            .map_err(|error| fault(&ca.private_key, error))?;
        KeyPair::from_pem(&pem).map_err(|error| fault(&ca.private_key, error))?
    } else {
        let key = KeyPair::generate().map_err(fault_ca)?;
        write_pair(&ca, &params.self_signed(&key).map_err(fault_ca)?, &key)?;
        key
    };
    // The issuer is its name and its key, and both are the same each time.
    let issuer = Issuer::new(params, key);
    for role in roles {
        let files = role_files(directory, *role);
        if complete(&files)? {
            continue;
        }
        let fault = |error| fault(&files.certificate, error);
        let key = KeyPair::generate().map_err(fault)?;
        let certificate = role_params(cluster, *role)
            .and_then(|params| params.signed_by(&key, &issuer))
            .map_err(fault)?;
        write_pair(&files, &certificate, &key)?;
    }
    Ok(())
}

fn role_files(directory: &Path, role: Role) -> CertificateFiles {
    CertificateFiles {
        certificate: directory.join(format!("{role}.pem")),
        private_key: directory.join(format!("{role}.key")),
    }
}

pub(super) fn authority(cluster: &Cluster) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(
        DnType::CommonName,
        format!(
            "Headwater internal CA of {}/{}",
            cluster.namespace, cluster.name
        ),
    );
    set_validity(&mut params);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(super) fn role_params(
    cluster: &Cluster,
    role: Role,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = leaf(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, format!("headwater {role}"));
    params.subject_alt_names = vec![SanType::URI(cluster.uri(role).try_into()?)];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn leaf(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    set_validity(&mut params);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// From the start of last year, so that a clock that is behind does not matter.
fn set_validity(params: &mut CertificateParams) {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let years = i32::try_from(since_epoch.as_secs() / SECONDS_PER_YEAR).unwrap_or_default();
    let year = 1970 + years.clamp(0, 1000);
    params.not_before = date_time_ymd(year - 1, 1, 1);
    params.not_after = date_time_ymd(year + VALIDITY_YEARS, 1, 1);
}

impl CertificateFiles {
    fn exist(&self) -> bool {
        self.certificate.exists() && self.private_key.exists()
    }
}

/// Whether both files are there; half a pair is somebody's mistake and is not overwritten.
fn complete(files: &CertificateFiles) -> Result<bool, TlsError> {
    match (files.certificate.exists(), files.private_key.exists()) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (true, false) => Err(fault(
            &files.private_key,
            "is missing, its certificate is there",
        )),
        (false, true) => Err(fault(
            &files.certificate,
            "is missing, its private key is there",
        )),
    }
}

fn write_pair(
    files: &CertificateFiles,
    certificate: &Certificate,
    key: &KeyPair,
) -> Result<(), TlsError> {
    write(&files.private_key, &key.serialize_pem(), PRIVATE)?;
    write(&files.certificate, &certificate.pem(), PUBLIC)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let io = |error| fault(path, error);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(io)?;
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io)
}

fn fault(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}
