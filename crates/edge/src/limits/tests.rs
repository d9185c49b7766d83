use bytes::Bytes;

use super::*;

/// x264: 426×240 at 25 frames a second.
const AVC_HEADER: &[u8] = &[
    0x17, 0, 0, 0, 0, 0x01, 0x42, 0xc0, 0x15, 0xff, 0xe1, 0x00, 0x19, 0x67, 0x42, 0xc0, 0x15, 0xd9,
    0x01, 0xb1, 0xfe, 0x4f, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20,
    0xf1, 0x62, 0xe4, 0x80, 0x01, 0x00, 0x05, 0x68, 0xcb, 0x83, 0xcb, 0x20,
];
const AAC_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];
/// One that cannot be read.
const MALFORMED_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 2, 3];
const KEYFRAME: u8 = 0x17;
const INTER_FRAME: u8 = 0x27;
const FRAME_RATE: u64 = 30;
const FRAMES_PER_GOP: u64 = 60;
/// An IDR frame in terms of another frame.
const IDR_SIZE: u64 = 8;

/// A session's limits with a clock that is moved by hand.
struct Session {
    limits: Limits,
    tracks: Tracks,
    started: Instant,
    now: Duration,
}

impl Session {
    fn new(terms: MediaLimits) -> Self {
        Self {
            limits: Limits::new(terms),
            tracks: Tracks::default(),
            started: Instant::now(),
            now: Duration::ZERO,
        }
    }

    fn take(&mut self, kind: FrameKind, timestamp_ms: u64, body: &[u8]) -> Result<(), LimitFault> {
        let timestamp_ms = i64::try_from(timestamp_ms).unwrap();
        let frame = flv::parse(kind, timestamp_ms, Bytes::copy_from_slice(body)).unwrap();
        let changed = !self.tracks.update(&frame).is_empty();
        let now = self.started + self.now;
        self.limits.take(&frame, (&self.tracks, changed), now)
    }

    fn video(&mut self, timestamp_ms: u64, first: u8, bytes: u64) -> Result<(), LimitFault> {
        let mut body = vec![first, 1, 0, 0, 0];
        body.resize(usize::try_from(bytes).unwrap().max(body.len()), 0);
        self.take(FrameKind::Video, timestamp_ms, &body)
    }

    /// Frame by frame as they are due, from the first to the last of them.
    fn play(
        &mut self,
        frames: std::ops::Range<u64>,
        bps: u64,
        arrival: impl Fn(u64) -> u64,
    ) -> Result<(), (u64, LimitFault)> {
        for number in frames {
            let timestamp_ms = number * 1000 / FRAME_RATE;
            self.now = Duration::from_millis(arrival(timestamp_ms));
            let keyframe = number % FRAMES_PER_GOP == 0;
            let (first, share) = if keyframe {
                (KEYFRAME, IDR_SIZE)
            } else {
                (INTER_FRAME, 1)
            };
            let shares = FRAMES_PER_GOP - 1 + IDR_SIZE;
            let gop_bytes = bps / 8 * FRAMES_PER_GOP / FRAME_RATE;
            self.video(timestamp_ms, first, gop_bytes * share / shares)
                .map_err(|fault| (timestamp_ms, fault))?;
        }
        Ok(())
    }
}

fn bitrate_limit(max_bitrate_bps: u64) -> MediaLimits {
    MediaLimits {
        max_bitrate_bps,
        ..MediaLimits::default()
    }
}

fn exactly(timestamp_ms: u64) -> u64 {
    timestamp_ms
}

const MINUTES: u64 = 60 * FRAME_RATE;
const LIMIT: u64 = 6_000_000;
const TOO_FAST: LimitFault = LimitFault::Bitrate { max_bps: LIMIT };

#[test]
fn a_publisher_at_its_limits_goes_on() {
    let terms = MediaLimits {
        max_bitrate_bps: LIMIT,
        max_frame_rate_millihertz: 30_000,
        max_keyframe_interval_ms: 2_000,
        ..MediaLimits::default()
    };
    let mut session = Session::new(terms);
    assert_eq!(session.play(0..10 * MINUTES, LIMIT, exactly), Ok(()));
}

#[test]
fn what_is_too_fast_ends_the_sooner_the_faster_it_is() {
    for (bps, earliest_ms, latest_ms) in
        [(LIMIT * 3 / 2, 7_000, 10_000), (LIMIT * 10, 1_000, 2_000)]
    {
        let mut session = Session::new(bitrate_limit(LIMIT));
        let (after_ms, fault) = session.play(0..MINUTES, bps, exactly).unwrap_err();
        assert_eq!(fault, TOO_FAST);
        assert!(
            (earliest_ms..latest_ms).contains(&after_ms),
            "{bps}: {after_ms} ms"
        );
    }
}

