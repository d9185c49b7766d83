//! Several origins: any of them serves what one of them owns. What becomes of it where that one is lost is in
//! `lost_owners`.

use proto::internal::v1::FollowRequest;
use registry::{EdgeName, LeaseStats, Renewal, RenewalOutcome, SessionId, Slot, Standing};

use super::{ownership::claim, *};

/// Three origins that know each other.
pub(super) struct Cluster {
    pub(super) network: Network,
    pub(super) origins: Vec<Running>,
    pub(super) registry: Registry,
}

pub(super) const NAMES: [&str; 3] = ["origin-0", "origin-1", "origin-2"];

pub(super) async fn cluster(change: impl Fn(&mut Config)) -> Cluster {
    cluster_in(Registry::Memory(MemoryRegistry::new()), change).await
}

pub(super) async fn cluster_in(registry: Registry, change: impl Fn(&mut Config)) -> Cluster {
    let network = Network::default();
    let mut origins = Vec::new();
    for name in NAMES {
        let mut config = config();
        config.name = OriginName::new(name).unwrap();
        change(&mut config);
        origins.push(start_in(config, registry.clone(), Some(&network)).await);
    }
    eventually("all are announced", async || {
        registry.origins().await.unwrap().len() == NAMES.len()
    })
    .await;
    Cluster {
        network,
        origins,
        registry,
    }
}

impl Cluster {
    /// Session s1 of the stream at the first origin.
    pub(super) async fn published(&self) -> (Publisher, u64) {
        let epoch = claim(&self.registry, "main", "s1", NAMES[0]).await;
        let publisher = self.origins[0].publish("main", "s1", epoch, 1).await;
        (publisher.unwrap(), epoch)
    }

    /// The session goes on at another origin, with what its edge still has; the registry is told.
    pub(super) async fn reopened(
        &self,
        at: usize,
        epoch: u64,
        attempt: u32,
        first_sequence: u64,
    ) -> Publisher {
        let publisher = self.opened(at, epoch, attempt, first_sequence).await;
        renew(&self.registry, epoch, attempt, NAMES[at]).await;
        publisher
    }

    /// The same, and the registry does not know.
    pub(super) async fn opened(
        &self,
        at: usize,
        epoch: u64,
        attempt: u32,
        first_sequence: u64,
    ) -> Publisher {
        let origin = &self.origins[at];
        let mut open = origin.open_request(&grant("main", "s1"), epoch, attempt);
        (open.timeline_offset_ms, open.first_sequence) = (Some(0), first_sequence);
        let publisher = origin.open(open).await.unwrap();
        let frames = recording(1);
        let headers = batches([(0, &frames[0]), (1, &frames[1])], Parts::Omitted).remove(0);
        send(
            &publisher.requests,
            publish_request::Request::Headers(headers),
        )
        .await;
        publisher
    }
}

/// What an edge tells of session s1.
async fn renew(registry: &Registry, epoch: u64, attempt: u32, origin: &str) {
    let renewal = Renewal {
        stream: stream_id("main"),
        slot: Slot::PRIMARY,
        session: SessionId::new("s1").unwrap(),
        edge: EdgeName::new("edge-0").unwrap(),
        epoch,
        attempt,
        origin: OriginName::new(origin).unwrap(),
        broadcast_id: "b1".to_owned(),
        media_age: Duration::ZERO,
        home_ttl: Duration::from_secs(60),
        standing: Standing::default(),
        stats: LeaseStats::default(),
    };
    let outcomes = registry.renew(&[renewal]).await.unwrap();
    assert_eq!(outcomes, [RenewalOutcome::Renewed]);
}

