//! Streams of several tracks: every form of multitrack goes through without a changed byte, and a late joiner gets the
//! headers of every track.

use proto::tracks::describe;

use super::*;

/// libx264: 426×240 at 25 frames a second.
const AVC: &[u8] = &[
    0x01, 0x42, 0xc0, 0x15, 0xff, 0xe1, 0x00, 0x19, 0x67, 0x42, 0xc0, 0x15, 0xd9, 0x01, 0xb1, 0xfe,
    0x4f, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x62, 0xe4,
    0x80, 0x01, 0x00, 0x05, 0x68, 0xcb, 0x83, 0xcb, 0x20,
];
/// SVT-AV1: 320×180.
const AV1: &[u8] = &[
    0x81, 0x00, 0x0c, 0x00, 0x0a, 0x0b, 0x02, 0x00, 0x00, 0x05, 0x61, 0xe7, 0xf6, 0x60, 0x17, 0xc0,
    0x02,
];

fn body(kind: FrameKind, timestamp_ms: i64, bytes: &[&[u8]]) -> Frame {
    flv::parse(kind, timestamp_ms, bytes.concat().into()).unwrap()
}

/// As FFmpeg 9 begins a stream of two video and two audio tracks.
fn headers() -> Vec<Frame> {
    use FrameKind::{Audio, Video};
    vec![
        metadata(),
        body(Video, 0, &[&[0x17, 0, 0, 0, 0], AVC]),
        body(Video, 0, &[b"\x96\0av01\x02", AV1]),
        body(Audio, 0, &[&[0xaf, 0, 0x12, 0x08, 0x56, 0xe5, 0]]),
        body(
            Audio,
            0,
            &[b"\x95\0Opus\x01OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0"],
        ),
        body(Audio, 0, &[b"\x95\x04Opus\x01\x01\x02\0\0\0\x03"]),
        body(
            Video,
            0,
            &[b"\xd6\x04av01\x02\x02\0\x09colorInfo\x03\0\0\x09"],
        ),
    ]
}

/// Frames of all tracks for one group of pictures, in every form that there is.
fn gop(start_ms: i64) -> Vec<Frame> {
    use FrameKind::{Audio, Video};
    let stamp = start_ms.to_be_bytes();
    vec![
        // A keyframe of track 0 alone.
        body(
            Video,
            start_ms,
            &[&[0x17, 1, 0, 0, 80, 0, 0, 0, 9, 0x65], &stamp],
        ),
        body(Audio, start_ms, &[&[0xaf, 1], &stamp]),
        body(Audio, start_ms + 1, &[b"\x95\x01Opus\x01", &stamp]),
        // Track 2 has its own keyframes; no decoder of track 0 starts there.
        body(Video, start_ms + 2, &[b"\x96\x01av01\x02\x12\0", &stamp]),
        // Track 0 with nanoseconds, and the id written out.
        body(
            Video,
            start_ms + 40,
            &[
                b"\xa7\x02\0\x30\x39\x06\x01avc1\0\0\0\0\0\0\0\x09\x41",
                &stamp,
            ],
        ),
        // Both tracks in one message, of two codecs; and two of one codec.
        body(
            Video,
            start_ms + 80,
            &[b"\xa6\x21avc1\0\0\0\x08\0\0\x28\0\0\0\x01\x41av01\x02\0\0\x02\x12\0"],
        ),
        body(
            Audio,
            start_ms + 80,
            &[b"\x95\x11Opus\x01\0\0\x02ab\x02\0\0\x01c"],
        ),
    ]
}

fn stream() -> Vec<Frame> {
    let gops = (0..3).flat_map(|number| gop(number * 2_000));
    headers().into_iter().chain(gops).collect()
}

/// The tracks as people read them, and the headers.
async fn first_header(player: &mut Player) -> (Vec<String>, Vec<(u64, Frame)>) {
    let header = match player.next().await.unwrap() {
        subscribe_event::Event::Header(header) => header,
        other => panic!("{other:?}"),
    };
    let frames = header.headers.unwrap();
    let frames = Assembler::new(Parts::Included).push(frames).unwrap();
    (header.tracks.iter().map(describe).collect(), frames)
}

