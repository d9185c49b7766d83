//! Redis as `docs/operations.md` has it with sentinels: a primary, a replica and three sentinels, each at a place of its
//! own, with TLS and the users of `headwater bootstrap`.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::network::Place;
use crate::{
    process::{self, Process},
    wait::wait_for,
};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// For a server to answer, and for sentinels to know all of it.
const START: Duration = Duration::from_secs(60);
/// May see and do everything: the servers among each other, and the test.
const ADMIN: &str = "admin";
const ADMIN_PASSWORD: &str = "does-everything";
const WATCHER_PASSWORD: &str = "watches-sentinels";
/// Until sentinels take a server for dead.
pub const DOWN_AFTER: Duration = Duration::from_secs(2);

/// A server that can be ended and started again: one of Redis's, or a sentinel.
pub struct Server {
    pub place: Place,
    directory: PathBuf,
    logs: PathBuf,
    arguments: Vec<String>,
    process: Option<Process>,
}

/// The two servers, and who watches over them.
pub struct Stores {
    pub servers: Vec<Server>,
    pub sentinels: Vec<Server>,
}

impl Server {
    pub async fn start(&mut self) {
        let mut command = process::within(&self.place.enter(), "redis-server");
        command.args(&self.arguments).current_dir(&self.directory);
        self.process = Some(Process::spawn(&self.place.name, &mut command, &self.logs));
        let what = format!("{} to answer", self.place.name);
        wait_for(&what, START, async || {
            (self.says(&["PING"]).trim() == "PONG").then_some(())
        })
        .await;
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub fn signal(&self, signal: &str) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// Whether the lease of a session is written here.
    pub fn knows(&self, session: &str) -> bool {
        const SCRIPT: &str = "for _, key in ipairs(redis.call('KEYS', '*:own')) do \
             if redis.call('HGET', key, 'sess') == ARGV[1] then return 1 end end return 0";
        match self.says(&["EVAL", SCRIPT, "0", session]).trim() {
            "1" => true,
            "0" => false,
            said => panic!("{}: {said}", self.place.name),
        }
    }

    /// What it answers; nothing where it does not within two seconds.
    pub fn says(&self, command: &[&str]) -> String {
        let sentinel = self
            .arguments
            .iter()
            .any(|argument| argument == "--sentinel");
        let port = if sentinel { SENTINEL_PORT } else { PORT };
        let mut cli = Command::new("timeout");
        cli.args(["2", "redis-cli", "-h", &self.place.address.to_string()])
            .args(["-p", &port.to_string(), "--tls", "--cacert"])
            .arg(self.directory.join("ca.pem"))
            .args(["--user", ADMIN, "--pass", ADMIN_PASSWORD])
            .arg("--no-auth-warning")
            .args(command);
        String::from_utf8_lossy(&cli.output().unwrap().stdout).into_owned()
    }
}

impl Stores {
    /// `base` is what `headwater bootstrap` wrote.
    pub async fn start(base: &Path, logs: &Path) -> Self {
        let mut servers = Vec::new();
        for host in 1..=2 {
            let place = Place::new(&format!("redis-{host}"), 4, host, logs).await;
            let primary = servers.first().map(|first: &Server| first.place.address);
            let mut server = redis(place, primary, base, logs);
            server.start().await;
            servers.push(server);
        }
        let mut this = Self {
            servers,
            sentinels: Vec::new(),
        };
        this.replicates().await;
        for host in 1..=3 {
            let place = Place::new(&format!("sentinel-{host}"), 5, host, logs).await;
            let mut server = sentinel(place, this.servers[0].place.address, base, logs);
            server.start().await;
            this.sentinels.push(server);
        }
        this.agree().await;
        this
    }

    /// The field `registry.redis` of a role's configuration.
    pub fn config(&self, role: &str, base: &Path) -> String {
        let sentinels: Vec<_> = self
            .sentinels
            .iter()
            .map(|server| format!("\"{}:{SENTINEL_PORT}\"", server.place.address))
            .collect();
        let redis = base.join("redis");
        format!(
            "{{tls: true, username: {role}, prefix: hw, password_file: {redis}/{role}.password, \
             ca_file: {redis}/ca.pem, sentinel: {{master_name: main, username: watcher, \
             password_file: {redis}/watcher.password, addresses: [{}]}}}}",
            sentinels.join(", "),
            redis = redis.display(),
        )
    }

