use std::hint::black_box;

use super::*;

const VIDEO: FrameKind = FrameKind::Video;
const AUDIO: FrameKind = FrameKind::Audio;
/// x264: 426×240 at 25 frames a second.
const AVC: &[u8] = &[
    0x01, 0x42, 0xc0, 0x15, 0xff, 0xe1, 0x00, 0x19, 0x67, 0x42, 0xc0, 0x15, 0xd9, 0x01, 0xb1, 0xfe,
    0x4f, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x62, 0xe4,
    0x80, 0x01, 0x00, 0x05, 0x68, 0xcb, 0x83, 0xcb, 0x20,
];

fn frame(kind: FrameKind, bytes: &[&[u8]]) -> Frame {
    flv::parse(kind, 0, bytes.concat().into()).unwrap()
}

fn avc_header() -> Frame {
    frame(VIDEO, &[&[0x17, 0, 0, 0, 0], AVC])
}

fn coded(nal_units: &[u8]) -> Frame {
    frame(VIDEO, &[&[0x17, 1, 0, 0, 0], nal_units])
}

fn aac_header(number: u8) -> Frame {
    frame(AUDIO, &[&[0xaf, 0, 0x12, 0x10, number]])
}

fn dropped(reason: &'static str) -> Result<Vec<TrackId>, Refused> {
    Err(Refused::Dropped(reason))
}

fn fault(fault: MediaFault) -> Result<Vec<TrackId>, Refused> {
    Err(Refused::Fault(fault))
}

