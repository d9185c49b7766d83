//! Configurations that real encoders wrote: read here, by independent parsers, and broken.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by failing"
)]

use std::io::Cursor;

use h264_reader::{avcc::AvcDecoderConfigurationRecord, nal::Nal as _, nal::RefNal};
use media::{
    FourCc,
    codec::{self, CodecConfiguration, CodecError, Dimensions, channels, colour, nalu},
};
use proptest::prelude::*;

/// One line of the fixture.
struct Record {
    name: &'static str,
    codec: &'static str,
    from: &'static str,
    expected: &'static str,
    bytes: Vec<u8>,
}

impl Record {
    fn four_cc(&self) -> FourCc {
        FourCc(self.codec.as_bytes().try_into().unwrap())
    }

    fn read(&self, bytes: &[u8]) -> Option<CodecConfiguration> {
        match self.from {
            "header" => codec::parse(self.four_cc(), bytes).ok(),
            "frame" => codec::probe(self.four_cc(), bytes),
            _ => None,
        }
    }
}

fn records() -> Vec<Record> {
    let lines = include_str!("fixtures/configurations.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let [name, codec, from, expected, hex] =
                line.split('|').collect::<Vec<_>>().try_into().unwrap();
            Record {
                name,
                codec,
                from,
                expected,
                bytes: unhex(hex),
            }
        })
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn record(name: &str, from: &str) -> Record {
    let found = |record: &Record| record.name == name && record.from == from;
    records().into_iter().find(found).unwrap()
}

#[test]
fn what_real_encoders_wrote_is_read_as_it_is() {
    let mut read = 0;
    for record in records() {
        if record.from == "metadata" {
            continue;
        }
        let configuration = record.read(&record.bytes);
        let text = configuration.map(|configuration| configuration.to_string());
        assert_eq!(text.as_deref(), Some(record.expected), "{}", record.name);
        read += 1;
    }
    assert_eq!(read, 40);
}

#[test]
fn bit_depth_transfer_profile_and_level_are_told_where_they_are_declared() {
    let told = |name| {
        let record = record(name, "header");
        let read = record.read(&record.bytes).unwrap();
        (
            read.profile,
            read.level,
            read.bit_depth,
            read.transfer_characteristics,
            read.nalu_length_bytes,
        )
    };
    assert_eq!(
        told("h264_pq"),
        (Some(66), Some(30), Some(8), Some(16), Some(4))
    );
    assert_eq!(
        told("h264_422_10"),
        (Some(122), Some(31), Some(10), None, Some(4))
    );
    assert_eq!(
        told("hevc_main10_hdr"),
        (Some(2), Some(123), Some(10), Some(16), Some(4))
    );
    assert_eq!(
        told("hevc_422"),
        (Some(4), Some(93), Some(12), None, Some(4))
    );
    assert_eq!(
        told("av1_hlg"),
        (Some(0), Some(1), Some(10), Some(18), None)
    );
    assert_eq!(told("vvc"), (Some(1), Some(32), Some(10), None, Some(4)));
    assert_eq!(told("vp9_2"), (Some(2), Some(11), Some(10), None, None));
    assert_eq!(told("flac"), (None, None, Some(16), None, None));
}

#[test]
fn h264_reader_agrees() {
    for record in records().iter().filter(|record| record.codec == "avc1") {
        let ours = record.read(&record.bytes).unwrap();
        let theirs = AvcDecoderConfigurationRecord::try_from(&record.bytes[..]).unwrap();
        let sps = theirs.sequence_parameter_sets().next().unwrap().unwrap();
        let sps = RefNal::new(sps, &[], true);
        let sps = h264_reader::nal::sps::SeqParameterSet::from_bits(sps.rbsp_bits()).unwrap();
        let Dimensions { width, height } = ours.dimensions.unwrap();
        assert_eq!((width, height), sps.pixel_dimensions().unwrap());
        let rate = ours.frame_rate.unwrap().per_second();
        assert!((rate - sps.fps().unwrap()).abs() < 1e-9, "{rate}");
        assert_eq!(
            ours.codec_string,
            sps.rfc6381()
                .to_string()
                .to_uppercase()
                .replace("AVC1", "avc1")
        );
    }
}

