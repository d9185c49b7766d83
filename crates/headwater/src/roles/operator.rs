//! `headwater operator`.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::{Args, builder::FalseyValueParser};
use operator::{Config, Namespaces, validate::Defaults};
use runtime::{shutdown::DrainTimes, telemetry};

use crate::{cli::LogFormat, config::ProcessConfig, process::Process};

/// For passes that run to finish, and the Lease to be given back.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

#[derive(Args, Debug)]
pub(crate) struct OperatorArguments {
    /// Watch this namespace, and no other but those given as well [default: the operator's own]
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "HEADWATER_WATCH_NAMESPACE",
        value_delimiter = ','
    )]
    watch_namespace: Vec<String>,
    /// Watch every namespace
    #[arg(long, env = "HEADWATER_ALL_NAMESPACES", value_parser = FalseyValueParser::new())]
    all_namespaces: bool,
    /// Image of clusters that name none, without a tag
    #[arg(
        long,
        value_name = "REPOSITORY",
        env = "HEADWATER_IMAGE_REPOSITORY",
        default_value = "headwater"
    )]
    image_repository: String,
    /// SPIFFE trust domain of the certificates between the roles
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "HEADWATER_TRUST_DOMAIN",
        default_value = "cluster.local"
    )]
    trust_domain: String,
    /// DNS domain of Kubernetes services
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "HEADWATER_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    cluster_domain: String,
    /// Metrics and health
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "HEADWATER_ADMIN_LISTEN",
        default_value = "0.0.0.0:9090"
    )]
    admin_listen: SocketAddr,
    /// How log lines look on standard error
    #[arg(
        long,
        value_name = "FORMAT",
        env = "HEADWATER_LOG_FORMAT",
        default_value = "json"
    )]
    log_format: LogFormat,
    /// What is logged: a level, or tracing directives such as `info,operator=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "HEADWATER_LOG_FILTER",
        default_value = "info"
    )]
    log_filter: String,
    /// Where the Lease `headwater-operator` is, by which one operator acts at a time [default: the operator's own]
    #[arg(long, value_name = "NAMESPACE", env = "HEADWATER_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// What this process is called in the Lease; a random part is added
    #[arg(
        long,
        value_name = "NAME",
        env = "HOSTNAME",
        default_value = "operator",
        hide_env_values = true
    )]
    name: String,
}

pub(crate) async fn run(arguments: OperatorArguments) -> anyhow::Result<()> {
    let process = Process::start(&ProcessConfig {
        admin: arguments.admin_listen,
        drain: DrainTimes {
            notice: Duration::ZERO,
            timeout: DRAIN_TIMEOUT,
        },
        log_filter: arguments.log_filter.clone(),
        log_format: match arguments.log_format {
            LogFormat::Json => telemetry::LogFormat::Json,
            LogFormat::Text => telemetry::LogFormat::Text,
        },
        service: "headwater-operator".to_owned(),
        telemetry: None,
    })
    .await?;
    process.started();
    let handles = operator::Process {
        metrics: process.metrics.clone(),
        readiness: process.readiness.clone(),
        shutdown: process.shutdown.clone(),
    };
    let config = arguments.config();
    process
        .run(async {
            operator::run(config, handles)
                .await
                .context("the operator cannot go on")
        })
        .await
}

