//! The command line, as data. What it means is elsewhere.

mod edges;
mod events;
mod keys;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::edges::{DrainArguments, EdgesCommand, EdgesRequest};
pub(crate) use self::events::{
    EventsCommand, SessionFilter, SessionsCommand, TailArguments, WebhooksCommand,
};
pub(crate) use self::keys::{
    ContainerName, CreateArguments, Field, IngestRoleName, KeyState, KeysCommand, LimitArguments,
    ListArguments, QuotasCommand, RevokeSignedArguments, SettingsArguments, Takeover,
    UpdateArguments,
};
use crate::{
    bench::BenchArguments, probe::ProbeArguments, roles::operator::OperatorArguments,
    standalone::DataDir,
};

const EXAMPLES: &str = "\
Examples:
  headwater standalone                             a whole cluster in one process
  headwater keys create --app live --stream one    a stream key for it
  headwater sessions list                          who publishes
  headwater drain EDGE --timeout 30m --wait        empty an edge, for maintenance
  headwater events tail --since 1h                 what happened, and what happens
  headwater probe rtmps://ingest.example/live      why an encoder does not get through
  headwater bootstrap ./cluster                    all that the roles need to run apart
  headwater edge --config ./cluster/edge.yaml      one role by itself
  headwater backup keys.db                         a copy of the database, while it is in use
  headwater doctor --namespace live                what is wrong with an installation on Kubernetes

Exit codes:
  0   all is well
  1   something failed; the last line on standard error says what (probe has its own: headwater probe --help)
  64  the command line or the configuration is wrong; every mistake is listed";

const ROLE_HELP: &str = "\
Every field of the file can be overridden by an environment variable: edge.listen by HEADWATER__EDGE__LISTEN, whose
value is read as YAML. Relative paths are relative to the file. The first SIGTERM drains, the second forces the end.";

