use proptest::prelude::*;

use super::*;
use crate::{FourCc, PartType};

fn parsed(kind: FrameKind, body: &[u8]) -> Frame {
    parse(kind, 0, Bytes::copy_from_slice(body)).unwrap()
}

fn only_part(kind: FrameKind, body: &[u8]) -> Part {
    let frame = parsed(kind, body);
    assert_eq!(frame.body, body, "bodies are never changed");
    assert_eq!(frame.parts.len(), 1, "{body:02x?}");
    frame.parts[0]
}

#[test]
fn an_avc_keyframe_has_its_signed_composition_time() {
    let part = only_part(
        FrameKind::Video,
        &[0x17, 1, 0xff, 0xff, 0xf6, 0, 0, 0, 1, 0x65],
    );
    assert_eq!(part.codec, FourCc(*b"avc1"));
    assert_eq!(part.part_type, PartType::Coded);
    assert!(part.keyframe);
    assert_eq!(part.composition_offset_ms, -10);
    assert_eq!((part.offset, part.length), (5, 5));
    assert!(!only_part(FrameKind::Video, &[0x27, 1, 0, 0, 40, 9]).keyframe);
}

#[test]
fn avc_and_aac_headers_and_ends_are_told_apart() {
    let header = only_part(FrameKind::Video, &[0x17, 0, 0, 0, 0, 1, 100]);
    assert_eq!(header.part_type, PartType::SequenceHeader);
    assert!(!header.keyframe);
    for end in [&[0x17, 2, 0, 0, 0][..], &[0x17, 2]] {
        assert_eq!(
            only_part(FrameKind::Video, end).part_type,
            PartType::SequenceEnd
        );
    }
    let header = only_part(FrameKind::Audio, &[0xaf, 0, 0x12, 0x08, 0x56, 0xe5, 0]);
    assert_eq!(header.part_type, PartType::SequenceHeader);
    assert_eq!(header.codec, FourCc(*b"mp4a"));
    assert_eq!((header.offset, header.length), (2, 5));
    let coded = only_part(FrameKind::Audio, &[0xaf, 1, 0x21]);
    assert_eq!(coded.part_type, PartType::Coded);
}

#[test]
fn other_legacy_codecs_are_coded_media() {
    let part = only_part(FrameKind::Audio, &[0x2f, 1, 2, 3]);
    assert_eq!(
        (part.codec, part.offset, part.length),
        (FourCc(*b".mp3"), 1, 3)
    );
    let part = only_part(FrameKind::Video, &[0x14, 9]);
    assert_eq!((part.codec, part.keyframe), (FourCc(*b"VP6F"), true));
    let part = only_part(FrameKind::Video, &[0x1c, 1, 0, 0, 0, 9]);
    assert_eq!((part.codec, part.keyframe), (FourCc(*b"hvc1"), true));
}

#[test]
fn what_is_unknown_or_empty_passes_through_without_parts() {
    for (kind, body) in [
        (FrameKind::Audio, &[][..]),
        (FrameKind::Audio, &[0xf0, 1, 2]),
        (FrameKind::Audio, &[0xaf, 9]),
        (FrameKind::Audio, &[0x93, b'O', b'p', b'u', b's']),
        (FrameKind::Video, &[0x57, 0]),
        (FrameKind::Video, &[0xd1, 0]),
        (FrameKind::Video, &[0x17, 7, 0]),
        (FrameKind::Video, &[0x1f, 7, 0]),
        (FrameKind::Video, &[0x9f, 1, 2, 3, 4, 5]),
        (FrameKind::Script, &[2, 0, 1, b'x']),
        (FrameKind::Script, &[]),
    ] {
        let frame = parsed(kind, body);
        assert_eq!(frame.body, body);
        assert_eq!(frame.parts, [], "{body:02x?}");
        assert!(!frame.keyframe());
    }
}

#[test]
fn captured_enhanced_video_headers_are_read() {
    let header = only_part(FrameKind::Video, b"\x90hvc1\x01\x02");
    assert_eq!(header.part_type, PartType::SequenceHeader);
    assert_eq!(header.codec, FourCc(*b"hvc1"));
    assert_eq!((header.offset, header.length), (5, 2));

    let keyframe = only_part(FrameKind::Video, b"\x91hvc1\x00\x00\x43\x00\x00");
    assert_eq!(keyframe.composition_offset_ms, 0x43);
    assert!(keyframe.keyframe);
    assert_eq!((keyframe.offset, keyframe.length), (8, 2));

    let without_time = only_part(FrameKind::Video, b"\xa3hvc1\x00\x00");
    assert_eq!(without_time.part_type, PartType::Coded);
    assert_eq!((without_time.offset, without_time.length), (5, 2));

    let av1 = only_part(FrameKind::Video, b"\x91av01\x12\x00\x0a\x0b");
    assert_eq!((av1.composition_offset_ms, av1.offset), (0, 5));

    // FFmpeg: frame type 5 on a metadata packet.
    let colour = only_part(FrameKind::Video, b"\xd4hvc1\x02\x00\x09colorInfo\x03");
    assert_eq!(colour.part_type, PartType::Metadata);
    assert!(!colour.keyframe);
}

