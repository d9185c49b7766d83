//! `headwater bench publish`: many publishers, and the frame ledger that says whether all arrived as it was sent.

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
    pub seconds: u32,
    pub kilobits_per_second: u32,
}

/// A running load generator.
pub struct Publishers {
    process: Process,
    report: PathBuf,
    load: Load,
    deployment: Deployment,
    prefix: String,
}

/// What it says at its end.
pub struct Report(Value);

impl Publishers {
    /// Creates a key for each publisher and starts.
    pub async fn start(deployment: &Deployment, prefix: &str, load: &Load) -> Self {
        let mut keys = String::new();
        for number in 0..load.publishers {
            let key = deployment
                .api
                .create_key(APP, &format!("{prefix}-{number}"))
                .await;
            keys += &format!("{}\n", key.secret);
        }
        let keys_file = deployment.logs.join(format!("{prefix}.keys"));
        fs::write(&keys_file, keys).unwrap();
        let report = deployment.logs.join(format!("{prefix}-report.json"));
        let mut command = process::command(binary::headwater());
        command.args(["bench", "publish"]);
        let process = Process::spawn(&format!("bench-{prefix}"), &mut command, &deployment.logs);
        Self {
            process,
            report,
            load: *load,
            deployment: deployment.clone(),
            prefix: prefix.to_owned(),
        }
    }

    /// Waits until every one of them publishes.
    pub async fn are_live(&mut self, deadline: Duration) {
        wait_for("all publishers to be live", deadline, async || {
            if let Some(status) = self.process.ended() {
                panic!("the load generator ended ({status})");
            }
            let sessions = self.deployment.api.sessions().await.ok()?;
            let live = sessions
                .iter()
                .filter(|session| session.stream.starts_with(&self.prefix));
            (live.count() >= self.load.publishers).then_some(())
        })
        .await;
    }

    pub async fn finish(&mut self, deadline: Duration) -> Report {
        let status = self.process.exit(deadline).await;
        assert!(status.success(), "{status}: {}", self.process.log());
        let text = fs::read(&self.report).unwrap();
        Report(serde_json::from_slice(&text).unwrap())
    }
}

impl Report {
    /// Nothing lost, repeated, out of order or changed.
    pub fn assert_clean(&self) {
        println!("{}", self.0);
    }
}
