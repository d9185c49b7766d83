//! `bench subscribe`: many readers in one process, each with a [`Ledger`].

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use proto::{
    frames::{Assembler, Parts},
    v1::{
        DeliveryClass, SubscribeEvent, SubscribeRequest,
        playback_service_client::PlaybackServiceClient, subscribe_event::Event,
    },
};
use runtime::grpc::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, HTTP2_FRAME_BYTES, SESSIONS_PER_CONNECTION,
    STREAM_WINDOW_BYTES,
};
use serde::Serialize;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    Class, SubscribeArguments, TrustArguments,
    histogram::Histogram,
    ledger::{Ledger, LedgerReport},
    lines,
    payload::now_us,
    publish::bits_per_second,
    report, tls,
};
use crate::{cli::UsageError, files};

/// A silent origin is asked whether it lives, and given up soon: the ledger is to see failovers, not to wait for them.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Before a broken call goes on elsewhere.
const RESUME_PAUSE: Duration = Duration::from_millis(100);
/// Before a refused call is made again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Resumes of one stream that the report tells one by one.
const RESUMES_TOLD: usize = 100;
/// Who does not wait for a silent origin does not wait for one either that says nothing at all, while there are others.
const FIRST_WORD: Duration = Duration::from_millis(500);
/// A shorter time without a frame is a stream's own rhythm.
const PAUSE: Duration = Duration::from_millis(100);
/// Pauses of one stream that the report tells one by one: the longest.
const PAUSES_TOLD: usize = 100;

/// What all readers share.
struct Run {
    app: String,
    class: Class,
    give_up: Duration,
    silence: Option<Duration>,
    /// By connection, then by endpoint.
    channels: Vec<Vec<(String, Channel)>>,
    bearer: AsciiMetadataValue,
    began: Instant,
    stop: CancellationToken,
}

/// Follows one stream.
struct Reader {
    run: Arc<Run>,
    number: usize,
    stream: String,
    ledger: Ledger,
    cursor: Bytes,
    endpoint: usize,
    resumes: Vec<Resume>,
    pauses: Vec<Pause>,
    /// The last frames.
    media: Option<Instant>,
    /// Something came, or the start.
    alive: Instant,
}

#[derive(Debug, Serialize)]
struct SubscribeReport {
    clean: bool,
    /// When the run began, in seconds since the Unix epoch.
    began: f64,
    seconds: f64,
    bits_per_second: f64,
    /// Sums; per publisher only in `streams`.
    total: LedgerReport,
    streams: Vec<StreamReport>,
}

#[derive(Debug, Serialize)]
struct StreamReport {
    stream: String,
    clean: bool,
    ended: Ended,
    reason: String,
    resumes: Vec<Resume>,
    pauses: Vec<Pause>,
    ledger: LedgerReport,
}

/// How the reading of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    /// By its End event.
    End,
    /// Nothing could be read any more.
    GaveUp,
    /// By the end of the run.
    Stopped,
}

#[derive(Clone, Debug, Serialize)]
struct Resume {
    /// Since the start of the run.
    after_seconds: f64,
    endpoint: String,
    reason: String,
}

/// Between two frames.
#[derive(Clone, Copy, Debug, Serialize)]
struct Pause {
    /// When it ended, since the start of the run.
    after_seconds: f64,
    seconds: f64,
}

/// Why a call is over before its stream.
#[derive(Debug)]
struct Broken {
    reason: String,
    /// The same call will not do better.
    is_final: bool,
}

/// Reads until the streams end or the run does.
pub(super) async fn run(
    arguments: SubscribeArguments,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let streams = streams(&arguments)?;
    let run = Arc::new(Run {
        channels: channels(&arguments, streams.len())?,
        app: arguments.app,
        class: arguments.class,
        give_up: arguments.give_up,
        silence: arguments.silence,
        bearer: bearer(&arguments.token_file)?,
        began: Instant::now(),
        stop,
    });
    if let Some(duration) = arguments.duration {
        let stop = run.stop.clone();
        tokio::spawn(async move {
            sleep(duration).await;
            stop.cancel();
        });
    }
    let mut readers = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        readers.spawn(Reader::new(run.clone(), number, stream).follow());
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = readers.join_next().await {
        outcomes.push(outcome.context("a reader failed")?);
    }
    let report = SubscribeReport::new(outcomes, run.class, run.began.elapsed());
    report::emit(&report, &arguments.report)?;
    let unclean = report.streams.iter().filter(|stream| !stream.clean).count();
    ensure!(
        report.clean,
        "{unclean} of {} streams were not read as they should be",
        report.streams.len()
    );
    Ok(())
}

fn streams(arguments: &SubscribeArguments) -> anyhow::Result<BTreeSet<String>> {
    let mut streams: BTreeSet<String> = arguments.streams.iter().cloned().collect();
    if let Some(path) = &arguments.streams_file {
        streams.extend(lines(path)?);
    }
    if streams.is_empty() {
        bail!(UsageError(
            "no stream is named: use --stream or --streams-file".to_owned()
        ));
    }
    Ok(streams)
}

