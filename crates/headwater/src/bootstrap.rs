//! `headwater bootstrap`: everything that the roles need to run apart on one machine. For development and tests; in
//! production, certificates and secrets come from the platform.
//!
//! Idempotent: what exists is kept, what is missing is made.

use std::path::Path;

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use registry::RedisPasswords;
use runtime::{
    identity::{Cluster, Role},
    tls::{CertificateFiles, ensure_internal_ca, ensure_self_signed},
};

use crate::{files, output, secrets};

/// The files in `deploy/`: their paths are relative to themselves, so that they are right wherever they are written.
const CONFIGURATIONS: [(&str, &str); 4] = [
    ("edge.yaml", include_str!("../../../deploy/edge.yaml")),
    ("control.yaml", include_str!("../../../deploy/control.yaml")),
    (
        "origin-a.yaml",
        include_str!("../../../deploy/origin-a.yaml"),
    ),
    (
        "origin-b.yaml",
        include_str!("../../../deploy/origin-b.yaml"),
    ),
];
const REDIS_CONFIGURATION: &str = include_str!("../../../deploy/redis/redis.conf");
/// As in the configurations.
const REDIS_PREFIX: &str = "hw";

/// Writes everything, and says what to run next.
pub(crate) fn run(directory: &Path) -> anyhow::Result<()> {
    write(directory)?;
    let (here, headwater) = (directory.display(), output::program());
    output::line(format_args!(
        "\
{here} holds certificates, secrets and configuration for a cluster on this machine.

Once, the database:
    sudo -u postgres psql -c \"CREATE ROLE headwater LOGIN PASSWORD '$(cat {here}/postgres/password)'\" \\
        -c 'CREATE DATABASE headwater OWNER headwater'
  or, with one control, SQLite instead:
    export HEADWATER__CONTROL__DATABASE='{{sqlite: control.db}}'

Then run, each in its own terminal:
    (cd {here}/redis && redis-server redis.conf)
    {headwater} control --config {here}/control.yaml
    {headwater} origin --config {here}/origin-a.yaml
    {headwater} origin --config {here}/origin-b.yaml
    {headwater} edge --config {here}/edge.yaml

And for a stream key:
    export HEADWATER_SERVER=https://localhost:7443 HEADWATER_TOKEN_FILE={here}/api-token HEADWATER_CA_FILE={here}/public.pem
    {headwater} keys create --app live --stream main

Encoders publish to rtmps://localhost:8443/live with that key."
    ));
    Ok(())
}

/// Writes what is missing.
pub(crate) fn write(directory: &Path) -> anyhow::Result<()> {
    for directory in ["", "internal", "postgres", "redis"].map(|name| directory.join(name)) {
        files::private_directory(&directory)?;
    }
    write_certificates(directory)?;
    secrets::ensure_pepper(&directory.join("pepper"))?;
    let public_key = secrets::ensure_grant_key(&directory.join("grant.key"))?;
    files::ensure_private(&directory.join("grant.pub"), || {
        Ok(HEXLOWER.encode(&public_key) + "\n")
    })?;
    secrets::ensure_bearer_token(&directory.join("api-token"))?;
    secrets::ensure_bearer_token(&directory.join("playback-token"))?;
    secrets::ensure_bearer_token(&directory.join("postgres/password"))?;
    write_redis(&directory.join("redis"))?;
    for (name, configuration) in CONFIGURATIONS {
        files::ensure_private(&directory.join(name), || Ok(configuration.to_owned()))?;
    }
    Ok(())
}

fn write_certificates(directory: &Path) -> anyhow::Result<()> {
    // As in the configurations.
    let cluster = Cluster {
        trust_domain: "headwater.local".to_owned(),
        namespace: "default".to_owned(),
        name: "dev".to_owned(),
    };
    let roles = [Role::Control, Role::Edge, Role::Origin];
    ensure_internal_ca(&directory.join("internal"), &cluster, &roles)
        .context("cannot make the internal certificates")?;
    let public = CertificateFiles {
        certificate: directory.join("public.pem"),
        private_key: directory.join("public.key"),
    };
    ensure_self_signed(&public, &secrets::local_names())
        .context("cannot make the public certificate")
}

/// A server certificate, a password for each role, and the users that have them.
fn write_redis(directory: &Path) -> anyhow::Result<()> {
    let server = CertificateFiles {
        certificate: directory.join("tls.crt"),
        private_key: directory.join("tls.key"),
    };
    ensure_self_signed(&server, &secrets::local_names())
        .context("cannot make Redis's certificate")?;
    // It is its own authority.
    let certificate = files::read(&server.certificate)?;
    files::write_private(&directory.join("ca.pem"), certificate.as_bytes())?;

    let password =
        |role: &str| secrets::ensure_bearer_token(&directory.join(format!("{role}.password")));
    let passwords = RedisPasswords {
        edge: &password("edge")?,
        control: &password("control")?,
        origin: &password("origin")?,
    };
    files::ensure_private(&directory.join("users.acl"), || {
        Ok(registry::redis_users(REDIS_PREFIX, &passwords))
    })?;
    files::ensure_private(&directory.join("redis.conf"), || {
        Ok(REDIS_CONFIGURATION.to_owned())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

    use super::*;

    /// Content and mode of every file below a directory.
    fn tree(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{path:?}");
                files.extend(tree(&path));
            } else {
                files.insert(path.clone(), (fs::read(&path).unwrap(), mode));
            }
        }
        files
    }

    #[test]
    fn a_second_run_changes_nothing_and_makes_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("cluster");
        write(&base).unwrap();
        let first = tree(&base);
        write(&base).unwrap();
        assert_eq!(tree(&base), first);

        fs::remove_file(base.join("api-token")).unwrap();
        write(&base).unwrap();
        let third = tree(&base);
        assert_eq!(third.len(), first.len());
        assert_ne!(
            third[&base.join("api-token")],
            first[&base.join("api-token")]
        );
    }

    #[test]
    fn secrets_are_their_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("cluster");
        write(&base).unwrap();
        for (path, (_, mode)) in tree(&base) {
            let certificate = path
                .extension()
                .is_some_and(|extension| extension == "pem" || extension == "crt");
            if !certificate {
                assert_eq!(mode, 0o600, "{path:?}");
            }
        }
    }
}
