//! Publishing and subscribing in quantity, and an account of every frame.
//!
//! `bench publish` stamps each frame ([`payload`]), `bench subscribe` keeps the [`ledger`]. Both need nothing of each
//! other but the stream between them, and both judge themselves: success means that nothing was wrong.

pub(crate) mod connection;
mod flv_file;
mod histogram;
mod ledger;
mod payload;
mod publish;
mod report;
pub(crate) mod source;
mod subscribe;
pub(crate) mod synthetic;
pub(crate) mod tls;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const PUBLISH_HELP: &str = "\
The report says how long connecting took (TCP, TLS and RTMP up to NetStream.Publish.Start), what was sent, how late the
load generator itself was, how often the server did not take media for more than a second, and who was disconnected why.
The first Ctrl-C ends the run in order and prints the report.

Exit codes:
  0   every publisher was admitted and stayed until the end of the run
  1   one of them did not, or the run could not start; the last line on standard error says what
  64  the command line is wrong";

const SUBSCRIBE_HELP: &str = "\
The run ends when every stream has ended, at --duration, or on Ctrl-C. A call that breaks goes on at the next endpoint with
the last cursor. The ledger counts, per stream:
  received             media frames of `bench publish`, by the numbers that it stamped them with
  lost                 numbers that never came and that no gap announced
  lost_between_sessions  the same where the publisher had connected anew: what was under way when it broke
  skipped              numbers that an announced gap explains
  duplicated, reordered, corrupted (length or checksum of the body is wrong)
  unnumbered           frames without stamps: headers, metadata, media of other encoders
  timestamp_regressions  decode times that went back, per kind and track
  token_regressions    headers with a lower fencing token than one seen before of the same slot
  session_regressions  headers of a session that a later one of its slot had replaced, or with another session's token
  session_sequence     the same account by the cluster's own frame numbers
A pause is more than 100 ms between two frames of a stream; the report has the longest hundred of each stream, and when they ended.
Latency is from the stamp to the arrival, of frames sent after the subscription; it needs one clock on both machines.

Exit codes:
  0   something came of every stream, and nothing of it was lost, duplicated, reordered, corrupted or went back in time;
      with --class lossless, no gap was announced either
  1   otherwise; the last line on standard error says what
  64  the command line is wrong";

#[derive(Args, Debug)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Publish many streams over RTMPS
    #[command(after_help = PUBLISH_HELP)]
    Publish(PublishArguments),
    /// Read streams over gRPC and account for every frame
    #[command(after_help = SUBSCRIBE_HELP)]
    Subscribe(SubscribeArguments),
}

#[derive(Args, Debug)]
pub(crate) struct PublishArguments {
    /// Where to publish: `rtmps://host[:port]/app`, `rtmp://` without TLS; several are taken in turn
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// Stream key of the only publisher
    #[arg(
        long,
        value_name = "KEY",
        conflicts_with = "keys_file",
        required_unless_present = "keys_file"
    )]
    key: Option<String>,
    /// File with a stream key a line, one for each publisher
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// How many publish; all keys, unless given
    #[arg(long, value_name = "N")]
    publishers: Option<usize>,
    /// End after this time (`20` or `20s`, `5m`); runs until Ctrl-C, unless given
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    duration: Option<Duration>,
    /// Spread the start of the publishers over this time
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "0")]
    ramp: Duration,
    /// Bits per second of each publisher, audio included (`800k`, `2.5M`)
    #[arg(long, value_name = "BITS", value_parser = bits, default_value = "2.5M")]
    bitrate: u64,
    /// Video frames per second
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=240))]
    fps: u32,
    /// From one keyframe to the next
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "2")]
    gop: Duration,
    /// Publish this FLV file over and over instead of stamped frames
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send as fast as the server takes it
    ///
    /// An edge ends sessions with too many messages a second: ask for a high bitrate too, which makes them large.
    #[arg(long)]
    unpaced: bool,
    /// Connect again after a disconnect, as encoders do; it still counts
    #[arg(long)]
    reconnect: bool,
    /// Say that a request to connect elsewhere is followed, and follow it: without a disconnect and without a loss
    #[arg(long)]
    follow_requests: bool,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    report: ReportArguments,
}

#[derive(Args, Debug)]
pub(crate) struct SubscribeArguments {
    /// Playback API of an origin: `https://host:port`, `http://` where it serves without TLS
    #[arg(value_name = "GRPC_URL")]
    url: String,
    /// Application
    #[arg(long, default_value = "live")]
    app: String,
    /// Public name of a stream; may be repeated
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<String>,
    /// File with a stream name a line
    #[arg(long, value_name = "FILE")]
    streams_file: Option<PathBuf>,
    /// File that holds the playback token
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Whether a slow reader may be skipped ahead
    #[arg(long, value_name = "CLASS", default_value = "lossless")]
    class: Class,
    /// Other endpoints where a stream goes on when a call breaks
    #[arg(long, value_name = "GRPC_URL", value_delimiter = ',')]
    follow_endpoints: Vec<String>,
    /// Give a stream up when nothing could be read of it for this long after a call broke
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "30")]
    give_up: Duration,
    /// Go on at the next endpoint when nothing has come for this long, as for a call that breaks
    ///
    /// An origin that hangs breaks no call. Without this its silence is noticed by HTTP/2 alone, within 6 s.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    silence: Option<Duration>,
    /// End after this time; ends with the streams, unless given
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    duration: Option<Duration>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    report: ReportArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Class {
    Live,
    Lossless,
}

/// Which servers to believe; those that the system trusts, unless given.
#[derive(Args, Clone, Debug)]
pub(crate) struct TrustArguments {
    /// Certificates (PEM) to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Do not check the server's certificate
    #[arg(long, conflicts_with = "ca_file")]
    pub(crate) insecure: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArguments {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Write the report to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    report_file: Option<PathBuf>,
}

/// Runs one of the two; an error where the run was not clean.
pub(crate) async fn run(arguments: BenchArguments) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    match arguments.command {
        BenchCommand::Publish(arguments) => publish::run(arguments, stop).await,
        BenchCommand::Subscribe(arguments) => subscribe::run(arguments, stop).await,
    }
}

/// The first signal ends the run in order, the second at once.
fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// `20` and `1.5` are seconds; `5m` and the like as elsewhere on the command line.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => {
            humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
        }
    }
}

/// `800k`, `2.5M`, `1G`, or plain bits per second.
fn bits(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => match text.strip_suffix(['m', 'M']) {
            Some(number) => (number, 1e6),
            None => match text.strip_suffix(['g', 'G']) {
                Some(number) => (number, 1e9),
                None => (text, 1.0),
            },
        },
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "not a number with k, M or G behind it".to_owned())?;
    let bits = number * factor;
    if !(1e3..=1e10).contains(&bits) {
        return Err("not between 1k and 10G".to_owned());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    Ok(bits as u64)
}

/// The words of a file, one a line; empty lines and `#` comments do not count.
fn lines(path: &std::path::Path) -> anyhow::Result<Vec<String>> {
    Ok(crate::files::read(path)?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitrates_and_durations_are_written_as_people_write_them() {
        assert_eq!(bits("2.5M"), Ok(2_500_000));
        assert_eq!(bits("800k"), Ok(800_000));
        assert_eq!(bits("64000"), Ok(64_000));
        for wrong in ["", "M", "-1M", "1T", "nan", "12"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("20"), Ok(Duration::from_secs(20)));
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
        assert!(seconds("-1").is_err());
    }
}
