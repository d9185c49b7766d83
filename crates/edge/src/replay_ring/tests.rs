use bytes::Bytes;
use media::FourCc;
use proptest::prelude::*;

use super::*;

const LIMITS: RingLimits = RingLimits {
    window: Duration::from_secs(3),
    unacknowledged_bytes_max: 100_000,
    bytes_max: 200_000,
};

fn frame(kind: FrameKind, part_type: PartType, keyframe: bool, bytes: usize) -> Frame {
    Frame {
        kind,
        timestamp_ms: 0,
        body: Bytes::from(vec![7; bytes]),
        parts: vec![Part {
            track: 0,
            codec: FourCc(*b"avc1"),
            part_type,
            keyframe,
            composition_offset_ms: 0,
            timestamp_offset_ns: 0,
            offset: 0,
            length: 0,
        }],
    }
}

fn keyframe() -> Frame {
    frame(FrameKind::Video, PartType::Coded, true, 1000)
}

fn inter() -> Frame {
    frame(FrameKind::Video, PartType::Coded, false, 1000)
}

fn audio() -> Frame {
    frame(FrameKind::Audio, PartType::Coded, false, 100)
}

fn header(kind: FrameKind) -> Frame {
    frame(kind, PartType::SequenceHeader, false, 50)
}

fn script(body: &'static [u8]) -> Frame {
    Frame {
        kind: FrameKind::Script,
        timestamp_ms: 0,
        body: Bytes::from_static(body),
        parts: Vec::new(),
    }
}

fn ring() -> ReplayRing {
    ReplayRing::new(LIMITS)
}

