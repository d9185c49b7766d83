//! The cluster: three edges and one that fails closed, two controls on PostgreSQL, three origins, Redis with a replica and
//! sentinels, each at a place of its own. Who publishes and who reads is at the bridge.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use proto::v1::Session;
use runtime::tls::{CertificateFiles, ensure_self_signed};
use tempfile::TempDir;

use super::{
    network::{HERE, Place},
    proxy::Proxy,
    stores::Stores,
    strict::Waiting,
    takeover::Successor,
};
use crate::{
    api::Api,
    binary, cluster,
    deployment::Deployment,
    http,
    node::{Node, READY},
    postgres::Postgres,
    subscriber::Playback,
    wait::wait_for,
};

/// Names that edges look up.
const CONTROLS: &str = "controls.field";
const ORIGINS: &str = "origins.field";
const RELAY_PORT: u16 = 7444;
/// The proxies' ports: one for each origin.
const PROXY_PORT: u16 = 17440;
/// For everything to be as it should be again.
pub const WELL: Duration = Duration::from_secs(90);
/// Half of it later, why it is not so is told.
const TOLD_AFTER: Duration = Duration::from_secs(45);
/// Longer than anybody waits for anybody: what is still wrong with somebody's media shows in the round that it belongs to.
const CALM: Duration = Duration::from_secs(3);

/// A process of ours, and where it runs.
pub struct Part {
    pub node: Node,
    pub place: Place,
}

pub struct Field {
    // Ended before the places, the places before the directory.
    pub edges: Vec<Part>,
    /// An edge that fails closed, beside those of the load.
    pub strict: Part,
    pub controls: Vec<Part>,
    pub origins: Vec<Part>,
    pub stores: Stores,
    pub database: Postgres,
    pub database_place: Place,
    /// Before each origin's relay port, where there are any.
    pub proxies: Vec<Proxy>,
    pub deployment: Deployment,
    /// Who tries at the strict edge while the fault lasts.
    pub(super) waiting: Option<Waiting>,
    /// Who has taken a stream over in the course of the fault.
    pub(super) successor: Option<Successor>,
    hosts: PathBuf,
    base: PathBuf,
    directory: TempDir,
}

impl Field {
    /// With proxies between the edges and the origins, where asked for.
    pub async fn start(proxied: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (logs, base) = (directory.path(), directory.path().join("cluster"));
        certificates(&base);
        cluster::bootstrap_with(binary::headwater(), &base);
        let stores = Stores::start(&base, logs).await;
        let database_place = Place::new("postgres", 6, 1, logs).await;
        let host = database_place.address.to_string();
        let database = Postgres::start_at(logs, &host, database_place.enter()).await;
        let hosts = logs.join("hosts");
        names_are(&hosts, 2, 3);
        fs::write(logs.join("resolv.conf"), "").unwrap();

        let setup = Setup {
            base: &base,
            logs,
            stores: &stores,
        };
        let mut controls = Vec::new();
        for host in 1..=2 {
            controls.push(setup.control(host, &database).await);
        }
        let (mut origins, mut proxies) = (Vec::new(), Vec::new());
        for host in 1..=3 {
            let port = PROXY_PORT + u16::from(host);
            let proxy = proxied.then(|| SocketAddr::new(HERE.into(), port));
            origins.push(setup.origin(host, proxy).await);
            if let Some(listen) = proxy {
                let to = SocketAddr::new(Ipv4Addr::new(198, 18, 3, host).into(), RELAY_PORT);
                proxies.push(Proxy::start(listen, Arc::new(Mutex::new(Some(to)))).await);
            }
        }
        let mut edges = Vec::new();
        for host in 1..=3 {
            edges.push(setup.edge(host, "keep").await);
        }
        let strict = setup.edge(4, "fail_closed").await;
        let deployment = deployment(&base, logs, &controls, &origins, &edges);
        let this = Self {
            edges,
            strict,
            controls,
            origins,
            stores,
            database,
            database_place,
            proxies,
            deployment,
            waiting: None,
            successor: None,
            hosts,
            base,
            directory,
        };
        this.serves().await;
        this
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let edges = self.edges.iter().chain([&self.strict]);
        self.controls.iter().chain(&self.origins).chain(edges)
    }

    /// Waits until every process that runs is ready for traffic.
    pub async fn serves(&self) {
        for part in self.parts().filter(|part| part.node.runs()) {
            part.node.serves(READY).await;
        }
    }