#[test]
fn a_bitrate_that_rises_later_ends_too() {
    let mut session = Session::new(bitrate_limit(LIMIT));
    assert_eq!(session.play(0..MINUTES, LIMIT / 2, exactly), Ok(()));
    let (after_ms, fault) = session
        .play(MINUTES..2 * MINUTES, LIMIT * 2, exactly)
        .unwrap_err();
    assert_eq!(fault, TOO_FAST);
    assert!((64_000..69_000).contains(&after_ms), "{after_ms} ms");
}

#[test]
fn who_catches_up_behind_a_stall_goes_on() {
    // Twenty seconds of silence, then everything at once.
    let stalled = |timestamp_ms: u64| match timestamp_ms {
        60_000..80_000 => 80_000,
        on_time => on_time,
    };
    let mut session = Session::new(MediaLimits {
        max_frame_rate_millihertz: 30_000,
        ..bitrate_limit(LIMIT)
    });
    assert_eq!(session.play(0..5 * MINUTES, LIMIT, stalled), Ok(()));
}

#[test]
fn who_begins_with_what_it_had_in_store_goes_on() {
    let early = |timestamp_ms: u64| timestamp_ms.saturating_sub(4_000);
    let mut session = Session::new(MediaLimits {
        max_frame_rate_millihertz: 30_000,
        ..bitrate_limit(LIMIT)
    });
    assert_eq!(session.play(0..5 * MINUTES, LIMIT, early), Ok(()));
}

#[test]
fn timestamps_that_run_ahead_hide_nothing() {
    // An hour of media, as it says, in six minutes.
    let hurried = |timestamp_ms: u64| timestamp_ms / 10;
    let mut session = Session::new(bitrate_limit(LIMIT));
    let (_, fault) = session.play(0..60 * MINUTES, LIMIT, hurried).unwrap_err();
    assert_eq!(fault, TOO_FAST);
    // It waits for an hour, and says that it was there.
    let mut session = Session::new(bitrate_limit(LIMIT));
    session.video(0, KEYFRAME, 10).unwrap();
    let late = |timestamp_ms: u64| 3_600_000 + timestamp_ms / 60;
    let (_, fault) = session.play(1..60 * MINUTES, LIMIT, late).unwrap_err();
    assert_eq!(fault, TOO_FAST);
}

#[test]
fn timestamps_that_stand_still_do_no_harm() {
    let mut session = Session::new(bitrate_limit(LIMIT));
    for number in 0..5 * MINUTES {
        session.now = Duration::from_millis(number * 1000 / FRAME_RATE);
        let sent = session.video(0, INTER_FRAME, LIMIT / 8 / FRAME_RATE);
        assert_eq!(sent, Ok(()), "{:?}", session.now);
    }
}

#[test]
fn what_goes_no_further_came_all_the_same() {
    let mut limits = Limits::new(bitrate_limit(800_000));
    let now = Instant::now();
    assert_eq!(limits.dropped(1_250_000, now), Ok(()));
    let fault = LimitFault::Bitrate { max_bps: 800_000 };
    assert_eq!(limits.dropped(1, now), Err(fault));
}

#[test]
fn more_frames_than_declared_are_measured() {
    let max_millihertz = 15_000;
    let mut session = Session::new(MediaLimits {
        max_frame_rate_millihertz: max_millihertz,
        ..MediaLimits::default()
    });
    let (after_ms, fault) = session.play(0..MINUTES, 1_000_000, exactly).unwrap_err();
    assert_eq!(fault, LimitFault::FrameRate { max_millihertz });
    assert!(after_ms < 10_000, "{after_ms} ms");
}

#[test]
fn a_declared_frame_rate_is_believed_where_it_can_be_one() {
    let max_millihertz = 29_970;
    let limits = Limits::new(MediaLimits {
        max_frame_rate_millihertz: max_millihertz,
        ..MediaLimits::default()
    });
    let fault = LimitFault::FrameRate { max_millihertz };
    for (numerator, denominator, judged) in [
        (30_000, 1_001, Ok(())),
        (25, 1, Ok(())),
        (30, 1, Err(fault)),
        (60, 1, Err(fault)),
        // The time base of frames that come as they like.
        (500, 1, Ok(())),
    ] {
        let configuration = CodecConfiguration {
            frame_rate: FrameRate::new(numerator, denominator),
            ..CodecConfiguration::default()
        };
        let got = limits.check_configuration(&configuration);
        assert_eq!(got, judged, "{numerator}/{denominator}");
    }
}