/// Metadata, headers, then groups of one keyframe and nine other frames, 100 ms each; all acknowledged.
fn ring_after_groups(groups: usize, now: &mut Instant) -> ReplayRing {
    let mut ring = ring();
    for frame in [
        script(b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData..."),
        header(FrameKind::Video),
        header(FrameKind::Audio),
    ] {
        ring.push(frame, *now);
    }
    for _ in 0..groups {
        ring.push(keyframe(), *now);
        for _ in 0..9 {
            *now += Duration::from_millis(100);
            ring.push(inter(), *now);
        }
        *now += Duration::from_millis(100);
        ring.acknowledge(ring.next_sequence(), *now);
    }
    ring
}

#[test]
fn a_young_ring_holds_everything() {
    let ring = ring_after_groups(2, &mut Instant::now());
    let replay = ring.replay();
    assert_eq!((replay.first_sequence, replay.gap), (0, false));
    assert!(replay.headers.is_empty());
}

#[test]
fn history_reaches_back_to_a_keyframe_older_than_the_window() {
    let mut now = Instant::now();
    let ring = ring_after_groups(10, &mut now);
    let replay = ring.replay();
    // The eighth of ten groups began three seconds before the last acknowledgement.
    assert_eq!(replay.first_sequence, 3 + 7 * 10);
    assert!(!replay.gap);
    let sequences: Vec<_> = replay
        .headers
        .iter()
        .map(|(sequence, _)| *sequence)
        .collect();
    assert_eq!(sequences, [0, 1, 2]);
}

#[test]
fn unacknowledged_frames_stay_whatever_their_age() {
    let mut now = Instant::now();
    let mut ring = ring_after_groups(10, &mut now);
    let unacknowledged = ring.next_sequence();
    ring.push(inter(), now);
    for _ in 0..60 {
        now += Duration::from_secs(1);
        ring.push(keyframe(), now);
    }
    assert_eq!(ring.acknowledged(), unacknowledged);
    // The last keyframe at or before the first unacknowledged frame.
    assert_eq!(ring.replay().first_sequence, 3 + 9 * 10);
}

#[test]
fn headers_are_those_in_force_where_the_replay_begins() {
    let mut now = Instant::now();
    let mut ring = ring_after_groups(10, &mut now);
    let changed = ring.next_sequence();
    ring.push(header(FrameKind::Video), now);
    ring.push(keyframe(), now);
    let sequences = |ring: &ReplayRing| -> Vec<u64> {
        ring.replay()
            .headers
            .iter()
            .map(|(sequence, _)| *sequence)
            .collect()
    };
    assert_eq!(sequences(&ring), [0, 1, 2], "the new header is in the ring");
    now += Duration::from_secs(10);
    ring.acknowledge(ring.next_sequence(), now);
    assert_eq!(sequences(&ring), [0, 2, changed]);
}

#[test]
fn only_stream_metadata_is_kept_of_script_data() {
    let mut cache = HeaderCache::default();
    cache.insert(1, script(b"\x02\x00\x0aonMetaData..."));
    cache.insert(2, script(b"\x02\x00\x0aonCuePoint..."));
    cache.insert(3, script(b""));
    let sequences: Vec<_> = cache
        .frames()
        .into_iter()
        .map(|(sequence, _)| sequence)
        .collect();
    assert_eq!(sequences, [1]);
}

#[test]
fn headers_have_a_bound() {
    let mut cache = HeaderCache::default();
    for track in 0..=255 {
        let mut frame = frame(FrameKind::Video, PartType::SequenceHeader, false, 10_000);
        frame.parts[0].track = track;
        cache.insert(u64::from(track), frame);
    }
    assert!(cache.bytes <= HEADER_BYTES_MAX);
    assert!(cache.frames().len() > 10);
}

#[test]
fn audio_alone_starts_anywhere() {
    let mut now = Instant::now();
    let mut ring = ring();
    ring.push(header(FrameKind::Audio), now);
    for _ in 0..100 {
        now += Duration::from_millis(100);
        ring.push(audio(), now);
        ring.acknowledge(ring.next_sequence(), now);
    }
    let replay = ring.replay();
    assert_eq!(replay.first_sequence, 70);
    assert!(!replay.gap);
    assert_eq!(replay.headers.len(), 1);
}

#[test]
fn only_unacknowledged_bytes_fill_the_ring() {
    let now = Instant::now();
    let mut ring = ring();
    while !ring.full() {
        ring.push(inter(), now);
    }
    let pushed = ring.next_sequence();
    assert!((80..=100).contains(&pushed), "{pushed}");
    ring.acknowledge(pushed / 2, now);
    assert!(!ring.full());
    ring.acknowledge(u64::MAX, now);
    assert_eq!(ring.unacknowledged_bytes(), 0);
    assert_eq!(ring.acknowledged(), pushed);
}

#[test]
fn a_group_beyond_the_cap_is_not_replayable_until_the_next_keyframe() {
    let mut now = Instant::now();
    let mut ring = ring();
    ring.push(keyframe(), now);
    for _ in 0..400 {
        now += Duration::from_millis(40);
        ring.push(inter(), now);
        ring.acknowledge(ring.next_sequence(), now);
        assert!(ring.bytes() <= LIMITS.bytes_max);
    }
    assert!(!ring.replayable());
    assert!(ring.replay().gap);
    ring.push(keyframe(), now);
    ring.acknowledge(ring.next_sequence(), now);
    now += LIMITS.window;
    ring.push(inter(), now);
    assert!(ring.replayable());
}

#[test]
fn unacknowledged_frames_survive_the_cap() {
    let now = Instant::now();
    let mut ring = ring();
    for _ in 0..500 {
        ring.push(inter(), now);
    }
    assert!(ring.bytes() > LIMITS.bytes_max);
    assert_eq!(ring.replay().first_sequence, 0);
}

#[test]
fn shedding_gives_up_history_alone() {
    let mut now = Instant::now();
    let mut ring = ring_after_groups(3, &mut now);
    let acknowledged = ring.acknowledged();
    ring.push(inter(), now);
    ring.shed();
    assert_eq!(ring.replay().first_sequence, acknowledged);
    assert!(ring.replay().gap);
    assert_eq!(ring.next_sequence(), acknowledged + 1);
}

#[test]
fn another_origin_makes_history_outstanding_again() {
    let mut now = Instant::now();
    let mut ring = ring_after_groups(10, &mut now);
    assert_eq!(ring.unacknowledged_bytes(), 0);
    let first = ring.replay().first_sequence;
    ring.rewind(first, now);
    assert_eq!(ring.acknowledged(), first);
    now += Duration::from_secs(60);
    ring.push(keyframe(), now);
    assert_eq!(
        ring.replay().first_sequence,
        first,
        "nothing outstanding is evicted"
    );
    ring.rewind(u64::MAX, now);
    assert_eq!(ring.unacknowledged_bytes(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, usize),
    Acknowledge(u64),
    Hold,
    Rewind(u64),
    Wait(u64),
    Shed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_u8, 1..30_000_usize).prop_map(|(kind, bytes)| Step::Push(kind, bytes)),
        4 => (0..50_u64).prop_map(Step::Acknowledge),
        1 => Just(Step::Hold),
        1 => (0..50_u64).prop_map(Step::Rewind),
        3 => (1..2000_u64).prop_map(Step::Wait),
        1 => Just(Step::Shed),
    ]
}

