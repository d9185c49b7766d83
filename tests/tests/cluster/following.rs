//! Any origin serves any stream, and goes on when its owner dies or freezes.

use std::time::{Duration, Instant};

use tests::{
    api::IssuedKey,
    bench::{Bench, Load},
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    encoder::{Encoder, VIDEO},
    flv::{Kind, Tag},
    http::{self, FlvReader},
    subscriber::{Playback, Subscriber},
    tls, turn_alone,
    wait::{wait_for, wait_until},
    witness::Witness,
};
use tokio::task::JoinHandle;

/// For a step that no deadline of the product is about.
const STEP: Duration = Duration::from_secs(60);
/// How long media may pause behind the death of an origin; a busy test machine gets five times that, here and below.
const DEATH_GOAL: Duration = Duration::from_secs(1);
/// An edge takes two seconds to see that an origin is frozen.
const FREEZE_GOAL: Duration = Duration::from_secs(3);
/// A question to a registry that is down takes half a second, and there are two.
const OUTAGE_GOAL: Duration = Duration::from_secs(3);
/// Frames that are through before anything happens: two seconds of media.
const FRAMES: usize = 50;

fn three_origins() -> Layout {
    Layout {
        origins: 3,
        ..Layout::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_elsewhere_go_on_when_the_owner_is_killed() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(three_origins()).await;
    let readers = Readers::start(&cluster).await;
    let own = readers.of_the_owner();
    own.frames(FRAMES, STEP).await;
    let since = Instant::now();
    cluster.origins[readers.owner].kill();
    readers.go_on(since, "killed", DEATH_GOAL).await;
    let expected = readers.finish().await;

    let moved = own.finish(STEP).await;
    moved.assert_contiguous();
    // It came in the middle.
    assert!(packets(&expected).ends_with(&packets(&moved.tags())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_elsewhere_go_on_when_the_owner_freezes() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(three_origins()).await;
    let readers = Readers::start(&cluster).await;
    let since = Instant::now();
    cluster.origins[readers.owner].process().signal("STOP");
    readers.go_on(since, "frozen", FREEZE_GOAL).await;
    readers.finish().await;
}

/// Origins ask those that they knew last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_elsewhere_go_on_while_redis_is_down_too() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(three_origins()).await;
    let readers = Readers::start(&cluster).await;
    cluster.redis.kill();
    let since = Instant::now();
    cluster.origins[readers.owner].kill();
    readers
        .go_on(since, "killed behind Redis", OUTAGE_GOAL)
        .await;
    readers.finish().await;
}

/// One stream, and everybody who reads it at the origins that do not own it.
struct Readers {
    deployment: Deployment,
    key: IssuedKey,
    owner: usize,
    witness: Witness,
    flv: Vec<FlvReader>,
    subscribers: Vec<Subscriber>,
    rtmp: Vec<JoinHandle<Vec<Vec<u8>>>>,
}

impl Readers {
    /// They wait for the stream, and get it from its beginning.
    async fn start(cluster: &Cluster) -> Self {
        let mut deployment = cluster.deployment.clone();
        let key = deployment.api.create_key(APP, "followed").await;
        // The same origin will have it again.
        let before = deployment.publish(&key).await;
        let owner = cluster.owner(&key.stream).await;
        before.finish(&key.secret).await.unwrap();
        wait_for("the first session to be over", STEP, async || {
            let sessions = deployment.api.sessions().await.ok()?;
            sessions.is_empty().then_some(())
        })
        .await;

        let all = deployment.clone();
        deployment.http.remove(owner);
        deployment.rtmp.remove(owner);
        deployment.playback.origins.remove(owner);
        let flv = deployment.read_everywhere(&key);
        let subscribers = deployment.subscribe_everywhere(&key);
        let rtmp = deployment.rtmp.iter();
        let token = &deployment.playback.token;
        let rtmp = rtmp
            .map(|at| tokio::spawn(play(*at, format!("followed?token={token}&wait=60"))))
            .collect();
        let witness = Witness::start(&deployment, key.clone()).await;
        assert_eq!(cluster.owner(&key.stream).await, owner);
        for subscriber in &subscribers {
            subscriber.frames(FRAMES, STEP).await;
        }
        for reader in &flv {
            let what = "the FLV readers to read";
            wait_until(what, STEP, || reader.tags().len() > FRAMES).await;
        }
        Self {
            deployment: all,
            key,
            owner,
            witness,
            flv,
            subscribers,
            rtmp,
        }
    }

    /// A reader with a cursor at the owner, which knows another origin too.
    fn of_the_owner(&self) -> Subscriber {
        let origins = &self.deployment.playback.origins;
        let other = (self.owner + 1) % origins.len();
        let playback = Playback {
            origins: vec![origins[self.owner].clone(), origins[other].clone()],
            ..self.deployment.playback.clone()
        };
        Subscriber::start(&playback, &self.key.app, &self.key.stream)
    }

    /// Waits until more has come to every reader, and prints the longest pause since then.
    async fn go_on(&self, since: Instant, what: &str, goal: Duration) {
        let counts = || -> Vec<usize> {
            let subscribers = self.subscribers.iter().map(Subscriber::frame_count);
            let flv = self.flv.iter().map(|reader| reader.tags().len());
            subscribers.chain(flv).collect()
        };
        let mut last = counts();
        let mut heard = vec![since; last.len()];
        let mut pauses = vec![Duration::ZERO; last.len()];
        // What was under way comes first: the pause is behind it.
        while since.elapsed() < goal * 5 || pauses.contains(&Duration::ZERO) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let (now, counted) = (Instant::now(), counts());
            for reader in 0..last.len() {
                let pause = now - heard[reader];
                assert!(pause < goal * 5, "reader {reader} waits for {pause:?}");
                if counted[reader] > last[reader] {
                    pauses[reader] = pauses[reader].max(pause);
                    heard[reader] = now;
                }
            }
            last = counted;
        }
        println!("the owner was {what}: longest pauses {pauses:?} (goal {goal:?})");
    }

    /// Fails unless everybody got all that was published, once and in order. That.
    async fn finish(self) -> Vec<Tag> {
        // A player that comes now, to any origin that is left.
        let urls = self.deployment.flv_urls(&self.key);
        let mut late = Vec::new();
        for (origin, url) in urls.iter().enumerate() {
            if origin != self.owner {
                late.push(FlvReader::start(&url.replace("&wait=60", "")));
            }
        }
        for reader in &late {
            wait_until("a late player to play", STEP, || reader.tags().len() > 10).await;
        }
        let expected = self.witness.finish().await.tags();
        for subscriber in &self.subscribers {
            let received = subscriber.finish(STEP).await;
            received.assert_contiguous();
            received.assert_monotonic();
            assert_eq!(packets(&received.tags()), packets(&expected));
            assert!(received.frames.last().unwrap().attempt > 1);
        }
        for reader in &self.flv {
            assert_eq!(packets(&reader.finish(STEP).await), packets(&expected));
        }
        for playing in self.rtmp {
            let played = playing.await.unwrap();
            let coded = played.into_iter().filter(|body| body[1] == 1);
            assert_eq!(coded.collect::<Vec<_>>(), packets(&expected));
        }
        for reader in late {
            let played = packets(&reader.finish(STEP).await);
            assert!(packets(&expected).ends_with(&played));
        }
        expected
    }
}

/// The bodies of coded video.
fn packets(tags: &[Tag]) -> Vec<Vec<u8>> {
    let coded = |tag: &&Tag| tag.kind == Kind::Video && tag.packet().is_some();
    let coded = tags.iter().filter(coded);
    coded.map(|tag| tag.body.clone()).collect()
}

/// The bodies of video that a player over RTMP gets, to the end of the stream.
async fn play(at: std::net::SocketAddr, name: String) -> Vec<Vec<u8>> {
    let mut player = Encoder::new(tls::connect_plain(at).await.unwrap());
    let status = player.play(APP, &name).await.unwrap();
    assert_eq!(status.code, "NetStream.Play.Reset");
    let messages = player.until_closed(STEP * 2).await;
    let video = messages.into_iter().filter(|message| message.kind == VIDEO);
    video.map(|message| message.body).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_of_readers_at_one_origin_stays_clean_when_another_dies() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(three_origins()).await;
    let mut deployment = cluster.deployment.clone();
    deployment.playback.origins.truncate(1);
    let load = Load {
        publishers: 12,
        seconds: 15,
        ramp_seconds: 0,
        kilobits_per_second: 400,
    };
    let mut bench = Bench::start(&deployment, "elsewhere", &load).await;
    bench.is_live(STEP).await;
    let sessions = deployment.api.sessions().await.unwrap();
    let first = cluster.origins[0].name().to_owned();
    let elsewhere = sessions.iter().find(|session| session.origin != first);
    let stream = &elsewhere.expect("an owner that is not read").stream;
    let owner = cluster.owner(stream).await;
    let owned = sessions
        .iter()
        .filter(|s| s.origin == cluster.origins[owner].name());
    println!(
        "{} of {} streams lose their owner",
        owned.count(),
        sessions.len()
    );
    cluster.origins[owner].kill();
    bench.finish_clean(STEP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_publishes_is_not_found_anywhere() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(three_origins()).await;
    let deployment = &cluster.deployment;
    let key = deployment.api.create_key(APP, "nobody").await;
    for round in 0..20 {
        for url in deployment.flv_urls(&key) {
            let (status, text) = http::get(&url.replace("&wait=60", "")).await.unwrap();
            assert_eq!(status.as_u16(), 404, "round {round}: {text}");
        }
    }
    for origin in &cluster.origins {
        let metrics = origin.metrics().await.unwrap();
        let lookups = http::metric(&metrics, "headwater_origin_owner_lookups_total", &[]);
        println!("{}: 20 asks, {lookups} lookups", origin.name());
        assert!((1.0..20.0).contains(&lookups), "{lookups}");
    }
}
