use proptest::prelude::*;

use super::*;
use crate::PartType;

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
fn silence_commands_and_script_data_have_no_parts() {
    for (kind, body) in [
        (FrameKind::Audio, &[][..]),
        (FrameKind::Video, &[0x57, 0]),
        (FrameKind::Video, &[0xd1, 0]),
        (FrameKind::Video, &[0xd6, 0]),
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
fn hostile_50_what_nobody_defined_is_named_and_never_read() {
    let video = FrameKind::Video;
    let audio = FrameKind::Audio;
    for (kind, body, reason) in [
        (audio, &[0xf0, 1, 2][..], "unknown_codec"),
        (audio, b"\x91flac\0", "unknown_codec"),
        (audio, b"\x91opus\0", "unknown_codec"),
        (video, b"\x91Opus\0", "unknown_codec"),
        (video, &[0x1f, 7, 0], "unknown_codec"),
        (audio, &[0xaf, 9], "unknown_packet_type"),
        (audio, b"\x93Opus", "unknown_packet_type"),
        (audio, b"\x9fOpus", "unknown_packet_type"),
        (video, &[0x17, 7, 0], "unknown_packet_type"),
        (video, &[0x9f, 1, 2, 3, 4, 5], "unknown_packet_type"),
        (video, b"\x98avc1", "unknown_packet_type"),
        (video, b"\x96\x31avc1\0", "unknown_packet_type"),
        (audio, &[0x90], "truncated"),
        (audio, b"\x90O", "truncated"),
        (audio, b"\x90Opu", "truncated"),
        (video, &[], "truncated"),
        (video, &[0x17], "truncated"),
        (video, &[0x12], "truncated"),
        (video, &[0x57], "truncated"),
        (video, &[0xd1], "truncated"),
    ] {
        let error = parse(kind, 0, Bytes::from_static(body)).unwrap_err();
        assert_eq!(error.reason(), reason, "{body:02x?}");
        let passed = parse_or_opaque(kind, 0, Bytes::from_static(body));
        assert_eq!((&passed.body[..], passed.parts.len()), (body, 0));
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
fn every_packet_type_is_told_apart() {
    use PartType::{Coded, Metadata, SequenceEnd, SequenceHeader};
    for (packet_type, expected) in [
        (0, SequenceHeader),
        (1, Coded),
        (2, SequenceEnd),
        (3, Coded),
        (4, Metadata),
        (5, SequenceHeader),
    ] {
        for codec in enhanced::VIDEO_CODECS {
            let one = [&[0x90 | packet_type][..], &codec.0, &[0; 4]].concat();
            let one = only_part(FrameKind::Video, &one);
            let wrapped = [&[0x96, packet_type][..], &codec.0, &[0; 5]].concat();
            let wrapped = only_part(FrameKind::Video, &wrapped);
            assert_eq!((one.part_type, one.codec), (expected, codec));
            let place = Part {
                offset: one.offset + 2,
                ..one
            };
            assert_eq!(wrapped, place, "track 0 is track 0, wrapped or not");
        }
    }
    for (packet_type, expected) in [
        (0, SequenceHeader),
        (1, Coded),
        (2, SequenceEnd),
        (4, Metadata),
    ] {
        for codec in enhanced::AUDIO_CODECS {
            let one = [&[0x90 | packet_type][..], &codec.0, &[0; 4]].concat();
            let one = only_part(FrameKind::Audio, &one);
            assert_eq!((one.part_type, one.codec), (expected, codec));
            assert_eq!((one.offset, one.length), (5, 4));
        }
    }
}

#[test]
fn composition_times_belong_to_coded_frames_of_three_codecs() {
    for (codec, offset) in [
        (b"avc1", 8),
        (b"hvc1", 8),
        (b"vvc1", 8),
        (b"av01", 5),
        (b"vp08", 5),
        (b"vp09", 5),
    ] {
        let body = [&[0xa1][..], codec, &[0xff, 0xff, 0xfe, 1]].concat();
        let part = only_part(FrameKind::Video, &body);
        let expected = if offset == 8 { -2 } else { 0 };
        assert_eq!(
            (part.offset, part.composition_offset_ms),
            (offset, expected)
        );
    }
    let many = parsed(
        FrameKind::Video,
        b"\x96\x21hvc1\x00\0\0\x04\0\0\x07xav01\x03\0\0\x01y",
    );
    let read: Vec<_> = many
        .parts
        .iter()
        .map(|part| {
            (
                part.track,
                part.composition_offset_ms,
                part.payload(&many.body),
            )
        })
        .collect();
    assert_eq!(read, [(0, 7, &b"x"[..]), (3, 0, b"y")]);
}

#[test]
fn metadata_may_have_the_command_frame_type_also_in_a_multitrack_body() {
    let part = only_part(FrameKind::Video, b"\xd6\x04hvc1\x01\x02\0\x09colorInfo");
    assert_eq!((part.part_type, part.track), (PartType::Metadata, 1));
    let part = only_part(FrameKind::Video, b"\x84hvc1\x02\0\x09colorInfo");
    assert_eq!(part.part_type, PartType::Metadata, "OBS sets frame type 0");
}

#[test]
fn mod_ex_prefixes_are_read() {
    let part = only_part(FrameKind::Video, b"\x97\x02\x00\x00\x05\x01hvc1\0\0\0z");
    assert_eq!((part.keyframe, part.length), (true, 1));
    assert_eq!(part.timestamp_offset_ns, 5);
    let part = only_part(FrameKind::Audio, b"\x97\x02\x0f\x42\x3f\x01Opusz");
    assert_eq!(part.timestamp_offset_ns, 999_999);
    let part = only_part(FrameKind::Audio, b"\x97\x02\xff\xff\xff\x01Opusz");
    assert_eq!(part.timestamp_offset_ns, TIMESTAMP_OFFSET_NS_MAX);
    // Longer than its three bytes; then one that nobody defined; then multitrack.
    let chained = b"\x97\x03\x00\x00\x09\xaa\x07\x00\x00\x16\x01avc1\x02\0\0\0q";
    let part = only_part(FrameKind::Video, chained);
    assert_eq!((part.track, part.timestamp_offset_ns), (2, 9));
    let mut long = vec![0x97, 0xff, 0x00, 0xff];
    long.extend([0; 256]);
    long.extend(b"\x03avc1q");
    assert_eq!(only_part(FrameKind::Video, &long).length, 1);
}

#[test]
fn hostile_49_multitrack_and_mod_ex_stay_inside_their_limits() {
    let reason = |body: Vec<u8>| {
        parse(FrameKind::Video, 0, body.into())
            .err()
            .map(|error| error.reason())
    };
    // A size behind the end, and a second entry cut short.
    assert_eq!(
        reason(b"\x96\x11avc1\x01\xff\xff\xffx".to_vec()),
        Some("truncated")
    );
    assert_eq!(
        reason(b"\x96\x13avc1\x01\0\0\x01x\x02\0".to_vec()),
        Some("truncated")
    );
    assert_eq!(
        reason(b"\x96\x23avc1\x01\0\0\x01xavc".to_vec()),
        Some("truncated")
    );
    // 256 ids in one message.
    let ids = (0..=255).flat_map(|id| [id, 0, 0, 1, 9]);
    let many = b"\x96\x13avc1".iter().copied().chain(ids).collect();
    assert_eq!(reason(many), Some("tracks"));
    assert_eq!(reason(b"\x96\x06\x96\x06avc1".to_vec()), Some("nested"));
    assert_eq!(
        reason(b"\x96\x07\x02\0\0\x01\x01avc1".to_vec()),
        Some("nested")
    );
    // 100 000 prefixes; one that is too short for its type; 65 536 bytes that are not there.
    let chain = [&[0x97][..], &[2, 0, 0, 0, 7].repeat(100_000)].concat();
    assert_eq!(reason(chain), Some("mod_ex"));
    assert_eq!(reason(b"\x97\x01\0\0\x01avc1z".to_vec()), Some("truncated"));
    assert_eq!(
        reason(b"\x97\xff\xff\xff\0\0\0".to_vec()),
        Some("truncated")
    );
    // One track has no size: whatever follows is its payload.
    let part = only_part(FrameKind::Video, b"\x96\x03avc1\xffxyz");
    assert_eq!((part.track, part.length), (255, 3));
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
    let chain = [&[0x97][..], &[0, 0, 0x17].repeat(9)].concat();
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
fn an_adts_header_before_raw_aac_is_taken_out() {
    // AAC-LC, 44.1 kHz, stereo; nine bytes in all.
    let sent = parsed(
        FrameKind::Audio,
        b"\xaf\x01\xff\xf1\x50\x80\x01\x3f\xfc\x21\x22",
    );
    let bare = without_adts(&sent).unwrap();
    assert_eq!(bare.frame, parsed(FrameKind::Audio, b"\xaf\x01\x21\x22"));
    assert_eq!(without_adts(&bare.frame), None);
    let header = bare.sequence_header.unwrap();
    assert_eq!(header, parsed(FrameKind::Audio, b"\xaf\x00\x12\x10"));
    assert!(header.sequence_header());
    // More or less than one frame, a sequence header, Enhanced RTMP, another codec, silence, video: left alone.
    for (kind, body) in [
        (
            FrameKind::Audio,
            &b"\xaf\x01\xff\xf1\x50\x80\x01\x3f\xfc\x21"[..],
        ),
        (
            FrameKind::Audio,
            b"\xaf\x00\xff\xf1\x50\x80\x01\x3f\xfc\x21\x22",
        ),
        (
            FrameKind::Audio,
            b"\x91mp4a\xff\xf1\x50\x80\x01\x3f\xfc\x21\x22",
        ),
        (
            FrameKind::Audio,
            b"\x2f\x01\xff\xf1\x50\x80\x01\x3f\xfc\x21\x22",
        ),
        (FrameKind::Audio, b"\xaf\x01"),
        (FrameKind::Audio, b""),
        (
            FrameKind::Video,
            b"\x27\x01\xff\xf1\x50\x80\x01\x3f\xfc\x21\x22",
        ),
    ] {
        assert_eq!(without_adts(&parsed(kind, body)), None, "{body:02x?}");
    }
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
