//! One process of a role, which can be ended and started again.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde_json::Value;

use crate::{
    http,
    process::{self, Process},
    standalone::ready,
    wait::wait_for,
};

/// For every process to be ready to serve.
pub const READY: Duration = Duration::from_secs(30);
/// What `headwater bootstrap` calls the configuration of every origin.
pub const ORIGIN_CONFIG: &str = "origin-a.yaml";

/// One process of a role, which can be ended and started again at the same addresses.
pub struct Node {
    role: &'static str,
    program: PathBuf,
    name: String,
    config: PathBuf,
    directory: PathBuf,
    settings: Vec<(&'static str, String)>,
    /// What its command begins with, where it does not run in the network of the test.
    enter: Vec<String>,
    ready: Value,
    process: Option<Process>,
}

impl Node {
    /// Not started. `base` is what `headwater bootstrap` wrote.
    pub fn new(role: &'static str, name: String, program: &Path, base: &Path, logs: &Path) -> Self {
        Self {
            role,
            program: program.to_owned(),
            name,
            config: base.join(match role {
                // The two differ in what is overridden anyway.
                "origin" => ORIGIN_CONFIG.to_owned(),
                role => format!("{role}.yaml"),
            }),
            directory: logs.to_owned(),
            settings: Vec::new(),
            enter: Vec::new(),
            ready: Value::Null,
            process: None,
        }
    }

    /// Runs it elsewhere: `program` and arguments that its command goes behind.
    pub fn enters(&mut self, enter: Vec<String>) {
        self.enter = enter;
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the node runs")
    }

    /// The running process, to wait for its end.
    pub fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.take().expect("the node runs").kill();
    }

    /// Starts it, for the first time or again.
    pub async fn start(&mut self) {
        self.begin();
        self.begun().await;
    }

    /// Starts it where it may not serve yet.
    pub fn begin(&mut self) {
        self.process = Some(self.spawn(&self.ready_file()));
    }

    /// Waits until what was begun serves.
    pub async fn begun(&mut self) {
        let ready_file = self.ready_file();
        self.ready = ready(self.process_mut(), &ready_file).await;
    }

    /// As a rollout does: it drains and ends, and the next one serves at the same addresses.
    pub async fn replace(&mut self, drains: Duration) {
        self.process().signal("TERM");
        let status = self.process_mut().exit(drains).await;
        assert!(status.success(), "{}: {status}", self.name);
        self.start().await;
        self.serves(drains).await;
    }

    /// Starts it where it cannot serve: how it ended, and what it said.
    pub async fn refuses_to_start(&mut self) -> (ExitStatus, String) {
        let mut process = self.spawn(&self.ready_file());
        let before = process.log().len();
        let status = process.exit(READY).await;
        let log = process.log();
        (status, log.get(before..).unwrap_or_default().to_owned())
    }

    fn ready_file(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    fn spawn(&self, ready_file: &Path) -> Process {
        fs::remove_file(ready_file).ok();
        let mut command = process::within(&self.enter, &self.program);
        command
            .arg(self.role)
            .arg("--config")
            .arg(&self.config)
            .arg("--ready-file")
            .arg(ready_file);
        for (field, value) in &self.settings {
            command.env(format!("HEADWATER__{field}"), value);
        }
        Process::spawn(&self.name, &mut command, &self.directory)
    }

    /// Waits until it says that it is ready for traffic.
    pub async fn serves(&self, deadline: Duration) {
        let url = format!("{}/readyz", self.text("admin_url"));
        let what = format!("{} to be ready for traffic", self.name);
        wait_for(&what, deadline, async || {
            let (status, _) = http::get(&url).await.ok()?;
            status.is_success().then_some(())
        })
        .await;
    }

    /// Its metrics, where it answers.
    pub async fn metrics(&self) -> Option<String> {
        let url = format!("{}/metrics", self.text("admin_url"));
        Some(http::get(&url).await.ok()?.1)
    }

    /// A text of its ready file.
    pub fn text(&self, name: &str) -> String {
        match self.ready[name].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no {name} in the ready file: {}", self.ready),
        }
    }

    /// A field of its configuration, from the next start on.
    pub fn set(&mut self, field: &'static str, value: String) {
        self.settings.retain(|(name, _)| *name != field);
        self.settings.push((field, value));
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Where encoders reach it: an edge.
    pub fn rtmps(&self) -> SocketAddr {
        let address = self.ready["rtmps"][0].as_str();
        address.expect("the edge's address").parse().unwrap()
    }

    /// Where players over RTMP reach it: an origin, where it serves them.
    pub fn rtmp(&self) -> Option<SocketAddr> {
        Some(self.ready["rtmp"].as_str()?.parse().unwrap())
    }
}