/// A metric of an origin, summed over its labels.
pub(super) fn metric(origin: &Running, name: &str) -> f64 {
    let text = origin.metrics.encode();
    let values = text.lines().filter(|line| line.starts_with(name));
    values
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

pub(super) async fn metric_is(origin: &Running, name: &str, value: f64) {
    eventually(&format!("{name} {value}"), async || {
        (metric(origin, name) - value).abs() < f64::EPSILON
    })
    .await;
}

pub(super) const FOLLOWERS: &str = "headwater_origin_subscribers_active{output=\"follow\"}";
pub(super) const FOLLOWED: &str = "headwater_origin_followed_streams_active";
const LOOKUPS: &str = "headwater_origin_owner_lookups_total";

pub(super) fn contiguous(from: u64, frames: &[Frame]) -> impl Iterator<Item = (u64, Frame)> {
    (from..).zip(frames.to_vec())
}

#[tokio::test]
async fn any_origin_serves_a_stream_and_asks_its_owner_once() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    let frames = recording(3);
    publisher.publish(&frames[..25]).await;
    let [owner, other, _] = &cluster.origins[..] else {
        unreachable!("three origins");
    };
    let (mut one, mut two, mut three) = tokio::join!(
        other.subscribe("main", |_| {}),
        other.subscribe("main", lossless),
        other.subscribe("main", |_| {}),
    );
    metric_is(owner, FOLLOWERS, 1.0).await;
    metric_is(other, FOLLOWED, 1.0).await;
    publisher.publish(&frames[25..]).await;
    for player in [&mut one, &mut two, &mut three] {
        match player.next().await.unwrap() {
            subscribe_event::Event::Header(header) => {
                assert_eq!((header.broadcast_id.as_str(), header.epoch), ("b1", epoch));
                assert_eq!((header.session_id.as_str(), header.attempt), ("s1", 1));
                let headers = header.headers.unwrap();
                let headers = Assembler::new(Parts::Included).push(headers).unwrap();
                assert_eq!(headers, [(0, metadata()), (1, video_header())]);
            }
            unexpected => panic!("{unexpected:?}"),
        }
        let got = player.frames(frames.len() - 22).await;
        assert!(got.into_iter().eq(contiguous(22, &frames[22..])));
    }
    publisher.close("finished").await;
    for mut player in [one, two, three] {
        match player.next().await.unwrap() {
            subscribe_event::Event::End(end) => assert_eq!(end.reason, "finished"),
            unexpected => panic!("{unexpected:?}"),
        }
    }
    metric_is(other, FOLLOWED, 0.0).await;
    metric_is(owner, FOLLOWERS, 0.0).await;
}

#[tokio::test]
async fn a_cursor_of_one_origin_is_good_at_another() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, _) = cluster.published().await;
    let frames = recording(4);
    let mut player = cluster.origins[0].subscribe("main", lossless).await;
    publisher.publish(&frames[..27]).await;
    player.header().await;
    player.frames(27).await;
    let cursor = player.cursor;
    publisher.publish(&frames[27..]).await;
    let mut player = cluster.origins[1].subscribe("main", behind(cursor)).await;
    player.header().await;
    let got = player.frames(frames.len() - 27).await;
    assert!(got.into_iter().eq(contiguous(27, &frames[27..])));
}

#[tokio::test]
async fn a_cursor_inside_of_the_oldest_group_loses_nothing_at_a_follower() {
    let cluster = cluster(|config| config.log.frames_max = 25).await;
    let (mut publisher, _) = cluster.published().await;
    let frames = recording(4);
    let mut player = cluster.origins[0].subscribe("main", lossless).await;
    publisher.publish(&frames[..20]).await;
    player.header().await;
    player.frames(20).await;
    let cursor = player.cursor;
    publisher.publish(&frames[20..]).await;
    // The owner has 17.., the oldest keyframe is 22.
    let mut player = cluster.origins[1].subscribe("main", behind(cursor)).await;
    player.header().await;
    let got = player.frames(frames.len() - 20).await;
    assert!(got.into_iter().eq(contiguous(20, &frames[20..])));
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    assert_eq!(
        player.sequences(10).await[0],
        32,
        "others begin at a keyframe"
    );
}

#[tokio::test]
async fn another_broadcast_ends_the_one_that_is_followed() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(10).await;
    let origin = &cluster.origins[1];
    let mut open = origin.open_request(&grant("main", "s2"), epoch + 1, 1);
    open.broadcast_id = "b2".to_owned();
    let mut second = origin.open(open).await.unwrap();
    assert!(matches!(
        player.next().await.unwrap(),
        subscribe_event::Event::End(_)
    ));
    second.publish(&recording(1)).await;
    let mut player = origin.subscribe("main", lossless).await;
    assert_eq!(player.header().await.0, "s2");
    metric_is(origin, FOLLOWED, 0.0).await;
}

#[tokio::test]
async fn a_reader_that_waits_anywhere_gets_the_stream_from_its_beginning() {
    let cluster = cluster(|_| {}).await;
    let frames = recording(2);
    let (mut player, mut publisher) = tokio::join!(
        cluster.origins[2].subscribe("main", |request| request.wait_for_stream = true),
        async {
            let asked = async || metric(&cluster.origins[2], LOOKUPS) >= 1.0;
            eventually("the reader waits", asked).await;
            let (mut publisher, _) = cluster.published().await;
            publisher.publish(&frames).await;
            publisher
        }
    );
    player.header().await;
    assert!(
        player
            .frames(frames.len())
            .await
            .into_iter()
            .eq(contiguous(0, &frames))
    );
    publisher.publish(&[keyframe(800)]).await;
    assert_eq!(player.sequences(1).await, [frames.len() as u64]);
}

