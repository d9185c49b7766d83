use super::*;
use crate::flv;

const VIDEO: FrameKind = FrameKind::Video;
const AUDIO: FrameKind = FrameKind::Audio;

/// x264: 1920×1080 at 30000/1001.
const AVC: &[u8] = &[
    0x01, 0x42, 0xc0, 0x28, 0xff, 0xe1, 0x00, 0x17, 0x67, 0x42, 0xc0, 0x28, 0xda, 0x01, 0xe0, 0x08,
    0x9f, 0x97, 0x01, 0x10, 0x00, 0x00, 0x3e, 0x90, 0x00, 0x0e, 0xa6, 0x00, 0xf1, 0x83, 0x2a, 0x01,
    0x00, 0x04, 0x68, 0xce, 0x0f, 0xc8,
];
const COLOUR_PQ: &[u8] = b"\x02\0\x09colorInfo\x03\0\x0bcolorConfig\x03\
    \0\x17transferCharacteristics\0\x40\x30\0\0\0\0\0\0\0\0\x09\0\0\x09";

fn frame(kind: FrameKind, bytes: &[&[u8]]) -> Frame {
    flv::parse(kind, 7, bytes.concat().into()).unwrap()
}

fn told(tracks: &Tracks, id: TrackId) -> String {
    let configuration = tracks.get(id).unwrap().configuration.as_ref();
    configuration.map_or_else(String::new, ToString::to_string)
}

/// Takes a frame; nothing changes that `changed_by` does not tell, and nothing twice.
fn take(tracks: &mut Tracks, frame: &Frame) -> Vec<TrackId> {
    let expected = tracks.changed_by(frame);
    let changed = tracks.update(frame);
    assert!(expected || changed.is_empty(), "{frame:?}");
    assert!(!tracks.changed_by(frame) || frame.parts[0].part_type == PartType::SequenceEnd);
    changed
}

#[test]
fn legacy_unwrapped_and_wrapped_bodies_are_the_same_track_0() {
    let mut tracks = Tracks::default();
    let legacy = frame(VIDEO, &[&[0x17, 0, 0, 0, 0], AVC]);
    assert_eq!(take(&mut tracks, &legacy), [(VIDEO, 0)]);
    assert_eq!(told(&tracks, (VIDEO, 0)), "avc1.42C028 1920x1080@29.97");
    let unwrapped = frame(VIDEO, &[b"\x90avc1", AVC]);
    assert_eq!(take(&mut tracks, &unwrapped), []);
    let wrapped = frame(VIDEO, &[b"\x96\0avc1\0", AVC]);
    assert_eq!(take(&mut tracks, &wrapped), []);
    assert_eq!(tracks.iter().count(), 1);
    assert_eq!(tracks.get((VIDEO, 0)).unwrap().since_ms, 7);
}

#[test]
fn a_track_changes_with_its_header_and_ends_with_its_sequence() {
    let mut tracks = Tracks::default();
    take(&mut tracks, &frame(AUDIO, &[&[0xaf, 0, 0x12, 0x08]]));
    assert_eq!(told(&tracks, (AUDIO, 0)), "mp4a.40.2 44100 Hz 1 ch");
    let stereo = frame(AUDIO, &[&[0xaf, 0, 0x11, 0x90]]);
    assert_eq!(take(&mut tracks, &stereo), [(AUDIO, 0)]);
    assert_eq!(told(&tracks, (AUDIO, 0)), "mp4a.40.2 48000 Hz 2 ch");
    // Another codec on the same id is another track.
    let opus = frame(AUDIO, &[b"\x90Opus"]);
    assert_eq!(take(&mut tracks, &opus), [(AUDIO, 0)]);
    assert_eq!(tracks.get((AUDIO, 0)).unwrap().header, None);
    assert_eq!(
        take(&mut tracks, &frame(AUDIO, &[b"\x92Opus"])),
        [(AUDIO, 0)]
    );
    assert_eq!(tracks.iter().count(), 0);
    assert_eq!(take(&mut tracks, &frame(AUDIO, &[b"\x92Opus"])), []);
}

