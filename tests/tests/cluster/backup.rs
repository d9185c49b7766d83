//! Two encoders at two edges publish one stream: the primary, and a backup that readers get when they need it.

use std::time::{Duration, Instant};

use proto::v1::{CreateStreamKeyRequest, EventType, IngestRole, PublishPolicy};
use serde_json::Value;
use tests::{
    api::IssuedKey,
    binary,
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    ffmpeg::{self, Pace},
    fixture,
    flv::{self, Kind},
    process::Process,
    subscriber::{Received, Subscriber},
    turn_alone,
    wait::{wait_for, wait_until},
};
use tokio::time::timeout;

/// From the fault until readers have the backup's frames; a busy test machine gets five times that.
const GOAL: Duration = Duration::from_millis(1500);
const DEADLINE: Duration = GOAL.saturating_mul(5);
/// Anything else that is waited for.
const STEP: Duration = Duration::from_secs(60);
const SOURCE: &str = "source.flv";
/// Longer than the test: ten seconds each.
const LOOPS: u32 = 60;

/// A stream with both encoders, and everybody who reads it.
struct Scene {
    stream: &'static str,
    deployment: Deployment,
    primary: Process,
    backup: Process,
    /// Of the sessions, as the edges have them.
    backup_session: String,
    /// One at each origin.
    subscribers: Vec<Subscriber>,
    /// One that goes from origin to origin with its cursor.
    wanderer: Subscriber,
    players: Vec<Process>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_have_the_backup_when_the_primarys_edge_dies_or_its_encoder_freezes() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(Layout {
        more_edges: 1,
        ..Layout::default()
    })
    .await;
    let frozen = Scene::start(&cluster, "frozen").await;
    both_are_listed(&cluster, frozen.stream);
    let since = Instant::now();
    frozen.primary.signal("STOP");
    frozen.has_backup(since, "its encoder froze").await;
    // And so hears the platform.
    for change in [EventType::SessionStandby, EventType::SessionOnAir] {
        let logged = frozen.deployment.api.logs(change, frozen.stream);
        timeout(STEP, logged).await.expect("an event").unwrap();
    }

    let killed = Scene::start(&cluster, "killed").await;
    let since = Instant::now();
    cluster.edge.kill();
    killed.has_backup(since, "its edge was killed").await;

    for scene in [frozen, killed] {
        scene.goes_on().await;
    }
}

/// Both edges reopen elsewhere, and say who was on air.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_keep_the_primary_and_miss_nothing_when_the_origin_of_both_dies() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(patient(2)).await;
    let scene = Scene::start(&cluster, "moved").await;
    let before = scene.wanderer.received();
    let owner = cluster.owner(scene.stream).await;
    cluster.origins[owner].kill();
    let more = scene.wanderer.frame_count() + 300;
    scene.wanderer.frames(more, STEP).await;
    let received = scene.wanderer.received();
    assert_eq!(
        received.sessions(),
        before.sessions(),
        "the primary's alone"
    );
    received.assert_contiguous();
    received.assert_monotonic();
    let attempts = |received: &Received| received.frames.last().unwrap().attempt;
    assert!(attempts(&received) > attempts(&before));
    scene
        .both_are_elsewhere(cluster.origins[owner].name())
        .await;
}

/// An origin leaves in good order, and with it both of the stream's publishers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_leave_an_origin_that_drains_and_readers_keep_the_primary() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(patient(3)).await;
    let scene = Scene::start(&cluster, "drained").await;
    let owner = cluster.owner(scene.stream).await;
    let mut playback = scene.deployment.playback.clone();
    playback.origins.rotate_left(owner);
    let follows = Subscriber::start_at_first(&playback, APP, scene.stream);
    follows.frames(200, STEP).await;
    let since = Instant::now();
    let left = &mut cluster.origins[owner];
    left.process().signal("TERM");
    let status = left.process_mut().exit(STEP).await;
    assert!(status.success(), "{status}");
    println!("the origin was empty after {:?}", since.elapsed());
    scene
        .both_are_elsewhere(cluster.origins[owner].name())
        .await;
    println!("both had another origin after {:?}", since.elapsed());

    let stay = scene.subscribers.iter().enumerate();
    let stay = stay.filter(|(origin, _)| *origin != owner);
    let stay = stay.map(|(_, subscriber)| subscriber);
    for reader in stay.chain([&scene.wanderer, &follows]) {
        reader.frames(reader.frame_count() + 100, STEP).await;
        let received = reader.received();
        assert!(received.ended.is_none(), "{:?}", received.ended);
        assert_eq!(received.sessions().len(), 1, "the primary's alone");
        received.assert_contiguous();
        received.assert_monotonic();
    }
    assert!(follows.received().moved > 0);
    for origin in &cluster.origins {
        let log = origin.process().log();
        assert!(!log.contains("another publisher is on air"), "{log}");
    }
}

