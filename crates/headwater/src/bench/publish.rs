//! `bench publish`: many encoders in one process.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rtmp::{StreamKeyText, caps_ex};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    PublishArguments,
    connection::{Connection, Fault, Stalls, Target},
    flv_file,
    histogram::{Histogram, Percentiles},
    lines, report,
    source::{Media, Source},
    synthetic::Profile,
};
use crate::cli::UsageError;

/// From TCP to NetStream.Publish.Start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// As OBS waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// What is due within this time goes out together: hundreds of publishers must not wake up for each audio frame.
const GATHER: Duration = Duration::from_millis(25);
/// Unpaced: what is queued at a time, in bytes.
const UNPACED_BATCH_BYTES: usize = 64 * 1024;
/// Disconnects of one publisher that the report tells one by one.
const DISCONNECTS_TOLD: usize = 100;

/// What all publishers share.
struct Run {
    targets: Vec<Target>,
    media: Media,
    /// Stamps count from here: another run on the same streams is told apart.
    first_stamp_id: u32,
    paced: bool,
    reconnect: bool,
    /// What is announced in `connect`.
    caps_ex: u32,
    began: Instant,
    stop: CancellationToken,
}

/// What became of one publisher.
#[derive(Default)]
struct Outcome {
    connects: Histogram,
    late: Histogram,
    stalls: Stalls,
    publisher: PublisherReport,
    disconnects: Vec<Disconnect>,
}

#[derive(Debug, Serialize)]
struct PublishReport {
    clean: bool,
    /// When the run began, in seconds since the Unix epoch.
    began: f64,
    publishers: usize,
    /// Publishers that were admitted at least once.
    admitted: usize,
    seconds: f64,
    /// From TCP to NetStream.Publish.Start.
    connect_ms: Percentiles,
    messages_sent: u64,
    bytes_sent: u64,
    bits_per_second: f64,
    /// Of the load generator itself, behind its own schedule.
    late_ms: Percentiles,
    stalls: u64,
    longest_stall_ms: f64,
    disconnects: Vec<Disconnect>,
    streams: Vec<PublisherReport>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct PublisherReport {
    publisher: u32,
    /// The ledger's name for it.
    stamped_as: u32,
    connections: u64,
    /// Connections that ended because the server asked for another one.
    moves: u64,
    messages_sent: u64,
    bytes_sent: u64,
    /// Stamps were made from 0 up to before this.
    next_sequence: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Disconnect {
    publisher: u32,
    /// Since the start of the run.
    after_seconds: f64,
    reason: String,
}

/// Publishes until the end of the run.
pub(super) async fn run(
    arguments: PublishArguments,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let stream_keys = stream_keys(&arguments)?;
    let targets = arguments
        .urls
        .iter()
        .map(|url| Target::parse(url, &arguments.trust))
        .collect::<anyhow::Result<_>>()
        .map_err(|error| UsageError(format!("{error:#}")))?;
    let media = match &arguments.file {
        Some(path) => Media::File(flv_file::read(path)?.into()),
        None => {
            let profile = Profile::new(arguments.bitrate, arguments.fps, arguments.gop);
            Media::Stamped(Arc::new(profile))
        }
    };
    let run = Arc::new(Run {
        targets,
        media,
        first_stamp_id: random_id()?,
        paced: !arguments.unpaced,
        reconnect: arguments.reconnect,
        caps_ex: if arguments.follow_requests {
            caps_ex::RECONNECT
        } else {
            0
        },
        began: Instant::now(),
        stop,
    });
    if let Some(duration) = arguments.duration {
        let (stop, end) = (run.stop.clone(), arguments.ramp + duration);
        tokio::spawn(async move {
            sleep(end).await;
            stop.cancel();
        });
    }
    let outcomes = publish_all(&run, stream_keys, arguments.ramp).await?;
    let report = PublishReport::new(outcomes, run.began.elapsed());
    report::emit(&report, &arguments.report)?;
    ensure!(
        report.clean,
        "{} of {} publishers were admitted, disconnects: {}",
        report.admitted,
        report.publishers,
        report.disconnects.len()
    );
    Ok(())
}

fn stream_keys(arguments: &PublishArguments) -> anyhow::Result<Vec<StreamKeyText>> {
    let mut stream_keys = match (&arguments.key, &arguments.keys_file) {
        (Some(key), _) => vec![key.clone()],
        (None, Some(path)) => lines(path)?,
        (None, None) => Vec::new(),
    };
    if let Some(publishers) = arguments.publishers {
        if publishers > stream_keys.len() {
            let message = format!(
                "{publishers} publishers need as many stream keys, there are {}: a key publishes one stream",
                stream_keys.len()
            );
            bail!(UsageError(message));
        }
        stream_keys.truncate(publishers);
    }
    if stream_keys.is_empty() {
        bail!(UsageError("there is no stream key".to_owned()));
    }
    Ok(stream_keys.into_iter().map(StreamKeyText::new).collect())
}

fn random_id() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes)
        .ok()
        .context("the system's random numbers are not available")?;
    Ok(u32::from_be_bytes(bytes))
}