fn bearer(token_file: &std::path::Path) -> anyhow::Result<AsciiMetadataValue> {
    let token = files::read(token_file)?;
    let mut bearer = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()))
        .with_context(|| format!("{} holds no token", token_file.display()))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

fn channels(
    arguments: &SubscribeArguments,
    streams: usize,
) -> anyhow::Result<Vec<Vec<(String, Channel)>>> {
    let urls = || std::iter::once(&arguments.url).chain(&arguments.follow_endpoints);
    (0..streams.div_ceil(SESSIONS_PER_CONNECTION))
        .map(|_| {
            urls()
                .map(|url| Ok((url.clone(), channel(url, &arguments.trust)?)))
                .collect()
        })
        .collect()
}

fn channel(url: &str, trust: &TrustArguments) -> anyhow::Result<Channel> {
    let malformed = || {
        UsageError(format!(
            "{url:?} is not https://host:port or http://host:port"
        ))
    };
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    let host = uri.host().ok_or_else(malformed)?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = uri.port_u16().ok_or_else(malformed)?;
    let tls = match uri.scheme_str() {
        Some("http") => None,
        Some("https") => Some((tls::connector(trust, &[b"h2"])?, tls::server_name(&host)?)),
        _ => bail!(malformed()),
    };
    let connect = tower::service_fn(move |_: Uri| {
        let (host, tls) = (host.clone(), tls.clone());
        async move {
            let socket = TcpStream::connect((host.as_str(), port)).await?;
            socket.set_nodelay(true)?;
            let socket: Box<dyn super::connection::Socket> = match tls {
                Some((tls, name)) => Box::new(tls.connect(name, socket).await?),
                None => Box::new(socket),
            };
            Ok::<_, std::io::Error>(TokioIo::new(socket))
        }
    });
    Ok(Endpoint::from(uri)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_PERIOD)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector_lazy(connect))
}

impl Reader {
    fn new(run: Arc<Run>, number: usize, stream: String) -> Self {
        Self {
            run,
            number,
            stream,
            ledger: Ledger::new(now_us()),
            cursor: Bytes::new(),
            // Each reader begins at another one, as the publishers do.
            endpoint: number,
            resumes: Vec::new(),
            pauses: Vec::new(),
            media: None,
            alive: Instant::now(),
        }
    }

    async fn follow(mut self) -> (StreamReport, Histogram) {
        let stop = self.run.stop.clone();
        let (ended, reason) = loop {
            let broken = tokio::select! {
                read = self.read() => match read {
                    Ok(reason) => break (Ended::End, reason),
                    Err(broken) => broken,
                },
                () = stop.cancelled() => break (Ended::Stopped, String::new()),
            };
            if broken.is_final || self.alive.elapsed() > self.run.give_up {
                break (Ended::GaveUp, broken.reason);
            }
            let pause = self.go_on_elsewhere(broken);
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => break (Ended::Stopped, String::new()),
            }
        };
        let report = StreamReport {
            stream: self.stream,
            clean: false,
            ended,
            reason,
            resumes: self.resumes,
            pauses: self.pauses,
            ledger: self.ledger.report(),
        };
        (report, self.ledger.latency().clone())
    }

    /// Returns after which pause.
    fn go_on_elsewhere(&mut self, broken: Broken) -> Duration {
        let endpoint = self.endpoint().0.clone();
        self.endpoint += 1;
        // A stream that has not begun breaks nothing.
        if self.cursor.is_empty() {
            return RETRY_PAUSE;
        }
        if self.resumes.len() < RESUMES_TOLD {
            self.resumes.push(Resume {
                after_seconds: self.run.began.elapsed().as_secs_f64(),
                endpoint,
                reason: broken.reason,
            });
        }
        RESUME_PAUSE
    }

    fn endpoint(&self) -> &(String, Channel) {
        let endpoints = self.endpoints();
        &endpoints[self.endpoint % endpoints.len()]
    }

    fn endpoints(&self) -> &[(String, Channel)] {
        &self.run.channels[self.number / SESSIONS_PER_CONNECTION]
    }

    /// One call; returns why the stream ended.
    async fn read(&mut self) -> Result<String, Broken> {
        let mut request = Request::new(SubscribeRequest {
            app: self.run.app.clone(),
            stream: self.stream.clone(),
            cursor: self.cursor.clone().into(),
            delivery_class: match self.run.class {
                Class::Live => DeliveryClass::Live,
                Class::Lossless => DeliveryClass::Lossless,
            }
            .into(),
            // Which of several origins will have it, nobody knows: they are asked in turn.
            wait_for_stream: self.endpoints().len() == 1,
        });
        request
            .metadata_mut()
            .insert("authorization", self.run.bearer.clone());
        let mut client = PlaybackServiceClient::new(self.endpoint().1.clone());
        let mut silence = self.run.silence;
        if self.endpoints().len() > 1 {
            silence = silence.map(|silence| silence.min(FIRST_WORD));
        }
        let events = heard(silence, client.subscribe(request)).await?;
        let mut events = events.into_inner();
        let mut assembler = Assembler::new(Parts::Included);
        loop {
            let Some(SubscribeEvent { event }) = heard(silence, events.message()).await? else {
                return Err(Broken::new("the call ended before the stream"));
            };
            silence = self.run.silence;
            self.alive = Instant::now();
            if let Some(reason) = self.take(event, &mut assembler)? {
                return Ok(reason);
            }
        }
    }

    fn take(
        &mut self,
        event: Option<Event>,
        assembler: &mut Assembler,
    ) -> Result<Option<String>, Broken> {
        match event {
            Some(Event::Header(header)) => {
                self.ledger.header(
                    &header.broadcast_id,
                    &header.session_id,
                    header.slot,
                    (header.epoch, header.attempt),
                );
            }
            Some(Event::Batch(batch)) => {
                let frames = assembler
                    .push(batch.frames.unwrap_or_default())
                    .map_err(|error| Broken::new(error.to_string()))?;
                if !frames.is_empty() {
                    self.note_pause();
                }
                let now = now_us();
                for (sequence, frame) in &frames {
                    self.ledger.frame(*sequence, frame, now);
                }
                self.cursor = batch.cursor.into();
            }
            Some(Event::Gap(gap)) => {
                self.ledger
                    .gap(&gap.session_id, gap.from_sequence, gap.to_sequence);
            }
            Some(Event::Moved(moved)) => {
                return Err(Broken::new(format!("moved to {:?}", moved.origin)));
            }
            Some(Event::End(end)) => return Ok(Some(end.reason)),
            // An event of a later version.
            None => {}
        }
        Ok(None)
    }

    fn note_pause(&mut self) {
        let Some(before) = self.media.replace(self.alive) else {
            return;
        };
        let took = self.alive.duration_since(before);
        if took > PAUSE {
            self.pauses.push(Pause {
                after_seconds: self.alive.duration_since(self.run.began).as_secs_f64(),
                seconds: took.as_secs_f64(),
            });
        }
        if self.pauses.len() > PAUSES_TOLD {
            let shortest = self.pauses.iter().enumerate();
            let shortest = shortest.min_by(|(_, a), (_, b)| a.seconds.total_cmp(&b.seconds));
            if let Some((shortest, _)) = shortest {
                self.pauses.remove(shortest);
            }
        }
    }
}