/// The convention of YouTube's publishers: one key, and a query that says which of both this is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_publishes_both_where_it_may() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(Layout::default()).await;
    let deployment = &cluster.deployment;
    for (role, code) in [
        (IngestRole::Any, "NetStream.Publish.Start"),
        (IngestRole::Primary, "NetStream.Publish.BadName"),
    ] {
        let key = key(deployment, role.as_str_name(), role).await;
        let _primary = deployment.publish(&key).await;
        let mut backup = deployment.encoder().await;
        let name = format!("{}?backup=1", key.secret);
        let status = backup.publish(&key.app, &name).await.unwrap();
        assert_eq!(status.code, code, "{role:?}: {status:?}");
        if role == IngestRole::Any {
            let slots = wait_for("both sessions to be listed", STEP, async || {
                let slots = slots(deployment, &key.stream).await;
                (slots.len() == 2).then_some(slots)
            })
            .await;
            assert_eq!(slots, [0, 1]);
        }
    }
}

/// Two edges, which may be seconds apart on a busy machine, and origins that wait for both.
fn patient(origins: usize) -> Layout {
    Layout {
        origins,
        more_edges: 1,
        origin: vec![
            ("ORIGIN__BACKUP__STARVE_AFTER", "10s".to_owned()),
            ("DRAIN_TIMEOUT", "15s".to_owned()),
        ],
        ..Layout::default()
    }
}

async fn key(deployment: &Deployment, stream: &str, role: IngestRole) -> IssuedKey {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: stream.to_owned(),
        policy: Some(PublishPolicy {
            role: role.into(),
            ..PublishPolicy::default()
        }),
        ..CreateStreamKeyRequest::default()
    };
    deployment.api.try_create_key(request).await.unwrap()
}

async fn slots(deployment: &Deployment, stream: &str) -> Vec<u32> {
    let sessions = deployment.api.sessions().await.unwrap();
    let mut of_stream: Vec<_> = sessions.iter().filter(|s| s.stream == stream).collect();
    of_stream.sort_by_key(|session| session.slot);
    of_stream.iter().map(|session| session.slot).collect()
}

