//! Sessions change origins where that is hardest: over a link that is half dead, without memory, beyond the ring, all at
//! once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rtmp::MediaMessage;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    encoder::{Encoder, media, send_until},
    fake_origin::{FakeOrigin, Mode},
    harness::{Harness, assert_same, in_time, until},
};

/// A way to an origin that can stop to carry anything, in one direction, without a FIN.
struct Link {
    address: SocketAddr,
    dead: watch::Sender<Option<Direction>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    FromOrigin,
    ToOrigin,
}

impl Link {
    async fn to(origin: &FakeOrigin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (dead, is_dead) = watch::channel(None);
        let origin = origin.address.clone();
        tokio::spawn(async move {
            while let Ok((edge, _)) = listener.accept().await {
                let (edge_reads, edge_writes) = edge.into_split();
                let origin = TcpStream::connect(&origin).await.unwrap();
                let (origin_reads, origin_writes) = origin.into_split();
                tokio::spawn(carry(
                    edge_reads,
                    origin_writes,
                    Direction::ToOrigin,
                    is_dead.clone(),
                ));
                tokio::spawn(carry(
                    origin_reads,
                    edge_writes,
                    Direction::FromOrigin,
                    is_dead.clone(),
                ));
            }
        });
        Self { address, dead }
    }
}