#[test]
fn scuffle_h265_agrees() {
    for record in records().iter().filter(|record| record.codec == "hvc1") {
        let ours = record.read(&record.bytes).unwrap();
        let theirs =
            scuffle_h265::HEVCDecoderConfigurationRecord::demux(Cursor::new(&record.bytes))
                .unwrap();
        let is_sps = |array: &&scuffle_h265::NaluArray| {
            array.nal_unit_type == scuffle_h265::NALUnitType::SpsNut
        };
        let sps = &theirs.arrays.iter().find(is_sps).unwrap().nalus[0];
        let sps = scuffle_h265::SpsNALUnit::parse(Cursor::new(sps))
            .unwrap()
            .rbsp;
        let Dimensions { width, height } = ours.dimensions.unwrap();
        assert_eq!(
            (u64::from(width), u64::from(height)),
            (sps.cropped_width(), sps.cropped_height())
        );
        let timing = sps.vui_parameters.unwrap().vui_timing_info.unwrap();
        let rate = f64::from(timing.time_scale.get()) / f64::from(timing.num_units_in_tick.get());
        assert!((ours.frame_rate.unwrap().per_second() - rate).abs() < 1e-9);
        assert_eq!(ours.level, Some(theirs.general_level_idc));
        assert_eq!(ours.profile, Some(theirs.general_profile_idc));
    }
}

#[test]
fn scuffle_av1_agrees() {
    let headers = |record: &&Record| record.codec == "av01" && record.from == "header";
    for record in records().iter().filter(headers) {
        let ours = record.read(&record.bytes).unwrap();
        // Behind the record's own four bytes.
        let mut obus = Cursor::new(&record.bytes[4..]);
        let header = scuffle_av1::ObuHeader::parse(&mut obus).unwrap();
        let theirs = scuffle_av1::seq::SequenceHeaderObu::parse(header, &mut obus).unwrap();
        let Dimensions { width, height } = ours.dimensions.unwrap();
        assert_eq!(
            (u64::from(width), u64::from(height)),
            (theirs.max_frame_width, theirs.max_frame_height)
        );
        assert_eq!(ours.profile, Some(theirs.seq_profile));
        assert_eq!(ours.level, Some(theirs.operating_points[0].seq_level_idx));
        let bit_depth = i32::from(ours.bit_depth.unwrap());
        assert_eq!(bit_depth, theirs.color_config.bit_depth);
    }
}

#[test]
fn colour_information_is_read() {
    for (name, transfer) in [("hevc_main10_hdr", 16), ("av1_hlg", 18)] {
        let info = colour::parse(&record(name, "metadata").bytes)
            .unwrap()
            .unwrap();
        assert_eq!(info.transfer_characteristics, Some(transfer));
        assert_eq!(
            (info.color_primaries, info.matrix_coefficients),
            (Some(9), Some(9))
        );
        assert_eq!(
            (info.bit_depth, info.mastering_chromaticities),
            (None, None)
        );
    }
}