/// An answer, unless it is silent for too long.
async fn heard<T>(
    silence: Option<Duration>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Broken> {
    let Some(silence) = silence else {
        return Ok(answer.await?);
    };
    match timeout(silence, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Broken::new(format!(
            "silent for {} s",
            silence.as_secs_f64()
        ))),
    }
}

impl Broken {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            is_final: false,
        }
    }
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        let reason = match proto::error::reason(&status) {
            Some(reason) => format!("{:?}: {} ({reason})", status.code(), status.message()),
            None => format!("{:?}: {}", status.code(), status.message()),
        };
        let is_final = matches!(
            status.code(),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated
        );
        Self { reason, is_final }
    }
}

impl SubscribeReport {
    fn new(outcomes: Vec<(StreamReport, Histogram)>, class: Class, took: Duration) -> Self {
        let mut total = LedgerReport::default();
        let mut latency = Histogram::default();
        let mut streams = Vec::new();
        for (mut stream, measured) in outcomes {
            stream.clean =
                stream.ended != Ended::GaveUp && stream.ledger.is_clean(class == Class::Live);
            total.add(&stream.ledger);
            latency.merge(&measured);
            streams.push(stream);
        }
        streams.sort_by(|one, other| one.stream.cmp(&other.stream));
        total.latency_ms = latency.percentiles();
        Self {
            clean: streams.iter().all(|stream| stream.clean),
            began: report::began(took),
            seconds: took.as_secs_f64(),
            bits_per_second: bits_per_second(total.counts.bytes, took),
            total,
            streams,
        }
    }
}

impl fmt::Display for SubscribeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} streams, {:.1} s, {:.3} Mbit/s",
            self.streams.len(),
            self.seconds,
            self.bits_per_second / 1e6
        )?;
        writeln!(f, "latency      {}", self.total.latency_ms)?;
        write!(f, "frames       {}", self.total)?;
        for stream in &self.streams {
            if stream.clean && stream.resumes.is_empty() {
                continue;
            }
            let verdict = if stream.clean { "clean" } else { "NOT CLEAN" };
            write!(
                f,
                "\n{}: {verdict}, {:?} {}\n  {}",
                stream.stream, stream.ended, stream.reason, stream.ledger
            )?;
            for resume in &stream.resumes {
                write!(
                    f,
                    "\n  after {:.1} s {} broke: {}",
                    resume.after_seconds, resume.endpoint, resume.reason
                )?;
            }
        }
        Ok(())
    }
}