/// Until the direction is dead; then the sockets stay open, and nobody reads them.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut dead: watch::Receiver<Option<Direction>>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            () = async { dead.wait_for(|dead| *dead == Some(direction)).await.map_or((), drop) } => {
                return std::future::pending().await;
            }
        };
        let Ok(count @ 1..) = read else { return };
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn survives_a_link_that_is_half_dead(direction: Direction) {
    let harness = Harness::start(0).await;
    let mut origins = Vec::new();
    for name in ["linked-0", "linked-1"] {
        let origin = harness.unannounced_origin(name).await;
        let link = Link::to(&origin).await;
        origins.push((origin, link));
    }
    for (origin, link) in &origins {
        let announcement = origin.announcement_at(link.address.to_string());
        harness.registry.announce(&announcement).await.unwrap();
    }
    until("the edge is ready", || {
        harness.readiness.missing().is_empty()
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-half-dead").await;
    let lease = harness.lease().await;
    let session = lease.session.to_string();
    let owner = origins
        .iter()
        .position(|(origin, _)| origin.name == lease.origin);
    let ((first, link), (second, _)) = match owner.unwrap() {
        0 => (&origins[0], &origins[1]),
        _ => (&origins[1], &origins[0]),
    };
    let mut sent = Vec::new();
    send_until(&mut encoder, &mut sent, "some media", || {
        first.session(&session).frames.len() > 20
    })
    .await;
    link.dead.send_replace(Some(direction));
    let since = Instant::now();
    send_until(&mut encoder, &mut sent, "another origin", || {
        !second.session(&session).frames.is_empty()
    })
    .await;
    println!(
        "{direction:?} dead: another origin had the session after {:?}",
        since.elapsed()
    );
    encoder.finish().await;
    until("the close", || second.session(&session).closed.is_some()).await;
    let log = second.session(&session);
    assert_same(&log.frames, log.first_sequence, &sent);
    assert!(
        log.first_sequence <= first.session(&session).next_sequence(),
        "nothing is lost"
    );
    let reopened = "headwater_relay_reopens_total{reason=\"stalled\",outcome=\"ok\"}";
    assert_eq!(harness.metric(reopened), 1);
}

#[tokio::test]
async fn a_link_that_carries_nothing_to_the_origin_is_left() {
    survives_a_link_that_is_half_dead(Direction::ToOrigin).await;
}

#[tokio::test]
async fn a_link_that_carries_nothing_from_the_origin_is_left() {
    survives_a_link_that_is_half_dead(Direction::FromOrigin).await;
}

#[tokio::test]
async fn an_origin_whose_acknowledgements_lag_keeps_its_sessions() {
    const STALL: Duration = Duration::from_secs(1);
    let harness = Harness::start_with(2, |config| config.relay.stall_timeout = STALL).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-laggard").await;
    let (owner, session) = harness.owner().await;
    let origin = &harness.origins[owner];
    origin.set(Mode::Slow(STALL / 3));
    let mut sent = Vec::new();
    let since = Instant::now();
    send_until(&mut encoder, &mut sent, "a while", || {
        since.elapsed() > STALL * 3
    })
    .await;
    origin.set(Mode::Take);
    encoder.finish().await;
    until("the close", || origin.session(&session).closed.is_some()).await;
    assert_same(&origin.session(&session).frames, 0, &sent);
    assert_eq!(origin.opens().len(), 1);
    assert!(harness.origins[1 - owner].opens().is_empty());
}

/// Frames that are no keyframes.
fn inter_frames(count: u32, bytes: usize) -> Vec<MediaMessage> {
    let numbers = (1..).filter(|number| number % 10 > 0);
    let numbers = numbers.take(usize::try_from(count).unwrap());
    numbers
        .flat_map(|number| media(number..number + 1, bytes))
        .collect()
}

#[tokio::test]
async fn a_group_that_outgrew_its_ring_moves_behind_a_gap_and_is_whole_from_its_keyframe() {
    let harness = Harness::start_with(2, |config| {
        config.relay.unacknowledged_bytes_max = 150_000;
        config.relay.ring_bytes_max = 200_000;
        config.relay.replay_window = Duration::from_millis(50);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-long-group").await;
    let (owner, session) = harness.owner().await;
    let (lost, other) = (&harness.origins[owner], &harness.origins[1 - owner]);
    let mut sent = media(0..1, 1000);
    sent.extend(inter_frames(60, 20_000));
    encoder.send_all(&sent).await;
    until("all is there", || {
        lost.session(&session).frames.len() == sent.len()
    })
    .await;
    assert_eq!(harness.metric("headwater_replay_not_replayable_total"), 1);
    lost.kill();
    until("another origin", || !other.opens().is_empty()).await;
    let reopened = other.opens().pop().unwrap();
    assert!(reopened.gap_before && reopened.first_sequence > 0);
    let next = media(70..75, 1000);
    encoder.send_all(&next).await;
    sent.extend(next);
    encoder.finish().await;
    until("the close", || other.session(&session).closed.is_some()).await;
    let log = other.session(&session);
    assert_same(&log.frames, log.first_sequence, &sent);
    assert!(log.frames.iter().any(media::Frame::keyframe));
    assert_eq!(log.headers.len(), 3);
}

#[tokio::test]
async fn a_process_without_memory_moves_its_sessions_and_loses_nothing() {
    const BUDGET: usize = 400_000;
    let harness = Harness::start_with(2, |config| {
        config.relay.process_bytes_max = BUDGET;
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-full").await;
    let (owner, session) = harness.owner().await;
    let (lost, other) = (&harness.origins[owner], &harness.origins[1 - owner]);
    lost.set(Mode::Stall);
    let sent = media(0..150, 5000);
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            encoder.send_all(&sent).await;
            encoder
        }
    });
    until("a used budget, or another origin", || {
        harness.metric("headwater_forward_queue_bytes") > 200_000 || !other.opens().is_empty()
    })
    .await;
    lost.kill();
    let encoder = in_time("everything sent", sending).await.unwrap();
    encoder.finish().await;
    until("the close", || other.session(&session).closed.is_some()).await;
    let log = other.session(&session);
    assert_same(&log.frames, log.first_sequence, &sent);
    assert!(
        log.first_sequence <= lost.session(&session).next_sequence(),
        "nothing is lost"
    );
    until("the memory is given back", || {
        harness.metric("headwater_forward_queue_bytes") == 0
    })
    .await;
}

#[tokio::test]
async fn what_an_origin_is_told_of_a_publisher_that_is_gone() {
    let harness = Harness::start(1).await;
    let origin = &harness.origins[0];
    let mut encoder = Encoder::publish(harness.address, "live", "good-gone").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&media(0..5, 100)).await;
    drop(encoder);
    until("the end", || origin.session(&session).lost).await;
    assert!(origin.session(&session).publisher_lost);
    harness.no_lease().await;

    let mut encoder = Encoder::publish(harness.address, "live", "good-sent-away").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&media(0..5, 100)).await;
    harness.shutdown.stop();
    until("the end", || origin.session(&session).lost).await;
    assert!(
        !origin.session(&session).publisher_lost,
        "it is ours that it has to go"
    );
}

#[tokio::test]
async fn many_sessions_change_their_origin_a_few_at_a_time() {
    const SESSIONS: usize = 500;
    const OPENINGS: usize = 16;
    let harness = Harness::start_with(1, |config| {
        config.relay.openings_max = OPENINGS;
        config.relay.origins_poll_period = Duration::from_millis(50);
    })
    .await;
    let first = &harness.origins[0];
    let second = harness.unannounced_origin("second").await;
    second.opens_slowly(Duration::from_millis(5));
    let address = harness.address;
    let publish = |number: usize| async move {
        let stream_key = format!("good-many-{number}");
        let mut encoder = Encoder::publish(address, "live", &stream_key).await;
        encoder.send_all(&media(0..5, 100)).await;
        encoder
    };
    let mut encoders = Vec::new();
    for numbers in (0..SESSIONS).collect::<Vec<_>>().chunks(25) {
        encoders.extend(join_all(numbers.iter().map(|number| publish(*number))).await);
    }
    let sessions: Vec<_> = harness.leases().await;
    assert_eq!(sessions.len(), SESSIONS);
    harness
        .registry
        .announce(&second.announcement())
        .await
        .unwrap();
    let since = Instant::now();
    first.kill();
    until("all are at the other origin", || {
        second.opens().len() >= SESSIONS
    })
    .await;
    println!(
        "{SESSIONS} sessions, {OPENINGS} at a time, had another origin after {:?}",
        since.elapsed()
    );
    assert!(since.elapsed() < Duration::from_secs(15));
    assert!(
        second.opening_most() <= OPENINGS,
        "{}",
        second.opening_most()
    );
    for encoder in &mut encoders {
        encoder.send_all(&media(5..6, 100)).await;
    }
    for lease in &sessions {
        let session = lease.session.as_str();
        // Metadata, two headers, and six frames of each kind.
        until("all frames", || {
            second.session(session).next_sequence() == 15
        })
        .await;
    }
    assert_eq!(
        harness.metric("headwater_sessions_ended_total{reason=\"origin_lost\"}"),
        0
    );
    let farewell = encoders.into_iter().map(Encoder::finish);
    in_time("the ends", join_all(farewell)).await;
    harness.no_lease().await;
}
