//! The roles as separate processes, with a real Redis between them: what `headwater bootstrap` writes, on free ports.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    api::Api,
    binary,
    deployment::Deployment,
    free_address,
    node::{ORIGIN_CONFIG, READY},
    postgres::Postgres,
    redis::Redis,
    subscriber::Playback,
    wait::wait_for,
};

/// Where an origin listens: the field, and its section of the configuration and name in the ready file.
const ORIGIN_LISTENERS: [(&str, &str); 4] = [
    ("ORIGIN__RELAY__LISTEN", "relay"),
    ("ORIGIN__PLAYBACK__LISTEN", "playback"),
    ("ORIGIN__HTTP__LISTEN", "http"),
    ("ORIGIN__RTMP__LISTEN", "rtmp"),
];

pub use crate::node::Node;

/// Where control keeps its stream keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Postgres,
    Sqlite,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Layout {
    pub database: Database,
    pub controls: usize,
    pub origins: usize,
    pub log_filter: String,
    /// Fields of every process's configuration, as environment variables name them.
    pub common: Vec<(&'static str, String)>,
    /// Fields of each control's configuration, as environment variables name them.
    pub control: Vec<(&'static str, String)>,
    /// Fields of each origin's configuration, as environment variables name them.
    pub origin: Vec<(&'static str, String)>,
    /// Fields of the edge's configuration, as environment variables name them.
    pub edge: Vec<(&'static str, String)>,
    /// Whether the edge knows every control, or the last one alone.
    pub edge_knows_all_controls: bool,
    /// Edges beside the first. Where an edge knows one control alone, each knows another one, from the last on.
    pub more_edges: usize,
    pub programs: Programs,
}

/// Which programs run: an edge of one version may stand before control and origins of another.
#[derive(Clone, Debug)]
pub struct Programs {
    pub edge: PathBuf,
    pub others: PathBuf,
}

impl Default for Programs {
    /// The program under test.
    fn default() -> Self {
        let program = binary::headwater().to_owned();
        Self {
            edge: program.clone(),
            others: program,
        }
    }
}

impl Default for Layout {
    /// One control on SQLite, two origins, one edge.
    fn default() -> Self {
        Self {
            database: Database::Sqlite,
            controls: 1,
            origins: 2,
            log_filter: "info".to_owned(),
            common: Vec::new(),
            control: Vec::new(),
            origin: Vec::new(),
            edge: Vec::new(),
            edge_knows_all_controls: false,
            more_edges: 0,
            programs: Programs::default(),
        }
    }
}

impl Layout {
    /// Two controls on PostgreSQL, two origins, one edge that knows the second control alone.
    pub fn postgres() -> Self {
        Self {
            database: Database::Postgres,
            controls: 2,
            ..Self::default()
        }
    }
}

/// A running cluster.
pub struct Cluster {
    pub deployment: Deployment,
    pub controls: Vec<Node>,
    pub edge: Node,
    pub more_edges: Vec<Node>,
    pub origins: Vec<Node>,
    pub redis: Redis,
    pub postgres: Option<Postgres>,
    pub directory: TempDir,
}

impl Cluster {
    pub async fn start(layout: Layout) -> Self {
        Self::start_after(layout, |_base, _postgres| {}).await
    }

    /// With a step between what is made for a new cluster and the start of its processes: a restore.
    pub async fn start_after(
        layout: Layout,
        prepare: impl FnOnce(&Path, Option<&Postgres>),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("cluster");
        bootstrap(&layout.programs, &base);
        let redis = Redis::start(&base, directory.path()).await;
        let postgres = match layout.database {
            Database::Postgres => Some(Postgres::start(directory.path()).await),
            Database::Sqlite => None,
        };
        prepare(&base, postgres.as_ref());
        let mut common = vec![
            ("REGISTRY__REDIS__URL", redis.url()),
            ("LOG__FILTER", layout.log_filter.clone()),
            ("ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("DRAIN_TIMEOUT", "3s".to_owned()),
        ];
        common.extend(layout.common);
        let setup = Setup {
            base: &base,
            logs: directory.path(),
            programs: &layout.programs,
            common,
        };

        let mut controls = Vec::new();
        for index in 0..layout.controls {
            let extra = layout.control.clone();
            controls.push(setup.control(index, postgres.as_ref(), extra).await);
        }
        let mut origins = Vec::new();
        for index in 0..layout.origins {
            origins.push(setup.origin(index, layout.origin.clone()).await);
        }
        let internal: Vec<String> = controls.iter().map(|node| node.text("internal")).collect();
        let mut edges = Vec::new();
        for index in 0..=layout.more_edges {
            let known = if layout.edge_knows_all_controls {
                internal.clone()
            } else {
                let control = internal.iter().rev().cycle().nth(index);
                control.cloned().into_iter().collect()
            };
            edges.push(setup.edge(index, &known, layout.edge.clone()).await);
        }
        let edge = edges.remove(0);
        let deployment = deployment(&base, directory.path(), &controls, &edge, &origins);
        let this = Self {
            deployment,
            controls,
            edge,
            more_edges: edges,
            origins,
            redis,
            postgres,
            directory,
        };
        for node in this.nodes() {
            node.serves(READY).await;
        }
        for edge in this.edges() {
            this.knows_origins(edge).await;
        }
        this
    }

    /// What `headwater bootstrap` wrote.
    pub fn base(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    /// Every Headwater process.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let edges = self.edges();
        self.controls.iter().chain(&self.origins).chain(edges)
    }

    /// Every edge, the first one first.
    pub fn edges(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.edge).chain(&self.more_edges)
    }

    /// What a user has in hand who connects to this edge.
    pub fn deployment_at(&self, edge: &Node) -> Deployment {
        Deployment {
            rtmps: edge.rtmps(),
            ..self.deployment.clone()
        }
    }

    /// The same for every edge, the first one first.
    pub fn deployments(&self) -> Vec<Deployment> {
        let edges = self.edges();
        edges.map(|edge| self.deployment_at(edge)).collect()
    }

    /// The origin that holds a live stream.
    pub async fn owner(&self, stream: &str) -> usize {
        let owner = wait_for("the stream to have an owner", READY, async || {
            self.deployment.api.session_of(stream).await
        })
        .await
        .origin;
        let position = self.origins.iter().position(|node| node.name() == owner);
        position.unwrap_or_else(|| panic!("no origin is called {owner:?}"))
    }

    /// The public API at one control.
    pub fn api(&self, control: usize) -> Api {
        api(&self.base(), &self.controls[control])
    }

    /// Waits until an edge has heard of every origin.
    async fn knows_origins(&self, edge: &Node) {
        let names: Vec<String> = self
            .origins
            .iter()
            .map(|node| format!("{:?}", node.name()))
            .collect();
        let mut parts = vec!["known origins"];
        parts.extend(names.iter().map(String::as_str));
        edge.process().log_line(&parts, READY).await;
    }
}

/// Certificates, secrets and configuration for all roles; the edge's configuration as its own version writes it.
fn bootstrap(programs: &Programs, base: &Path) {
    bootstrap_with(&programs.others, base);
    if programs.edge != programs.others {
        let of_edge = base.with_extension("edge");
        bootstrap_with(&programs.edge, &of_edge);
        fs::copy(of_edge.join("edge.yaml"), base.join("edge.yaml")).unwrap();
    }
}

pub(crate) fn bootstrap_with(program: &Path, base: &Path) {
    let output = Command::new(program)
        .arg("bootstrap")
        .arg(base)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "headwater bootstrap: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What all processes of a cluster have in common.
struct Setup<'a> {
    base: &'a Path,
    logs: &'a Path,
    programs: &'a Programs,
    common: Vec<(&'static str, String)>,
}

impl Setup<'_> {
    async fn control(
        &self,
        index: usize,
        postgres: Option<&Postgres>,
        extra: Vec<(&'static str, String)>,
    ) -> Node {
        let mut settings = self.common.clone();
        settings.push(("CONTROL__PUBLIC__LISTEN", free_address()));
        settings.push(("CONTROL__INTERNAL__LISTEN", free_address()));
        let database = match postgres {
            Some(postgres) => format!("{{postgres: {{url: \"{}\"}}}}", postgres.url()),
            None => "{sqlite: control.db}".to_owned(),
        };
        settings.push(("CONTROL__DATABASE", database));
        settings.extend(extra);
        self.node("control", format!("control-{index}"), settings)
            .await
    }

    async fn origin(&self, index: usize, extra: Vec<(&'static str, String)>) -> Node {
        let name = format!("origin-{index}");
        let mut settings = self.common.clone();
        settings.push(("ORIGIN__NAME", name.clone()));
        let config = fs::read_to_string(self.base.join(ORIGIN_CONFIG)).unwrap();
        for (field, section) in ORIGIN_LISTENERS {
            // Another version may not have them all.
            if config.contains(&format!("\n  {section}:\n")) {
                settings.push((field, free_address()));
            }
        }
        settings.extend(extra);
        self.node("origin", name, settings).await
    }

    async fn edge(
        &self,
        index: usize,
        controls: &[String],
        extra: Vec<(&'static str, String)>,
    ) -> Node {
        let mut settings = self.common.clone();
        settings.push(("EDGE__LISTEN", free_address()));
        settings.push(("EDGE__CONTROL", format!("{controls:?}")));
        settings.extend(extra);
        let name = match index {
            0 => "edge".to_owned(),
            further => format!("edge-{further}"),
        };
        self.node("edge", name, settings).await
    }

    async fn node(
        &self,
        role: &'static str,
        name: String,
        settings: Vec<(&'static str, String)>,
    ) -> Node {
        let program = match role {
            "edge" => &self.programs.edge,
            _ => &self.programs.others,
        };
        let mut node = Node::new(role, name, program, self.base, self.logs);
        for (field, value) in settings {
            node.set(field, value);
        }
        node.start().await;
        node
    }
}

fn deployment(
    base: &Path,
    logs: &Path,
    controls: &[Node],
    edge: &Node,
    origins: &[Node],
) -> Deployment {
    let ca_file = base.join(PUBLIC_CERTIFICATE);
    let urls = |scheme: &str, port: &str| {
        let addresses = origins.iter().map(|origin| origin.text(port));
        addresses
            .map(|address| format!("{scheme}://{address}"))
            .collect()
    };
    let processes = controls.iter().chain(origins).chain([edge]);
    Deployment {
        api: api(base, &controls[0]),
        rtmps: edge.rtmps(),
        playback: Playback {
            origins: urls("https", "playback"),
            ca_file: ca_file.clone(),
            token: secret(base, "playback-token"),
        },
        http: urls("http", "http"),
        rtmp: origins.iter().filter_map(Node::rtmp).collect(),
        admin: processes.map(|node| node.text("admin_url")).collect(),
        ca_file,
        logs: logs.to_owned(),
    }
}

pub(crate) fn api(base: &Path, control: &Node) -> Api {
    let url = format!("https://{}", control.text("public"));
    let token = secret(base, "api-token");
    Api::new(&url, &base.join(PUBLIC_CERTIFICATE), &token)
}

/// Certificate of the ports that the world sees.
pub(crate) const PUBLIC_CERTIFICATE: &str = "public.pem";

pub(crate) fn secret(base: &Path, name: &str) -> String {
    let path = base.join(name);
    let text = fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}
