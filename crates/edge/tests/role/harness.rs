//! One edge with its surroundings.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use edge::{Config, Dependencies, Edge, Listeners, OriginDialer};
use parking_lot::Mutex;
use registry::{
    Claim, EdgeName, Lease, LeaseStats, MemoryRegistry, Policy, Registry, SessionId, Slot,
    Standing, StreamId,
};
use rtmp::MediaMessage;
use runtime::{
    admin::Readiness,
    identity::{Cluster, Role},
    metrics::Metrics,
    shutdown::Shutdown,
    telemetry,
    tls::{
        CertificateFiles, EncoderTls, EncoderTlsFiles, InternalTls, InternalTlsFiles,
        ensure_internal_ca, ensure_self_signed,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{fake_control::FakeControl, fake_origin::FakeOrigin};

/// No condition of these tests takes longer where all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// An edge on loopback, its fakes, and its registry.
pub(crate) struct Harness {
    pub(crate) address: SocketAddr,
    pub(crate) control: FakeControl,
    pub(crate) control_shutdown: Shutdown,
    pub(crate) origins: Vec<FakeOrigin>,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
    pub(crate) edge: JoinHandle<()>,
    internal: Internal,
    _files: TempDir,
}

impl Harness {
    pub(crate) async fn start(origins: usize) -> Self {
        Self::start_with(origins, |_| {}).await
    }

    pub(crate) async fn start_with(origins: usize, configure: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(Registry::Memory(MemoryRegistry::new()), origins, configure).await
    }

    /// With other files for TLS.
    pub(crate) async fn start_with_tls(
        origins: usize,
        configure: impl FnOnce(&mut Config, &mut EncoderTlsFiles),
    ) -> Self {
        let registry = Registry::Memory(MemoryRegistry::new());
        Self::start_whole(registry, origins, configure).await
    }

    pub(crate) async fn start_on(
        registry: Registry,
        origins: usize,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        Self::start_whole(registry, origins, |config, _| configure(config)).await
    }

    async fn start_whole(
        registry: Registry,
        origins: usize,
        configure: impl FnOnce(&mut Config, &mut EncoderTlsFiles),
    ) -> Self {
        LazyLock::force(&LOG);
        let files = TempDir::new().unwrap();
        let internal = Internal::new(&files);
        let (control, control_endpoints, control_shutdown) = FakeControl::start();
        let mut config = Config::default();
        let mut fakes = Vec::new();
        for number in 0..origins {
            let name = format!("origin-{number}");
            let origin = FakeOrigin::start(&name, internal.tls(Role::Origin)).await;
            if registry.announce(&origin.announcement()).await.is_err() {
                config.static_origins.push(origin.configured());
            }
            fakes.push(origin);
        }
        let certificate_files = CertificateFiles {
            certificate: files.path().join("edge-public.pem"),
            private_key: files.path().join("edge-public.key"),
        };
        ensure_self_signed(&certificate_files, &["localhost".to_owned()]).unwrap();
        config.relay.stall_timeout = Duration::from_secs(1);
        config.relay.replay_window = Duration::from_millis(500);
        let mut tls = EncoderTlsFiles::of(certificate_files);
        configure(&mut config, &mut tls);
        let (metrics, readiness, shutdown) = Default::default();
        let edge = Edge::new(
            config,
            Dependencies {
                registry: registry.clone(),
                metrics: Metrics::clone(&metrics),
                readiness: Readiness::clone(&readiness),
                control: control_endpoints,
                origins: OriginDialer::Internal(internal.tls(Role::Edge)),
                tls: EncoderTls::load(tls).unwrap(),
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listeners = Listeners {
            rtmps: vec![listener],
        };
        let edge = tokio::spawn(edge.run(listeners, Shutdown::clone(&shutdown)));
        let this = Self {
            address,
            control,
            control_shutdown,
            origins: fakes,
            registry,
            metrics,
            readiness,
            shutdown,
            edge,
            internal,
            _files: files,
        };
        if origins > 0 {
            until("the edge is ready", || this.readiness.missing().is_empty()).await;
        }
        this
    }

    /// One that the edge does not know.
    pub(crate) async fn unannounced_origin(&self, name: &str) -> FakeOrigin {
        FakeOrigin::start(name, self.internal.tls(Role::Origin)).await
    }

    pub(crate) async fn leases(&self) -> Vec<Lease> {
        self.registry.leases().await.unwrap()
    }

    /// The one live lease.
    pub(crate) async fn lease(&self) -> Lease {
        let mut leases = self.leases().await;
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.remove(0)
    }

    /// The origin where the session publishes, and its place in `origins`.
    pub(crate) async fn owner(&self) -> (usize, String) {
        let lease = self.lease().await;
        let owner = self
            .origins
            .iter()
            .position(|origin| origin.name == lease.origin)
            .unwrap();
        (owner, lease.session.to_string())
    }

    /// One sample of the metrics; 0 where there is none.
    pub(crate) fn metric(&self, sample: &str) -> i64 {
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| {
            let value = line.strip_prefix(sample)?.strip_prefix(' ')?;
            value.parse::<f64>().ok()
        });
        #[expect(clippy::cast_possible_truncation, reason = "counts of a test")]
        line.map_or(0, |value| value as i64)
    }

    /// By a session on another edge, which waits for an owner that leaves.
    pub(crate) fn claim_elsewhere(&self, name: &str, policy: Policy) -> Claim {
        let origin = &self.origins[0].name;
        Claim {
            stream: StreamId::derive("default", "live", name),
            slot: Slot::PRIMARY,
            session: SessionId::new("another").unwrap(),
            edge: EdgeName::new("another-edge").unwrap(),
            candidate: origin.clone(),
            announced: vec![origin.clone()],
            broadcast_id: "0".repeat(32),
            policy,
            standing: Standing::default(),
            patient: true,
            floor: 0,
            home_ttl: Duration::from_secs(60),
            stats: LeaseStats::default(),
        }
    }

    pub(crate) async fn no_lease(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.leases().await.is_empty() {
            assert!(Instant::now() < deadline, "a lease is left behind");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Certificates for the roles.
struct Internal {
    directory: std::path::PathBuf,
    cluster: Cluster,
}

impl Internal {
    fn new(files: &TempDir) -> Self {
        let cluster = Cluster {
            trust_domain: "test".to_owned(),
            namespace: "test".to_owned(),
            name: "test".to_owned(),
        };
        let directory = files.path().join("internal");
        ensure_internal_ca(&directory, &cluster, &[Role::Edge, Role::Origin]).unwrap();
        Self { directory, cluster }
    }

    fn tls(&self, role: Role) -> InternalTls {
        let files = InternalTlsFiles {
            identity: CertificateFiles {
                certificate: self.directory.join(format!("{role}.pem")),
                private_key: self.directory.join(format!("{role}.key")),
            },
            ca: self.directory.join("ca.pem"),
        };
        InternalTls::load(&files, self.cluster.clone()).unwrap()
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Asks again and again, until there is an answer.
pub(crate) async fn found<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(what, asking).await
}

/// What came is what was sent, from `first` on.
pub(crate) fn assert_same(frames: &[media::Frame], first: u64, sent: &[MediaMessage]) {
    let sent = &sent[usize::try_from(first).unwrap()..];
    assert_eq!(frames.len(), sent.len());
    for (frame, message) in frames.iter().zip(sent) {
        assert_eq!(frame.body, message.body);
        assert_eq!(frame.timestamp_ms, i64::from(message.timestamp));
        assert_eq!(format!("{:?}", frame.kind), format!("{:?}", message.kind));
    }
}

/// Everything that the edge logged in this process, TRACE included.
pub(crate) fn logged() -> String {
    String::from_utf8_lossy(&LOG.0.lock()).into_owned()
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log(Arc::default());
    let filter = EnvFilter::new("info,edge=trace,rtmp=trace,runtime=trace");
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(log.clone());
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(telemetry::spans())
        .init();
    log
});

#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