#[tokio::test]
async fn a_late_subscriber_gets_every_track_and_every_byte() {
    let origin = start(config()).await;
    let frames = stream();
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&frames).await;
    let mut player = origin.subscribe("main", |_| {}).await;
    publisher.close("finished").await;

    let (described, told) = first_header(&mut player).await;
    assert_eq!(
        described,
        [
            "mp4a.40.2 44100 Hz 1 ch",
            "1:opus 48000 Hz 2 ch",
            "2:Opus",
            "avc1.42C015 426x240@25",
            "2:av01.0.00M.08 320x180",
        ]
    );
    assert!(told.into_iter().eq((0..).zip(headers())));
    // From the last keyframe of track 0 on, parts and nanoseconds included.
    let begin = headers().len() + 2 * gop(0).len();
    let got = player.frames(gop(0).len()).await;
    assert!(
        got.iter()
            .cloned()
            .eq((begin as u64..).zip(frames[begin..].to_vec()))
    );
    assert_eq!(got[4].1.parts[0].timestamp_offset_ns, 12_345);
    assert_eq!(got[5].1.parts[1].codec.to_string(), "av01");
}

#[tokio::test]
async fn a_late_flv_player_gets_every_track_and_every_byte() {
    let origin = start(config()).await;
    let frames = stream();
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&frames).await;
    let player = outputs::late_player(&origin).await;
    publisher.close("done").await;
    let (_, file) = player.await.unwrap();
    // Headers stand at the time of the first frame, which stands half a second behind zero.
    let mut expected = headers();
    expected
        .iter_mut()
        .for_each(|frame| frame.timestamp_ms = 500);
    expected.extend(gop(4_000).into_iter().map(|mut frame| {
        frame.timestamp_ms -= 3_500;
        frame
    }));
    assert!(file == outputs::file(&expected));
}

#[tokio::test]
async fn a_track_that_changes_or_ends_is_told_anew_to_who_comes_later() {
    let origin = start(config()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&headers()).await;
    publisher.publish(&gop(0)).await;
    let stereo = body(FrameKind::Audio, 90, &[&[0xaf, 0, 0x11, 0x90]]);
    let end = body(FrameKind::Video, 90, &[b"\x96\x02av01\x02"]);
    // What is repeated is passed on, and no news.
    let again = headers()[1].clone();
    publisher.publish(&[stereo.clone(), end, again]).await;
    publisher.publish(&gop(2_000)[..1]).await;
    let mut player = origin.subscribe("main", |_| {}).await;
    let (described, told) = first_header(&mut player).await;
    assert_eq!(
        described,
        [
            "mp4a.40.2 48000 Hz 2 ch",
            "1:opus 48000 Hz 2 ch",
            "2:Opus",
            "avc1.42C015 426x240@25",
        ]
    );
    let sequences: Vec<_> = told.iter().map(|(sequence, _)| *sequence).collect();
    let changed = headers().len() as u64 + gop(0).len() as u64;
    assert_eq!(sequences, [0, 1, 4, 5, changed]);
}

#[tokio::test]
async fn a_subscriber_is_told_what_the_pictures_say() {
    let origin = start(config()).await;
    let coded = |flags: u8, time: &[u8], unit: &[u8]| {
        let length = u32::try_from(unit.len()).unwrap().to_be_bytes();
        body(FrameKind::Video, 0, &[&[flags, 1], time, &length, unit])
    };
    let mut frames = vec![headers()[1].clone()];
    // An IDR picture that is not flagged, a predicted one that is, and one far beyond its time.
    frames.push(coded(0x27, &[0, 0, 40], &[0x65, 0x88]));
    frames.push(coded(0x17, &[0, 0, 40], &[0x41, 0x9a]));
    frames.push(coded(0x27, &[0x80, 0, 0], &[0x41, 0x9a]));
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&frames).await;
    let mut player = origin.subscribe("main", |_| {}).await;
    publisher.close("finished").await;
    first_header(&mut player).await;
    let got = player.frames(3).await;
    let told: Vec<_> = got
        .iter()
        .map(|(sequence, frame)| {
            let part = frame.parts[0];
            (*sequence, part.keyframe, part.composition_offset_ms)
        })
        .collect();
    assert_eq!(told, [(1, true, 40), (2, false, 40), (3, false, -10_000)]);
    let bodies = got.iter().map(|(_, frame)| &frame.body);
    assert!(bodies.eq(frames[1..].iter().map(|frame| &frame.body)));
}