#[tokio::test]
async fn a_flood_of_asks_for_what_nobody_publishes_costs_the_registry_little() {
    let cluster = cluster(|_| {}).await;
    let asks = (0..500).map(|_| cluster.origins[1].try_subscribe("nothing", |_| {}));
    let started = tokio::time::Instant::now();
    for refused in futures_util::future::join_all(asks).await {
        let refused = refused.err().unwrap();
        assert_refused(&refused, Code::NotFound, "STREAM_NOT_FOUND");
    }
    let lookups = metric(&cluster.origins[1], LOOKUPS);
    let periods = started.elapsed().as_secs_f64() + 1.0;
    println!("500 asks: {lookups} lookups");
    assert!(lookups >= 1.0 && lookups <= periods.ceil(), "{lookups}");
}

#[tokio::test]
async fn two_origins_that_take_each_other_for_the_owner_do_not_loop() {
    let network = Network::default();
    let mut origins = Vec::new();
    for (name, owner) in [(NAMES[0], NAMES[1]), (NAMES[1], NAMES[0])] {
        let registry = Registry::Memory(MemoryRegistry::new());
        claim(&registry, "main", "s1", owner).await;
        for name in NAMES {
            let origin = registry::Origin {
                name: OriginName::new(name).unwrap(),
                relay_address: "somewhere:1".to_owned(),
                zone: String::new(),
                draining: false,
                streams: 0,
                budget_percent: 0,
            };
            registry.announce(&origin).await.unwrap();
        }
        let mut config = config();
        config.name = OriginName::new(name).unwrap();
        config.timing.find_wait = Duration::from_millis(500);
        origins.push(start_in(config, registry, Some(&network)).await);
    }
    let asks = origins
        .iter()
        .map(|origin| origin.try_subscribe("main", |_| {}));
    for refused in futures_util::future::join_all(asks).await {
        let refused = refused.err().unwrap();
        assert_refused(&refused, Code::NotFound, "STREAM_NOT_FOUND");
    }
    for origin in &origins {
        let opens = "headwater_origin_follow_opens_total{outcome=\"NOT_OWNER\"}";
        let refused = metric(origin, opens);
        assert!((1.0..20.0).contains(&refused), "{refused} asked each other");
        assert!(metric(origin, FOLLOWED) < 1.0);
    }
}

#[tokio::test]
async fn a_followed_stream_is_given_to_nobody_and_a_lower_token_is_no_owners() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, epoch) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let _player = cluster.origins[1].subscribe("main", lossless).await;
    let request = |attempt| FollowRequest {
        stream_id: stream_id("main").as_bytes().to_vec(),
        epoch,
        attempt,
        ..FollowRequest::default()
    };
    let ask = async |at: usize, attempt| {
        let origin = OriginName::new(NAMES[at]).unwrap();
        let target = cluster.network.relays.lock().get(&origin).cloned().unwrap();
        let mut relay = RelayServiceClient::new(grpc::channel(&Target::InProcess(target)));
        relay.follow(request(attempt)).await.map(drop)
    };
    ask(0, 1).await.unwrap();
    for (at, attempt) in [(0, 2), (1, 1), (2, 1)] {
        let refused = ask(at, attempt).await.unwrap_err();
        assert_refused(&refused, Code::FailedPrecondition, "NOT_OWNER");
    }
    let mut edges = cluster.origins[0].relay.clone();
    let refused = edges.follow(request(1)).await.unwrap_err();
    assert_refused(&refused, Code::PermissionDenied, "ROLE_NOT_ADMITTED");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_let_go_and_comes_back() {
    let cluster = cluster(|config| config.timing.follow_linger = Duration::from_millis(100)).await;
    let (mut publisher, _) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    for _ in 0..2 {
        let mut player = cluster.origins[1].subscribe("main", lossless).await;
        player.header().await;
        player.frames(10).await;
        metric_is(&cluster.origins[1], FOLLOWED, 1.0).await;
        drop(player);
        metric_is(&cluster.origins[1], FOLLOWED, 0.0).await;
        metric_is(&cluster.origins[0], FOLLOWERS, 0.0).await;
    }
    metric_is(
        &cluster.origins[1],
        "headwater_origin_budget_used_bytes",
        0.0,
    )
    .await;
}

