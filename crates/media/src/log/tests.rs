mod cursors;
mod promises;
mod stretches;

use bytes::Bytes;

use super::*;
use crate::flv;

const TOKEN: Token = Token {
    slot: 0,
    epoch: 1,
    attempt: 1,
};

fn log(bytes_max: usize) -> Log {
    let mut log = Log::new(LogLimits {
        bytes_max,
        ..LogLimits::default()
    });
    log.begin_session("s1", TOKEN, 0, 0);
    log
}

fn frame(kind: FrameKind, timestamp_ms: i64, body: &[u8]) -> Frame {
    flv::parse(kind, timestamp_ms, Bytes::copy_from_slice(body)).unwrap()
}

fn metadata() -> Frame {
    frame(
        FrameKind::Script,
        0,
        b"\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09",
    )
}

fn video_header(version: u8) -> Frame {
    frame(FrameKind::Video, 0, &[0x17, 0, 0, 0, 0, version])
}

fn audio_header() -> Frame {
    frame(FrameKind::Audio, 0, &[0xaf, 0, 0x12, 0x08])
}

fn keyframe(timestamp_ms: i64) -> Frame {
    frame(FrameKind::Video, timestamp_ms, &[0x17, 1, 0, 0, 0, 9])
}

fn inter(timestamp_ms: i64) -> Frame {
    frame(FrameKind::Video, timestamp_ms, &[0x27, 1, 0, 0, 0, 9])
}

fn audio(timestamp_ms: i64) -> Frame {
    frame(FrameKind::Audio, timestamp_ms, &[0xaf, 1, 9])
}

/// Appends with the next sequence, at a clock that stands still.
fn append(log: &mut Log, frame: Frame) {
    let (_, next, _) = log.session().unwrap();
    let now = clock();
    assert_eq!(log.append(next, frame, now), Ok(Appended::Stored));
}

fn clock() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "any fixed instant will do")]
    *START.get_or_init(Instant::now)
}

/// Everything that a reader gets now, one event a line.
fn read_all(log: &Log, reader: &mut Reader) -> Vec<String> {
    std::iter::from_fn(|| log.read(reader, usize::MAX).unwrap())
        .map(|event| match event {
            Event::Frames(frames) => frames
                .iter()
                .map(|entry| format!("{}:{}", entry.session_id, entry.sequence))
                .collect::<Vec<_>>()
                .join(" "),
            Event::Gap(gap) => format!(
                "gap {} {}..{}",
                gap.session_id,
                gap.from_sequence,
                if gap.to_sequence == u64::MAX {
                    "end".to_owned()
                } else {
                    gap.to_sequence.to_string()
                }
            ),
            Event::Header(header) => {
                let sequences: Vec<_> = header.headers.iter().map(|(s, _)| s).collect();
                format!("header {} {sequences:?}", header.session_id)
            }
        })
        .collect()
}

#[test]
fn a_late_joiner_gets_headers_and_the_current_gop() {
    let mut log = log(usize::MAX);
    for frame in [
        metadata(),
        audio_header(),
        video_header(1),
        keyframe(0),
        inter(40),
        keyframe(80),
        audio(85),
    ] {
        append(&mut log, frame);
    }
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(
        read_all(&log, &mut reader),
        ["header s1 [0, 1, 2]", "s1:5 s1:6"]
    );
    append(&mut log, inter(120));
    assert_eq!(read_all(&log, &mut reader), ["s1:7"]);
}

#[test]
fn a_reader_that_waited_gets_everything_from_the_first_frame() {
    let mut log = log(usize::MAX);
    let mut early = log.reader(Class::Live, Start::CurrentGop);
    assert!(read_all(&log, &mut early).is_empty());
    for frame in [
        metadata(),
        video_header(1),
        audio(0),
        keyframe(0),
        keyframe(40),
    ] {
        append(&mut log, frame);
    }
    let mut waited = log.reader(Class::Live, Start::Oldest);
    for reader in [&mut early, &mut waited] {
        assert_eq!(
            read_all(&log, reader),
            ["header s1 []", "s1:0 s1:1 s1:2 s1:3 s1:4"]
        );
    }
}

#[test]
fn headers_are_those_before_the_frame_where_a_reader_starts() {
    let mut log = log(usize::MAX);
    for frame in [video_header(1), keyframe(0), video_header(2), inter(40)] {
        append(&mut log, frame);
    }
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    let Some(Event::Header(header)) = log.read(&mut reader, 1).unwrap() else {
        panic!("a header comes first");
    };
    assert_eq!(header.headers, [(0, video_header(1))]);
    append(&mut log, keyframe(80));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader)[0], "header s1 [2]");
}

