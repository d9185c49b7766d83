//! Publishers that are gone without a word: FFmpeg in a network of its own, whose packets disappear in the middle of a
//! publish, both ways. No FIN comes and no RST; FFmpeg itself goes on.
//!
//! This needs no network of the machine: the test starts itself again in a network namespace, where everything of it
//! runs, and FFmpeg gets another one at the end of a wire.

use std::{fs, process::Command, time::Duration};

use proto::v1::TakeoverPolicy;
use tests::{
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    fixture,
    process::{self, Process, run, tool, with_system_path},
    wait::wait_until,
    witness::Witness,
};
use tokio::time::Instant;

/// The edge's end of the wire.
const NEAR: &str = "192.0.2.1";
const FAR: &str = "192.0.2.2";
/// Frames that are through before the wire is cut: seconds of media.
const FRAMES: usize = 60;
/// For a step that no deadline of the product is about.
const STEP: Duration = Duration::from_secs(30);
/// For a publisher to take the place of one that is half open, where its policy allows that.
const REPLACED: Duration = Duration::from_millis(500);
/// For all the cases together.
const ALL: Duration = Duration::from_secs(300);

/// What finds a publisher, while everything else that could waits for an hour.
struct Case {
    name: &'static str,
    /// Fields of the edge's configuration.
    edge: [(&'static str, &'static str); 4],
    /// When that is at the latest, from the last packet on.
    goal: Duration,
    reason: &'static str,
}

const IDLE: &str = "EDGE__RTMP__IDLE_DEADLINE";
const PING: &str = "EDGE__CONNECTIONS__PING_PERIOD";
const KEEPALIVE: &str = "EDGE__CONNECTIONS__KEEPALIVE_IDLE";
const USER_TIMEOUT: &str = "EDGE__CONNECTIONS__TCP_USER_TIMEOUT";

