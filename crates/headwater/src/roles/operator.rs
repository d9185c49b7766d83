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
    #[arg(long, value_name = "FORMAT", env = "HEADWATER_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
    /// What is logged: a level, or tracing directives such as `info,operator=debug`
    #[arg(long, value_name = "FILTER", env = "HEADWATER_LOG_FILTER", default_value = "info")]
    log_filter: String,
    /// Where the Lease `headwater-operator` is, by which one operator acts at a time [default: the operator's own]
    #[arg(long, value_name = "NAMESPACE", env = "HEADWATER_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// What this process is called in the Lease; a random part is added
    #[arg(long, value_name = "NAME", env = "HOSTNAME", default_value = "operator", hide_env_values = true)]
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
            lease_namespace: self.lease_namespace.filter(|namespace| !namespace.is_empty()),
            defaults: Defaults {
                image_repository: self.image_repository,
                trust_domain: self.trust_domain,
                cluster_domain: self.cluster_domain,
            },
            name: self.name,
        }
    }
}
