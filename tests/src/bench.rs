//! `headwater bench`: many publishers, many readers, and the frame ledger that says whether all arrived as it was sent.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    binary,
    deployment::{APP, Deployment},
    process::{self, Process},
    wait::wait_for,
};

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub publishers: usize,
    /// Of the run, ramp not counted.
    pub seconds: u32,
    /// The publishers start spread over this time.
    pub ramp_seconds: u32,
    pub kilobits_per_second: u32,
}

/// Running publishers with a reader each.
pub struct Bench {
    publish: Process,
    publish_report: PathBuf,
    subscribe: Process,
    subscribe_report: PathBuf,
    load: Load,
    deployment: Deployment,
    prefix: String,
}

/// What both said at their end.
#[derive(Debug)]
pub struct Reports {
    pub publish: Value,
    pub subscribe: Value,
}

/// What a run reads and writes.
pub struct Files {
    directory: PathBuf,
    prefix: String,
}

impl Files {
    /// Creates a key for each publisher. Streams are called `<prefix>-<number>`.
    pub async fn prepare(deployment: &Deployment, prefix: &str, publishers: usize) -> Self {
        let (mut stream_keys, mut streams) = (String::new(), String::new());
        for number in 0..publishers {
            let stream = format!("{prefix}-{number}");
            let key = deployment.api.create_key(APP, &stream).await;
            stream_keys += &format!("{}\n", key.secret);
            streams += &format!("{stream}\n");
        }
        let this = Self {
            directory: deployment.logs.clone(),
            prefix: prefix.to_owned(),
        };
        fs::write(this.path("keys"), stream_keys).unwrap();
        fs::write(this.path("streams"), streams).unwrap();
        fs::write(this.path("token"), &deployment.playback.token).unwrap();
        this
    }

    pub fn path(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}-{suffix}", self.prefix))
    }

    /// Reads every stream at the first origin, and goes on at the others.
    pub fn subscribe(&self, deployment: &Deployment) -> Command {
        let (first, others) = deployment.playback.origins.split_first().unwrap();
        let mut subscribe = process::command(binary::headwater());
        subscribe.args(["bench", "subscribe", first, "--app", APP]);
        for other in others {
            subscribe.args(["--follow-endpoints", other]);
        }
        subscribe
            .arg("--streams-file")
            .arg(self.path("streams"))
            .arg("--token-file")
            .arg(self.path("token"))
            .arg("--ca-file")
            .arg(&deployment.ca_file)
            .arg("--report-file")
            .arg(self.path("subscribe.json"));
        subscribe
    }

    /// Publishes with every key, at edges that are still to be named.
    pub fn publish(&self, deployment: &Deployment) -> Command {
        let mut publish = process::command(binary::headwater());
        publish
            .args(["bench", "publish"])
            .arg("--keys-file")
            .arg(self.path("keys"))
            .arg("--ca-file")
            .arg(&deployment.ca_file)
            .arg("--report-file")
            .arg(self.path("publish.json"));
        publish
    }
}

impl Bench {
    /// Creates a key for each publisher, starts the readers, then the publishers. Streams are called
    /// `<prefix>-<number>`.
    pub async fn start(deployment: &Deployment, prefix: &str, load: &Load) -> Self {
        Self::start_at(&[deployment], false, prefix, load).await
    }

    /// The same, of publishers that begin at these edges in turn, and follow requests to connect elsewhere to the next.
    pub async fn start_moving(edges: &[&Deployment], prefix: &str, load: &Load) -> Self {
        Self::start_at(edges, true, prefix, load).await
    }

    async fn start_at(edges: &[&Deployment], follow: bool, prefix: &str, load: &Load) -> Self {
        let deployment = edges[0];
        let files = Files::prepare(deployment, prefix, load.publishers).await;
        let mut subscribe = files.subscribe(deployment);
        let name = format!("bench-{prefix}-subscribe");
        let subscribe = Process::spawn(&name, &mut subscribe, &deployment.logs);

        let urls = edges.iter().map(|edge| edge.rtmps_url(APP));
        let mut publish = files.publish(deployment);
        publish
            .args(urls.map(|url| url.replace("127.0.0.1", "localhost")))
            .args(follow.then_some("--follow-requests"))
            .args(["--duration", &load.seconds.to_string()])
            .args(["--ramp", &load.ramp_seconds.to_string()])
            .args(["--bitrate", &format!("{}k", load.kilobits_per_second)])
            .args(["--fps", "15"]);
        let name = format!("bench-{prefix}-publish");
        let publish = Process::spawn(&name, &mut publish, &deployment.logs);
        Self {
            publish,
            publish_report: files.path("publish.json"),
            subscribe,
            subscribe_report: files.path("subscribe.json"),
            load: *load,
            deployment: deployment.clone(),
            prefix: prefix.to_owned(),
        }
    }

    /// Waits until all publish at the same time.
    pub async fn is_live(&mut self, deadline: Duration) {
        wait_for("all publishers to be live", deadline, async || {
            for process in [&mut self.publish, &mut self.subscribe] {
                if let Some(status) = process.ended() {
                    panic!("{} ended ({status})", process.name());
                }
            }
            let sessions = self.deployment.api.sessions().await.ok()?;
            let mine = |stream: &str| stream.starts_with(&self.prefix);
            let live = sessions.iter().filter(|session| mine(&session.stream));
            (live.count() >= self.load.publishers).then_some(())
        })
        .await;
    }

    /// Waits for the end of the run and fails unless every publisher was there all the time, and every frame arrived
    /// once, whole and in order.
    pub async fn finish_clean(mut self, deadline: Duration) -> Reports {
        let published = self.publish.exit(deadline).await;
        let read = self.subscribe.exit(deadline).await;
        assert!(published.success(), "the publishers: {published}");
        assert!(read.success(), "the readers: {read}");
        let report = |path: &PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap());
        let reports = Reports {
            publish: report(&self.publish_report).unwrap(),
            subscribe: report(&self.subscribe_report).unwrap(),
        };
        // The load generator judged itself; what it judged is looked at as well.
        assert_eq!(reports.publish["admitted"], self.load.publishers);
        let streams = reports.subscribe["streams"].as_array().unwrap();
        assert_eq!(streams.len(), self.load.publishers);
        for stream in streams {
            let ledger = &stream["ledger"];
            for fault in ["lost", "skipped", "duplicated", "reordered", "corrupted"] {
                assert_eq!(ledger[fault], 0, "{fault}: {stream}");
            }
            assert!(ledger["received"].as_u64().unwrap() > 0, "{stream}");
        }
        reports
    }
}