/// As `headwater sessions list` prints it: both, at two edges and one origin.
fn both_are_listed(cluster: &Cluster, stream: &str) {
    let base = cluster.base();
    let output = std::process::Command::new(binary::headwater())
        .args(["sessions", "list", "-o", "json", "--server"])
        .arg(format!("https://{}", cluster.controls[0].text("public")))
        .arg("--ca-file")
        .arg(base.join("public.pem"))
        .arg("--token-file")
        .arg(base.join("api-token"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let listed: Value = serde_json::from_str(&printed).expect("JSON");
    let mut sessions: Vec<_> = listed.as_array().unwrap().clone();
    sessions.retain(|session| session["stream"] == stream);
    sessions.sort_by_key(|session| session["slot"].as_u64());
    let [primary, backup] = &sessions[..] else {
        panic!("two sessions: {listed}");
    };
    assert_eq!((&primary["slot"], &backup["slot"]), (&0.into(), &1.into()));
    assert_eq!(primary["origin"], backup["origin"]);
    assert_ne!(primary["edge"], backup["edge"]);
}

impl Scene {
    async fn start(cluster: &Cluster, stream: &'static str) -> Self {
        let deployment = cluster.deployment.clone();
        let primary_key = key(&deployment, stream, IngestRole::Primary).await;
        let backup_key = key(&deployment, stream, IngestRole::Backup).await;
        let subscribers = deployment.subscribe_everywhere(&primary_key);
        let wanderer = deployment.subscribe(&primary_key);
        let players = deployment.flv_urls(&primary_key);
        let players = players.iter().enumerate().map(|(index, url)| {
            let name = format!("player-{stream}-{index}");
            let file = deployment.logs.join(format!("{name}.flv"));
            ffmpeg::pull(&name, url, &file, &deployment.logs)
        });
        let players = players.collect();
        let file = fixture(SOURCE);
        let primary = deployment.ffmpeg(&primary_key, &file, LOOPS, Pace::RealTime);
        subscribers[0].frames(1, STEP).await;
        let standby = cluster.deployment_at(&cluster.more_edges[0]);
        let url = format!("{}/{}", standby.rtmps_url(APP), backup_key.secret);
        let name = format!("backup-{stream}");
        let backup =
            ffmpeg::publish_named(&name, &file, LOOPS, Pace::RealTime, &url, &standby.logs);
        let backup_session = wait_for("the backup to be listed", STEP, async || {
            let sessions = deployment.api.sessions().await.ok()?;
            let of_it = sessions
                .into_iter()
                .find(|s| s.stream == stream && s.slot == 1);
            of_it.map(|session| session.id)
        })
        .await;
        // Both are warm, and every reader reads.
        for subscriber in &subscribers {
            let more = subscriber.frame_count() + 200;
            subscriber.frames(more, STEP).await;
            assert_eq!(subscriber.received().sessions().len(), 1, "the primary");
        }
        Self {
            stream,
            deployment,
            primary,
            backup,
            backup_session,
            subscribers,
            wanderer,
            players,
        }
    }

    /// Waits until both are listed at one origin, which is not the one that they left.
    async fn both_are_elsewhere(&self, left: &str) {
        wait_for("both to be listed at another origin", STEP, async || {
            let mut sessions = self.deployment.api.sessions().await.ok()?;
            sessions.retain(|session| session.stream == self.stream);
            let [one, other] = &sessions[..] else {
                return None;
            };
            assert!([one, other].iter().any(|it| it.id == self.backup_session));
            let together = one.origin == other.origin && one.origin != left;
            together.then_some(())
        })
        .await;
    }

    fn is_backup(&self, received: &Received) -> bool {
        let last = received.frames.last();
        last.is_some_and(|last| last.session_id == self.backup_session)
    }

    /// Waits for the backup's frames at every reader.
    async fn has_backup(&self, since: Instant, fault: &str) {
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            let what = format!("the backup's frames at reader {index}");
            wait_until(&what, STEP, || self.is_backup(&subscriber.received())).await;
            let elapsed = since.elapsed();
            println!(
                "{}: {fault}, the backup at reader {index} after {elapsed:?} (goal {GOAL:?})",
                self.stream
            );
            assert!(elapsed < DEADLINE, "{elapsed:?}");
        }
    }

    /// Nobody has seen an end, or time going back.
    async fn goes_on(mut self) {
        for subscriber in &self.subscribers {
            let more = subscriber.frame_count() + 100;
            subscriber.frames(more, STEP).await;
            let received = subscriber.received();
            assert!(
                received.ended.is_none() && received.errors.is_empty(),
                "{:?}",
                received.errors
            );
            assert_eq!((received.moved, received.gaps.len()), (0, 0));
            received.assert_monotonic();
            assert_eq!(received.sessions().len(), 2, "one switch");
            let switched = received.headers.iter().rfind(|header| header.slot == 1);
            assert!(switched.is_some_and(|header| header.headers.is_some()));
        }
        for player in &mut self.players {
            assert!(player.ended().is_none(), "{}", player.log());
        }
        assert!(self.backup.ended().is_none(), "{}", self.backup.log());
        for index in 0..self.players.len() {
            let name = format!("player-{}-{index}.flv", self.stream);
            let written = std::fs::read(self.deployment.logs.join(name)).unwrap();
            let tags = flv::Reader::default().push(&written);
            assert!(tags.len() > 200, "{} tags", tags.len());
            let times = |kind| {
                let of_kind = tags.iter().filter(move |tag| tag.kind == kind);
                of_kind.map(|tag| tag.timestamp_ms)
            };
            assert!(times(Kind::Video).is_sorted() && times(Kind::Audio).is_sorted());
        }
    }
}
