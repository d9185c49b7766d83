//! Redis in the forms in which it is run, as processes of a test's own. TLS and users are everywhere; who are several ask
//! each other and their clients for certificates.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::Value;
use registry::{
    RedisAccess, RedisCertificate, RedisConfig, RedisEvent, RedisRegistry, RedisSentinels,
    RedisServers, Registry,
};
use tempfile::TempDir;

use crate::{
    program::Program,
    server::{Certificates, PATIENCE, RedisServer, free_port, password},
};

pub(crate) struct Form {
    /// The primaries first.
    pub(crate) servers: Vec<RedisServer>,
    primaries: usize,
    config: RedisConfig,
    _sentinels: Vec<Sentinel>,
}

impl Form {
    /// The server that was frozen goes on, and learns that it is no primary any more.
    pub(crate) async fn thaws(&self, at: usize) {
        let server = &self.servers[at];
        server.signal("CONT");
        server.says(&["INFO", "replication"], "role:slave").await;
    }

    pub(crate) async fn one(program: Program) -> Self {
        let server = RedisServer::start_with(program, &Certificates::new(), &[]).await;
        Self::of(RedisServers::One(server.address()), vec![server], 1, vec![])
    }

    /// A primary, a replica, three sentinels.
    pub(crate) async fn sentinel(program: Program) -> Self {
        let certificates = Certificates::new();
        let replicated = replication();
        let options: Vec<_> = replicated.iter().map(String::as_str).collect();
        let primary = RedisServer::start_with(program, &certificates, &options).await;
        let replica = RedisServer::start_with(program, &certificates, &options).await;
        let port = primary.port().to_string();
        replica.admin(&["REPLICAOF", "127.0.0.1", &port]).await;
        replica
            .says(&["INFO", "replication"], "master_link_status:up")
            .await;
        let sentinels: Vec<_> = (0..3)
            .map(|_| Sentinel::start(program, &certificates, &primary))
            .collect();
        let at = sentinels[0].directory.path();
        let servers = RedisServers::Sentinel(RedisSentinels {
            master_name: "main".to_owned(),
            addresses: sentinels
                .iter()
                .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
                .collect(),
            access: RedisAccess {
                tls: true,
                username: Some("watcher".to_owned()),
                password_file: Some(at.join("watcher")),
                ca_file: Some(at.join("ca.crt")),
                certificate: Some(RedisCertificate {
                    certificate: at.join("tls.crt"),
                    private_key: at.join("tls.key"),
                }),
            },
        });
        let form = Self::of(servers, vec![primary, replica], 1, sentinels);
        form.sentinels_agree().await;
        form
    }

    /// Primaries that have the slots evenly, and as many replicas as are wanted of each.
    pub(crate) async fn cluster(program: Program, primaries: usize, replicated: bool) -> Self {
        Self::cluster_with(program, primaries, replicated, &[]).await
    }

    /// Whose nodes leave their host out where they name each other.
    pub(crate) async fn cluster_without_hosts(program: Program) -> Self {
        let options = ["--cluster-preferred-endpoint-type", "unknown-endpoint"];
        Self::cluster_with(program, 3, false, &options).await
    }