#[test]
fn metadata_completes_what_the_header_says() {
    let mut tracks = Tracks::default();
    take(&mut tracks, &frame(VIDEO, &[b"\x90avc1", AVC]));
    // The colour of an HEVC track, sent without its id.
    assert_eq!(
        take(&mut tracks, &frame(VIDEO, &[b"\xd4hvc1", COLOUR_PQ])),
        []
    );
    assert_eq!(
        take(&mut tracks, &frame(VIDEO, &[b"\xd4avc1", COLOUR_PQ])),
        [(VIDEO, 0)]
    );
    let transfer = |tracks: &Tracks| {
        let track = tracks.get((VIDEO, 0)).unwrap();
        track
            .configuration
            .as_ref()
            .unwrap()
            .transfer_characteristics
    };
    assert_eq!(transfer(&tracks), Some(16));
    let reset = frame(VIDEO, &[b"\xd4avc1", b"\x02\0\x09colorInfo\x06"]);
    take(&mut tracks, &reset);
    assert_eq!(transfer(&tracks), None);

    take(&mut tracks, &frame(AUDIO, &[b"\x95\x00Opus\x02"]));
    assert_eq!(told(&tracks, (AUDIO, 2)), "opus 48000 Hz");
    take(
        &mut tracks,
        &frame(AUDIO, &[b"\x95\x04Opus\x02\x01\x06\0\0\0\x3f"]),
    );
    assert_eq!(told(&tracks, (AUDIO, 2)), "opus 48000 Hz 6 ch");
}

#[test]
fn codecs_without_a_telling_header_are_known_by_their_first_frames() {
    let mut tracks = Tracks::default();
    take(&mut tracks, &frame(AUDIO, &[b"\x90ac-3"]));
    assert_eq!(told(&tracks, (AUDIO, 0)), "");
    let ac3 = frame(
        AUDIO,
        &[
            b"\x91ac-3",
            &[0x0b, 0x77, 0x2b, 0xa7, 0x1e, 0x40, 0xeb, 0xf8],
        ],
    );
    assert_eq!(take(&mut tracks, &ac3), [(AUDIO, 0)]);
    assert_eq!(told(&tracks, (AUDIO, 0)), "ac-3 48000 Hz 6 ch");
    assert_eq!(take(&mut tracks, &ac3), []);

    let mp3 = frame(AUDIO, &[&[0x2f, 0xff, 0xfb, 0x90, 0x64, 0]]);
    take(&mut tracks, &mp3);
    assert_eq!(told(&tracks, (AUDIO, 0)), "mp3 44100 Hz 2 ch");

    take(
        &mut tracks,
        &frame(
            VIDEO,
            &[b"\x90vp09", &[1, 0, 0, 0, 0, 11, 0x82, 2, 2, 2, 0, 0]],
        ),
    );
    let keyframe = [0x82, 0x49, 0x83, 0x42, 0x00, 0x13, 0xf0, 0x0b, 0x36];
    take(&mut tracks, &frame(VIDEO, &[b"\xa1vp09", &keyframe]));
    assert_eq!(told(&tracks, (VIDEO, 0)), "vp09.00.11.08", "not a keyframe");
    take(&mut tracks, &frame(VIDEO, &[b"\x91vp09", &keyframe]));
    assert_eq!(told(&tracks, (VIDEO, 0)), "vp09.00.11.08 320x180");
    let smaller = [0x82, 0x49, 0x83, 0x42, 0x00, 0x03, 0xf0, 0x0b, 0x36];
    take(&mut tracks, &frame(VIDEO, &[b"\x91vp09", &smaller]));
    assert_eq!(told(&tracks, (VIDEO, 0)), "vp09.00.11.08 64x180");
}

