//! Owners of a followed stream that die, freeze, break off or lose it: its readers go on with the next one.

use std::{
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use proto::internal::v1::{
    FollowAccepted, FollowRequest, FollowResponse, follow_response,
    relay_service_server::{RelayService, RelayServiceServer},
};
use registry::{RedisConfig, RedisRegistry};
use tokio::process::{Child, Command};

use super::{
    following::*,
    outputs::{file, late_player},
    ownership::claim,
    *,
};

#[tokio::test]
async fn readers_of_a_follower_go_on_when_the_owner_dies() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    let frames = recording(4);
    publisher.publish(&frames[..30]).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    let flv = late_player(&cluster.origins[1]).await;
    player.header().await;
    player.frames(30 - 22).await;

    cluster.origins[0].shutdown.stop();
    drop(publisher);
    let mut publisher = cluster.reopened(2, epoch, 2, 12).await;
    publisher.send(&frames[12..]).await;
    publisher.acknowledged().await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Header(header) => {
            assert_eq!((header.epoch, header.attempt), (epoch, 2));
        }
        unexpected => panic!("{unexpected:?}"),
    }
    let got = player.frames(frames.len() - 30).await;
    assert!(got.into_iter().eq(contiguous(30, &frames[30..])));
    publisher.close("done").await;
    assert!(matches!(
        player.next().await.unwrap(),
        subscribe_event::Event::End(_)
    ));
    let (_, body) = flv.await.unwrap();
    let mut expected = vec![metadata(), video_header()];
    expected.extend_from_slice(&frames[22..]);
    assert_eq!(tags(&body), tags(&file(&expected)));
}

/// Kinds and bodies' lengths of a file's tags.
fn tags(mut file: &[u8]) -> Vec<(u8, usize)> {
    let mut tags = Vec::new();
    file = &file[13..];
    while let [kind, high, middle, low, ..] = *file {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        tags.push((kind, length));
        file = &file[length + 15..];
    }
    tags
}

#[tokio::test]
async fn what_no_edge_has_any_more_is_an_explicit_gap() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    let frames = recording(5);
    publisher.publish(&frames[..20]).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(20 - 12).await;
    cluster.origins[0].shutdown.stop();
    drop(publisher);
    let mut publisher = cluster.reopened(2, epoch, 2, 32).await;
    publisher.send(&frames[32..]).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Gap(gap) => {
            assert_eq!((gap.from_sequence, gap.to_sequence), (20, 32));
        }
        unexpected => panic!("{unexpected:?}"),
    }
    let (session_id, headers) = player.header().await;
    assert_eq!(session_id, "s1");
    assert_eq!(headers, [(0, metadata()), (1, video_header())]);
    let got = player.frames(frames.len() - 32).await;
    assert!(got.into_iter().eq(contiguous(32, &frames[32..])));
}

#[tokio::test]
async fn a_frozen_owner_is_left_where_the_registry_names_another() {
    left_where_the_registry_names_another(Duration::from_millis(100)).await;
}

/// Readers come from an origin whose edges do not reach it any more.
#[tokio::test]
async fn an_owner_that_is_silent_from_the_beginning_is_left_sooner() {
    left_where_the_registry_names_another(Duration::from_secs(3600)).await;
}

async fn left_where_the_registry_names_another(silence: Duration) {
    let cluster = cluster(|config| {
        config.timing.follow_silence = silence;
        // It does not learn that it lost the stream.
        config.timing.recheck_period = Duration::from_secs(3600);
    })
    .await;
    let (mut frozen, epoch) = cluster.published().await;
    let frames = recording(4);
    frozen.publish(&frames[..30]).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(30 - 22).await;
    let mut publisher = cluster.reopened(2, epoch, 2, 22).await;
    publisher.send(&frames[22..]).await;
    player.header().await;
    let got = player.frames(frames.len() - 30).await;
    assert!(got.into_iter().eq(contiguous(30, &frames[30..])));
    // Whatever the old owner says now, nobody hears it.
    frozen.publish(&frames[30..35]).await;
    publisher.close("done").await;
    assert!(matches!(
        player.next().await.unwrap(),
        subscribe_event::Event::End(_)
    ));
}