    async fn cluster_with(
        program: Program,
        primaries: usize,
        replicated: bool,
        more: &[&str],
    ) -> Self {
        let certificates = Certificates::new();
        let mut servers = Vec::new();
        let mut buses = Vec::new();
        for _server in 0..primaries * if replicated { 2 } else { 1 } {
            let bus = free_port().to_string();
            let mut options = replication();
            let cluster = [
                "--cluster-enabled",
                "yes",
                "--tls-cluster",
                "yes",
                "--cluster-node-timeout",
                "1000",
            ];
            options.extend(cluster.map(str::to_owned));
            options.extend(["--cluster-port".to_owned(), bus.clone()]);
            let options = options
                .iter()
                .map(String::as_str)
                .chain(more.iter().copied());
            let options: Vec<_> = options.collect();
            servers.push(RedisServer::start_with(program, &certificates, &options).await);
            buses.push(bus);
        }
        for (server, bus) in servers.iter().zip(&buses).skip(1) {
            let port = server.port().to_string();
            servers[0]
                .admin(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])
                .await;
        }
        let share = 16384 / primaries;
        for (at, server) in servers[..primaries].iter().enumerate() {
            let last = if at + 1 == primaries {
                16383
            } else {
                (at + 1) * share - 1
            };
            let (first, last) = ((at * share).to_string(), last.to_string());
            server
                .admin(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])
                .await;
        }
        for (primary, replica) in servers.iter().zip(&servers[primaries..]) {
            let id = id(primary).await;
            replica.says(&["CLUSTER", "NODES"], &id).await;
            replica.admin(&["CLUSTER", "REPLICATE", &id]).await;
            replica
                .says(&["INFO", "replication"], "master_link_status:up")
                .await;
        }
        for server in &servers {
            let known = format!("cluster_known_nodes:{}", servers.len());
            server.says(&["CLUSTER", "INFO"], &known).await;
            server.says(&["CLUSTER", "INFO"], "cluster_state:ok").await;
        }
        // One that knows the others will do.
        let seeds = vec![servers[primaries - 1].address()];
        Self::of(RedisServers::Cluster(seeds), servers, primaries, vec![])
    }

    fn of(
        servers: RedisServers,
        processes: Vec<RedisServer>,
        primaries: usize,
        sentinels: Vec<Sentinel>,
    ) -> Self {
        Self {
            servers: processes,
            primaries,
            config: RedisConfig::new(servers),
            _sentinels: sentinels,
        }
    }

    /// With the timeout that processes have.
    pub(crate) fn config(&self, role: &str) -> RedisConfig {
        let mut config = self.config.clone();
        let server = &self.servers[0];
        config.access = server.access(role);
        let tls = config.access.tls;
        config.access.certificate = tls.then(|| server.certificate());
        config
    }

    /// Patient: the machine is busy.
    pub(crate) fn registry(&self, role: &str) -> Registry {
        let mut config = self.config(role);
        config.timeout = PATIENCE;
        Registry::Redis(RedisRegistry::open(&config).unwrap())
    }

    pub(crate) fn observed(
        &self,
        role: &str,
        observe: impl Fn(RedisEvent) + Send + Sync + 'static,
    ) -> Registry {
        Registry::Redis(RedisRegistry::open_observed(&self.config(role), observe).unwrap())
    }

    pub(crate) async fn age(&self, time: Duration) {
        for server in &self.servers[..self.primaries] {
            server.age(time).await;
        }
    }

    pub(crate) async fn flush(&self) {
        for server in &self.servers[..self.primaries] {
            server.flush().await;
        }
    }

    async fn sentinels_agree(&self) {
        for sentinel in &self._sentinels {
            sentinel.knows("num-slaves", "1").await;
            sentinel.knows("num-other-sentinels", "2").await;
            sentinel.outlasts_pauses().await;
        }
    }
}

/// A slot on its way from its node to the next.
pub(crate) struct SlotMove<'a> {
    form: &'a Form,
    slot: String,
    from: &'a RedisServer,
    pub(crate) to: &'a RedisServer,
}

impl Form {
    /// Of a cluster of three, the node that has a key.
    pub(crate) async fn owner(&self, key: &str) -> usize {
        let slot: usize = self.slot(key).await.parse().unwrap();
        (slot / (16384 / 3)).min(2)
    }

    /// From now on what is not at the node any more is at the next one.
    pub(crate) async fn begin_move(&self, key: &str) -> SlotMove<'_> {
        let (slot, at) = (self.slot(key).await, self.owner(key).await);
        let (from, to) = (&self.servers[at], &self.servers[(at + 1) % 3]);
        let (from_id, to_id) = (id(from).await, id(to).await);
        to.admin(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])
            .await;
        from.admin(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])
            .await;
        SlotMove {
            form: self,
            slot,
            from,
            to,
        }
    }

    async fn slot(&self, key: &str) -> String {
        let slot = self.servers[0].admin(&["CLUSTER", "KEYSLOT", key]).await;
        redis::from_redis_value(slot).unwrap()
    }
}

