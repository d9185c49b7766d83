//! `headwater probe`: what an encoder does, step by step, each with its time and, where it fails, what that usually means.
//!
//! | file | what |
//! |---|---|
//! | `target` | the URL and the key, taken apart |
//! | `attempt` | one address: TCP, TLS, RTMP |
//! | `certificate` | what the server shows, and what is wrong with it |
//! | `cause` | from errors to sentences |
//! | `report` | what people and scripts read |

mod attempt;
mod cause;
mod certificate;
mod report;
mod target;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use tokio::time::{Instant, timeout};

use self::{
    attempt::Attempt,
    certificate::Trust,
    report::{AddressReport, Outcome, Report, StepReport},
    target::Target,
};
use crate::{bench::TrustArguments, cli::duration, output};

const HELP: &str = "\
Each address of the host is tried up to the answer to connect. The stream is then published at the first that answers,
and ended again: a key that is live elsewhere is refused or taken over, as its takeover policy says. Secrets are never
printed.

Exit codes, by the step that failed at the address that came furthest:
  0   everything that was asked for works
  10  DNS: the name has no address
  11  TCP: no connection
  12  TLS: no handshake, or the certificate is not to be trusted
  13  RTMP handshake: something else answers
  14  connect: the application was refused
  15  publish: the key was refused
  16  media: the connection broke while media were sent
  1   the probe itself could not run
  64  the command line is wrong

In a cluster:
  kubectl run probe --rm -it --restart=Never --image=IMAGE -- probe rtmps://HOST/live";

#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct ProbeArguments {
    /// `rtmps://host[:port]/app[/KEY]`, or rtmp://. Without a key, it ends after connect
    url: String,
    /// File with the stream key; `-` reads it from standard input. The URL's path is the application then
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Send made-up video and audio for this long, such as 5s; needs a key
    #[arg(long, value_name = "TIME", value_parser = duration)]
    media: Option<Duration>,
    #[command(flatten)]
    trust: TrustArguments,
    /// Certificate (PEM) to show to the server, with its chain
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    cert: Option<PathBuf>,
    /// Private key (PEM) of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    cert_key: Option<PathBuf>,
    /// For each step
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a publisher does, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Dns,
    Tcp,
    Tls,
    Handshake,
    Connect,
    Publish,
    Media,
}

/// A step failed; the report says why.
#[derive(Debug, thiserror::Error)]
#[error("{} failed", .0.name())]
pub(crate) struct Failed(pub(crate) Step);

impl Step {
    /// For people.
    fn name(self) -> &'static str {
        match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Handshake => "RTMP handshake",
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Media => "media",
        }
    }

    /// For scripts.
    fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Handshake => "handshake",
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Media => "media",
        }
    }

    /// Of the process, where this step failed.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Dns => 10,
            Self::Tcp => 11,
            Self::Tls => 12,
            Self::Handshake => 13,
            Self::Connect => 14,
            Self::Publish => 15,
            Self::Media => 16,
        }
    }
}

/// What all attempts share.
struct Probe {
    media: Option<Duration>,
    target: Target,
    timeout: Duration,
    /// `None`: without TLS.
    trust: Option<Trust>,
}

pub(crate) async fn run(arguments: ProbeArguments) -> anyhow::Result<()> {
    let target = Target::new(&arguments.url, arguments.key_file.as_deref())?;
    target.check(arguments.media.is_some())?;
    let identity = arguments.cert.as_deref().zip(arguments.cert_key.as_deref());
    let trust = target
        .secure
        .then(|| Trust::new(&arguments.trust, identity))
        .transpose()?;
    let probe = Probe {
        media: arguments.media,
        target,
        timeout: arguments.timeout,
        trust,
    };
    let report = probe.run().await;
    if arguments.json {
        output::json(&report.to_json());
    } else {
        output::line(report.text());
    }
    match report.failed() {
        Some(step) => Err(Failed(step).into()),
        None => Ok(()),
    }
}

impl Probe {
    async fn run(&self) -> Report {
        let (dns, addresses) = self.resolve().await;
        let mut report = Report::new(&self.target, dns);
        for address in addresses {
            let publishes = self.target.key.is_some() && !report.publishes();
            let steps = Attempt::new(self, address).run(publishes).await;
            report.addresses.push(AddressReport { address, steps });
        }
        report
    }

    async fn resolve(&self) -> (StepReport, Vec<SocketAddr>) {
        let Target { host, port, .. } = &self.target;
        let begun = Instant::now();
        let looked_up = timeout(
            self.timeout,
            tokio::net::lookup_host((host.as_str(), *port)),
        );
        let (outcome, addresses) = match looked_up.await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for address in found {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                let list: Vec<_> = addresses.iter().map(|at| at.ip().to_string()).collect();
                let outcome = match list.as_slice() {
                    [] => cause::no_address(host),
                    list => Outcome::Passed(list.join(", ")),
                };
                (outcome, addresses)
            }
            Ok(Err(error)) => (cause::name(host, &error), Vec::new()),
            Err(_elapsed) => (cause::name_timeout(self.timeout), Vec::new()),
        };
        let report = StepReport::new(Step::Dns, begun.elapsed(), outcome);
        (report, addresses)
    }
}