#[test]
fn mastering_and_light_levels_are_read_among_other_values() {
    let text = |text: &str| [&[0, text.len() as u8][..], text.as_bytes()].concat();
    let number = |name: &str, value: f64| [&text(name)[..], &[0], &value.to_be_bytes()].concat();
    let end = [0, 0, 9];
    let chromaticities = [
        "redX",
        "redY",
        "greenX",
        "greenY",
        "blueX",
        "blueY",
        "whitePointX",
        "whitePointY",
    ];
    let chromaticities = (0_u8..).zip(chromaticities);
    let packet = [
        &[2][..],
        &text("other"),
        &[10, 0, 0, 0, 2, 1, 1, 5],
        &[2],
        &text("colorInfo"),
        &[8, 0, 0, 0, 9],
        &text("hdrCll"),
        &[3],
        &number("maxFall", 400.0),
        &number("maxCLL", 1000.0),
        &end,
        &text("hdrMdcv"),
        &[3],
        &number("maxLuminance", 1000.0),
        &number("minLuminance", 0.005),
        &chromaticities
            .flat_map(|(index, name)| number(name, f64::from(index)))
            .collect::<Vec<_>>(),
        &end,
        &text("colorConfig"),
        &[3],
        &number("bitDepth", 10.0),
        &number("transferCharacteristics", 1e9),
        &end,
        &end,
    ]
    .concat();
    let info = colour::parse(&packet).unwrap().unwrap();
    assert_eq!(
        (info.max_frame_average_light, info.max_content_light),
        (Some(400.0), Some(1000.0))
    );
    assert_eq!(info.mastering_min_luminance, Some(0.005));
    assert_eq!(info.mastering_chromaticities.unwrap()[7], 7.0);
    assert_eq!(
        (info.bit_depth, info.transfer_characteristics),
        (Some(10), None)
    );
    // Undefined resets, and so does an empty object.
    let reset = [&[2][..], &text("colorInfo"), &[6]].concat();
    assert_eq!(
        colour::parse(&reset),
        Ok(Some(colour::ColorInfo::default()))
    );
    assert_eq!(colour::parse(&[]), Ok(None));
}

#[test]
fn channel_layouts_are_read() {
    use channels::{ChannelOrder, MultichannelConfig};
    let read = channels::parse;
    // FFmpeg's, for mono.
    let mono = MultichannelConfig {
        channels: 1,
        order: ChannelOrder::Native(4),
    };
    assert_eq!(read(&[1, 1, 0, 0, 0, 4]), Ok(mono));
    assert_eq!(read(&[0, 2]).unwrap().order, ChannelOrder::Unspecified);
    assert_eq!(
        read(&[2, 3, 0, 0xfe, 0xff]).unwrap().order,
        ChannelOrder::Custom(vec![0, 0xfe, 0xff])
    );
    for broken in [
        &[][..],
        &[1, 0, 0, 0, 0, 4],
        &[1, 1, 0, 0],
        &[2, 2, 0],
        &[2, 1, 24],
        &[3, 1],
    ] {
        assert!(read(broken).is_err(), "{broken:?}");
    }
}

#[test]
fn records_in_other_wrappings_are_read() {
    // The AV1 video descriptor of MPEG2TSSequenceStart.
    let descriptor = codec::parse(FourCc(*b"av01"), &[0x80, 4, 0x81, 0x08, 0x0c, 0]).unwrap();
    assert_eq!(descriptor.codec_string, "av01.0.08M.08");
    // FLAC as Enhanced RTMP has it; FFmpeg 9 leaves marker and block header out.
    let bare = record("flac", "header").bytes;
    let whole = [b"fLaC\x80\0\0\x22", &bare[..]].concat();
    let flac = FourCc(*b"fLaC");
    assert_eq!(codec::parse(flac, &whole), codec::parse(flac, &bare));
    // VP9 and VVC with and without a full box's version and flags.
    let vp9 = record("vp9_0", "header").bytes;
    assert_eq!(
        codec::parse(FourCc(*b"vp09"), &vp9[4..]),
        codec::parse(FourCc(*b"vp09"), &vp9)
    );
    let vvc = record("vvc", "header").bytes;
    let boxed = [&[0; 4], &vvc[..]].concat();
    assert_eq!(
        codec::parse(FourCc(*b"vvc1"), &boxed),
        codec::parse(FourCc(*b"vvc1"), &vvc)
    );
    // Opus without its header.
    let opus = codec::parse(FourCc(*b"Opus"), &[]).unwrap();
    assert_eq!((opus.channels, opus.sample_rate), (None, Some(48_000)));
}

/// An AVCDecoderConfigurationRecord around one sequence parameter set.
fn avc_record(sps: &[u8]) -> Vec<u8> {
    let length = u16::try_from(sps.len()).unwrap().to_be_bytes();
    [&[1, 66, 0, 30, 0xff, 0xe1][..], &length, sps, &[0]].concat()
}