impl OperatorArguments {
    fn config(self) -> Config {
        let named: Vec<String> = self
            .watch_namespace
            .into_iter()
            .filter(|namespace| !namespace.is_empty())
            .collect();
        let watch = if self.all_namespaces {
            Namespaces::All
        } else if named.is_empty() {
            Namespaces::Own
        } else {
            Namespaces::Some(named)
        };
        Config {
            watch,
            lease_namespace: self
                .lease_namespace
                .filter(|namespace| !namespace.is_empty()),
            defaults: Defaults {
                image_repository: self.image_repository,
                trust_domain: self.trust_domain,
                cluster_domain: self.cluster_domain,
            },
            name: self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

    use control::{Control, DatabaseConfig, Dependencies};
    use operator::{
        api::IngestCluster,
        secrets::{self, Existing, InUse, Write},
        validate::validate,
    };
    use proto::grant::{GrantSigner, GrantVerifier};
    use registry::{MemoryRegistry, Registry};
    use runtime::{
        admin::Readiness,
        bearer::BearerCredentials,
        identity::{Cluster, Role},
        metrics::Metrics,
        tls::{CertificateFiles, InternalTls, InternalTlsFiles, ReloadingCertificate},
    };
    use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

    use super::*;

    /// Every Secret of a cluster as files, `<secret>/<key>`, as a pod mounts them.
    fn mounted(directory: &std::path::Path) -> BTreeMap<String, PathBuf> {
        let cluster: IngestCluster = serde_json::from_value(serde_json::json!({
            "apiVersion": "headwater.dev/v1alpha1",
            "kind": "IngestCluster",
            "metadata": { "name": "live", "namespace": "media", "uid": "1" },
            "spec": {
                "control": { "replicas": 1, "database": { "sqlite": {} } },
                "redis": { "standalone": { "host": "redis" } },
                "tls": { "selfSigned": {} },
            },
        }))
        .unwrap();
        let defaults = Defaults {
            image_repository: "headwater".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let cluster = validate(&cluster, &[], &defaults).unwrap();
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
        let plan = secrets::plan(&cluster, InUse::default(), &Existing::new(), now).unwrap();
        let mut files = BTreeMap::new();
        for write in plan.writes {
            let name = write.name().to_owned();
            let (Write::Create(secret) | Write::Replace(secret)) = write;
            std::fs::create_dir(directory.join(&name)).unwrap();
            for (key, value) in secret.data.unwrap_or_default() {
                let path = directory.join(&name).join(&key);
                std::fs::write(&path, value.0).unwrap();
                files.insert(format!("{name}/{key}"), path);
            }
        }
        files
    }

    #[tokio::test]
    async fn the_roles_read_what_the_operator_makes() {
        let directory = tempfile::tempdir().unwrap();
        let files = mounted(directory.path());
        let file = |name: &str| files[name].clone();
        let identity = Cluster {
            trust_domain: "cluster.local".to_owned(),
            namespace: "media".to_owned(),
            name: "live".to_owned(),
        };
        for role in [Role::Control, Role::Edge, Role::Operator, Role::Origin] {
            let internal = InternalTlsFiles {
                identity: CertificateFiles {
                    certificate: file(&format!("live-internal-{role}/tls.crt")),
                    private_key: file(&format!("live-internal-{role}/tls.key")),
                },
                ca: file(&format!("live-internal-{role}/ca.crt")),
            };
            InternalTls::load(&internal, identity.clone()).unwrap();
        }
        for name in ["live-edge-tls", "live-control-tls", "live-origin-tls"] {
            let public = CertificateFiles {
                certificate: file(&format!("{name}/tls.crt")),
                private_key: file(&format!("{name}/tls.key")),
            };
            ReloadingCertificate::load(&public).unwrap();
        }
        let token = std::fs::read_to_string(file("live-playback-token/token")).unwrap();
        assert_eq!(
            BearerCredentials::new(token.lines()).check(token.trim()),
            Ok(())
        );

        // Control reads pepper, grant key and token.
        let database = DatabaseConfig::Sqlite {
            path: directory.path().join("control.db"),
        };
        let config = control::Config::new(
            database,
            file("live-pepper/pepper"),
            file("live-grant/grant.key"),
            file("live-api-token/token"),
        );
        let dependencies = Dependencies {
            registry: Registry::Memory(MemoryRegistry::new()),
            metrics: Metrics::default(),
            readiness: Readiness::default(),
        };
        Control::new(config, dependencies).await.unwrap();

        // Origins know what it signs with.
        let key = PrivatePkcs8KeyDer::from_pem_file(file("live-grant/grant.key")).unwrap();
        let signer = GrantSigner::from_pkcs8(key.secret_pkcs8_der()).unwrap();
        let public = std::fs::read_to_string(file("live-grant/grant.pub")).unwrap();
        let public = public.lines().map(|line| {
            let bytes = data_encoding::HEXLOWER.decode(line.as_bytes()).unwrap();
            <[u8; 32]>::try_from(bytes).unwrap()
        });
        let signed = signer.sign(&proto::internal::v1::Grant::default());
        GrantVerifier::new(public).verify(&signed).unwrap();
    }
}