fn size_limit(max_width: u32, max_height: u32) -> MediaLimits {
    MediaLimits {
        max_width,
        max_height,
        ..MediaLimits::default()
    }
}

#[test]
fn a_picture_is_as_large_as_its_header_says() {
    for (max_width, max_height, fits) in [
        (426, 240, true),
        (0, 240, true),
        (425, 240, false),
        (0, 239, false),
        (426, 0, true),
    ] {
        let mut session = Session::new(size_limit(max_width, max_height));
        let shown = Dimensions::new(426, 240).ok();
        let fault = LimitFault::Size {
            shown,
            max_width,
            max_height,
        };
        let judged = session.take(FrameKind::Video, 0, AVC_HEADER);
        let expected = if fits { Ok(()) } else { Err(fault) };
        assert_eq!(judged, expected, "{max_width}x{max_height}");
    }
}

#[test]
fn a_picture_that_grows_in_the_midst_of_it_ends() {
    let mut session = Session::new(size_limit(320, 180));
    session.take(FrameKind::Audio, 0, AAC_HEADER).unwrap();
    session.video(0, INTER_FRAME, 100).unwrap();
    let judged = session.take(FrameKind::Video, 40, AVC_HEADER);
    assert!(matches!(
        judged,
        Err(LimitFault::Size { shown: Some(_), .. })
    ));
}

#[test]
fn a_size_that_cannot_be_read_is_beyond_any_limit() {
    let mut session = Session::new(size_limit(1920, 1080));
    session.take(FrameKind::Video, 0, MALFORMED_HEADER).unwrap();
    let judged = session.video(0, KEYFRAME, 100);
    assert!(matches!(judged, Err(LimitFault::Size { shown: None, .. })));
    let mut session = Session::new(MediaLimits::default());
    session.take(FrameKind::Video, 0, MALFORMED_HEADER).unwrap();
    assert_eq!(session.video(0, KEYFRAME, 100), Ok(()));
}

#[test]
fn codecs_are_those_of_the_list() {
    let terms = |video: &[&str], audio: &[&str]| MediaLimits {
        video_codecs: video.iter().map(|&name| name.to_owned()).collect(),
        audio_codecs: audio.iter().map(|&name| name.to_owned()).collect(),
        ..MediaLimits::default()
    };
    let mut session = Session::new(terms(&["hvc1", "AVC1"], &["opus"]));
    assert_eq!(session.take(FrameKind::Video, 0, AVC_HEADER), Ok(()));
    let opus_header = b"\x90OpusOpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
    assert_eq!(session.take(FrameKind::Audio, 0, opus_header), Ok(()));
    let fault = LimitFault::Codec {
        codec: FourCc(*b"mp4a"),
    };
    assert_eq!(session.take(FrameKind::Audio, 0, AAC_HEADER), Err(fault));
    // Without a header, as older codecs are.
    let mut session = Session::new(terms(&["avc1"], &[]));
    let fault = LimitFault::Codec {
        codec: FourCc(*b"FLV1"),
    };
    assert_eq!(session.take(FrameKind::Video, 0, &[0x22, 0]), Err(fault));
}

#[test]
fn containers_are_those_of_the_list() {
    let terms = |container: Container| MediaLimits {
        containers: vec![container.into()],
        ..MediaLimits::default()
    };
    let enhanced_keyframe = b"\x91avc1\x00\x00\x00\x00";
    let mut session = Session::new(terms(Container::Flv));
    assert_eq!(session.take(FrameKind::Video, 0, AVC_HEADER), Ok(()));
    assert_eq!(session.take(FrameKind::Script, 0, b"\x02"), Ok(()));
    assert_eq!(
        session.take(FrameKind::Video, 0, enhanced_keyframe),
        Err(LimitFault::Container { enhanced: true })
    );
    let mut session = Session::new(terms(Container::Enhanced));
    assert_eq!(session.take(FrameKind::Audio, 0, b""), Ok(()));
    assert_eq!(session.take(FrameKind::Video, 0, enhanced_keyframe), Ok(()));
    assert_eq!(
        session.take(FrameKind::Audio, 0, AAC_HEADER),
        Err(LimitFault::Container { enhanced: false })
    );
}

fn interval_limit(max_keyframe_interval_ms: u32) -> MediaLimits {
    MediaLimits {
        max_keyframe_interval_ms,
        ..MediaLimits::default()
    }
}

#[test]
fn keyframes_that_do_not_come_end_the_session() {
    let mut session = Session::new(interval_limit(1_000));
    let (after_ms, fault) = session.play(0..MINUTES, 1_000_000, exactly).unwrap_err();
    assert_eq!(fault, LimitFault::KeyframeInterval { max_ms: 1_000 });
    assert!((1_500..1_600).contains(&after_ms), "{after_ms} ms");
    // Not even the first.
    let mut session = Session::new(interval_limit(1_000));
    let ended = (0..40).find(|number| session.video(number * 100, INTER_FRAME, 100).is_err());
    assert_eq!(ended, Some(16));
}

