//! Where a container finds its files, and the volumes that they are in.
//!
//! Secrets and the live configuration are mounted whole: with a `subPath`, Kubernetes would never renew them.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath,
    PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, SecretProjection, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::access;
use crate::{
    api::KeyReference,
    names::Component,
    validate::{ValidatedApplication, ValidatedAuth, ValidatedCluster, ValidatedDatabase},
};

/// Everything that a process reads.
pub const CONFIGURATION_DIRECTORY: &str = "/etc/headwater";
/// What control keeps with SQLite.
pub const DATA_DIRECTORY: &str = "/var/lib/headwater";
/// Certificates that PostgreSQL's is checked against, where there are some.
pub const POSTGRES_CA_FILE: &str = "/etc/headwater/secrets/postgres/ca.crt";
/// Names of volumes that are ours.
pub const VOLUMES: [&str; 6] = [BOOT, CERTIFICATES, LIVE, SECRETS, DATA, TEMPORARY];

/// Key of the live configuration.
pub(super) const LIVE_KEY: &str = "live.yaml";
/// The live configuration.
pub(super) const LIVE_FILE: &str = "/etc/headwater/live/live.yaml";
/// An application's public keys, below its own directory.
pub(super) const JWKS: &str = "jwks.json";
/// What an application's webhook is signed with, below its own directory.
pub(super) const WEBHOOK_SECRET: &str = "webhook-secret";
/// What encoders' certificates are checked against: a directory.
pub(super) const ENCODERS: &str = "clients";
/// What certificates of the API's callers are checked against: a directory.
pub(super) const API_CLIENTS: &str = "api-clients";
/// Control's own token for the API server, where controls call it.
pub(super) const KUBERNETES_TOKEN: &str = "kubernetes/token";
/// The API server's CA, where controls call it.
pub(super) const KUBERNETES_CA: &str = "kubernetes/ca.crt";
/// SQLite's file.
pub(super) const SQLITE_FILE: &str = "/var/lib/headwater/control.db";

const BOOT: &str = "boot";
const CERTIFICATES: &str = "certificates";
const DATA: &str = "data";
const LIVE: &str = "live";
const SECRETS: &str = "secrets";
const TEMPORARY: &str = "tmp";

/// Read by the pod's group, which is the pod's alone.
const SECRET_MODE: i32 = 0o440;
/// The kubelet renews the token after four fifths of it.
const TOKEN_SECONDS: i64 = 3600;
/// Kubernetes puts it into every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";
/// SQLite sorts there what does not fit its cache.
const TEMPORARY_BYTES: &str = "64Mi";

/// Key of a role's boot configuration.
pub(super) fn boot_key(component: Component) -> String {
    format!("{component}.yaml")
}

/// A role's boot configuration.
pub(super) fn boot_file(component: Component) -> String {
    format!("{CONFIGURATION_DIRECTORY}/{BOOT}/{}", boot_key(component))
}

/// Where an edge finds the certificates beside its default.
pub(super) fn certificates_directory() -> String {
    format!("{CONFIGURATION_DIRECTORY}/{CERTIFICATES}")
}

/// A file of the Secrets.
pub(super) fn secret_file(path: &str) -> String {
    format!("{CONFIGURATION_DIRECTORY}/{SECRETS}/{path}")
}

/// A file of an application's Secrets.
pub(super) fn application_file(app: &str, name: &str) -> String {
    secret_file(&application_path(app, name))
}

fn application_path(app: &str, name: &str) -> String {
    format!("applications/{app}/{name}")
}

/// The public keys of an issuer of tokens, by its place in the list.
pub(super) fn issuer_file(index: usize) -> String {
    secret_file(&issuer_path(index))
}

fn issuer_path(index: usize) -> String {
    format!("oidc/{index}/{JWKS}")
}