const CASES: [Case; 3] = [
    Case {
        name: "silence",
        edge: [
            (IDLE, "4s"),
            (PING, "1h"),
            (KEEPALIVE, "1h"),
            (USER_TIMEOUT, "1h"),
        ],
        goal: Duration::from_secs(4),
        reason: "idle",
    },
    Case {
        name: "a ping that nothing acknowledges",
        edge: [
            (IDLE, "1h"),
            (PING, "500ms"),
            (KEEPALIVE, "1h"),
            (USER_TIMEOUT, "2s"),
        ],
        goal: Duration::from_millis(2500),
        reason: "disconnected",
    },
    Case {
        name: "keepalive probes",
        edge: [
            (IDLE, "1h"),
            (PING, "1h"),
            (KEEPALIVE, "1s"),
            (USER_TIMEOUT, "2s"),
        ],
        // From probe to probe it is five seconds where nothing else is configured.
        goal: Duration::from_secs(6),
        reason: "disconnected",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_publisher_is_found_within_the_configured_seconds() {
    const NAME: &str = "half_open::a_half_open_publisher_is_found_within_the_configured_seconds";
    process::alone_in_namespace("--net", NAME, ALL, inside()).await;
}

async fn inside() {
    let logs = tempfile::tempdir().unwrap();
    let network = Network::new(logs.path()).await;
    for case in &CASES {
        is_found(&network, case).await;
    }
    loses_to_another(&network).await;
}

/// The encoder is back by another way (Wi-Fi to mobile) while its old connection is silent: its key's policy lets it in
/// at once.
async fn loses_to_another(network: &Network) {
    let cluster = Cluster::start(Layout {
        origins: 1,
        edge: vec![("EDGE__LISTEN", format!("{NEAR}:0"))],
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let policy = TakeoverPolicy::Takeover;
    let key = deployment.api.create_key_with(APP, "roams", policy).await;
    let subscriber = deployment.subscribe(&key);
    let url = format!("{}/{}", deployment.rtmps_url(APP), key.secret);
    let mut publisher = network.publisher(deployment, &url);
    subscriber.frames(FRAMES, STEP).await;
    let before = deployment.api.session_of("roams").await.unwrap();

    network.cut();
    let since = Instant::now();
    let again = deployment.publish(&key).await;
    let replaced = since.elapsed();
    println!("a half-open publisher was replaced after {replaced:.1?} (goal {REPLACED:.1?})");
    assert!(replaced < 5 * REPLACED, "{replaced:?}");
    let after = deployment.api.session_of("roams").await.unwrap();
    assert_ne!(before.id, after.id);
    assert!(publisher.ended().is_none(), "it knows of nothing");
    again.finish(&key.secret).await.unwrap();
    publisher.kill();
    network.mend();
}

async fn is_found(network: &Network, case: &Case) {
    let mut edge = vec![("EDGE__LISTEN", format!("{NEAR}:0"))];
    let settings = case.edge.iter();
    edge.extend(settings.map(|(field, value)| (*field, (*value).to_owned())));
    let cluster = Cluster::start(Layout {
        origins: 1,
        edge,
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(deployment, key).await;
    let key = deployment.api.create_key(APP, "half-open").await;
    let subscriber = deployment.subscribe(&key);
    let url = format!("{}/{}", deployment.rtmps_url(APP), key.secret);
    let mut publisher = network.publisher(deployment, &url);
    subscriber.frames(FRAMES, STEP).await;
    let session = deployment.api.session_of("half-open").await.unwrap();

    network.cut();
    let since = Instant::now();
    let edge = cluster.edge.process();
    let told = ["session ended", &session.id];
    let told = edge.log_line(&told, 5 * case.goal).await;
    println!(
        "found by {} after {:.1?} (goal {:.1?})",
        case.name,
        since.elapsed(),
        case.goal
    );
    let reason = format!("reason=\"{}\"", case.reason);
    assert!(told.contains(&reason), "{told}");
    assert!(publisher.ended().is_none(), "it knows of nothing");
    subscriber.received().assert_contiguous();
    assert!(deployment.api.session_of("half-open").await.is_none());
    witness.finish().await;
    publisher.kill();
    network.mend();
}

/// A wire with an end here, and another in a namespace that lasts as long as a process.
struct Network {
    far: Process,
}

impl Network {
    async fn new(logs: &std::path::Path) -> Self {
        let mut command = process::command("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let far = Process::spawn("far", &mut command, logs);
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", far.id());
        wait_until("another namespace", STEP, || {
            fs::read_link(&there).is_ok_and(|there| there != here)
        })
        .await;
        let this = Self { far };
        let far = this.far.id();
        run(tool("ip").args(["link", "set", "lo", "up"]));
        run(tool("ip")
            .args(["link", "add", "near", "type", "veth", "peer", "far"])
            .args(["netns", &far.to_string()]));
        for (end, address) in [("near", NEAR), ("far", FAR)] {
            let at = |arguments: &[&str]| run(this.at(end, "ip").args(arguments));
            at(&["address", "add", &format!("{address}/30"), "dev", end]);
            at(&["link", "set", end, "up"]);
        }
        this
    }

    /// FFmpeg at the far end, on a fixture that does not end.
    fn publisher(&self, deployment: &Deployment, url: &str) -> Process {
        let mut command = self.enter();
        command.args(["ffmpeg", "-hide_banner", "-nostats", "-re"]);
        command.args(["-stream_loop", "-1", "-i"]);
        command.arg(fixture("source.flv"));
        command.args(["-map", "0", "-c", "copy", "-f", "flv", url]);
        Process::spawn("publisher", &mut command, &deployment.logs)
    }

    /// What arrives at either end is dropped: both were able to send it, as to a radio that is out of reach.
    fn cut(&self) {
        for end in ["near", "far"] {
            let rules = format!(
                "add table inet wire; \
                 add chain inet wire arrives {{ type filter hook prerouting priority -300; }}; \
                 add rule inet wire arrives iifname {end} drop"
            );
            run(self.at(end, "nft").arg(rules));
        }
    }

    fn mend(&self) {
        for end in ["near", "far"] {
            run(self.at(end, "nft").arg("delete table inet wire"));
        }
    }

    /// A program at one end of the wire.
    fn at(&self, end: &str, program: &str) -> Command {
        if end == "near" {
            return tool(program);
        }
        let mut command = with_system_path(self.enter());
        command.arg(program);
        command
    }

    fn enter(&self) -> Command {
        let mut command = process::command("nsenter");
        command.args(["--target", &self.far.id().to_string(), "--net", "--"]);
        command
    }
}