#[tokio::test(start_paused = true)]
async fn hostile_42_metadata_has_a_size_and_a_rate() {
    let mut intake = Intake::default();
    let metadata = |bytes: usize| {
        frame(
            FrameKind::Script,
            &[b"\x02\0\x0aonMetaData\x08\0\0\x27\x10", &vec![0; bytes]],
        )
    };
    // 10 000 keyframe entries.
    let keyframes = metadata(180_000);
    assert_eq!(
        intake.take(&keyframes, Instant::now()),
        dropped("metadata_too_large")
    );
    let taken = (0..1000)
        .filter(|_| intake.take(&metadata(100), Instant::now()).is_ok())
        .count();
    assert_eq!(taken, 100);
    // Colour and channel layouts that change all the time count too; what is the same is no news.
    intake.take(&avc_header(), Instant::now()).unwrap();
    let colour = frame(VIDEO, &[b"\xd4avc1", b"\x02\0\x09colorInfo\x06"]);
    assert_eq!(
        intake.take(&colour, Instant::now()),
        dropped("metadata_rate")
    );
    tokio::time::advance(CHANGE_PERIOD + Duration::from_secs(1)).await;
    assert_eq!(intake.take(&colour, Instant::now()), Ok(vec![]));
    for _ in 0..1000 {
        assert_eq!(intake.take(&colour, Instant::now()), Ok(vec![]));
    }
    // Other script data is none of this.
    let text = frame(FrameKind::Script, &[b"\x02\0\x0aonTextData", &[0; 100_000]]);
    assert_eq!(intake.take(&text, Instant::now()), Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn hostile_43_media_waits_ten_seconds_for_its_sequence_header() {
    let mut intake = Intake::default();
    let unit = coded(&[0, 0, 0, 1, 0x65]);
    assert_eq!(
        intake.take(&unit, Instant::now()),
        dropped("no_sequence_header")
    );
    // An empty header is none.
    intake
        .take(&frame(VIDEO, &[&[0x17, 0, 0, 0, 0]]), Instant::now())
        .unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(
        intake.take(&unit, Instant::now()),
        dropped("no_sequence_header")
    );
    let mut late = Intake::default();
    std::mem::swap(&mut late, &mut intake);
    assert_eq!(
        late.take(&avc_header(), Instant::now()),
        Ok(vec![(VIDEO, 0)])
    );
    assert_eq!(late.take(&unit, Instant::now()), Ok(vec![]));
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(late.take(&unit, Instant::now()), Ok(vec![]));

    let mut never = Intake::default();
    let sound = frame(AUDIO, &[&[0xaf, 1, 9]]);
    never.take(&avc_header(), Instant::now()).unwrap();
    assert_eq!(
        never.take(&sound, Instant::now()),
        dropped("no_sequence_header")
    );
    tokio::time::advance(Duration::from_millis(10_001)).await;
    assert_eq!(
        never.take(&unit, Instant::now()),
        Ok(vec![]),
        "the other track"
    );
    assert_eq!(
        never.take(&sound, Instant::now()),
        fault(MediaFault::NoSequenceHeader)
    );
    // Codecs that need none.
    for body in [
        &b"\x91ac-3\x0b\x77"[..],
        b"\x91.mp3\xff",
        b"\x2f\xff",
        b"\x91Opus\0",
    ] {
        assert!(
            Intake::default()
                .take(&frame(AUDIO, &[body]), Instant::now())
                .is_ok()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_45_headers_and_codecs_change_ten_times_in_ten_seconds_at_most() {
    let mut intake = Intake::default();
    for number in 0..10 {
        assert_eq!(
            intake.take(&aac_header(number), Instant::now()),
            Ok(vec![(AUDIO, 0)])
        );
        // Some encoders repeat it with every keyframe.
        assert_eq!(intake.take(&aac_header(number), Instant::now()), Ok(vec![]));
    }
    assert_eq!(
        intake.take(&avc_header(), Instant::now()),
        Ok(vec![(VIDEO, 0)]),
        "another track"
    );
    assert_eq!(
        intake.take(&aac_header(10), Instant::now()),
        fault(MediaFault::HeaderRate)
    );

    let mut slow = Intake::default();
    for number in 0..100 {
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(slow.take(&aac_header(number), Instant::now()).is_ok());
    }
    // A codec with every message, and a size with every keyframe.
    let mut flips = Intake::default();
    let codecs = [&b"\xa1vp08\0"[..], b"\xa1vp09\0"].map(|body| frame(VIDEO, &[body]));
    let flip = (0..20).find_map(|number| flips.take(&codecs[number % 2], Instant::now()).err());
    assert_eq!(flip, Some(Refused::Fault(MediaFault::HeaderRate)));
    let mut bombs = Intake::default();
    let bomb = (1..20).find_map(|width| {
        let keyframe = [0x10, 0, 0, 0x9d, 0x01, 0x2a, width, 0, 100, 0];
        bombs
            .take(&frame(VIDEO, &[b"\x91vp08", &keyframe]), Instant::now())
            .err()
    });
    assert_eq!(bomb, Some(Refused::Fault(MediaFault::HeaderRate)));
}

#[tokio::test(start_paused = true)]
async fn hostile_46_frames_whose_nal_units_do_not_fit_are_dropped() {
    let mut intake = Intake::default();
    intake.take(&avc_header(), Instant::now()).unwrap();
    for (body, reason) in [
        (&[0, 0, 0, 9, 0x65][..], "nalu_overrun"),
        (&[0, 0, 0, 2, 0x65, 1, 0, 0], "nalu_overrun"),
        (&[0; 12], "nalu_empty"),
        (&[], "nalu_empty"),
    ] {
        assert_eq!(intake.take(&coded(body), Instant::now()), dropped(reason));
    }
    assert_eq!(
        intake.take(&coded(&[0; 400_000]), Instant::now()),
        dropped("nalus")
    );
    assert_eq!(
        intake.take(&coded(&[0, 0, 0, 1, 0x65]), Instant::now()),
        Ok(vec![])
    );
    assert!(intake.is_first("nalus") && !intake.is_first("nalus"));
    // Start codes are no accident, in a frame or in the header.
    let annex_b = coded(&[0, 0, 0, 1, 0x67, 0x42, 0, 0, 0, 1, 0x65, 9]);
    assert_eq!(
        intake.take(&annex_b, Instant::now()),
        fault(MediaFault::AnnexB)
    );
    let header = frame(
        VIDEO,
        &[&[0x17, 0, 0, 0, 0], &[0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x0d]],
    );
    assert_eq!(
        Intake::default().take(&header, Instant::now()),
        fault(MediaFault::AnnexB)
    );
}

#[tokio::test(start_paused = true)]
async fn hostile_49_a_track_too_many_is_dropped() {
    let mut intake = Intake::default();
    for id in 0..=255 {
        let header = frame(VIDEO, &[b"\x96\0avc1", &[id], AVC]);
        let expected = if id < 16 {
            Ok(vec![(VIDEO, id)])
        } else {
            dropped("tracks")
        };
        assert_eq!(intake.take(&header, Instant::now()), expected);
    }
    let mut stats = LeaseStats::default();
    intake.note(&mut stats);
    assert_eq!(stats.tracks.len(), 16);
    assert_eq!(stats.video_codec, "avc1");
    assert_eq!((stats.tracks[3].width, stats.tracks[3].height), (426, 240));
}

/// What a frame costs on its way through. Printed, never asserted.
#[tokio::test]
async fn what_a_frame_costs() {
    const FRAMES: u32 = 200_000;
    let body = [
        &[0x27, 1, 0, 0, 0][..],
        &5_996_u32.to_be_bytes(),
        &[7; 5_996],
    ]
    .concat();
    let body = bytes::Bytes::from(body);
    let mut intake = Intake::default();
    intake.take(&avc_header(), Instant::now()).unwrap();
    let now = Instant::now();
    let started = std::time::Instant::now();
    for _ in 0..FRAMES {
        black_box(flv::parse(VIDEO, 0, body.clone()).unwrap());
    }
    let parsed = started.elapsed() / FRAMES;
    let started = std::time::Instant::now();
    for _ in 0..FRAMES {
        let mut frame = flv::parse(VIDEO, 0, body.clone()).unwrap();
        intake.tracks().correct(&mut frame);
        black_box(intake.take(&frame, now).unwrap());
    }
    let taken = started.elapsed() / FRAMES;
    println!(
        "a frame: {parsed:?} to be indexed, {taken:?} with its tracks, picture and NAL units looked at"
    );
}