#[test]
fn a_keyframe_is_what_its_access_unit_says() {
    let mut tracks = Tracks::default();
    let idr = |flags: u8| frame(VIDEO, &[&[flags, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88]]);
    let predicted = |flags: u8| frame(VIDEO, &[&[flags, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, 0x9a]]);
    let corrected = |tracks: &Tracks, sent: &Frame| {
        let mut frame = sent.clone();
        let corrections = tracks.correct(&mut frame);
        assert_eq!(frame.body, sent.body, "bodies are never changed");
        (frame.keyframe(), corrections)
    };
    // Before the header nothing is known of how long lengths are.
    assert_eq!(corrected(&tracks, &idr(0x27)), (false, vec![]));
    take(&mut tracks, &frame(VIDEO, &[&[0x17, 0, 0, 0, 0], AVC]));
    assert_eq!(corrected(&tracks, &idr(0x17)), (true, vec![]));
    assert_eq!(corrected(&tracks, &predicted(0x27)), (false, vec![]));
    let keyframe = || vec![Correction::Keyframe];
    assert_eq!(corrected(&tracks, &idr(0x27)), (true, keyframe()));
    assert_eq!(corrected(&tracks, &predicted(0x17)), (false, keyframe()));
    // Several tracks: one is right, one is wrong, and of one the header is missing.
    let mut many = frame(
        VIDEO,
        &[
            b"\xa6\x13avc1",
            &[0, 0, 0, 6, 0, 0, 0, 2, 0x41, 0x9a],
            &[1, 0, 0, 6, 0, 0, 0, 2, 0x65, 0x88],
            &[2, 0, 0, 6, 0, 0, 0, 2, 0x65, 0x88],
        ],
    );
    take(&mut tracks, &frame(VIDEO, &[b"\x96\0avc1\x01", AVC]));
    assert_eq!(tracks.correct(&mut many), keyframe());
    let keyframes: Vec<_> = many.parts.iter().map(|part| part.keyframe).collect();
    assert_eq!(keyframes, [false, true, false]);
    // Another codec on the id.
    let other = frame(VIDEO, &[b"\x93hvc1", &[0, 0, 0, 2, 0x02, 1]]);
    assert_eq!(corrected(&tracks, &other), (true, vec![]));
    assert_eq!(
        corrected(
            &tracks,
            &frame(VIDEO, &[b"\xa1vp08", &[0x10, 0, 0, 0x9d, 1, 0x2a]])
        ),
        (true, keyframe())
    );
}

#[test]
fn composition_times_are_believed_up_to_ten_seconds() {
    for (sent, believed) in [
        (0, 0),
        (-80, -80),
        (10_000, 10_000),
        (10_001, 10_000),
        (0x7f_ffff, 10_000),
        (-10_000, -10_000),
        (-10_001, -10_000),
        (-0x80_0000, -10_000),
    ] {
        let [_, time @ ..] = i32::to_be_bytes(sent);
        for prefix in [&[0x27, 1][..], b"\xa1avc1", b"\xa1hvc1", b"\xa1vvc1"] {
            let mut frame = frame(VIDEO, &[prefix, &time, &[0, 0, 0, 1, 0x41]]);
            assert_eq!(frame.parts[0].composition_offset_ms, sent);
            let body = frame.body.clone();
            let corrections = Tracks::default().correct(&mut frame);
            assert_eq!(frame.parts[0].composition_offset_ms, believed);
            assert_eq!(
                corrections == [Correction::CompositionTime],
                sent != believed
            );
            assert_eq!(frame.body, body);
        }
    }
}

#[test]
fn a_malformed_or_empty_header_tells_nothing_and_is_no_harm() {
    let mut tracks = Tracks::default();
    take(&mut tracks, &frame(VIDEO, &[&[0x17, 0, 0, 0, 0]]));
    assert!(
        !tracks.get((VIDEO, 0)).unwrap().decodable(),
        "an empty header"
    );
    take(&mut tracks, &frame(VIDEO, &[&[0x17, 0, 0, 0, 0, 1, 2, 3]]));
    let track = tracks.get((VIDEO, 0)).unwrap();
    assert!(track.decodable());
    assert_eq!(track.configuration, None);
    assert_eq!(track.malformed, Some(CodecError::Truncated));
}

#[test]
fn hostile_49_there_are_sixteen_tracks_of_a_kind_at_most() {
    let mut tracks = Tracks::default();
    let of = |kind, id: u8| match kind {
        FrameKind::Audio => frame(kind, &[b"\x95\x01Opus", &[id], b"x"]),
        FrameKind::Script | FrameKind::Video => frame(kind, &[b"\x96\x01av01", &[id], b"x"]),
    };
    for id in 0..=255 {
        for kind in [AUDIO, VIDEO] {
            let frame = of(kind, id);
            assert_eq!(tracks.has_room_for(&frame), usize::from(id) < TRACKS_MAX);
            tracks.update(&frame);
        }
    }
    assert_eq!(tracks.iter().count(), 2 * TRACKS_MAX);
    // Nor do they come together in one message.
    let headers = (0..17).flat_map(|id| [id, 0, 0, 1, 9]).collect::<Vec<_>>();
    let together = frame(VIDEO, &[b"\x96\x10av01", &headers]);
    assert!(!Tracks::default().has_room_for(&together));
    // One that ends makes room.
    tracks.update(&frame(AUDIO, &[b"\x95\x02Opus\x03"]));
    assert!(tracks.has_room_for(&of(AUDIO, 255)));
    assert!(!tracks.has_room_for(&of(VIDEO, 255)));
}
