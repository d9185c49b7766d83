//! What no RPC can time: ends and attachments that meet, and who holds an ended stream.

use media::{
    Frame, FrameKind, flv,
    log::{Class, Start},
};
use registry::OriginName;

use super::*;
use crate::{config::Config, metrics::OutputLabels};

/// Whatever is waited for comes within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

async fn given_back(streams: &Streams) {
    let deadline = Instant::now() + PATIENCE;
    while streams.budget().used() > 0 {
        assert!(
            Instant::now() < deadline,
            "{} bytes",
            streams.budget().used()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn streams(change: impl FnOnce(&mut Config)) -> Streams {
    let mut config = Config::new(OriginName::new("origin-0").unwrap());
    change(&mut config);
    Streams::new(&config, &runtime::metrics::Metrics::default())
}

fn opening(epoch: u64) -> Opening {
    Opening {
        place: (StreamId::derive("default", "live", "main"), Slot::PRIMARY),
        session_id: format!("s{epoch}"),
        broadcast_id: "b1".to_owned(),
        token: FencingToken { epoch, attempt: 1 },
        first_sequence: 0,
        gap_before: false,
        timeline_offset_ms: None,
        standby: false,
        window: None,
    }
}

/// A publisher of the primary slot.
fn publish(streams: &Streams, opening: &Opening) -> Publication {
    streams.attach(opening).unwrap().publication
}

fn keyframe(body_bytes: usize) -> Frame {
    let mut body = vec![0x17, 1, 0, 0, 0];
    body.resize(body_bytes, 7);
    flv::parse(FrameKind::Video, 0, body.into()).unwrap()
}

fn subscribe(stream: &Arc<Stream>) -> Subscription {
    stream.subscribe(SubscriptionStart {
        admitted: stream.streams.admit_subscriber().unwrap(),
        class: Class::Lossless,
        start: Start::Oldest,
        labels: OutputLabels::GRPC,
    })
}

#[tokio::test]
async fn nobody_attaches_to_a_stream_that_is_ending() {
    let streams = streams(|_| {});
    let first = publish(&streams, &opening(1));
    let ended = End::Moved {
        origin: String::new(),
    };
    std::thread::scope(|threads| {
        let mut attaching = None;
        first.stream().end_if(ended, |_stream, _state| {
            attaching = Some(threads.spawn(|| streams.attach(&opening(2)).unwrap()));
            // The end has the table, or else the attachment has it by then and waits for the stream.
            while !streams.locked() {
                std::thread::yield_now();
            }
            true
        });
        let second = attaching.unwrap().join().unwrap().publication;
        let held = streams.find(opening(2).place.0);
        assert!(held.is_some_and(|held| Arc::ptr_eq(&held, second.stream())));
    });
}

#[tokio::test]
async fn a_reader_that_stalls_does_not_hold_an_ended_streams_memory() {
    let streams = streams(|config| config.log.age_max = Duration::from_millis(200));
    let mut publication = publish(&streams, &opening(1));
    let mut stalled = subscribe(publication.stream());
    let mut reading = subscribe(publication.stream());
    publication.append(vec![(0, keyframe(100_000))], 0).unwrap();
    assert!(streams.budget().used() >= 100_000);
    publication.close("done");
    assert!(matches!(reading.next(1).await, Ok(Next::Event(_))));
    assert!(matches!(reading.next(1).await, Ok(Next::Event(_))));
    assert!(matches!(reading.next(1).await, Ok(Next::End(_))));
    given_back(&streams).await;
    assert!(matches!(stalled.next(1).await, Ok(Next::End(_))));
}

#[tokio::test]
async fn a_wait_for_a_lost_publisher_ends_with_its_return() {
    let streams = streams(|_| {});
    let publication = publish(&streams, &opening(1));
    let stream = Arc::clone(publication.stream());
    drop(publication);
    let lost = stream.lost(Slot::PRIMARY).unwrap();
    let (_second, ()) = tokio::time::timeout(PATIENCE, async {
        tokio::join!(
            async {
                // The other one waits by now.
                tokio::task::yield_now().await;
                streams.attach(&opening(2)).unwrap()
            },
            stream.found_again(Slot::PRIMARY, lost)
        )
    })
    .await
    .unwrap();
}

fn primary(token: FencingToken) -> Slots<FencingToken> {
    let mut tokens = Slots::from_fn(|_slot| Input::absent().token);
    *tokens.of_mut(Slot::PRIMARY) = token;
    tokens
}

/// The broadcast b1 of another origin, as readers find it here.
fn followed(streams: &Streams, token: FencingToken) -> Feed {
    let owner = OriginName::new("origin-1").unwrap();
    let admitted = streams.admit_followed().unwrap();
    let broadcast_id = "b1".to_owned();
    let mut feed = Feed::new(
        streams,
        admitted,
        opening(1).place.0,
        broadcast_id,
        owner.clone(),
    );
    feed.owned_by(&owner, &primary(token)).unwrap();
    assert!(streams.enter(&feed));
    feed
}

#[tokio::test]
async fn another_broadcast_needs_a_higher_token_than_the_one_that_is_followed() {
    let streams = streams(|_| {});
    let feed = followed(&streams, opening(5).token);
    let another = |epoch| Opening {
        broadcast_id: "b2".to_owned(),
        ..opening(epoch)
    };
    for epoch in [4, 5] {
        let refused = streams.attach(&another(epoch)).err();
        assert_eq!(refused, Some(AttachError::Fenced(opening(5).token)));
        let held = streams.find(opening(1).place.0).unwrap();
        assert!(Arc::ptr_eq(&held, feed.stream()));
    }
    let publication = publish(&streams, &another(6));
    assert_eq!(publication.stream().broadcast_id, "b2");
    assert_eq!(feed.position(), None);
}

#[tokio::test]
async fn frames_before_a_refused_one_are_paid_for_and_wake_readers() {
    let streams = streams(|_| {});
    let mut publication = publish(&streams, &opening(1));
    let mut reader = subscribe(publication.stream());
    let frames = vec![(0, keyframe(100_000)), (2, keyframe(10))];
    let (refused, woken) = tokio::join!(
        async {
            // The reader waits by now.
            tokio::task::yield_now().await;
            publication.append(frames, 0)
        },
        tokio::time::timeout(PATIENCE, reader.next(1)),
    );
    assert!(matches!(refused, Err(AppendError::Sequence(_))));
    assert!(matches!(woken, Ok(Ok(Next::Event(_)))));
    assert!(streams.budget().used() >= 100_000);
}

fn told(session_id: &str, slot: Slot, sequence: u64) -> SessionHeader<'_> {
    SessionHeader {
        session_id,
        slot,
        token: opening(1).token,
        timeline_offset_ms: 0,
        sequence,
        headers: &[],
        window: None,
    }
}

fn keyframe_at(timestamp_ms: i64) -> Frame {
    Frame {
        timestamp_ms,
        ..keyframe(100)
    }
}

#[tokio::test]
async fn what_readers_had_of_a_session_does_not_say_where_its_rest_is() {
    let streams = streams(|_| {});
    let mut feed = followed(&streams, opening(1).token);
    feed.header(&told("s1", Slot::PRIMARY, 0)).unwrap();
    feed.append(vec![(0, keyframe_at(0)), (1, keyframe_at(2000))], 0)
        .unwrap();
    feed.header(&told("b1", Slot::BACKUP, 0)).unwrap();
    feed.append(vec![(0, keyframe_at(9000))], 0).unwrap();
    // The next owner has s1 from its first frame on, in a time of its own.
    let next = OriginName::new("origin-2").unwrap();
    feed.owned_by(&next, &primary(opening(1).token)).unwrap();
    feed.header(&told("s1", Slot::PRIMARY, 0)).unwrap();
    let replayed = [(0, 0), (1, 2000), (2, 4000)].map(|(at, time)| (at, keyframe_at(time)));
    feed.append(replayed[..1].to_vec(), 0).unwrap();
    feed.append(replayed[1..].to_vec(), 0).unwrap();
    let state = feed.stream().state.lock();
    assert_eq!(state.log.latest_output_ms(), Some(9001));
}

#[tokio::test]
async fn an_owner_of_before_there_were_two_slots_says_nothing_of_the_backup() {
    let streams = streams(|_| {});
    let mut feed = followed(&streams, opening(1).token);
    let backup = FencingToken {
        epoch: 9,
        attempt: 1,
    };
    let header = SessionHeader {
        token: backup,
        ..told("b1", Slot::BACKUP, 0)
    };
    feed.header(&header).unwrap();
    // It has the primary alone, and no fields for more.
    let next = OriginName::new("origin-2").unwrap();
    feed.owned_by(&next, &primary(opening(2).token)).unwrap();
    let header = SessionHeader {
        token: opening(2).token,
        ..told("s2", Slot::default(), 0)
    };
    feed.header(&header).unwrap();
    let seen = Slots::new(opening(2).token, backup);
    assert_eq!(feed.stream().tokens(), seen);
    assert_eq!(feed.stream().on_air(), Slot::PRIMARY);
}

#[tokio::test]
async fn a_followed_session_without_a_frame_begins_here_where_its_publisher_says() {
    for (presented_ms, offset_ms) in [(Some(60_000), 60_000), (None, 5001)] {
        let streams = streams(|_| {});
        let mut feed = followed(&streams, opening(1).token);
        feed.header(&told("s1", Slot::PRIMARY, 0)).unwrap();
        feed.append(vec![(0, keyframe_at(5000))], 0).unwrap();
        feed.header(&told("s2", Slot::PRIMARY, 0)).unwrap();
        let opening = Opening {
            timeline_offset_ms: presented_ms,
            ..opening(2)
        };
        let mut publication = publish(&streams, &opening);
        assert_eq!(publication.timeline_offset_ms, offset_ms);
        publication.append(vec![(0, keyframe(100))], 0).unwrap();
        let state = publication.stream().state.lock();
        assert_eq!(state.log.latest_output_ms(), Some(offset_ms));
    }
}

#[tokio::test]
async fn a_body_that_an_owner_broke_off_is_given_back_with_the_next_owner() {
    let streams = streams(|_| {});
    let mut feed = followed(&streams, opening(1).token);
    feed.append(Vec::new(), 5000).unwrap();
    assert_eq!(streams.budget().used(), 5000);
    let next = OriginName::new("origin-2").unwrap();
    feed.owned_by(&next, &primary(opening(2).token)).unwrap();
    assert_eq!(streams.budget().used(), 0);
}

#[tokio::test]
async fn a_stream_that_is_followed_has_its_room_before_readers_find_it() {
    let streams = streams(|config| config.limits.followed_streams_max = 1);
    let admitted = streams.admit_followed().unwrap();
    assert!(streams.admit_followed().is_none());
    assert_eq!(streams.held(), 1);
    let owner = OriginName::new("origin-1").unwrap();
    let id = opening(1).place.0;
    let feed = Feed::new(&streams, admitted, id, "b1".to_owned(), owner);
    assert!(streams.admit_followed().is_none());
    drop(feed);
    assert_eq!(streams.held(), 0);
    assert!(streams.admit_followed().is_some());
}

#[tokio::test]
async fn readers_leave_publishers_room_in_the_process_budget() {
    let streams = streams(|config| config.limits.process_bytes_max = 1000);
    let mut share = streams.budget().share();
    share.set(799);
    assert!(streams.admit_followed().is_some());
    share.set(800);
    assert!(streams.admit_followed().is_none() && streams.budget().admits());
}

/// The backup's opening.
fn backup(epoch: u64) -> Opening {
    let primary = opening(epoch);
    Opening {
        place: (primary.place.0, Slot::BACKUP),
        session_id: format!("b{epoch}"),
        ..primary
    }
}

#[tokio::test]
async fn a_standby_costs_one_gop_and_gives_it_back() {
    let streams = streams(|_| {});
    let mut primary = publish(&streams, &opening(1));
    let mut backup = publish(&streams, &backup(1));
    primary.append(vec![(0, keyframe(1000))], 0).unwrap();
    let before = streams.budget().used();
    for sequence in 0..20 {
        let progress = backup
            .append(vec![(sequence, keyframe(50_000))], 0)
            .unwrap();
        assert_eq!(
            (progress.next_sequence, progress.on_air),
            (sequence + 1, None)
        );
        let used = streams.budget().used() - before;
        assert!((50_000..60_000).contains(&used), "{used} bytes");
    }
    drop(backup);
    assert_eq!(streams.budget().used(), before);
    primary.append(vec![(1, keyframe(1000))], 0).unwrap();
}

#[tokio::test]
async fn a_stream_that_both_leave_ends_with_the_last() {
    let streams = streams(|_| {});
    let primary = publish(&streams, &opening(1));
    let stream = Arc::clone(primary.stream());
    let backup = publish(&streams, &backup(1));
    primary.close("done");
    assert_eq!(stream.slots(), [Slot::BACKUP]);
    assert!(streams.find(stream.id).is_some());
    backup.close("done");
    assert!(streams.find(stream.id).is_none() && stream.slots().is_empty());
}

#[tokio::test]
async fn a_backup_does_not_take_a_stream_from_an_origin_that_gives_it() {
    let streams = streams(|_| {});
    let mut feed = followed(&streams, opening(5).token);
    let header = SessionHeader {
        token: opening(5).token,
        ..told("s5", Slot::PRIMARY, 0)
    };
    feed.header(&header).unwrap();
    feed.append(vec![(0, keyframe(100))], 0).unwrap();
    let refused = streams.attach(&backup(1)).err();
    let owner = OriginName::new("origin-1").unwrap();
    assert_eq!(refused, Some(AttachError::Elsewhere(owner)));
    feed.append(vec![(1, keyframe(100))], 0).unwrap();
    assert!(
        streams.attach(&opening(6)).is_ok(),
        "the one that readers have"
    );
}