/// A registry that can be ended.
async fn redis() -> (Registry, Child) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let port = address.port().to_string();
    let mut server = Command::new("redis-server");
    server.args(["--port", &port, "--save", "", "--appendonly", "no"]);
    let server = server.stdout(Stdio::null()).kill_on_drop(true);
    let server = server.spawn().expect("redis-server");
    let mut config = RedisConfig::from_url(&format!("redis://{address}")).unwrap();
    config.timeout = Duration::from_secs(2);
    let registry = Registry::Redis(RedisRegistry::open(&config).unwrap());
    let answers = async || registry.origins().await.is_ok();
    eventually("Redis answers", answers).await;
    (registry, server)
}

/// The session goes on elsewhere while no registry can tell, and its old owner is silent, or says that it is over.
async fn moves_in_an_outage(silence: Duration, says_end: bool) {
    let (registry, mut server) = redis().await;
    let cluster = cluster_in(registry, |config| {
        config.timing.follow_silence = silence;
        config.timing.follow_linger = Duration::from_millis(100);
        config.timing.recheck_period = Duration::from_secs(3600);
        config.timing.publisher_lost_grace = PATIENCE;
    })
    .await;
    let (mut old, epoch) = cluster.published().await;
    let frames = recording(4);
    old.publish(&frames[..30]).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(30 - 22).await;
    server.kill().await.unwrap();
    let mut publisher = cluster.opened(2, epoch, 2, 22).await;
    publisher.publish(&frames[22..]).await;
    let _silent = if says_end {
        old.close("publisher lost").await;
        None
    } else {
        Some(old)
    };
    match player.next().await.unwrap() {
        subscribe_event::Event::Header(header) => assert_eq!(header.attempt, 2),
        unexpected => panic!("{unexpected:?}"),
    }
    let got = player.frames(frames.len() - 30).await;
    assert!(got.into_iter().eq(contiguous(30, &frames[30..])));
    drop(player);
    metric_is(&cluster.origins[1], FOLLOWED, 0.0).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Header(header) => assert_eq!(header.attempt, 2),
        unexpected => panic!("{unexpected:?}"),
    }
}

#[tokio::test]
async fn without_a_registry_a_silent_owner_is_left_for_one_with_a_higher_token() {
    moves_in_an_outage(Duration::from_millis(100), false).await;
}

#[tokio::test]
async fn without_a_registry_an_end_is_believed_where_nobody_has_a_higher_token() {
    moves_in_an_outage(PATIENCE * 2, true).await;
}

#[tokio::test]
async fn an_owner_that_lost_the_stream_says_moved_and_followers_go_on() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    let frames = recording(4);
    publisher.publish(&frames[..30]).await;
    let mut own = cluster.origins[0].subscribe("main", lossless).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    for player in [&mut own, &mut player] {
        player.header().await;
        player.frames(30 - 22).await;
    }
    let mut publisher = cluster.reopened(2, epoch, 2, 22).await;
    match own.next().await.unwrap() {
        subscribe_event::Event::Moved(moved) => assert_eq!(moved.origin, NAMES[2]),
        unexpected => panic!("{unexpected:?}"),
    }
    let cursor = own.cursor;
    let mut own = cluster.origins[0].subscribe("main", behind(cursor)).await;
    publisher.send(&frames[22..]).await;
    for player in [&mut own, &mut player] {
        player.header().await;
        let got = player.frames(frames.len() - 30).await;
        assert!(got.into_iter().eq(contiguous(30, &frames[30..])));
    }
}