/// Writes fields of an SPS: Exp-Golomb codes, of which 0 is a flag that is set.
fn golomb(values: &[u64]) -> Vec<u8> {
    let mut bits = String::new();
    for value in values {
        let code = format!("{:b}", value + 1);
        bits.push_str(&"0".repeat(code.len() - 1));
        bits.push_str(&code);
    }
    bits.push_str("1000000000000000");
    let bytes = bits.as_bytes().chunks_exact(8);
    let byte = |chunk| u8::from_str_radix(str::from_utf8(chunk).unwrap(), 2).unwrap();
    let mut escaped = Vec::new();
    for byte in bytes.map(byte) {
        if byte <= 3 && escaped.ends_with(&[0, 0]) {
            escaped.push(3);
        }
        escaped.push(byte);
    }
    escaped
}

#[test]
fn hostile_44_sequence_headers_that_lie_are_errors() {
    let avc1 = FourCc(*b"avc1");
    let read = |record: &[u8]| codec::parse(avc1, record);
    let sps = |fields: &[u64]| avc_record(&[&[0x67, 66, 0, 30][..], &golomb(fields)].concat());
    // 31 parameter sets and no data; none at all; a set of 0 bytes; a picture set that is not there.
    assert_eq!(
        read(&[1, 66, 0, 30, 0xff, 0xff]),
        Err(CodecError::Truncated)
    );
    assert!(read(&[1, 66, 0, 30, 0xff, 0xe0, 0]).is_err());
    assert_eq!(read(&avc_record(&[])), Err(CodecError::Truncated));
    let mut without_pps = sps(&[0, 0, 2, 0, 0, 19, 14]);
    *without_pps.last_mut().unwrap() = 1;
    assert_eq!(read(&without_pps), Err(CodecError::Truncated));
    // An Exp-Golomb code of 40 zeros.
    let zeros = avc_record(&[0x67, 66, 0, 30, 0, 0, 0, 0, 0, 0xff]);
    assert!(matches!(read(&zeros), Err(CodecError::Invalid { .. })));
    // Widths of 2^31 macroblocks and of 16 400 pixels; a cropping window that leaves nothing.
    for width in [1 << 31, 0xffff_fffe, 1024] {
        assert_eq!(
            read(&sps(&[0, 0, 2, 0, 0, width, 14])),
            Err(CodecError::Limit { field: "size" })
        );
    }
    let cropped = sps(&[0, 0, 2, 0, 0, 19, 14, 0, 0, 0, 0, 200, 0, 0]);
    assert_eq!(read(&cropped), Err(CodecError::Invalid { field: "size" }));
    // Picture order counts without end.
    assert!(read(&sps(&[0, 0, 1])).is_err());
    // Not a parameter set, an unknown version, a length of three bytes.
    assert!(read(&avc_record(&[0x41, 66, 0, 30])).is_err());
    assert!(read(&[2, 66, 0, 30, 0xff, 0xe0, 0]).is_err());
    assert!(read(&[1, 66, 0, 30, 0xfe, 0xe0, 0]).is_err());
    // HEVC and VVC: arrays of more NAL units than any encoder has, all of them empty.
    let hevc = [
        &record("hevc_main", "header").bytes[..22],
        &[1, 33, 0xff, 0xff],
        &[0; 4096],
    ]
    .concat();
    assert_eq!(
        codec::parse(FourCc(*b"hvc1"), &hevc),
        Err(CodecError::Limit { field: "numNalus" })
    );
    let vvc = [&[0xfe, 1, 15, 0xff, 0xff][..], &[0; 4096]].concat();
    assert_eq!(
        codec::parse(FourCc(*b"vvc1"), &vvc),
        Err(CodecError::Limit { field: "numNalus" })
    );
    // AMF0 nested 10 000 deep, an array of 2^32 values, and 10 000 values.
    let name = b"\x02\0\x09colorInfo";
    let deep = [&name[..], &b"\x03\0\x01a".repeat(10_000)].concat();
    assert!(matches!(
        colour::parse(&deep),
        Err(CodecError::Limit { .. })
    ));
    let count = [&name[..], &[10, 0xff, 0xff, 0xff, 0xff, 5, 5]].concat();
    assert_eq!(colour::parse(&count), Err(CodecError::Truncated));
    let many = [&name[..], &[3], &b"\0\x01a\x05".repeat(10_000)].concat();
    assert!(matches!(
        colour::parse(&many),
        Err(CodecError::Limit { .. })
    ));
}