#[test]
fn what_was_dropped_under_way_is_no_interval() {
    let mut session = Session::new(interval_limit(2_000));
    session.play(0..FRAMES_PER_GOP, 1_000_000, exactly).unwrap();
    // Two groups of pictures and a half are missing.
    let resumed = 4 * FRAMES_PER_GOP;
    let on = session.play(resumed..resumed + MINUTES, 1_000_000, exactly);
    assert_eq!(on, Ok(()));
}

#[test]
fn other_terms_judge_what_is_known_with_the_next_frame() {
    let mut session = Session::new(MediaLimits::default());
    session.take(FrameKind::Video, 0, AVC_HEADER).unwrap();
    session.video(0, KEYFRAME, 1_000).unwrap();
    session.limits.change(size_limit(320, 180));
    let judged = session.video(40, INTER_FRAME, 1_000);
    assert!(matches!(judged, Err(LimitFault::Size { .. })), "{judged:?}");

    // What came before counts.
    let mut session = Session::new(MediaLimits::default());
    session.play(0..MINUTES, LIMIT * 2, exactly).unwrap();
    session.limits.change(bitrate_limit(LIMIT));
    assert_eq!(session.video(60_000, INTER_FRAME, 10), Err(TOO_FAST));
    session.limits.change(MediaLimits::default());
    assert_eq!(session.video(60_033, INTER_FRAME, 10), Ok(()));
}

#[test]
fn every_fault_says_which_limit_it_is() {
    let shown = Dimensions::new(1920, 1080).ok();
    let size = |shown, max_width, max_height| LimitFault::Size {
        shown,
        max_width,
        max_height,
    };
    for (fault, text) in [
        (TOO_FAST, "Bitrate above this key's limit of 6 Mb/s"),
        (
            LimitFault::Bitrate { max_bps: 2_500_000 },
            "Bitrate above this key's limit of 2.5 Mb/s",
        ),
        (
            LimitFault::Bitrate { max_bps: 800_000 },
            "Bitrate above this key's limit of 800 kb/s",
        ),
        (
            LimitFault::Bitrate { max_bps: 90 },
            "Bitrate above this key's limit of 90 b/s",
        ),
        (
            LimitFault::FrameRate {
                max_millihertz: 29_970,
            },
            "Frame rate above this key's limit of 29.97 fps",
        ),
        (
            LimitFault::KeyframeInterval { max_ms: 2_000 },
            "Keyframes are further apart than this key's limit of 2 s",
        ),
        (
            size(shown, 1280, 720),
            "Picture of 1920x1080 above this key's limit of 1280x720",
        ),
        (
            size(shown, 0, 720),
            "Picture of 1920x1080 above this key's limit of 720 in height",
        ),
        (
            size(None, 1280, 0),
            "Picture of unknown size, and this key has a limit of 1280 in width",
        ),
        (
            LimitFault::Codec {
                codec: FourCc(*b"hvc1"),
            },
            "This key does not take the codec hvc1",
        ),
        (
            LimitFault::Container { enhanced: false },
            "This key takes Enhanced RTMP only",
        ),
    ] {
        assert_eq!(fault.to_string(), text);
    }
}

#[test]
fn what_a_frame_costs() {
    const FRAMES: u32 = 200_000;
    let mut session = Session::new(MediaLimits {
        max_frame_rate_millihertz: 30_000,
        max_keyframe_interval_ms: 2_000,
        video_codecs: vec!["avc1".to_owned()],
        containers: vec![Container::Flv.into()],
        ..bitrate_limit(LIMIT)
    });
    session.take(FrameKind::Video, 0, AVC_HEADER).unwrap();
    session.video(0, KEYFRAME, 100).unwrap();
    let body = Bytes::from_static(&[INTER_FRAME, 1, 0, 0, 0, 0]);
    let mut frame = flv::parse(FrameKind::Video, 0, body).unwrap();
    let began = std::time::Instant::now();
    for number in 0..FRAMES {
        frame.timestamp_ms = i64::from(number / 30);
        let now = session.started + Duration::from_micros(u64::from(number) * 34_000);
        let taken = session.limits.take(&frame, (&session.tracks, false), now);
        // Without keyframes it is over at some time; what it costs is the same.
        std::hint::black_box(taken).ok();
    }
    println!(
        "a frame held to every limit: {:?}",
        began.elapsed() / FRAMES
    );
}