async fn publish_all(
    run: &Arc<Run>,
    stream_keys: Vec<StreamKeyText>,
    ramp: Duration,
) -> anyhow::Result<Vec<Outcome>> {
    let count = u32::try_from(stream_keys.len()).context("too many publishers")?;
    let mut publishers = JoinSet::new();
    for (number, stream_key) in (0..count).zip(stream_keys) {
        let run = run.clone();
        let delay = ramp * number / count;
        publishers.spawn(async move {
            if timeout(delay, run.stop.cancelled()).await.is_err() {
                run.publish(number, &stream_key).await
            } else {
                Outcome::new(number)
            }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = publishers.join_next().await {
        outcomes.push(outcome.context("a publisher failed")?);
    }
    outcomes.sort_by_key(|outcome| outcome.publisher.publisher);
    Ok(outcomes)
}

impl Run {
    async fn publish(&self, number: u32, stream_key: &StreamKeyText) -> Outcome {
        let mut outcome = Outcome::new(number);
        outcome.publisher.stamped_as = self.first_stamp_id.wrapping_add(number);
        let mut source = Source::new(self.media.clone(), outcome.publisher.stamped_as);
        // Each publisher begins at another target, and goes on at the next one when it is disconnected.
        let first = usize::try_from(number).unwrap_or_default();
        // Targets in a row that nobody could connect to.
        let mut unreachable = 0;
        for target in self.targets.iter().cycle().skip(first % self.targets.len()) {
            let admitted = outcome.publisher.connections;
            let ended = self
                .connection(target, stream_key, &mut source, &mut outcome)
                .await;
            outcome.publisher.next_sequence = source.next_sequence();
            let fault = match ended {
                Ok(Stay::Over) => break,
                Ok(Stay::Elsewhere) => {
                    outcome.publisher.moves += 1;
                    source.restart();
                    continue;
                }
                Err(fault) => fault,
            };
            // A load balancer does not send anybody where nobody listens.
            let away = matches!(fault, Fault::Io(_)) && outcome.publisher.connections == admitted;
            unreachable = if away { unreachable + 1 } else { 0 };
            if self.reconnect && away && unreachable < self.targets.len() {
                continue;
            }
            if outcome.disconnects.len() < DISCONNECTS_TOLD {
                outcome.disconnects.push(Disconnect {
                    publisher: number,
                    after_seconds: self.began.elapsed().as_secs_f64(),
                    reason: fault.to_string(),
                });
            }
            let stopped = timeout(RECONNECT_PAUSE, self.stop.cancelled());
            if !self.reconnect || stopped.await.is_ok() {
                break;
            }
            source.restart();
        }
        outcome
    }

    /// One connection, up to the end of the run or the server's request for another.
    async fn connection(
        &self,
        target: &Target,
        stream_key: &StreamKeyText,
        source: &mut Source,
        outcome: &mut Outcome,
    ) -> Result<Stay, Fault> {
        let begun = Instant::now();
        let opening = Connection::open(target, stream_key, self.caps_ex, CONNECT_TIMEOUT);
        let mut connection = tokio::select! {
            connection = opening => connection?,
            () = self.stop.cancelled() => return Ok(Stay::Over),
        };
        outcome.connects.record(begun.elapsed());
        outcome.publisher.connections += 1;
        let sent = self.send(&mut connection, source, outcome).await;
        outcome.stalls.add(connection.stalls());
        if sent.is_ok() {
            connection.finish().await;
        }
        sent
    }

    async fn send(
        &self,
        connection: &mut Connection,
        source: &mut Source,
        outcome: &mut Outcome,
    ) -> Result<Stay, Fault> {
        let start = Instant::now();
        let mut planned = start;
        while !self.stop.is_cancelled() {
            if self.caps_ex & caps_ex::RECONNECT != 0 && connection.asked_to_leave() {
                return Ok(Stay::Elsewhere);
            }
            if self.paced {
                planned = (start + source.due()).max(planned + GATHER);
                tokio::select! {
                    waited = connection.wait(planned.into()) => waited?,
                    () = self.stop.cancelled() => break,
                }
                outcome.late.record(planned.elapsed());
            }
            let (mut messages, mut bytes) = (0, 0);
            while if self.paced {
                source.due() <= start.elapsed()
            } else {
                bytes < UNPACED_BATCH_BYTES
            } {
                let message = source.next();
                messages += 1;
                bytes += message.body.len();
                connection.queue(&message);
            }
            connection.flush().await?;
            outcome.publisher.messages_sent += messages;
            outcome.publisher.bytes_sent += bytes as u64;
        }
        Ok(Stay::Over)
    }
}

/// How a connection ended that did not break.
#[derive(Clone, Copy)]
enum Stay {
    /// With the run.
    Over,
    /// The server wants the publisher to go on over another one.
    Elsewhere,
}

impl Outcome {
    fn new(publisher: u32) -> Self {
        Self {
            publisher: PublisherReport {
                publisher,
                ..PublisherReport::default()
            },
            ..Self::default()
        }
    }
}

impl Stalls {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }
}

impl PublishReport {
    fn new(outcomes: Vec<Outcome>, took: Duration) -> Self {
        let (mut connects, mut late) = <(Histogram, Histogram)>::default();
        let mut stalls = Stalls::default();
        let mut disconnects = Vec::new();
        let mut streams = Vec::new();
        for outcome in outcomes {
            connects.merge(&outcome.connects);
            late.merge(&outcome.late);
            stalls.add(outcome.stalls);
            disconnects.extend(outcome.disconnects);
            streams.push(outcome.publisher);
        }
        let admitted = streams.iter().filter(|s| s.connections > 0).count();
        let bytes_sent: u64 = streams.iter().map(|stream| stream.bytes_sent).sum();
        Self {
            clean: admitted == streams.len() && disconnects.is_empty(),
            began: report::began(took),
            publishers: streams.len(),
            admitted,
            seconds: took.as_secs_f64(),
            connect_ms: connects.percentiles(),
            messages_sent: streams.iter().map(|stream| stream.messages_sent).sum(),
            bytes_sent,
            bits_per_second: bits_per_second(bytes_sent, took),
            late_ms: late.percentiles(),
            stalls: stalls.count,
            longest_stall_ms: stalls.longest.as_secs_f64() * 1e3,
            disconnects,
            streams,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn bits_per_second(bytes: u64, time: Duration) -> f64 {
    (bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9)).round()
}

impl fmt::Display for PublishReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} publishers admitted, {:.1} s",
            self.admitted, self.publishers, self.seconds
        )?;
        writeln!(f, "connect      {}", self.connect_ms)?;
        writeln!(
            f,
            "sent         {} messages, {} bytes, {:.3} Mbit/s",
            self.messages_sent,
            self.bytes_sent,
            self.bits_per_second / 1e6
        )?;
        writeln!(f, "late         {}", self.late_ms)?;
        writeln!(
            f,
            "stalls       {}, longest {:.0} ms",
            self.stalls, self.longest_stall_ms
        )?;
        write!(f, "disconnects  {}", self.disconnects.len())?;
        for disconnect in &self.disconnects {
            write!(
                f,
                "\n  publisher {} after {:.1} s: {}",
                disconnect.publisher, disconnect.after_seconds, disconnect.reason
            )?;
        }
        Ok(())
    }
}
