//! A Redis server of its own for a test, with TLS and an ACL user for each role, as `headwater bootstrap` sets it up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::{
    process::{self, Process},
    wait::wait_until,
};

const START: Duration = Duration::from_secs(20);
/// A user beside those of the roles, who may see everything.
const OBSERVER: &str = "observer";
const OBSERVER_PASSWORD: &str = "sees-everything";

/// A running server.
pub struct Redis {
    process: Option<Process>,
    monitor: Option<Process>,
    directory: PathBuf,
    logs: PathBuf,
    port: u16,
}

impl Redis {
    /// `base` is what `headwater bootstrap` wrote.
    pub async fn start(base: &Path, logs: &Path) -> Self {
        let directory = base.join("redis");
        let users = fs::read_to_string(directory.join("users.acl")).unwrap();
        let observer = format!("user {OBSERVER} on >{OBSERVER_PASSWORD} ~* &* +@all\n");
        fs::write(directory.join("test-users.acl"), users + &observer).unwrap();
        let mut this = Self {
            process: None,
            monitor: None,
            directory,
            logs: logs.to_owned(),
            port: crate::free_port(),
        };
        this.start_again().await;
        this
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.monitor = None;
        self.process.take().expect("Redis runs").kill();
    }

    /// Starts it, empty, where it was.
    pub async fn start_again(&mut self) {
        let mut server = process::command("redis-server");
        server
            .arg(self.directory.join("redis.conf"))
            .args(["--port", "0", "--tls-port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // A dump must show what is there, not its compressed form.
            .args(["--rdbcompression", "no", "--dir"])
            .arg(&self.directory)
            .arg("--aclfile")
            .arg(self.directory.join("test-users.acl"))
            .current_dir(&self.directory);
        self.process = Some(Process::spawn("redis", &mut server, &self.logs));
        wait_until("Redis to answer", START, || {
            self.observe(&["PING"]).stdout.starts_with(b"PONG")
        })
        .await;
    }

    /// For the roles' configuration.
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// Writes down every command from now on.
    pub async fn monitor(&mut self) {
        let mut monitor = process::command("redis-cli");
        monitor.args(self.options()).arg("MONITOR");
        let monitor = Process::spawn("redis-monitor", &mut monitor, &self.logs);
        wait_until("Redis to be monitored", START, || {
            monitor.printed().contains("OK")
        })
        .await;
        self.monitor = Some(monitor);
    }

    /// Every command since [`monitor`](Self::monitor). The last one is a mark, made here, which proves that the others
    /// are written down too.
    pub async fn commands(&self) -> String {
        let monitor = self.monitor.as_ref().expect("monitored");
        let mark = format!("mark-{}", monitor.printed().len());
        self.observe(&["ECHO", &mark]);
        wait_until("Redis's monitor to catch up", START, || {
            monitor.printed().contains(&mark)
        })
        .await;
        monitor.printed()
    }

    /// All keys and values, as they are stored.
    pub fn dump(&self) -> Vec<u8> {
        let file = self.directory.join("test-dump.rdb");
        let dump = self.observe(&["--rdb", &file.to_string_lossy()]);
        assert!(dump.status.success(), "{dump:?}");
        fs::read(file).unwrap()
    }

    /// Runs `redis-cli` as a user who may see everything.
    pub fn observe(&self, arguments: &[&str]) -> Output {
        let mut cli = Command::new("redis-cli");
        cli.args(self.options()).args(arguments).output().unwrap()
    }

    fn options(&self) -> Vec<String> {
        let ca_file = self.directory.join("ca.pem");
        [
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "--tls",
            "--cacert",
            &ca_file.to_string_lossy(),
            "--user",
            OBSERVER,
            "--pass",
            OBSERVER_PASSWORD,
            "--no-auth-warning",
        ]
        .map(str::to_owned)
        .to_vec()
    }
}