#[tokio::test]
async fn a_follower_that_becomes_the_owner_goes_on_in_its_log() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    let frames = recording(4);
    publisher.publish(&frames[..30]).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(30 - 22).await;
    let refused = cluster.origins[1].publish("main", "s1", epoch, 1).await;
    let refused = refused.err().expect("a token that another origin has seen");
    assert_refused(&refused, Code::FailedPrecondition, "FENCED");

    let mut publisher = cluster.reopened(1, epoch, 2, 12).await;
    assert_eq!(publisher.accepted.next_sequence, 30, "it has the others");
    publisher.send(&frames[12..]).await;
    player.header().await;
    let got = player.frames(frames.len() - 30).await;
    assert!(got.into_iter().eq(contiguous(30, &frames[30..])));
    metric_is(&cluster.origins[1], FOLLOWED, 0.0).await;
    metric_is(&cluster.origins[1], "headwater_origin_streams_active", 1.0).await;
    metric_is(&cluster.origins[0], FOLLOWERS, 0.0).await;
}

#[tokio::test]
async fn another_broadcast_at_the_next_owner_is_found_at_once() {
    let cluster = cluster(|config| {
        config.timing.publisher_lost_grace = Duration::from_secs(3600);
    })
    .await;
    let (mut publisher, _) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(10).await;
    cluster.origins[0].shutdown.stop();
    drop(publisher);
    let epoch = claim(&cluster.registry, "main", "s2", NAMES[2]).await;
    let next = &cluster.origins[2];
    let mut open = next.open_request(&grant("main", "s2"), epoch, 1);
    open.broadcast_id = "b2".to_owned();
    let mut second = next.open(open).await.unwrap();
    second.publish(&recording(1)).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::End(end) => assert_eq!(end.reason, "another broadcast began"),
        unexpected => panic!("{unexpected:?}"),
    }
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    assert_eq!(player.header().await.0, "s2");
    player.frames(10).await;
}

#[tokio::test]
async fn a_stream_whose_owner_does_not_come_back_ends() {
    let cluster = cluster(|config| {
        config.timing.publisher_lost_grace = Duration::from_millis(300);
    })
    .await;
    let (mut publisher, _) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(10).await;
    cluster.origins[0].shutdown.stop();
    match player.next().await.unwrap() {
        subscribe_event::Event::End(end) => assert_eq!(end.reason, "publisher lost"),
        unexpected => panic!("{unexpected:?}"),
    }
}

/// An owner that tells nothing of its log.
#[derive(Clone, Default)]
struct TellsNothing {
    asked: Arc<AtomicU64>,
    epoch: u64,
    how: Silence,
}

#[derive(Clone, Copy, Debug, Default)]
enum Silence {
    /// It accepts and breaks off.
    #[default]
    Broken,
    /// It accepts and freezes.
    FrozenBehindAcceptance,
    Frozen,
}

#[tonic::async_trait]
impl RelayService for TellsNothing {
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;
    type PublishStream = BoxStream<'static, Result<PublishResponse, Status>>;

    async fn follow(
        &self,
        _request: tonic::Request<FollowRequest>,
    ) -> Result<tonic::Response<Self::FollowStream>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let accepted = FollowResponse {
            response: Some(follow_response::Response::Accepted(FollowAccepted {
                broadcast_id: "b1".to_owned(),
                epoch: self.epoch,
                attempt: 1,
                ..FollowAccepted::default()
            })),
        };
        let accepted = stream::iter([Ok(accepted)]);
        let answers: Self::FollowStream = match self.how {
            Silence::Broken => Box::pin(accepted),
            Silence::FrozenBehindAcceptance => Box::pin(accepted.chain(stream::pending())),
            Silence::Frozen => std::future::pending().await,
        };
        Ok(tonic::Response::new(answers))
    }

    async fn publish(
        &self,
        _request: tonic::Request<Streaming<PublishRequest>>,
    ) -> Result<tonic::Response<Self::PublishStream>, Status> {
        Err(Status::unimplemented("nothing is published here"))
    }
}

impl Cluster {
    /// Another relay in an origin's place.
    fn replace(&self, at: usize, relay: impl RelayService) {
        let (listener, target) = grpc::in_process(Role::Origin);
        let router = grpc::server().add_service(RelayServiceServer::new(relay));
        let listener = grpc::Listener::InProcess(listener);
        tokio::spawn(grpc::serve(router, listener, Shutdown::default()));
        let name = OriginName::new(NAMES[at]).unwrap();
        self.network.relays.lock().insert(name, target);
    }
}

