//! `headwater standalone`: edge, control and origin in one process, with nothing else to install.
//!
//! The same roles as apart, wired otherwise: leases in memory, internal gRPC in process, SQLite, and whatever secret is
//! missing is made on the first start.

mod data_dir;
mod first_stream_key;
mod greeting;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use registry::{MemoryRegistry, OriginName, Registry};
use runtime::{
    bearer::BearerCredentials,
    grpc::{self, Endpoints, Listener, Target},
    identity::Role,
    reload::Reloading,
    shutdown::{DrainTimes, Shutdown},
    telemetry::{self, LogFormat},
    tls::{EncoderTls, EncoderTlsFiles, ReloadingCertificate},
};
use serde_json::json;
use tokio::net::TcpListener;

pub(crate) use self::data_dir::DataDir;
use self::{data_dir::Secrets, greeting::Greeting};
use crate::{
    api::Server,
    cli::{self, StandaloneArguments, UsageError},
    config::{ProcessConfig, TelemetryConfig},
    process::{Process, bind, host},
    ready::ReadyFile,
};

/// The only origin's name.
const ORIGIN: &str = "standalone";
/// For readers to take the end of their streams, once the last publisher is gone.
const READERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs until a signal.
pub(crate) async fn run(arguments: &StandaloneArguments) -> anyhow::Result<()> {
    telemetry::check_filter(&arguments.log_filter)
        .map_err(|error| UsageError(format!("--log-filter: {error}")))?;
    let data_dir = DataDir::new(&arguments.data_dir);
    let _lock = data_dir.lock()?;
    let ready_file = ReadyFile::new(arguments.ready_file.as_deref())?;
    let secrets = data_dir.secrets()?;
    let process = Process::start(&process_config(arguments)).await?;
    let certificate = ReloadingCertificate::load(&data_dir.certificate())
        .context("the certificate cannot be used")?;
    let public = certificate.clone();
    process
        .own_metrics
        .certificate("public", move || public.not_after());
    let ports = Ports::bind(arguments).await?;
    let greeting = Greeting::new(
        &ports.addresses()?,
        process.admin_url(),
        &data_dir,
        &secrets,
    );
    // For `headwater keys` and `headwater sessions`, as long as there is something to reach.
    let addresses = ReadyFile::new(Some(&data_dir.addresses()))?;
    addresses.write(&json!({ "grpc_url": greeting.grpc_url }))?;

    let roles = tokio::select! {
        roles = Roles::new(&process, &data_dir, &secrets, &ports) => roles?,
        // Another process may hold the database for long.
        () = process.shutdown.leaving() => return Ok(()),
    };
    let serving = roles.run(ports, certificate, process.shutdown.clone());
    let greeted = greet(&process, &ready_file, &data_dir, greeting);
    process.started();
    process
        .run(async { tokio::try_join!(serving, greeted).map(|((), ())| ()) })
        .await
}

/// Says where everything is once everything serves.
async fn greet(
    process: &Process,
    ready_file: &ReadyFile,
    data_dir: &DataDir,
    mut greeting: Greeting,
) -> anyhow::Result<()> {
    tokio::select! {
        () = process.ready() => {}
        () = process.shutdown.draining() => return Ok(()),
    }
    let server = Server {
        url: greeting.grpc_url.clone(),
        token_file: data_dir.api_token(),
        ca_file: Some(data_dir.certificate().certificate),
    };
    greeting.stream_key = first_stream_key::ensure(&server, &data_dir.first_stream_key())
        .await
        .context("the first stream key")?;
    ready_file.write(&greeting.to_json())?;
    greeting.print();
    Ok(())
}

/// Where the process listens.
struct Ports {
    grpc: TcpListener,
    http: TcpListener,
    playback: TcpListener,
    pull: TcpListener,
    rtmps: TcpListener,
}

/// Where the process was bound.
struct Addresses {
    grpc: SocketAddr,
    http: SocketAddr,
    playback: SocketAddr,
    pull: SocketAddr,
    rtmps: SocketAddr,
}

impl Ports {
    async fn bind(arguments: &StandaloneArguments) -> anyhow::Result<Self> {
        Ok(Self {
            grpc: bind(arguments.grpc_listen, "--grpc-listen").await?,
            http: bind(arguments.http_listen, "--http-listen").await?,
            playback: bind(arguments.playback_listen, "--playback-listen").await?,
            pull: bind(arguments.pull_listen, "--pull-listen").await?,
            rtmps: bind(arguments.rtmps_listen, "--rtmps-listen").await?,
        })
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            grpc: self.grpc.local_addr()?,
            http: self.http.local_addr()?,
            playback: self.playback.local_addr()?,
            pull: self.pull.local_addr()?,
            rtmps: self.rtmps.local_addr()?,
        })
    }
}

/// The three roles, and the in-process ends of the internal ports.
struct Roles {
    control: control::Control,
    control_internal: Listener,
    edge: edge::Edge,
    origin: origin::Origin,
    origin_relay: Listener,
}

