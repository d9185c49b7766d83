//! Publishers and readers of `headwater bench`, from the start of a fault's first round to the end of its last, and what
//! their ledgers say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    bench::Files,
    deployment::{APP, Deployment},
    http,
    process::Process,
    wait::wait_for,
};

const LIVE: Duration = Duration::from_secs(60);
/// Their last words, and the ends of their streams.
const FINISH: Duration = Duration::from_secs(80);
/// As long as an edge waits for an origin that says nothing.
const SILENCE: &str = "2";

/// How publishers behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoders {
    /// They follow requests to connect elsewhere.
    Capable,
    /// As OBS: they connect again two seconds after a disconnect.
    Legacy,
}

/// Publishers with a reader each.
pub struct Load {
    pub encoders: Encoders,
    pub publishers: usize,
    pub prefix: String,
    publish: Process,
    subscribe: Process,
    publish_report: PathBuf,
    subscribe_report: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub disconnects: Vec<Disconnect>,
    /// Publishers that were never let in.
    pub never_admitted: u64,
    /// Times that a publisher was asked to connect elsewhere, and did.
    pub moves: u64,
    pub received: u64,
    /// Numbers that never came, those at the end of a stream included.
    pub lost: u64,
    /// The same where the publisher had connected anew.
    pub lost_between_sessions: u64,
    /// Numbers of the cluster's own that never came.
    pub lost_of_sessions: u64,
    /// By the publishers' numbers and by the cluster's own.
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupted: u64,
    pub timestamps_back: u64,
    /// Times that a reader saw a lower fencing token than before.
    pub tokens_back: u64,
    /// Times that it saw a session again that another one had followed.
    pub sessions_back: u64,
    /// Readers that saw an end before the publishers ended, or that found the stream nowhere: how it went.
    pub ends: Vec<String>,
    pub pauses: Vec<Pause>,
}

#[derive(Clone, Debug)]
pub struct Disconnect {
    /// In seconds since the Unix epoch.
    pub at: f64,
    pub reason: String,
}

/// Longer than 100 ms between two frames of a stream. In seconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct Pause {
    pub stream: String,
    pub from: f64,
    pub to: f64,
}

/// In seconds since the Unix epoch.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

impl Load {
    /// Creates a key for each publisher; returns once all are live at these edges and read, beside those that are there
    /// already.
    pub async fn start(
        edges: &[Deployment],
        prefix: &str,
        publishers: usize,
        encoders: Encoders,
        beside: &[Self],
    ) -> Self {
        let deployment = &edges[0];
        let files = Files::prepare(deployment, prefix, publishers).await;
        let mut subscribe = files.subscribe(deployment);
        subscribe.args(["--silence", SILENCE, "--give-up", "60"]);
        let mut publish = publishers_of(edges, encoders, &files);
        let logs = &deployment.logs;
        let this = Self {
            encoders,
            publishers,
            prefix: prefix.to_owned(),
            subscribe: Process::spawn(&format!("{prefix}-subscribe"), &mut subscribe, logs),
            publish: Process::spawn(&format!("{prefix}-publish"), &mut publish, logs),
            publish_report: files.path("publish.json"),
            subscribe_report: files.path("subscribe.json"),
        };
        wait_for("all publishers to be live", LIVE, async || {
            let sessions = deployment.api.sessions().await.ok()?;
            let mine = sessions
                .iter()
                .filter(|session| session.stream.starts_with(prefix));
            (mine.count() == publishers).then_some(())
        })
        .await;
        // Origins count the readers of every load together.
        let others: usize = beside.iter().map(|load| load.publishers).sum();
        let wanted = f64::from(u32::try_from(others + publishers).unwrap());
        wait_for("all readers to read", LIVE, async || {
            (readers(deployment).await >= wanted).then_some(())
        })
        .await;
        this
    }

    /// The publishers end, then the streams do, and with them the readers.
    pub async fn finish(mut self) -> Outcome {
        for process in [&mut self.publish, &mut self.subscribe] {
            if let Some(status) = process.ended() {
                panic!("{} ended ({status}): {}", process.name(), process.log());
            }
        }
        let ended = now();
        self.publish.signal("TERM");
        self.publish.exit(FINISH).await;
        self.subscribe.exit(FINISH).await;
        let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        Outcome::of(
            &read(&self.publish_report),
            &read(&self.subscribe_report),
            ended,
        )
    }
}