#[test]
fn hostile_46_nal_units_are_held_against_their_frame() {
    use nalu::{NaluError, check};
    let unit = |length: u32| [&length.to_be_bytes()[..], &[9; 3]].concat();
    assert_eq!(check(&[unit(3), unit(3)].concat(), 4), Ok(2));
    assert_eq!(check(&[0, 2, 9, 9], 2), Ok(1));
    assert_eq!(check(&unit(4), 4), Err(NaluError::Overrun));
    assert_eq!(check(&unit(u32::MAX), 4), Err(NaluError::Overrun));
    assert_eq!(
        check(&[unit(3), vec![0, 0]].concat(), 4),
        Err(NaluError::Overrun)
    );
    // Without a byte: beside others they do no harm, alone they are no frame.
    assert_eq!(check(&[unit(3), vec![0; 4]].concat(), 4), Ok(2));
    assert_eq!(check(&[0; 8], 4), Err(NaluError::Empty));
    assert_eq!(check(&[], 4), Err(NaluError::Empty));
    assert_eq!(check(&[0; 400_000], 4), Err(NaluError::TooMany));
    // Start codes; and a NAL unit of one byte, which looks like one and is none.
    let annex_b = [0, 0, 0, 1, 0x67, 66, 0, 30, 0, 0, 0, 1, 0x65, 1, 2, 3];
    assert_eq!(check(&annex_b, 4), Err(NaluError::AnnexB));
    assert_eq!(check(&[0, 0, 0, 1, 9], 4), Ok(1));
}

/// A way to break bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let value = prop_oneof![any::<u8>(), Just(0), Just(0xff)];
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Mutation::Cut),
        (any::<prop::sample::Index>(), value.clone()).prop_map(|(at, to)| Mutation::Insert(at, to)),
        (any::<prop::sample::Index>(), value).prop_map(|(at, to)| Mutation::Set(at, to)),
    ]
}

fn read_everything(bytes: &[u8]) {
    for codec in [
        b"avc1", b"hvc1", b"vvc1", b"av01", b"vp08", b"vp09", b"mp4a", b"Opus", b"fLaC", b"ac-3",
        b"ec-3", b".mp3",
    ] {
        let read = [
            codec::parse(FourCc(*codec), bytes).ok(),
            codec::probe(FourCc(*codec), bytes),
        ];
        for configuration in read.into_iter().flatten() {
            if let Some(Dimensions { width, height }) = configuration.dimensions {
                assert!((1..=codec::DIMENSION_MAX).contains(&width));
                assert!((1..=codec::DIMENSION_MAX).contains(&height));
            }
            assert!(configuration.codec_string.len() < 100);
            assert_ne!(configuration.sample_rate, Some(0));
        }
    }
    colour::parse(bytes).ok();
    channels::parse(bytes).ok();
    for length_bytes in [1, 2, 4] {
        nalu::check(bytes, length_bytes).ok();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn broken_records_are_read_without_panic(
        which in any::<prop::sample::Index>(),
        mutations in proptest::collection::vec(mutation(), 1..8),
    ) {
        let mut bytes = which.get(&records()).bytes.clone();
        for mutation in mutations {
            match mutation {
                Mutation::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
                Mutation::Insert(at, value) => bytes.insert(at.index(bytes.len() + 1), value),
                Mutation::Set(_, _) if bytes.is_empty() => {}
                Mutation::Set(at, value) => {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
            }
        }
        read_everything(&bytes);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
    }
}