    /// Where the sentinels say that the primary is.
    pub fn primary(&self) -> usize {
        let told = self.sentinels.iter().filter(|server| server.runs());
        let told = told.map(|server| server.says(&["SENTINEL", "get-master-addr-by-name", "main"]));
        let told: Vec<String> = told.filter(|told| !told.is_empty()).collect();
        let at = |server: &Server| {
            let address = server.place.address.to_string();
            told.iter()
                .filter(|told| {
                    told.lines()
                        .next()
                        .is_some_and(|line| line.trim() == address)
                })
                .count()
        };
        (0..self.servers.len())
            .max_by_key(|index| at(&self.servers[*index]))
            .expect("servers")
    }

    /// Waits until the sentinels have another primary than this one.
    pub async fn fail_over(&self, from: usize) {
        wait_for("the sentinels to fail over", START, async || {
            (self.primary() != from).then_some(())
        })
        .await;
    }

    /// Waits until the primary has a replica that is connected, and all sentinels know of it and of each other.
    pub async fn agree(&self) {
        self.replicates().await;
        wait_for("the sentinels to agree", START, async || {
            let primary = self.servers[self.primary()].place.address.to_string();
            self.sentinels
                .iter()
                .all(|sentinel| {
                    let told = sentinel.says(&["SENTINEL", "MASTER", "main"]);
                    let lines: Vec<_> = told.lines().map(str::trim).collect();
                    let is = |name: &str, value: &str| {
                        let mut pairs = lines.chunks_exact(2);
                        pairs.any(|pair| pair == [name, value])
                    };
                    is("ip", &primary)
                        && is("flags", "master")
                        && is("num-slaves", "1")
                        && is("num-other-sentinels", "2")
                })
                .then_some(())
        })
        .await;
    }

    async fn replicates(&self) {
        wait_for("Redis to replicate", START, async || {
            let up = |server: &Server| {
                let told = server.says(&["INFO", "replication"]);
                told.contains("master_link_status:up")
            };
            self.servers.iter().any(up).then_some(())
        })
        .await;
    }
}

fn redis(place: Place, primary: Option<Ipv4Addr>, base: &Path, logs: &Path) -> Server {
    let from = base.join("redis");
    let directory = directory(&place, &from, logs);
    let users = fs::read_to_string(from.join("users.acl")).unwrap();
    let admin = format!("user {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all\n");
    fs::write(directory.join("users.acl"), users + &admin).unwrap();
    let config = fs::read_to_string(from.join("redis.conf")).unwrap();
    let config = config.replace("bind 127.0.0.1", &format!("bind {}", place.address));
    let replication = format!(
        "tls-ca-cert-file ca.pem\ntls-replication yes\nmasteruser {ADMIN}\nmasterauth {ADMIN_PASSWORD}\n\
         repl-diskless-sync-delay 0\nrepl-timeout 10\n"
    );
    let replica = primary.map(|primary| format!("replicaof {primary} {PORT}\n"));
    fs::write(
        directory.join("redis.conf"),
        config + "\n" + &replication + &replica.unwrap_or_default(),
    )
    .unwrap();
    Server {
        place,
        directory,
        logs: logs.to_owned(),
        arguments: vec!["redis.conf".to_owned()],
        process: None,
    }
}

fn sentinel(place: Place, primary: Ipv4Addr, base: &Path, logs: &Path) -> Server {
    let from = base.join("redis");
    let directory = directory(&place, &from, logs);
    fs::write(from.join("watcher.password"), WATCHER_PASSWORD).unwrap();
    let config = format!(
        "port 0\ntls-port {SENTINEL_PORT}\ntls-cert-file tls.crt\ntls-key-file tls.key\n\
         tls-ca-cert-file ca.pem\ntls-auth-clients no\ntls-replication yes\nbind {}\n\
         user default off\nuser peer on >peer ~* &* +@all\n\
         user {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all\n\
         user watcher on >{WATCHER_PASSWORD} resetchannels &+switch-master -@all +ping +subscribe \
         +sentinel|get-master-addr-by-name +sentinel|master\n\
         sentinel sentinel-user peer\nsentinel sentinel-pass peer\n\
         sentinel monitor main {primary} {PORT} 2\n\
         sentinel auth-user main {ADMIN}\nsentinel auth-pass main {ADMIN_PASSWORD}\n\
         sentinel down-after-milliseconds main {}\nsentinel failover-timeout main 10000\n",
        place.address,
        DOWN_AFTER.as_millis(),
    );
    fs::write(directory.join("sentinel.conf"), config).unwrap();
    Server {
        place,
        directory,
        logs: logs.to_owned(),
        arguments: vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()],
        process: None,
    }
}

/// With the certificate that all of them show.
fn directory(place: &Place, from: &Path, logs: &Path) -> PathBuf {
    let directory = logs.join(&place.name);
    fs::create_dir(&directory).unwrap();
    for file in ["tls.crt", "tls.key", "ca.pem"] {
        fs::copy(from.join(file), directory.join(file)).unwrap();
    }
    directory
}