    /// Waits until these streams are all live, and each origin has those that the registry says it has.
    pub async fn is_well(&self, streams: usize, prefix: &str) {
        self.serves().await;
        self.stores.agree().await;
        let what = format!("{streams} sessions, each of them where the registry says");
        let began = Instant::now();
        wait_for(&what, WELL, async || {
            let sessions = self.sessions().await;
            let differs = self.differs(sessions.as_deref(), streams, prefix).await;
            if began.elapsed() > TOLD_AFTER
                && let Some(difference) = &differs
            {
                eprintln!("chaos: not well yet: {difference}");
            }
            differs.is_none().then_some(())
        })
        .await;
        tokio::time::sleep(CALM).await;
    }

    /// How these streams, what is listed and what origins have are not the same.
    async fn differs(
        &self,
        sessions: Option<&[Session]>,
        streams: usize,
        prefix: &str,
    ) -> Option<String> {
        let Some(sessions) = sessions else {
            return Some("no control lists sessions".to_owned());
        };
        for origin in &self.origins {
            let name = origin.node.name();
            let registered = sessions.iter().filter(|session| session.origin == name);
            #[expect(clippy::cast_precision_loss, reason = "few of them")]
            let registered = registered.count() as f64;
            let metrics = origin.node.metrics().await;
            let held = metrics
                .map(|metrics| http::metric(&metrics, "headwater_origin_publishers_active", &[]));
            if held.is_none_or(|held| (held - registered).abs() > 0.5) {
                let others = sessions
                    .iter()
                    .filter(|session| !session.stream.starts_with(prefix));
                let others: Vec<_> = others.map(|session| &session.stream).collect();
                return Some(format!(
                    "{name} has {held:?} publishers, {registered} are listed; of other streams: {others:?}"
                ));
            }
        }
        let listed = sessions
            .iter()
            .filter(|session| session.stream.starts_with(prefix))
            .count();
        (listed != streams).then(|| format!("{listed} of {streams} are listed"))
    }

    /// As the control tells them that answers first.
    pub async fn sessions(&self) -> Option<Vec<Session>> {
        for control in self.controls.iter().filter(|part| part.node.runs()) {
            let api = cluster::api(&self.base, &control.node);
            let answer = tokio::time::timeout(Duration::from_secs(3), api.sessions());
            if let Ok(Ok(sessions)) = answer.await {
                return Some(sessions);
            }
        }
        None
    }

    /// What a user has in hand who connects to an edge, of every edge.
    pub fn deployments(&self) -> Vec<Deployment> {
        let edges = self.edges.iter().map(|edge| edge.node.rtmps());
        edges
            .map(|rtmps| Deployment {
                rtmps,
                ..self.deployment.clone()
            })
            .collect()
    }

    /// What every process and the load said stays where it is.
    pub fn keep(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }

    pub fn api(&self) -> Api {
        self.deployment.api.clone()
    }

    /// Which of these edges or origins has most sessions, by its own count.
    pub async fn busiest(parts: &[Part], metric: &str) -> usize {
        let mut most = (0, 0.0);
        for (index, part) in parts.iter().enumerate() {
            let metrics = part.node.metrics().await.unwrap_or_default();
            let sessions = http::metric(&metrics, metric, &[]);
            if sessions > most.1 {
                most = (index, sessions);
            }
        }
        assert!(most.1 > 0.0, "nobody publishes here: {metric}");
        most.0
    }

    /// Names lead to where nobody is, or to where they should.
    pub fn names_are_right(&self, right: bool) {
        if right {
            names_are(&self.hosts, 2, 3);
        } else {
            names_are(&self.hosts, 200, 201);
        }
    }

    /// No name resolves.
    pub fn names_are_gone(&self) {
        fs::write(&self.hosts, "").unwrap();
    }
}

/// What edges take these names for. Written in place: the file is mounted.
fn names_are(hosts: &Path, control_net: u8, origin_net: u8) {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for host in 1..=2 {
        text += &format!("198.18.{control_net}.{host} {CONTROLS}\n");
    }
    for host in 1..=3 {
        text += &format!("198.18.{origin_net}.{host} {ORIGINS}\n");
    }
    fs::write(hosts, text).unwrap();
}

/// As `headwater bootstrap` makes them, which keeps what is there, for the addresses here.
fn certificates(base: &Path) {
    let mut names: Vec<String> = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    names.push(HERE.to_string());
    for net in 1..=5 {
        for host in 1..=4 {
            names.push(format!("198.18.{net}.{host}"));
        }
    }
    let redis = base.join("redis");
    fs::create_dir_all(&redis).unwrap();
    for (directory, certificate, private_key) in [
        (base, "public.pem", "public.key"),
        (&redis, "tls.crt", "tls.key"),
    ] {
        let files = CertificateFiles {
            certificate: directory.join(certificate),
            private_key: directory.join(private_key),
        };
        ensure_self_signed(&files, &names).unwrap();
    }
}