#[tokio::test]
async fn followers_and_followed_streams_have_limits() {
    let cluster = cluster(|config| {
        config.limits.followers_per_stream_max = 1;
        config.timing.find_wait = Duration::from_millis(300);
        if config.name.as_str() == NAMES[2] {
            config.limits.followed_streams_max = 0;
        }
    })
    .await;
    let (mut publisher, _) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let refused = cluster.origins[2].try_subscribe("main", |_| {}).await;
    assert_refused(&refused.err().unwrap(), Code::NotFound, "STREAM_NOT_FOUND");
    let _player = cluster.origins[1].subscribe("main", lossless).await;
    metric_is(&cluster.origins[0], FOLLOWERS, 1.0).await;
    let origin = OriginName::new(NAMES[0]).unwrap();
    let target = cluster.network.relays.lock().get(&origin).cloned().unwrap();
    let mut relay = RelayServiceClient::new(grpc::channel(&Target::InProcess(target)));
    let request = FollowRequest {
        stream_id: stream_id("main").as_bytes().to_vec(),
        ..FollowRequest::default()
    };
    let refused = relay.follow(request).await.unwrap_err();
    assert_refused(&refused, Code::ResourceExhausted, "FOLLOWERS_EXCEEDED");
}

#[tokio::test]
async fn a_takeover_at_the_owner_is_one_for_followers_too() {
    let cluster = cluster(|_| {}).await;
    let (mut first, epoch) = cluster.published().await;
    first.publish(&recording(1)).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    let before = player.frames(10).await;
    let second = cluster.origins[0].publish("main", "s2", epoch + 1, 1).await;
    let mut second = second.unwrap();
    second.publish(&recording(1)).await;
    let (session_id, headers) = player.header().await;
    assert_eq!((session_id.as_str(), headers), ("s2", vec![]));
    let after = player.frames(12).await;
    let last_ms = before.last().unwrap().1.timestamp_ms;
    assert!(after.iter().all(|(_, frame)| frame.timestamp_ms > last_ms));
    let mut late = cluster.origins[1].subscribe("main", lossless).await;
    assert_eq!(late.header().await.0, "s2");
    assert_eq!(late.frames(10).await, after[2..]);
}

#[tokio::test]
async fn a_follower_that_drains_sends_its_readers_to_the_owner() {
    let cluster = cluster(|_| {}).await;
    let (mut publisher, _) = cluster.published().await;
    publisher.publish(&recording(1)).await;
    let mut player = cluster.origins[1].subscribe("main", lossless).await;
    player.header().await;
    player.frames(10).await;
    cluster.origins[1].shutdown.drain();
    match player.next().await.unwrap() {
        subscribe_event::Event::Moved(moved) => assert_eq!(moved.origin, NAMES[0]),
        unexpected => panic!("{unexpected:?}"),
    }
}

#[tokio::test]
async fn a_new_session_goes_on_behind_what_an_origin_that_leaves_has() {
    let cluster = cluster(|_| {}).await;
    let (mut first, _) = cluster.published().await;
    first.publish(&recording(2)).await;
    let (leaving, next) = (&cluster.origins[0], &cluster.origins[1]);
    let mut player = leaving.subscribe("main", lossless).await;
    player.header().await;
    let before = player.frames(10).await;
    leaving.shutdown.drain();
    // Its edge leaves too, and the encoder comes by another one.
    drop(first);
    let epoch = claim(&cluster.registry, "main", "s2", NAMES[1]).await;
    let mut open = next.open_request(&grant("main", "s2"), epoch, 1);
    open.origins_before = vec!["not there".to_owned(), NAMES[0].to_owned()];
    let mut second = next.open(open).await.unwrap();
    second.publish(&recording(1)).await;

    match player.next().await.unwrap() {
        subscribe_event::Event::Moved(moved) => assert_eq!(moved.origin, NAMES[1]),
        unexpected => panic!("{unexpected:?}"),
    }
    let mut player = next.subscribe("main", behind(player.cursor)).await;
    assert_eq!(player.header().await.0, "s2");
    let after = player.frames(12).await;
    let last_ms = before.last().unwrap().1.timestamp_ms;
    assert!(after.iter().all(|(_, frame)| frame.timestamp_ms > last_ms));
}
