//! `headwater bench`: many publishers, many readers, and the frame ledger that says whether all arrived as it was sent.

use std::{fs, path::PathBuf, time::Duration};

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
        let (mut stream_keys, mut streams) = (String::new(), String::new());
        for number in 0..load.publishers {
            let stream = format!("{prefix}-{number}");
            let key = deployment.api.create_key(APP, &stream).await;
            stream_keys += &format!("{}\n", key.secret);
            streams += &format!("{stream}\n");
        }
        let file = |suffix: &str| deployment.logs.join(format!("{prefix}-{suffix}"));
        fs::write(file("keys"), stream_keys).unwrap();
        fs::write(file("streams"), streams).unwrap();
        fs::write(file("token"), &deployment.playback.token).unwrap();

        let origins = &deployment.playback.origins;
        let mut subscribe = process::command(binary::headwater());
        subscribe
            .args(["bench", "subscribe", &origins[0], "--app", APP])
            .arg("--streams-file")
            .arg(file("streams"))
            .arg("--token-file")
            .arg(file("token"))
            .arg("--ca-file")
            .arg(&deployment.ca_file)
            .arg("--report-file")
            .arg(file("subscribe.json"));
        for origin in &origins[1..] {
            subscribe.args(["--follow-endpoints", origin]);
        }
        let name = format!("bench-{prefix}-subscribe");
        let subscribe = Process::spawn(&name, &mut subscribe, &deployment.logs);

        let urls = edges.iter().map(|edge| edge.rtmps_url(APP));
        let mut publish = process::command(binary::headwater());
        publish
            .args(["bench", "publish"])
            .args(urls.map(|url| url.replace("127.0.0.1", "localhost")))
            .args(follow.then_some("--follow-requests"))
            .arg("--keys-file")
            .arg(file("keys"))
            .args(["--duration", &load.seconds.to_string()])
            .args(["--ramp", &load.ramp_seconds.to_string()])
            .args(["--bitrate", &format!("{}k", load.kilobits_per_second)])
            .args(["--fps", "15"])
            .arg("--ca-file")
            .arg(&deployment.ca_file)
            .arg("--report-file")
            .arg(file("publish.json"));
        let name = format!("bench-{prefix}-publish");
        let publish = Process::spawn(&name, &mut publish, &deployment.logs);
        Self {
            publish,
            publish_report: file("publish.json"),
            subscribe,
            subscribe_report: file("subscribe.json"),
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
