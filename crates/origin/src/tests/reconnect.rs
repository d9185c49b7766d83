//! A publisher goes without a word and comes back: within its window readers see one stream, of any codec, by any output,
//! wherever it comes back.

use std::collections::BTreeMap;

use media::PartType;
use proto::internal::v1::PublisherLost;
use rtmp::{MediaKind, MediaMessage};

use super::{
    following::{Cluster, FOLLOWERS, NAMES, cluster, metric_is},
    outputs::late_player,
    ownership::claim,
    players::RtmpPlayer,
    *,
};

/// How a codec is said and sent.
struct Codec {
    name: &'static str,
    video: Option<[&'static [u8]; 3]>,
    audio: Option<[&'static [u8]; 2]>,
}

const AAC: [&[u8]; 2] = [&[0xaf, 0, 0x12, 0x10], &[0xaf, 1, 3]];
/// First bytes of a sequence header, a keyframe and another frame; of a sequence header and a frame.
const CODECS: [Codec; 5] = [
    Codec {
        name: "H.264 and AAC",
        video: Some([
            &[0x17, 0, 0, 0, 0],
            &[0x17, 1, 0, 0, 0],
            &[0x27, 1, 0, 0, 0],
        ]),
        audio: Some(AAC),
    },
    Codec {
        name: "HEVC and AAC",
        video: Some([b"\x90hvc1", b"\x93hvc1", b"\xa3hvc1"]),
        audio: Some(AAC),
    },
    Codec {
        name: "AV1 and AAC",
        video: Some([b"\x90av01", b"\x91av01", b"\xa1av01"]),
        audio: Some(AAC),
    },
    Codec {
        name: "VP9 and Opus",
        video: Some([b"\x90vp09", b"\x91vp09", b"\xa1vp09"]),
        audio: Some([b"\x90Opus", b"\x91Opus"]),
    },
    Codec {
        name: "audio alone",
        video: None,
        audio: Some(AAC),
    },
];

/// Where the publisher comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Return {
    /// By the same edge or another one: the origin does not know.
    ItsOrigin,
    Another,
    /// And its origin is gone.
    AnotherAloneLeft,
}

/// Of each kind in a session: longer than what a follower takes for tracks that do not begin at the same time.
const FRAMES: u8 = 40;

/// What it sends: `version` is in its sequence headers. Audio is 7 ms late, and begins first.
fn session(codec: &Codec, version: u8, start_ms: i64) -> Vec<Frame> {
    let frame = |kind, at_ms: i64, start: &[u8], rest: &[u8]| {
        let body = [start, rest].concat();
        flv::parse(kind, start_ms + at_ms, body.into()).unwrap()
    };
    let mut frames = vec![metadata()];
    let video = |at_ms, start, rest: &[u8]| frame(FrameKind::Video, at_ms, start, rest);
    let audio = |at_ms, start, rest: &[u8]| frame(FrameKind::Audio, at_ms, start, rest);
    frames.extend(
        codec
            .video
            .map(|[header, ..]| video(0, header, &[version, 1])),
    );
    frames.extend(
        codec
            .audio
            .map(|[header, _]| audio(0, header, &[version, 1])),
    );
    for number in 0..FRAMES {
        let at_ms = i64::from(number) * 40;
        frames.extend(
            codec
                .audio
                .map(|[_, coded]| audio(at_ms + 7, coded, &[number])),
        );
        if let Some([_, keyframe, inter]) = codec.video {
            let start = if number % 10 == 0 { keyframe } else { inter };
            frames.push(video(at_ms + 20, start, &[version, number]));
        }
    }
    frames
}

fn is_header(frame: &Frame) -> bool {
    frame
        .parts
        .iter()
        .any(|part| part.part_type == PartType::SequenceHeader)
}

/// Session `session_id` at an origin, as the registry has it.
async fn open(cluster: &Cluster, at: usize, session_id: &str, window: Option<u32>) -> Publisher {
    let epoch = claim(&cluster.registry, "main", session_id, NAMES[at]).await;
    let origin = &cluster.origins[at];
    let grant = Grant {
        reconnect_window_ms: window,
        ..grant("main", session_id)
    };
    origin
        .open(origin.open_request(&grant, epoch, 1))
        .await
        .unwrap()
}

/// The edge says that the publisher is gone, and gives its lease back.
async fn lose(cluster: &Cluster, mut publisher: Publisher, session_id: &str) {
    let lost = publish_request::Request::Lost(PublisherLost {});
    send(&publisher.requests, lost).await;
    while next_answer(&mut publisher.answers).await.unwrap().is_some() {}
    let places = [(stream_id("main"), registry::Slot::PRIMARY)];
    let epoch = cluster.registry.owners(&places).await.unwrap()[0].epoch;
    let session = registry::SessionId::new(session_id).unwrap();
    let (stream, slot) = (stream_id("main"), registry::Slot::PRIMARY);
    let released = cluster.registry.release(stream, slot, &session, epoch);
    assert!(released.await.unwrap());
}

/// All that a subscriber gets, to the end.
async fn read_to_end(mut player: Player) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        match player.next().await.unwrap() {
            subscribe_event::Event::Batch(batch) => {
                let batch = player.assembler.push(batch.frames.unwrap()).unwrap();
                frames.extend(batch.into_iter().map(|(_, frame)| frame));
            }
            subscribe_event::Event::End(_) => return frames,
            subscribe_event::Event::Gap(_) | subscribe_event::Event::Header(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The frames of an FLV file.
fn tags(file: &[u8]) -> Vec<Frame> {
    let mut rest = &file[13..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let bytes = usize::from(rest[1]) << 16 | usize::from(rest[2]) << 8 | usize::from(rest[3]);
        let at = i32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]);
        let kind = match rest[0] {
            8 => FrameKind::Audio,
            9 => FrameKind::Video,
            _ => FrameKind::Script,
        };
        let body = rest[11..11 + bytes].to_vec();
        frames.push(flv::parse(kind, at.into(), body.into()).unwrap());
        rest = &rest[11 + bytes + 4..];
    }
    frames
}

fn frames_of(messages: Vec<MediaMessage>) -> Vec<Frame> {
    let frame = |message: MediaMessage| {
        let kind = match message.kind {
            MediaKind::Audio => FrameKind::Audio,
            MediaKind::Script => FrameKind::Script,
            MediaKind::Video => FrameKind::Video,
        };
        flv::parse(kind, message.timestamp.into(), message.body).unwrap()
    };
    messages.into_iter().map(frame).collect()
}

/// One stream came: all media of both sessions in order, never earlier than before, each session moved as a whole.
#[track_caller]
fn assert_spliced(what: &str, got: &[Frame], [first, second]: [&[Frame]; 2]) {
    let media = |frames: &[Frame]| -> Vec<Frame> {
        let media = |frame: &&Frame| frame.kind != FrameKind::Script && !is_header(frame);
        frames.iter().filter(media).cloned().collect()
    };
    let (media, first, second) = (media(got), media(first), media(second));
    assert_eq!(media.len(), first.len() + second.len(), "{what}");
    let (before, after) = media.split_at(first.len());
    for (got, sent) in [(before, &first), (after, &second)] {
        let offset_ms = got[0].timestamp_ms - sent[0].timestamp_ms;
        for (got, sent) in got.iter().zip(sent) {
            assert_eq!(got.body, sent.body, "{what}");
            assert_eq!(got.timestamp_ms, sent.timestamp_ms + offset_ms, "{what}");
        }
    }
    let mut last_ms = BTreeMap::new();
    for frame in got {
        let last_ms = last_ms.entry(frame.kind).or_insert(frame.timestamp_ms);
        assert!(frame.timestamp_ms >= *last_ms, "{what}: {frame:?}");
        *last_ms = frame.timestamp_ms;
    }
}

async fn comes_back(codec: &Codec, to: Return, changed: bool) {
    let what = format!("{}, {to:?}, changed: {changed}", codec.name);
    let cluster = cluster(|_| {}).await;
    let mut first = open(&cluster, 0, "s1", Some(600_000)).await;
    let frames = session(codec, 1, 0);
    let coded = |frame: &Frame| frame.kind == first_kind(codec) && !is_header(frame);
    let begins = frames.iter().position(coded).unwrap();
    first.publish(&frames[..=begins]).await;
    let at = if to == Return::ItsOrigin { 0 } else { 1 };
    let reading = &cluster.origins[at];
    let grpc = tokio::spawn(read_to_end(reading.subscribe("main", lossless).await));
    let flv = late_player(reading).await;
    let name = format!("main?token={CREDENTIAL}");
    let rtmp = RtmpPlayer::connect(reading.rtmp, "live", &name).await;
    let rtmp = tokio::spawn(rtmp.started().await.until_the_end());
    first.publish(&frames[begins + 1..]).await;
    lose(&cluster, first, "s1").await;
    if to == Return::AnotherAloneLeft {
        cluster.origins[0].shutdown.stop();
    }
    let back_at = if to == Return::ItsOrigin { 0 } else { 2 };
    let mut second = open(&cluster, back_at, "s2", Some(600_000)).await;
    // Its own clock begins anew.
    let again = session(codec, if changed { 2 } else { 1 }, 5);
    second.publish(&again).await;
    if to != Return::ItsOrigin {
        metric_is(&cluster.origins[back_at], FOLLOWERS, 1.0).await;
    }
    second.close("done").await;
    let got = [
        ("gRPC", grpc.await.unwrap()),
        ("FLV", tags(&flv.await.unwrap().1)),
        ("RTMP", frames_of(rtmp.await.unwrap())),
    ];
    for (output, got) in got {
        let what = format!("{what}, {output}");
        // At a follower nobody knows whether frames are missing before it: a live reader goes on at a keyframe.
        let live_elsewhere = to != Return::ItsOrigin && output != "gRPC";
        let goes_on = if live_elsewhere { begins } else { 0 };
        assert_spliced(&what, &got, [&frames[begins..], &again[goes_on..]]);
        if output != "gRPC" {
            let headers = got.iter().filter(|frame| is_header(frame)).count();
            let each = usize::from(codec.video.is_some()) + usize::from(codec.audio.is_some());
            assert_eq!(headers, if changed { 2 * each } else { each }, "{what}");
        }
    }
}

fn first_kind(codec: &Codec) -> FrameKind {
    if codec.video.is_some() {
        FrameKind::Video
    } else {
        FrameKind::Audio
    }
}

#[tokio::test]
async fn a_publisher_that_comes_back_is_spliced_at_its_origin() {
    for codec in &CODECS {
        comes_back(codec, Return::ItsOrigin, false).await;
        comes_back(codec, Return::ItsOrigin, true).await;
    }
}

#[tokio::test]
async fn a_publisher_that_comes_back_is_spliced_for_readers_elsewhere() {
    for codec in &CODECS {
        comes_back(codec, Return::Another, false).await;
        comes_back(codec, Return::Another, true).await;
    }
}

#[tokio::test]
async fn a_publisher_that_comes_back_when_its_origin_is_gone_is_spliced_too() {
    for codec in &CODECS {
        comes_back(codec, Return::AnotherAloneLeft, false).await;
        comes_back(codec, Return::AnotherAloneLeft, true).await;
    }
}

/// Nothing of a test takes as long.
const FAR_AWAY: Duration = Duration::from_secs(3600);
/// Of a test's shorter time.
const SHORT: Duration = Duration::from_millis(200);

/// A stream with a reader, and its publisher.
async fn watched(cluster: &Cluster, at: usize, window: Option<u32>) -> (Publisher, Player) {
    let mut publisher = open(cluster, 0, "s1", window).await;
    publisher.publish(&recording(1)).await;
    let mut player = cluster.origins[at].subscribe("main", lossless).await;
    player.header().await;
    player.frames(10).await;
    (publisher, player)
}

async fn end(player: &mut Player) -> String {
    match player.next().await.unwrap() {
        subscribe_event::Event::End(end) => end.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lost_publisher_has_its_keys_window_and_no_more() {
    let cluster = cluster(|config| config.timing.publisher_lost_grace = FAR_AWAY).await;
    for window_ms in [0, 200] {
        let (publisher, mut player) = watched(&cluster, 0, Some(window_ms)).await;
        let since = std::time::Instant::now();
        lose(&cluster, publisher, "s1").await;
        assert_eq!(end(&mut player).await, "publisher lost");
        println!(
            "a window of {window_ms} ms: an end after {:?}",
            since.elapsed()
        );
        assert!(since.elapsed() >= Duration::from_millis(window_ms.into()));
    }
}

#[tokio::test]
async fn a_publisher_without_a_window_has_the_clusters() {
    let cluster = cluster(|config| config.timing.publisher_lost_grace = SHORT).await;
    let (publisher, mut player) = watched(&cluster, 0, None).await;
    let since = std::time::Instant::now();
    lose(&cluster, publisher, "s1").await;
    assert_eq!(end(&mut player).await, "publisher lost");
    assert!(since.elapsed() >= SHORT);
}

#[tokio::test]
async fn what_broke_on_the_way_to_it_is_not_the_publishers_fault() {
    let cluster = cluster(|config| config.timing.publisher_lost_grace = FAR_AWAY).await;
    let (publisher, mut player) = watched(&cluster, 0, Some(0)).await;
    drop(publisher);
    let again = open(&cluster, 0, "s2", Some(0)).await;
    let mut again = again;
    again.publish(&recording(1)).await;
    assert_eq!(player.header().await.0, "s2");
    player.frames(12).await;
}

#[tokio::test]
async fn a_publisher_that_says_so_ends_its_stream_at_once() {
    let cluster = cluster(|config| config.timing.publisher_lost_grace = FAR_AWAY).await;
    let (publisher, mut player) = watched(&cluster, 0, Some(1_800_000)).await;
    publisher.close("done").await;
    assert_eq!(end(&mut player).await, "done");
}

#[tokio::test]
async fn a_keys_window_holds_for_readers_elsewhere_when_its_origin_is_gone() {
    let cluster = cluster(|config| config.timing.publisher_lost_grace = SHORT).await;
    let (publisher, mut player) = watched(&cluster, 1, Some(1_800_000)).await;
    lose(&cluster, publisher, "s1").await;
    cluster.origins[0].shutdown.stop();
    // Nothing comes: that it has not ended by then is what is seen.
    let nothing = tokio::time::timeout(SHORT * 5, player.events.message()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    let mut again = open(&cluster, 2, "s2", None).await;
    again.publish(&recording(1)).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Gap(gap) => assert_eq!(gap.session_id, "s1"),
        other => panic!("{other:?}"),
    }
    assert_eq!(player.header().await.0, "s2");
    player.frames(12).await;
}