/// Horizontally scalable RTMPS ingest: encoders publish with stream keys, consumers read over gRPC, HTTP-FLV or RTMP.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster in one process: nothing else is needed
    Standalone(StandaloneArguments),
    /// Run an edge: takes publishers in over RTMPS
    #[command(after_help = ROLE_HELP)]
    Edge(RoleArguments),
    /// Run a control: issues stream keys and decides who may publish
    #[command(after_help = ROLE_HELP)]
    Control(RoleArguments),
    /// Run an origin: holds live streams and serves subscribers
    #[command(after_help = ROLE_HELP)]
    Origin(RoleArguments),
    /// Write certificates, secrets and configuration to run the roles apart on one machine
    ///
    /// For development: in production, certificates and secrets come from the platform. Files that exist are kept.
    Bootstrap {
        /// Where to write
        directory: PathBuf,
    },
    /// Copy control's SQLite database while it is in use
    ///
    /// The copy is of one moment, and has mode 0600. Nothing is overwritten. Stream keys are good with the pepper file
    /// alone: keep a copy of that elsewhere. PostgreSQL is backed up with pg_dump.
    Backup(BackupArguments),
    /// Run the operator: makes clusters on Kubernetes from IngestClusters
    ///
    /// Kubernetes is found as kubectl finds it; inside a pod, by its ServiceAccount. The first SIGTERM gives the Lease back
    /// and ends.
    Operator(Box<OperatorArguments>),
    /// Print the CustomResourceDefinitions that the operator needs, or write them to files
    Crds {
        /// Where to write, one file each
        directory: Option<PathBuf>,
    },
    /// Create, list, change and end stream keys
    Keys {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Show and set how many keys and sessions, and which bitrate, a tenant may have
    Quotas {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: QuotasCommand,
    },
    /// List, watch and end live publishing sessions
    Sessions {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// List edges
    Edges {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: EdgesCommand,
    },
    /// Tell an edge to get empty: it takes no new publishers in, and its sessions leave
    ///
    /// The edge goes on to be there without sessions, until it is told to serve again or its process ends.
    Drain {
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        command: DrainArguments,
    },
    /// Tell an edge that drains to take publishers in again
    Undrain {
        #[command(flatten)]
        server: ServerArguments,
        /// Name or host, as `edges list` shows it
        edge: String,
    },
    /// Create, list, rotate and revoke API tokens
    Tokens {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: TokensCommand,
    },
    /// Follow what happens: sessions and stream keys
    Events {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: EventsCommand,
    },
    /// Have events posted to a platform's backend
    Webhooks {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        command: WebhooksCommand,
    },
    /// Publish and subscribe in quantity, and account for every frame
    Bench(BenchArguments),
    /// Try what an encoder does, step by step, and say what is wrong
    Probe(Box<ProbeArguments>),
    /// Look for what is wrong with an installation on Kubernetes, or with the place for one, and say what to do
    ///
    /// Exit code 1 where something does not work.
    Doctor {
        #[command(flatten)]
        desk: DeskArguments,
        /// One IngestCluster alone
        name: Option<String>,
    },
    /// Look at clusters on Kubernetes, and use their API from here
    ///
    /// Also a kubectl plugin: called by the name kubectl-headwater (a link on the PATH is enough), this is what
    /// `kubectl headwater` runs. The API is reached through the API server's port forwarding, with the token from the
    /// cluster's Secret: whoever may read that Secret and forward ports may use it.
    Kubectl {
        #[command(flatten)]
        desk: DeskArguments,
        #[command(subcommand)]
        command: KubectlCommand,
    },
}

/// Which Kubernetes, and where in it: as kubectl takes them.
#[derive(Args, Debug)]
pub(crate) struct DeskArguments {
    /// kubeconfig file [default: as kubectl finds it; inside a pod, its ServiceAccount]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,
    /// Namespace [default: the context's]
    #[arg(long, short, value_name = "NAME", global = true)]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArguments,
}

/// Which cluster of the namespace.
#[derive(Args, Debug)]
pub(crate) struct ClusterArgument {
    /// The IngestCluster, where there are several
    #[arg(id = "cluster", long = "cluster", value_name = "NAME", global = true)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KubectlCommand {
    /// Show clusters with their conditions, pods and applications
    Status {
        /// One IngestCluster alone
        name: Option<String>,
    },
    /// List and end live publishing sessions
    Streams {
        #[command(flatten)]
        cluster: ClusterArgument,
        #[command(subcommand)]
        command: Option<SessionsCommand>,
    },
    /// Create, list, change and end stream keys
    Keys {
        #[command(flatten)]
        cluster: ClusterArgument,
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// List edges
    Edges {
        #[command(flatten)]
        cluster: ClusterArgument,
        #[command(subcommand)]
        command: Option<EdgesCommand>,
    },
    /// Tell an edge to get empty: it takes no new publishers in, and its sessions leave
    Drain {
        #[command(flatten)]
        cluster: ClusterArgument,
        #[command(flatten)]
        command: DrainArguments,
    },
    /// Tell an edge that drains to take publishers in again
    Undrain {
        #[command(flatten)]
        cluster: ClusterArgument,
        /// Name or host (the pod), as `edges list` shows it
        edge: String,
    },
    /// Look for what is wrong, and say what to do
    Doctor {
        /// One IngestCluster alone
        name: Option<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RoleArguments {
    /// Configuration (YAML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Write the addresses that were bound to this file (JSON) once they are
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BackupArguments {
    /// Configuration of the control whose database it is
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    pub(crate) config: Option<PathBuf>,
    /// Data directory of a standalone process
    #[arg(long, value_name = "DIR", default_value = DataDir::DEFAULT)]
    pub(crate) data_dir: PathBuf,
    /// Where to write; must not exist
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct StandaloneArguments {
    /// Keys, certificate and secrets; made where it does not exist
    #[arg(long, value_name = "DIR", default_value = DataDir::DEFAULT)]
    pub(crate) data_dir: PathBuf,
    /// Write addresses and credentials to this file (JSON, mode 0600) once everything serves
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Where encoders publish; port 0 takes a free one, here and below
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub(crate) rtmps_listen: SocketAddr,
    /// The gRPC API: stream keys and sessions. Without TLS on loopback, else with it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    pub(crate) grpc_listen: SocketAddr,
    /// Playback over gRPC. Without TLS on loopback, else with it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7446")]
    pub(crate) playback_listen: SocketAddr,
    /// Playback over HTTP-FLV
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) http_listen: SocketAddr,
    /// Playback over RTMP. Without TLS on loopback, else with it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1936")]
    pub(crate) pull_listen: SocketAddr,
    /// Metrics and health
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub(crate) admin_listen: SocketAddr,
    /// How long sessions may go on after the first SIGTERM or Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub(crate) drain_timeout: Duration,
    /// How log lines look on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What is logged: a level, or tracing directives such as `info,edge=debug`
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log_filter: String,
    /// Where traces go: an OpenTelemetry collector, OTLP over gRPC (such as http://127.0.0.1:4317)
    #[arg(long, value_name = "URL", value_parser = url)]
    pub(crate) otlp_endpoint: Option<String>,
    /// Which share of publishes is traced, 0 to 1
    #[arg(long, value_name = "RATIO", default_value = "1", requires = "otlp_endpoint", value_parser = ratio)]
    pub(crate) sample_ratio: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

/// For people, or for scripts.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct FormatArguments {
    /// What to print [default: table]
    #[arg(long, short, value_name = "FORMAT", global = true)]
    output: Option<OutputFormat>,
    /// The same as `-o json`
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Json,
    Table,
}

impl FormatArguments {
    pub(crate) fn json(self) -> bool {
        self.json || self.output == Some(OutputFormat::Json)
    }
}

/// Which control, and with which credential.
#[derive(Args, Debug)]
pub(crate) struct ServerArguments {
    /// gRPC API, `https://host:port`; `http://` where it serves without TLS
    #[arg(long, value_name = "URL", env = "HEADWATER_SERVER", global = true)]
    pub(crate) server: Option<String>,
    /// File that holds the API token
    #[arg(long, value_name = "FILE", env = "HEADWATER_TOKEN_FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE", env = "HEADWATER_CA_FILE", global = true)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Data directory of a running standalone process, instead of a server; ./data where neither is given
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Create a token; it is shown this once
    Create {
        /// For whom it is good; `*`: every tenant [default: the tenant of the token that is used]
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
        /// What it may do, such as keys:write; `*`: everything. Can be given several times
        #[arg(long, value_name = "SCOPE", required = true)]
        scope: Vec<String>,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// The token is refused after this time, such as `90days`; without it, it does not expire
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires_in: Option<Duration>,
        /// Write the token to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Show a token, without its secret
    Get {
        /// As `tokens list` shows it
        id: String,
    },
    /// List tokens, oldest first
    List {
        /// Of one tenant alone
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
        /// Revoked ones too
        #[arg(long)]
        all: bool,
    },
    /// Give a token a new secret, which is shown this once
    Rotate {
        /// As `tokens list` shows it
        id: String,
        /// For how long the secret before is good, such as `1day`
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        overlap: Duration,
        /// Write the token to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Revoke a token: it is refused from then on
    Revoke {
        /// As `tokens list` shows it
        id: String,
    },
}

/// The command line is well-formed but makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn url(text: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    match text.parse::<http::Uri>() {
        Ok(_) if is_url => Ok(text.to_owned()),
        Ok(_) => Err("begins with neither https:// nor http://".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Ok(_) | Err(_) => Err("not between 0 and 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_has_two_names() {
        let format = |words: &[&str]| {
            let words = ["headwater", "keys"].iter().chain(words);
            let parsed = Cli::try_parse_from(words).unwrap();
            matches!(parsed.command, Command::Keys { server, .. } if server.format.json())
        };
        assert!(format(&["list", "-o", "json"]) && format(&["--json", "list"]));
        assert!(!format(&["list"]) && !format(&["list", "--output", "table"]));
    }

    #[test]
    fn durations_are_written_with_units() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("90").is_err());
    }

    #[test]
    fn traces_need_a_url_and_a_share() {
        assert!(url("http://127.0.0.1:4317").is_ok() && url("127.0.0.1:4317").is_err());
        assert_eq!(ratio("0.5"), Ok(0.5));
        assert!(ratio("2").is_err() && ratio("all").is_err());
    }
}