impl Drop for Field {
    /// What was said where something went wrong is kept.
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("what was said is kept: {}", self.keep().display());
        }
    }
}

struct Setup<'a> {
    base: &'a Path,
    logs: &'a Path,
    stores: &'a Stores,
}

impl Setup<'_> {
    async fn control(&self, host: u8, database: &Postgres) -> Part {
        let mut part = self.part("control", 2, host).await;
        let address = part.place.address;
        let node = &mut part.node;
        node.set("CONTROL__PUBLIC__LISTEN", format!("{address}:7443"));
        node.set("CONTROL__INTERNAL__LISTEN", format!("{address}:7445"));
        let database = format!("{{postgres: {{url: \"{}\"}}}}", database.url());
        node.set("CONTROL__DATABASE", database);
        node.start().await;
        part
    }

    async fn origin(&self, host: u8, proxy: Option<SocketAddr>) -> Part {
        let mut part = self.part("origin", 3, host).await;
        let address = part.place.address;
        let node = &mut part.node;
        node.set("ORIGIN__NAME", format!("origin-{host}"));
        node.set("ORIGIN__RELAY__LISTEN", format!("{address}:{RELAY_PORT}"));
        node.set("ORIGIN__PLAYBACK__LISTEN", format!("{address}:7446"));
        node.set("ORIGIN__HTTP__LISTEN", format!("{address}:8080"));
        node.set("ORIGIN__RTMP__LISTEN", format!("{address}:1936"));
        if let Some(proxy) = proxy {
            node.set("ORIGIN__RELAY__ADVERTISE", proxy.to_string());
        }
        node.start().await;
        part
    }

    async fn edge(&self, host: u8, outage_policy: &str) -> Part {
        let mut part = self.part("edge", 1, host).await;
        let address = part.place.address;
        let node = &mut part.node;
        node.set("EDGE__LISTEN", format!("{address}:8443"));
        node.set("EDGE__CONTROL", format!("{CONTROLS}:7445"));
        node.set("EDGE__ORIGINS_DNS", format!("{ORIGINS}:{RELAY_PORT}"));
        node.set("EDGE__OUTAGE_POLICY", outage_policy.to_owned());
        // Short, so that a rollout takes seconds.
        let drain = "{reconnect_jitter: 3s, close_spread: 4s}";
        node.set("EDGE__DRAIN", drain.to_owned());
        node.start().await;
        part
    }

    async fn part(&self, role: &'static str, net: u8, host: u8) -> Part {
        let name = format!("{role}-{host}");
        let place = Place::new(&name, net, host, self.logs).await;
        let mut node = Node::new(role, name, binary::headwater(), self.base, self.logs);
        let mut enter = place.enter();
        // With names and no name server of its own.
        let mount = format!(
            "mount --bind {logs}/hosts /etc/hosts && mount --bind {logs}/resolv.conf /etc/resolv.conf && exec \"$@\"",
            logs = self.logs.display()
        );
        enter.extend(["unshare", "--mount", "--", "sh", "-c", &mount, "sh"].map(str::to_owned));
        node.enters(enter);
        node.set("REGISTRY__REDIS", self.stores.config(role, self.base));
        node.set("ADMIN__LISTEN", format!("{}:9090", place.address));
        node.set("LOG__FILTER", "info".to_owned());
        node.set("DRAIN_TIMEOUT", "12s".to_owned());
        Part { node, place }
    }
}

fn deployment(
    base: &Path,
    logs: &Path,
    controls: &[Part],
    origins: &[Part],
    edges: &[Part],
) -> Deployment {
    let urls = |scheme: &str, port: &str| {
        let addresses = origins.iter().map(|origin| origin.node.text(port));
        addresses
            .map(|address| format!("{scheme}://{address}"))
            .collect()
    };
    let parts = controls.iter().chain(origins).chain(edges);
    Deployment {
        api: cluster::api(base, &controls[0].node),
        rtmps: edges[0].node.rtmps(),
        playback: Playback {
            origins: urls("https", "playback"),
            ca_file: base.join(cluster::PUBLIC_CERTIFICATE),
            token: cluster::secret(base, "playback-token"),
        },
        http: urls("http", "http"),
        rtmp: origins
            .iter()
            .filter_map(|origin| origin.node.rtmp())
            .collect(),
        admin: parts.map(|part| part.node.text("admin_url")).collect(),
        ca_file: base.join(cluster::PUBLIC_CERTIFICATE),
        logs: logs.to_owned(),
    }
}