#[test]
fn a_repeated_header_is_no_change_and_a_sequence_end_voids_it() {
    let mut log = log(usize::MAX);
    for frame in [video_header(1), keyframe(0), video_header(1), keyframe(40)] {
        append(&mut log, frame);
    }
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader)[0], "header s1 [0]");
    append(&mut log, frame(FrameKind::Video, 80, &[0x17, 2, 0, 0, 0]));
    append(&mut log, audio(80));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(
        read_all(&log, &mut reader),
        ["header s1 []", "s1:5"],
        "what is left is audio"
    );
}

#[test]
fn any_coded_audio_is_a_random_access_point_where_there_is_no_video() {
    let mut log = log(usize::MAX);
    for frame in [audio_header(), audio(0), audio(20), audio(40)] {
        append(&mut log, frame);
    }
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader), ["header s1 [0]", "s1:3"]);
}

#[test]
fn only_the_lowest_video_track_makes_random_access_points() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    append(
        &mut log,
        frame(FrameKind::Video, 40, b"\x96\x01hvc1\x01\0\0\0z"),
    );
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader), ["header s1 []", "s1:0 s1:1"]);
}

#[test]
fn a_live_reader_that_falls_behind_skips_to_a_keyframe() {
    let mut log = log(1200);
    append(&mut log, keyframe(0));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader), ["header s1 []", "s1:0"]);
    for _ in 0..10 {
        append(&mut log, inter(40));
    }
    assert!(read_all(&log, &mut reader).is_empty(), "no keyframe yet");
    append(&mut log, keyframe(80));
    append(&mut log, inter(120));
    assert_eq!(
        read_all(&log, &mut reader),
        ["gap s1 1..11", "header s1 []", "s1:11 s1:12"]
    );
}

#[test]
fn a_lossless_reader_that_falls_behind_ends_with_an_error() {
    let mut log = log(1200);
    append(&mut log, keyframe(0));
    let mut reader = log.reader(Class::Lossless, Start::CurrentGop);
    read_all(&log, &mut reader);
    for _ in 0..10 {
        append(&mut log, keyframe(40));
    }
    let LagError { frames } = log.read(&mut reader, 1).unwrap_err();
    assert!((1..10).contains(&frames), "{frames}");
}

#[test]
fn a_gap_of_the_publisher_reaches_readers() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    let mut live = log.reader(Class::Live, Start::CurrentGop);
    let mut lossless = log.reader(Class::Lossless, Start::CurrentGop);
    read_all(&log, &mut live);
    read_all(&log, &mut lossless);
    log.continue_session(TOKEN, 5);
    append(&mut log, inter(40));
    append(&mut log, keyframe(80));
    assert_eq!(
        read_all(&log, &mut live),
        ["gap s1 1..6", "header s1 []", "s1:6"]
    );
    assert_eq!(
        read_all(&log, &mut lossless),
        ["gap s1 1..5", "header s1 []", "s1:5 s1:6"]
    );
}

#[test]
fn a_session_never_goes_on_under_a_lower_token() {
    let mut log = log(usize::MAX);
    let higher = Token {
        slot: 0,
        epoch: 1,
        attempt: 3,
    };
    log.continue_session(higher, 0);
    append(&mut log, keyframe(0));
    log.continue_session(TOKEN, 0);
    append(&mut log, inter(40));
    assert!(log.entries.iter().all(|entry| entry.token == higher));
}

#[test]
fn a_repeated_frame_is_a_duplicate_and_a_jump_is_an_error() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    let now = clock();
    assert_eq!(log.append(0, keyframe(0), now), Ok(Appended::Duplicate));
    assert_eq!(
        log.append(2, keyframe(0), now),
        Err(SequenceError {
            sequence: 2,
            expected: 1
        })
    );
}

#[test]
fn output_timestamps_get_the_offset_and_never_decrease_per_track() {
    let mut log = log(usize::MAX);
    log.begin_session("s2", TOKEN, 1000, 0);
    for frame in [keyframe(40), inter(20), audio(10), inter(60)] {
        append(&mut log, frame);
    }
    let mut reader = log.reader(Class::Live, Start::Oldest);
    log.read(&mut reader, 1).unwrap();
    let Some(Event::Frames(frames)) = log.read(&mut reader, usize::MAX).unwrap() else {
        panic!("frames come behind the header");
    };
    let output: Vec<_> = frames.iter().map(|e| e.frame.timestamp_ms).collect();
    assert_eq!(output, [1040, 1040, 1010, 1060]);
    assert_eq!(log.latest_output_ms(), Some(1060));
}

#[test]
fn old_frames_leave_when_a_new_one_comes() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    append(&mut log, keyframe(40));
    let later = clock() + Duration::from_secs(11);
    log.append(2, keyframe(80), later).unwrap();
    let mut reader = log.reader(Class::Live, Start::Oldest);
    assert_eq!(read_all(&log, &mut reader), ["header s1 []", "s1:2"]);
    assert_eq!(log.entries.len(), 1);
    assert_eq!(log.bytes(), log.entries[0].charged_bytes());
}