pub(super) fn volumes(cluster: &ValidatedCluster, component: Component, boot: &str) -> Vec<Volume> {
    let config_map = |volume: &str, name: &str| Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: name.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        config_map(BOOT, boot),
        config_map(LIVE, &cluster.names.live()),
        Volume {
            name: SECRETS.to_owned(),
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(SECRET_MODE),
                sources: Some(secrets(cluster, component)),
            }),
            ..Volume::default()
        },
    ];
    if component == Component::Edge {
        volumes.push(Volume {
            name: CERTIFICATES.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(cluster.names.edge_certificates()),
                default_mode: Some(SECRET_MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if has_data(cluster, component) {
        volumes.push(Volume {
            name: DATA.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: cluster.names.control_data(),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        });
        volumes.push(Volume {
            name: TEMPORARY.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(TEMPORARY_BYTES.to_owned())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

pub(super) fn mounts(cluster: &ValidatedCluster, component: Component) -> Vec<VolumeMount> {
    let mount = |volume: &str, path: String, read_only: Option<bool>| VolumeMount {
        name: volume.to_owned(),
        mount_path: path,
        read_only,
        ..VolumeMount::default()
    };
    let configuration = |volume: &str| {
        mount(
            volume,
            format!("{CONFIGURATION_DIRECTORY}/{volume}"),
            Some(true),
        )
    };
    let mut mounts = [BOOT, LIVE, SECRETS].map(configuration).to_vec();
    if component == Component::Edge {
        mounts.push(configuration(CERTIFICATES));
    }
    if has_data(cluster, component) {
        mounts.push(mount(DATA, DATA_DIRECTORY.to_owned(), None));
        mounts.push(mount(TEMPORARY, "/tmp".to_owned(), None));
    }
    mounts
}

fn has_data(cluster: &ValidatedCluster, component: Component) -> bool {
    component == Component::Control && matches!(cluster.database, ValidatedDatabase::Sqlite(_))
}

/// One volume of what may come from many Secrets. None is optional: a process without one of them could not start, and
/// the kubelet says which is missing.
fn secrets(cluster: &ValidatedCluster, component: Component) -> Vec<VolumeProjection> {
    let names = &cluster.names;
    let spec = &cluster.spec;
    let mut sources = vec![projection(
        &names.internal_certificate(component.as_str()),
        &[
            ("tls.crt", "internal/tls.crt"),
            ("tls.key", "internal/tls.key"),
            ("ca.crt", "internal/ca.crt"),
        ],
    )];
    let public = match (component, &spec.tls.secret_name) {
        (Component::Edge, Some(secret)) => secret.clone(),
        (Component::Control | Component::Edge | Component::Origin, _) => {
            names.public_certificate(component)
        }
    };
    sources.push(projection(
        &public,
        &[("tls.crt", "public/tls.crt"), ("tls.key", "public/tls.key")],
    ));
    sources.extend(redis(cluster, component));
    match component {
        Component::Control => {
            sources.extend(postgres(cluster));
            sources.push(projection(&names.pepper(), &[("pepper", "pepper")]));
            sources.push(projection(
                &names.grant(),
                &[("grant.key", "grant/grant.key")],
            ));
            sources.push(projection(&names.api_token(), &[("token", "api/token")]));
            sources.extend(egress_ca(cluster));
            sources.extend(api_access(cluster));
            sources.extend(cluster.applications.iter().filter_map(of_application));
        }
        Component::Edge => {
            sources.extend(spec.tls.client_certificates.iter().flat_map(|clients| {
                let crl = clients.crl_secret_ref.as_ref();
                client_certificates(&clients.ca_secret_ref, crl, ENCODERS)
            }))
        }
        Component::Origin => {
            sources.push(projection(
                &names.grant(),
                &[("grant.pub", "grant/grant.pub")],
            ));
            sources.push(projection(
                &names.playback_token(),
                &[("token", "playback/token")],
            ));
        }
    }
    sources
}

fn client_certificates(
    ca: &KeyReference,
    crl: Option<&KeyReference>,
    directory: &str,
) -> Vec<VolumeProjection> {
    let files = [(Some(ca), "ca.crt"), (crl, "ca.crl")].into_iter();
    let files = files.filter_map(|(reference, file)| Some((reference?, file)));
    files
        .map(|(reference, file)| {
            let path = format!("{directory}/{file}");
            projection(&reference.name, &[(&reference.key, &path)])
        })
        .collect()
}

/// What those who call the API are known by.
fn api_access(cluster: &ValidatedCluster) -> Vec<VolumeProjection> {
    let control = &cluster.spec.control;
    let mut sources = Vec::new();
    if let Some(clients) = &control.client_certificates {
        let crl = clients.crl_secret_ref.as_ref();
        sources.extend(client_certificates(
            &clients.ca_secret_ref,
            crl,
            API_CLIENTS,
        ));
    }
    for (index, issuer) in control.oidc.iter().enumerate() {
        if let Some(keys) = &issuer.jwks_secret_ref {
            let path = issuer_path(index);
            sources.push(projection(&keys.name, &[(&keys.key, &path)]));
        }
    }
    if access::calls_kubernetes(&cluster.spec) {
        sources.extend(kubernetes());
    }
    sources
}

/// What controls need to call the API server: pods have no token otherwise.
fn kubernetes() -> [VolumeProjection; 2] {
    let token = ServiceAccountTokenProjection {
        audience: None,
        expiration_seconds: Some(TOKEN_SECONDS),
        path: KUBERNETES_TOKEN.to_owned(),
    };
    let ca = ConfigMapProjection {
        name: ROOT_CA.to_owned(),
        items: Some(vec![item("ca.crt", KUBERNETES_CA)]),
        ..ConfigMapProjection::default()
    };
    [
        VolumeProjection {
            service_account_token: Some(token),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(ca),
            ..VolumeProjection::default()
        },
    ]
}

fn redis(cluster: &ValidatedCluster, component: Component) -> Vec<VolumeProjection> {
    let redis = &cluster.spec.redis;
    let mut sources = Vec::new();
    if let Some(auth) = &redis.auth {
        if let Some(per_role) = &auth.per_role {
            let key = format!("{component}-password");
            sources.push(projection(
                &per_role.secret_name,
                &[(&key, "redis/password")],
            ));
        } else if let Some(shared) = &auth.shared {
            let password = &shared.password_secret_ref;
            sources.push(projection(
                &password.name,
                &[(&password.key, "redis/password")],
            ));
        }
    }
    let sentinels = redis.sentinel.as_ref();
    if let Some(auth) = sentinels.and_then(|sentinels| sentinels.auth.as_ref()) {
        let password = &auth.password_secret_ref;
        let file = (&*password.key, "redis/sentinel-password");
        sources.push(projection(&password.name, &[file]));
    }
    if let Some(ca) = redis
        .tls
        .as_ref()
        .and_then(|tls| tls.ca_secret_ref.as_ref())
    {
        sources.push(projection(&ca.name, &[(&ca.key, "redis/ca.crt")]));
    }
    if let Some(secret) = redis
        .tls
        .as_ref()
        .and_then(|tls| tls.certificate_secret_name.as_ref())
    {
        let files = [("tls.crt", "redis/tls.crt"), ("tls.key", "redis/tls.key")];
        sources.push(projection(secret, &files));
    }
    sources
}

fn postgres(cluster: &ValidatedCluster) -> Vec<VolumeProjection> {
    let Some(postgres) = &cluster.spec.control.database.postgres else {
        return Vec::new();
    };
    let password = &postgres.password_secret_ref;
    let mut sources = vec![projection(
        &password.name,
        &[(&password.key, "postgres/password")],
    )];
    if let Some(ca) = &postgres.ca_secret_ref {
        sources.push(projection(&ca.name, &[(&ca.key, "postgres/ca.crt")]));
    }
    sources
}

fn egress_ca(cluster: &ValidatedCluster) -> Option<VolumeProjection> {
    let egress = cluster.spec.control.egress.as_ref()?;
    let ca = egress.ca_secret_ref.as_ref()?;
    Some(projection(&ca.name, &[(&ca.key, "egress/ca.crt")]))
}

/// What decides on an application's publishers may need a Secret: new pods have it, and old ones keep to the table that
/// they have.
fn of_application(application: &ValidatedApplication) -> Option<VolumeProjection> {
    let (secret, name) = match &application.auth {
        ValidatedAuth::Managed => return None,
        ValidatedAuth::Signed(signed) => (signed.jwks_secret_ref.as_ref()?, JWKS),
        ValidatedAuth::Webhook(webhook) => (&webhook.secret_ref, WEBHOOK_SECRET),
    };
    let path = application_path(&application.app, name);
    Some(projection(&secret.name, &[(&secret.key, &path)]))
}

/// Keys of a Secret, each with the path of its file.
fn projection(secret: &str, items: &[(&str, &str)]) -> VolumeProjection {
    let items = items.iter().map(|(key, path)| item(key, path));
    VolumeProjection {
        secret: Some(SecretProjection {
            name: secret.to_owned(),
            items: Some(items.collect()),
            ..SecretProjection::default()
        }),
        ..VolumeProjection::default()
    }
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath {
        key: key.to_owned(),
        path: path.to_owned(),
        ..KeyToPath::default()
    }
}