#[test]
fn captured_enhanced_audio_headers_are_read() {
    let header = only_part(FrameKind::Audio, b"\x90OpusOpusHead");
    assert_eq!(header.part_type, PartType::SequenceHeader);
    let channels = only_part(FrameKind::Audio, b"\x94Opus\x01\x01\x00\x00\x00\x04");
    assert_eq!(channels.part_type, PartType::Metadata);
    let empty_start = only_part(FrameKind::Audio, b"\x90ac-3");
    assert_eq!(empty_start.length, 0);
    let coded = only_part(FrameKind::Audio, b"\x91fLaC\xff\xf8");
    assert_eq!(coded.part_type, PartType::Coded);
}

#[test]
fn multitrack_bodies_are_indexed_per_track() {
    let one = only_part(FrameKind::Video, b"\x96\x01hvc1\x02\x00\x00\x00\x01");
    assert_eq!((one.track, one.keyframe), (2, true));
    assert_eq!((one.offset, one.length), (10, 1));

    let many = parsed(FrameKind::Audio, b"\x95\x11mp4a\x01\0\0\x02ab\x02\0\0\x01c");
    let places: Vec<_> = many
        .parts
        .iter()
        .map(|part| (part.track, part.offset, part.length))
        .collect();
    assert_eq!(places, [(1, 10, 2), (2, 16, 1)]);

    let codecs = parsed(
        FrameKind::Video,
        b"\x96\x20avc1\x00\0\0\x01xhvc1\x01\0\0\x01y",
    );
    assert_eq!(codecs.parts[1].codec, FourCc(*b"hvc1"));
    assert!(codecs.sequence_header());
}

#[test]
fn mod_ex_prefixes_are_passed_over() {
    let part = only_part(FrameKind::Video, b"\x97\x02\x00\x00\x05\x01hvc1\0\0\0z");
    assert_eq!((part.keyframe, part.length), (true, 1));
    let mut long = vec![0x97, 0xff, 0x00, 0xff];
    long.extend([0; 256]);
    long.extend(b"\x03avc1q");
    assert_eq!(only_part(FrameKind::Video, &long).length, 1);
}

#[test]
fn bodies_that_contradict_themselves_are_errors() {
    let error = |kind, body: &[u8]| parse(kind, 0, Bytes::copy_from_slice(body)).unwrap_err();
    for body in [
        &[][..],
        &[0x17],
        &[0x17, 1, 0],
        b"\x91hv",
        b"\x91hvc1\0",
        b"\x97\x05\0",
        b"\x96\x10avc1\x01\0\0\x09x",
        b"\x96\x10avc1",
    ] {
        assert_eq!(
            error(FrameKind::Video, body),
            FlvError::Truncated,
            "{body:02x?}"
        );
    }
    assert_eq!(error(FrameKind::Audio, &[0xaf]), FlvError::Truncated);
    assert_eq!(
        error(FrameKind::Video, b"\x96\x06avc1"),
        FlvError::Nested { packet_type: 6 }
    );
    let chain = [&[0x97][..], &[0, 0, 7].repeat(9)].concat();
    assert_eq!(error(FrameKind::Video, &chain), FlvError::TooManyModEx);
    let tracks = [&b"\x96\x10avc1"[..], &[0, 0, 0, 0].repeat(33)].concat();
    assert_eq!(error(FrameKind::Video, &tracks), FlvError::TooManyTracks);
    assert_eq!(
        parse_or_opaque(FrameKind::Video, 3, Bytes::from_static(&[0x17])),
        Frame::opaque(FrameKind::Video, 3, Bytes::from_static(&[0x17]))
    );
}

#[test]
fn metadata_is_recognised_and_stripped_for_players() {
    let script = |body: &'static [u8]| parsed(FrameKind::Script, body);
    let published = script(b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09");
    let bare = script(b"\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09");
    assert!(metadata(&published));
    assert!(metadata(&bare));
    assert_eq!(player_body(&published), bare.body);
    assert_eq!(player_body(&bare), bare.body);
    assert!(!metadata(&script(b"\x02\x00\x0aonTextData")));
    assert!(!metadata(&script(b"\x02\xff\xffonMetaData")));
    let not_script = parsed(FrameKind::Audio, b"");
    assert!(!metadata(&not_script));
}

#[test]
fn a_tag_is_framed_as_the_specification_says() {
    assert_eq!(
        tag_header(FrameKind::Video, 0x0102_0304, 0x0a0b0c),
        Some([9, 10, 11, 12, 2, 3, 4, 1, 0, 0, 0])
    );
    assert_eq!(
        tag_header(FrameKind::Audio, -5, 0),
        Some([8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    );
    assert_eq!(
        tag_header(FrameKind::Audio, 1 << 31, 0),
        tag_header(FrameKind::Audio, 0, 0)
    );
    assert_eq!(tag_header(FrameKind::Video, 0, BODY_BYTES_MAX + 1), None);
    assert_eq!(previous_tag_size(1), [0, 0, 0, 12]);
    assert_eq!(file_header(true, true)[4], 5);
}

proptest! {
    #[test]
    fn any_body_parses_without_panic_and_parts_lie_inside_it(
        kind in prop_oneof![Just(FrameKind::Audio), Just(FrameKind::Script), Just(FrameKind::Video)],
        first in any::<u8>(),
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..8], 0..80),
    ) {
        let body = Bytes::from([vec![first], rest].concat());
        let frame = parse_or_opaque(kind, 0, body.clone());
        prop_assert_eq!(&frame.body, &body);
        for part in &frame.parts {
            let end = u64::from(part.offset) + u64::from(part.length);
            prop_assert!(end <= body.len() as u64);
        }
        prop_assert!(player_body(&frame).len() <= body.len());
        metadata(&frame);
    }
}