#[test]
fn a_seeded_header_does_not_replace_a_newer_one() {
    let mut log = log(usize::MAX);
    append(&mut log, metadata());
    append(&mut log, video_header(2));
    log.seed_header(0, &video_header(1));
    append(&mut log, keyframe(0));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader)[0], "header s1 [0, 1]");
}

#[test]
fn while_video_pauses_a_late_joiner_gets_audio() {
    let mut log = log(usize::MAX);
    for frame in [video_header(1), audio_header(), keyframe(0)] {
        append(&mut log, frame);
    }
    let age_max = LogLimits::default().age_max;
    let at = |log: &mut Log, seconds: u32, frame| {
        let (_, next, _) = log.session().unwrap();
        log.append(next, frame, clock() + age_max / 10 * seconds)
            .unwrap();
    };
    for seconds in 1..=30 {
        at(&mut log, seconds, audio(i64::from(seconds)));
    }
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader), ["header s1 [0, 1]", "s1:32"]);
    at(&mut log, 31, keyframe(31));
    at(&mut log, 31, audio(31));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    assert_eq!(read_all(&log, &mut reader)[1], "s1:33 s1:34");
}

#[test]
fn headers_that_change_all_the_time_are_paid_for() {
    let mut log = log(1024 * 1024);
    let mut tracks = vec![0x96, 0x10, b'a', b'v', b'c', b'1'];
    for track in 0..32 {
        tracks.extend([track, 0, 0, 1, 0]);
    }
    for change in 0..4096_u32 {
        let changed = tracks.len() - 1;
        tracks[changed] = change.to_le_bytes()[0];
        append(&mut log, frame(FrameKind::Video, 0, &tracks));
        let held: BTreeMap<_, _> = log
            .entries
            .iter()
            .map(|entry| (Arc::as_ptr(&entry.headers), entry.headers.charged_bytes()))
            .collect();
        assert!(held.values().sum::<usize>() <= log.bytes());
    }
    assert!(log.bytes() <= 1024 * 1024);
    log.clear();
    assert_eq!(log.bytes(), 0);
}

#[test]
fn who_has_not_read_a_cleared_log_gets_no_frames_any_more() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    let mut live = log.reader(Class::Live, Start::Oldest);
    let mut lossless = log.reader(Class::Lossless, Start::Oldest);
    assert!(log.read(&mut lossless, 1).unwrap().is_some());
    log.clear();
    assert!(read_all(&log, &mut live).is_empty());
    assert_eq!(
        log.read(&mut lossless, 1).unwrap_err(),
        LagError { frames: 1 }
    );
}

#[test]
fn hostile_47_output_never_goes_back_whatever_the_wire_says() {
    let mut log = log(usize::MAX);
    let mut unwrapper = crate::timestamp::Unwrapper::new();
    let wires = [
        0,
        1 << 31,
        0,
        u32::MAX,
        0,
        0x7fff_ffff,
        5,
        5,
        4,
        0xff_ffff,
        0xff_fffe,
    ];
    append(&mut log, video_header(1));
    for wire in wires.into_iter().cycle().take(500) {
        for mut frame in [keyframe(0), audio(0)] {
            unwrapper.stamp(&mut frame, wire);
            append(&mut log, frame);
        }
    }
    let mut reader = log.reader(Class::Lossless, Start::Oldest);
    let mut last = BTreeMap::new();
    while let Some(event) = log.read(&mut reader, usize::MAX).unwrap() {
        let Event::Frames(entries) = event else {
            continue;
        };
        for Entry { frame, .. } in entries {
            let before = last.insert(frame.kind, frame.timestamp_ms);
            assert!(before.is_none_or(|before| before <= frame.timestamp_ms));
            assert!((0..60_000).contains(&frame.timestamp_ms));
        }
    }
    assert_eq!(last.len(), 2);
}

#[test]
fn what_is_kept_of_a_log_is_its_latest_gop() {
    let mut log = log(usize::MAX);
    append(&mut log, video_header(1));
    assert_eq!(log.keep_gop(), None);
    for frame in [keyframe(0), inter(40), keyframe(80), inter(120)] {
        append(&mut log, frame);
    }
    assert!(log.keep_gop().is_some());
    let gop = log.take_gop();
    let sequences: Vec<_> = gop.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, [3, 4]);
    assert_eq!(gop[0].headers().len(), 1);
    assert!(log.bytes() == 0 && log.take_gop().is_empty());
    append(&mut log, inter(160));
    assert_eq!(log.keep_gop(), None);
}