impl SlotMove<'_> {
    /// One after the other, with time between them: scripts about keys of which some are here and some are there have
    /// to wait.
    pub(crate) async fn move_keys(&self) -> usize {
        let keys = ["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"];
        let keys = self.from.admin(&keys).await;
        let keys: Vec<String> = redis::from_redis_value(keys).unwrap();
        let (port, password) = (self.to.port().to_string(), password("admin"));
        for key in &keys {
            let to = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
            let sent = [&to[..], &["AUTH2", "admin", &password]].concat();
            self.from.admin(&sent).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        keys.len()
    }

    /// The next node has the slot, and everybody knows.
    pub(crate) async fn end(self) {
        let to_id = id(self.to).await;
        let others = self.form.servers.iter();
        let others = others.filter(|server| server.port() != self.to.port());
        for server in std::iter::once(self.to).chain(others) {
            server
                .admin(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &to_id])
                .await;
        }
    }
}

/// The name of a node in its cluster.
async fn id(server: &RedisServer) -> String {
    redis::from_redis_value(server.admin(&["CLUSTER", "MYID"]).await).unwrap()
}

fn replication() -> Vec<String> {
    let password = password("admin");
    let options = [
        ["--tls-ca-cert-file", "ca.crt"],
        ["--tls-replication", "yes"],
        ["--tls-auth-clients", "yes"],
        ["--masteruser", "admin"],
        ["--masterauth", &password],
        ["--repl-diskless-sync-delay", "0"],
        ["--enable-debug-command", "local"],
    ];
    options.concat().into_iter().map(str::to_owned).collect()
}

/// A server program that watches over the others, with a user of its own.
struct Sentinel {
    directory: TempDir,
    port: u16,
    child: Child,
}

impl Sentinel {
    fn start(program: Program, certificates: &Certificates, primary: &RedisServer) -> Self {
        let directory = TempDir::new().unwrap();
        certificates.write(directory.path());
        fs::write(directory.path().join("watcher"), "password-of-watcher").unwrap();
        let port = free_port();
        let configuration = format!(
            "port 0\ntls-port {port}\ntls-cert-file tls.crt\ntls-key-file tls.key\ntls-ca-cert-file ca.crt\n\
             tls-auth-clients yes\ntls-replication yes\nbind 127.0.0.1\n\
             user default off\nuser peer on >password-of-peer ~* &* +@all\n\
             user watcher on >password-of-watcher resetchannels &+switch-master -@all +ping +subscribe \
             +sentinel|get-master-addr-by-name +sentinel|master\n\
             sentinel sentinel-user peer\nsentinel sentinel-pass password-of-peer\n\
             sentinel monitor main 127.0.0.1 {} 2\nsentinel auth-user main admin\nsentinel auth-pass main {}\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
            primary.port(),
            password("admin"),
        );
        let file = directory.path().join("sentinel.conf");
        fs::write(&file, configuration).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program.path())
            .args([&file, &PathBuf::from("--sentinel")])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        Self {
            child: child.unwrap(),
            directory,
            port,
        }
    }

    async fn knows(&self, what: &str, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = self.master().await;
            if known
                .as_ref()
                .is_ok_and(|known| known.get(what).map(String::as_str) == Some(expected))
            {
                return;
            }
            let log = || fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: {known:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn master(&self) -> redis::RedisResult<std::collections::BTreeMap<String, String>> {
        let known = self
            .told("watcher", &["SENTINEL", "MASTER", "main"])
            .await?;
        redis::from_redis_value(known).map_err(Into::into)
    }

    /// A sentinel whose machine stood still for two seconds would take no part in anything for half a minute.
    async fn outlasts_pauses(&self) {
        let period = ["SENTINEL", "DEBUG", "tilt-trigger", "60000"];
        self.told("peer", &period).await.unwrap();
    }

    async fn told(&self, user: &str, command: &[&str]) -> redis::RedisResult<Value> {
        let url = format!("rediss://{user}:password-of-{user}@127.0.0.1:{}", self.port);
        let read = |name| fs::read(self.directory.path().join(name)).unwrap();
        let certificates = redis::TlsCertificates {
            client_tls: Some(redis::ClientTlsConfig {
                client_cert: read("tls.crt"),
                client_key: read("tls.key"),
            }),
            root_cert: Some(read("ca.crt")),
        };
        let client = redis::Client::build_with_tls(url, certificates)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        crate::server::run(&mut connection, command).await
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
