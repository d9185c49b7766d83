//! `headwater standalone`: the whole of it in one process, as a newcomer starts it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    api::Api, binary, deployment::Deployment, process, process::Process, subscriber::Playback,
    wait::wait_for,
};

/// The first start makes certificates and a database.
const START: Duration = Duration::from_secs(30);

/// A standalone process on free ports.
pub struct Standalone {
    pub process: Process,
    pub ready: Value,
    pub deployment: Deployment,
    pub directory: TempDir,
}

impl Standalone {
    pub async fn start() -> Self {
        Self::start_with_arguments(&[]).await
    }

    /// With a log filter.
    pub async fn start_with(log_filter: &str) -> Self {
        Self::start_with_arguments(&["--log-filter", log_filter]).await
    }

    /// With more on its command line.
    pub async fn start_with_arguments(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, arguments).await
    }

    /// Ends it as an operator does, and starts it again on the same data.
    pub async fn restart(mut self) -> Self {
        self.process.signal("TERM");
        let status = self.process.exit(START).await;
        assert!(status.success(), "{status}");
        Self::start_in(self.directory, &[]).await
    }

    async fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        let ready_file = directory.path().join("ready.json");
        // An earlier process's.
        fs::remove_file(&ready_file).ok();
        let mut command = process::command(binary::headwater());
        command
            .arg("standalone")
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(arguments);
        for port in ["rtmps", "grpc", "playback", "http", "pull", "admin"] {
            command.args([&format!("--{port}-listen"), "127.0.0.1:0"]);
        }
        let mut process = Process::spawn("standalone", &mut command, directory.path());
        let ready = ready(&mut process, &ready_file).await;
        let deployment = deployment(&ready, directory.path());
        Self {
            process,
            ready,
            deployment,
            directory,
        }
    }

    /// Where keys, certificates and secrets are.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

/// Waits for a process to say that it serves, and what it says.
pub async fn ready(process: &mut Process, file: &Path) -> Value {
    let what = format!("{} to be ready", process.name());
    wait_for(&what, START, async || {
        if let Some(status) = process.ended() {
            panic!("{} ended ({status}):\n{}", process.name(), process.log());
        }
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    })
    .await
}

fn deployment(ready: &Value, logs: &Path) -> Deployment {
    let text = |name: &str| match ready[name].as_str() {
        Some(text) => text.to_owned(),
        None => panic!("no {name} in the ready file: {ready}"),
    };
    let ca_file = PathBuf::from(text("ca_file"));
    Deployment {
        api: Api::new(&text("grpc_url"), &ca_file, &text("api_token")),
        rtmps: address(&text("rtmps_url")),
        playback: Playback {
            origins: vec![text("playback_grpc_url")],
            ca_file: ca_file.clone(),
            token: text("playback_token"),
        },
        admin: vec![text("admin_url")],
        http: vec![base(&text("flv_url"))],
        rtmp: vec![address(&text("pull_url"))],
        ca_file,
        logs: logs.to_owned(),
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    authority.replace("localhost", "127.0.0.1").parse().unwrap()
}

/// `scheme://host:port` of a URL.
fn base(url: &str) -> String {
    let (scheme, _) = url.split_once("://").unwrap();
    format!("{scheme}://{}", address(url))
}