impl Roles {
    async fn new(
        process: &Process,
        data_dir: &DataDir,
        secrets: &Secrets,
        ports: &Ports,
    ) -> anyhow::Result<Self> {
        let registry = Registry::Memory(MemoryRegistry::new());
        let (control_listener, control_target) = grpc::in_process(Role::Edge);
        let (relay_listener, relay_target) = grpc::in_process(Role::Edge);
        let control = control::Control::new(
            data_dir.control_config(),
            control::Dependencies {
                registry: registry.clone(),
                metrics: process.metrics.clone(),
                readiness: process.readiness.clone(),
            },
        )
        .await
        .context("control cannot start")?;
        let origin_name = OriginName::new(ORIGIN)?;
        let origin = origin::Origin::new(
            origin::Config {
                // Announced, but not dialled: the edge has the in-process end.
                relay_address: ports.grpc.local_addr()?.to_string(),
                ..origin::Config::new(origin_name)
            },
            origin::Dependencies {
                registry: registry.clone(),
                dialer: None,
                metrics: process.metrics.clone(),
                readiness: process.readiness.clone(),
                grants: Reloading::fixed(secrets.grants.clone()),
                playback: BearerCredentials::new([secrets.playback_token.as_str()]),
            },
        );
        let tls = EncoderTls::load(EncoderTlsFiles::of(data_dir.certificate()))
            .context("the certificate cannot be used")?;
        let edge = edge::Edge::new(
            edge::Config {
                host: host(),
                drain_times: process.drain,
                ..edge::Config::default()
            },
            edge::Dependencies {
                registry,
                metrics: process.metrics.clone(),
                readiness: process.readiness.clone(),
                control: Endpoints::new(vec![Target::InProcess(control_target)]),
                origins: edge::OriginDialer::InProcess(relay_target),
                tls,
            },
        );
        Ok(Self {
            control,
            control_internal: Listener::InProcess(control_listener),
            edge,
            origin,
            origin_relay: Listener::InProcess(relay_listener),
        })
    }

    /// The edge ends first, so that what its sessions still hold reaches control and origin.
    async fn run(
        self,
        ports: Ports,
        certificate: ReloadingCertificate,
        front: Shutdown,
    ) -> anyhow::Result<()> {
        let backend = Shutdown::default();
        let control_listeners = control::Listeners {
            public: public_listener(ports.grpc, &certificate)?,
            internal: self.control_internal,
        };
        let origin_listeners = origin::Listeners {
            relay: self.origin_relay,
            playback: public_listener(ports.playback, &certificate)?,
            http: ports.http,
            rtmp: Some(origin::RtmpListener {
                certificate: (!ports.pull.local_addr()?.ip().is_loopback())
                    .then(|| certificate.clone()),
                listener: ports.pull,
            }),
        };
        let edge_listeners = edge::Listeners {
            rtmps: vec![ports.rtmps],
        };
        let control = self.control.run(control_listeners, backend.clone());
        let origin = self.origin.run(origin_listeners, backend.clone());
        let backend_roles = async {
            tokio::try_join!(async { control.await.context("control failed") }, async {
                origin.await.context("the origin failed")
            },)
        };
        tokio::pin!(backend_roles);
        tokio::select! {
            // Nobody asked them to: they failed.
            ended = &mut backend_roles => return ended.map(|_ended| ()),
            () = self.edge.run(edge_listeners, front) => {}
        }
        backend.drain();
        if tokio::time::timeout(READERS_TIMEOUT, &mut backend_roles)
            .await
            .is_err()
        {
            backend.stop();
            backend_roles.await?;
        }
        Ok(())
    }
}

/// On loopback nobody listens in; anywhere else a bearer token travels under TLS alone.
fn public_listener(
    listener: TcpListener,
    certificate: &ReloadingCertificate,
) -> std::io::Result<Listener> {
    Ok(if listener.local_addr()?.ip().is_loopback() {
        Listener::Plaintext(listener)
    } else {
        Listener::Public(listener, certificate.clone())
    })
}

fn process_config(arguments: &StandaloneArguments) -> ProcessConfig {
    ProcessConfig {
        admin: arguments.admin_listen,
        drain: DrainTimes {
            notice: Duration::ZERO,
            timeout: arguments.drain_timeout,
        },
        log_filter: arguments.log_filter.clone(),
        log_format: match arguments.log_format {
            cli::LogFormat::Json => LogFormat::Json,
            cli::LogFormat::Text => LogFormat::Text,
        },
        service: "headwater-standalone".to_owned(),
        telemetry: arguments
            .otlp_endpoint
            .clone()
            .map(|otlp_endpoint| TelemetryConfig {
                otlp_endpoint,
                ca_file: None,
                sample_ratio: arguments.sample_ratio,
                resource_attributes: BTreeMap::new(),
            }),
    }
}

/// Where somebody on this machine reaches a port: one that listens everywhere is at loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}