fn frame_of(kind: u8, bytes: usize, number: u64) -> Frame {
    let mut frame = match kind {
        0 => frame(FrameKind::Video, PartType::Coded, true, bytes),
        1 => frame(FrameKind::Video, PartType::Coded, false, bytes),
        2 => frame(FrameKind::Audio, PartType::Coded, false, bytes),
        3 => frame(FrameKind::Video, PartType::SequenceHeader, false, bytes),
        _ => script(b"\x02\x00\x0aonMetaData"),
    };
    frame.timestamp_ms = i64::try_from(number).unwrap();
    frame
}

proptest! {
    #[test]
    fn a_replay_is_contiguous_and_starts_where_a_decoder_can_or_says_gap(
        steps in proptest::collection::vec(step(), 1..300)
    ) {
        let mut now = Instant::now();
        let mut ring = ring();
        let mut pushed: Vec<Frame> = Vec::new();
        let mut held = None;
        for step in steps {
            match step {
                Step::Push(kind, bytes) => {
                    let frame = frame_of(kind, bytes, ring.next_sequence());
                    pushed.push(frame.clone());
                    ring.push(frame, now);
                }
                Step::Acknowledge(ahead) => ring.acknowledge(ring.acknowledged() + ahead, now),
                Step::Rewind(ahead) => {
                    held = None;
                    ring.rewind(ring.replay().first_sequence + ahead, now);
                }
                Step::Hold => held = Some(ring.hold()),
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Shed => ring.shed(),
            }
            let replay = ring.replay();
            if let Some(held) = &held {
                prop_assert_eq!(replay.first_sequence, held.first_sequence);
                prop_assert_eq!(&replay.headers, &held.headers);
                // Where nothing was left, a keyframe may have come since.
                prop_assert!(held.gap || !replay.gap);
            }
            prop_assert_eq!(ring.next_sequence(), pushed.len() as u64);
            prop_assert!(replay.first_sequence <= ring.acknowledged(), "an unacknowledged frame is lost");
            prop_assert!(ring.acknowledged() <= ring.next_sequence());
            let frames = ring.batch(replay.first_sequence, usize::MAX);
            prop_assert_eq!(frames.len() as u64, ring.next_sequence() - replay.first_sequence);
            for (sequence, frame) in &frames {
                prop_assert_eq!(frame, &pushed[usize::try_from(*sequence).unwrap()]);
            }
            let first = frames.first().map(|(_, frame)| frame);
            let decodable = replay.first_sequence == 0
                || first.is_some_and(|frame| frame.keyframe() || frame.kind == FrameKind::Audio);
            prop_assert!(decodable || replay.gap);
            for (sequence, frame) in &replay.headers {
                prop_assert!(*sequence < replay.first_sequence);
                prop_assert_eq!(frame, &pushed[usize::try_from(*sequence).unwrap()]);
            }
            let unacknowledged: usize = ring
                .batch(ring.acknowledged(), usize::MAX)
                .iter()
                .map(|(_, frame)| charge(frame))
                .sum();
            prop_assert_eq!(ring.unacknowledged_bytes(), unacknowledged);
            let held: usize = frames.iter().map(|(_, frame)| charge(frame)).sum();
            prop_assert_eq!(ring.bytes() - ring.headers.bytes, held);
        }
    }

    #[test]
    fn a_batch_is_bounded_or_one_frame(
        bodies in proptest::collection::vec(1..5000_usize, 1..50), from in 0..50_u64, bytes_max in 1..20_000_usize
    ) {
        let mut ring = ring();
        for bytes in &bodies {
            ring.push(frame_of(1, *bytes, 0), Instant::now());
        }
        let batch = ring.batch(from, bytes_max);
        let bytes: usize = batch.iter().map(|(_, frame)| frame.body.len()).sum();
        prop_assert!(bytes <= bytes_max || batch.len() == 1);
        prop_assert_eq!(batch.is_empty(), from >= bodies.len() as u64);
    }
}