#[tokio::test]
async fn an_owner_that_breaks_off_is_asked_again_with_pauses_and_not_for_ever() {
    let cluster = cluster(|config| {
        config.timing.publisher_lost_grace = Duration::from_secs(1);
    })
    .await;
    let (mut publisher, epoch) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(10).await;
    let broken = TellsNothing {
        epoch,
        ..TellsNothing::default()
    };
    cluster.replace(0, broken.clone());
    cluster.origins[0].shutdown.stop();
    match player.next().await.unwrap() {
        subscribe_event::Event::End(end) => assert_eq!(end.reason, "publisher lost"),
        unexpected => panic!("{unexpected:?}"),
    }
    let asked = broken.asked.load(Ordering::Relaxed);
    assert!((2..20).contains(&asked), "asked {asked} times");
}

#[tokio::test]
async fn a_session_that_began_in_another_time_goes_on_behind_what_was_put_out() {
    let cluster = cluster(|_| {}).await;
    let (mut first, _) = cluster.published().await;
    let mut frames = recording(1);
    for frame in &mut frames {
        frame.timestamp_ms += 3_600_000;
    }
    first.publish(&frames).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    let before = player.frames(10).await;
    // Its edge dies with the origin: nobody knows what was put out.
    cluster.origins[0].shutdown.stop();
    drop(first);
    let epoch = claim(&cluster.registry, "main", "s2", NAMES[2]).await;
    let second = cluster.origins[2].publish("main", "s2", epoch, 1).await;
    let mut second = second.unwrap();
    second.publish(&recording(2)).await;
    // What came behind "s1" is unknown.
    match player.next().await.unwrap() {
        subscribe_event::Event::Gap(gap) => {
            assert_eq!((gap.session_id.as_str(), gap.to_sequence), ("s1", u64::MAX));
        }
        unexpected => panic!("{unexpected:?}"),
    }
    assert_eq!(player.header().await.0, "s2");
    let times = |frames: &[(u64, Frame)]| -> Vec<i64> {
        frames.iter().map(|(_, frame)| frame.timestamp_ms).collect()
    };
    let (before, after) = (times(&before), times(&player.frames(22).await));
    assert!(after.first() > before.last());
    // Behind metadata and header.
    assert!(after[2..].windows(2).all(|pair| pair[1] - pair[0] == 40));
}

#[tokio::test]
async fn a_reader_that_asks_while_the_owner_is_frozen_gets_the_stream_from_the_next() {
    for how in [Silence::FrozenBehindAcceptance, Silence::Frozen] {
        let cluster = cluster(|config| {
            // Nobody waits for what a frozen one may still say.
            config.timing.follow_silence = Duration::from_secs(3600);
        })
        .await;
        let epoch = claim(&cluster.registry, "main", "s1", NAMES[0]).await;
        let frozen = TellsNothing {
            epoch,
            how,
            ..TellsNothing::default()
        };
        cluster.replace(0, frozen.clone());
        let moves = async {
            let asked = async || frozen.asked.load(Ordering::Relaxed) > 0;
            eventually("the frozen owner is asked", asked).await;
            let mut publisher = cluster.reopened(2, epoch, 2, 0).await;
            publisher.publish(&recording(1)).await;
            (publisher, tokio::time::Instant::now())
        };
        let reads = cluster.origins[1].try_subscribe("main", |_| {});
        let (player, (_publisher, moved)) = tokio::join!(reads, moves);
        let took = moved.elapsed();
        println!("{how:?}: a reader is served {took:?} after the stream has moved");
        assert_eq!(player.unwrap().header().await.0, "s1", "{how:?}");
        // The goal is what a reader waits before it asks another origin.
        assert!(took < Duration::from_millis(500) * 5, "{how:?}: {took:?}");
    }
}