/// Of all origins together.
async fn readers(deployment: &Deployment) -> f64 {
    const READERS: &str = "headwater_origin_subscribers_active";
    let mut readers = 0.0;
    for admin in &deployment.admin {
        if let Ok((_, metrics)) = http::get(&format!("{admin}/metrics")).await {
            readers += http::metric(&metrics, READERS, &["output=\"grpc\""]);
        }
    }
    readers
}

/// The publishers' command.
fn publishers_of(edges: &[Deployment], encoders: Encoders, files: &Files) -> Command {
    let mut publish = files.publish(&edges[0]);
    publish.args(edges.iter().map(|edge| edge.rtmps_url(APP)));
    publish.args(["--ramp", "2", "--bitrate", "200k", "--fps", "15"]);
    publish.args(["--gop", "1", "--reconnect"]);
    if encoders == Encoders::Capable {
        publish.arg("--follow-requests");
    }
    publish
}

impl Outcome {
    fn of(publish: &Value, subscribe: &Value, ended: f64) -> Self {
        let mut this = Self {
            never_admitted: number(&publish["publishers"]) - number(&publish["admitted"]),
            ..Self::default()
        };
        let began = publish["began"].as_f64().unwrap();
        for disconnect in publish["disconnects"].as_array().unwrap() {
            this.disconnects.push(Disconnect {
                at: began + disconnect["after_seconds"].as_f64().unwrap(),
                reason: disconnect["reason"].as_str().unwrap().to_owned(),
            });
        }
        let mut sent = BTreeMap::new();
        for stream in publish["streams"].as_array().unwrap() {
            this.moves += number(&stream["moves"]);
            let name = number(&stream["stamped_as"]).to_string();
            sent.insert(name, number(&stream["next_sequence"]));
        }
        let began = subscribe["began"].as_f64().unwrap();
        let mut read = BTreeSet::new();
        for stream in subscribe["streams"].as_array().unwrap() {
            this.add(&stream["ledger"]);
            let mut early = stream["ended"] != "end";
            for (publisher, range) in stream["ledger"]["publishers"].as_object().unwrap() {
                let missing = sent[publisher].saturating_sub(number(&range["next"]));
                this.lost += missing;
                early |= missing > 0;
                read.insert(publisher.clone());
            }
            if early {
                let [name, ended, reason] =
                    ["stream", "ended", "reason"].map(|field| stream[field].to_string());
                let resumes = &stream["resumes"];
                this.ends
                    .push(format!("{name} {ended} {reason}, resumes: {resumes}"));
            }
            for pause in stream["pauses"].as_array().unwrap() {
                let to = began + pause["after_seconds"].as_f64().unwrap();
                let from = to - pause["seconds"].as_f64().unwrap();
                // The end is none.
                if from < ended {
                    let stream = stream["stream"].as_str().unwrap().to_owned();
                    this.pauses.push(Pause { stream, from, to });
                }
            }
        }
        for (publisher, count) in sent {
            if !read.contains(&publisher) {
                this.lost += count;
                this.ends
                    .push(format!("publisher {publisher} was never read"));
            }
        }
        this
    }

    fn add(&mut self, ledger: &Value) {
        let own = &ledger["session_sequence"];
        self.received += number(&ledger["received"]);
        self.lost += number(&ledger["lost"]) + number(&ledger["skipped"]);
        self.lost_of_sessions += number(&own["lost"]);
        self.lost_between_sessions += number(&ledger["lost_between_sessions"]);
        self.duplicated += number(&ledger["duplicated"]) + number(&own["duplicated"]);
        self.reordered += number(&ledger["reordered"]) + number(&own["reordered"]);
        self.corrupted += number(&ledger["corrupted"]);
        self.timestamps_back += number(&ledger["timestamp_regressions"]);
        self.tokens_back += number(&ledger["token_regressions"]);
        self.sessions_back += number(&ledger["session_regressions"]);
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}
