//! FLV bodies.

use bytes::Bytes;
use media::{
    FourCc, Frame, FrameKind,
    codec::{
        self, CodecConfiguration, DIMENSION_MAX, Dimensions,
        nalu::{self, NALUS_PER_FRAME_MAX},
        random_access,
    },
    flv,
};

use crate::script::Script;

/// The first byte says which kind of body the rest is.
pub(crate) fn flv(data: &[u8]) {
    let mut script = Script::new(data);
    let kind = match script.u8() % 3 {
        0 => FrameKind::Audio,
        1 => FrameKind::Video,
        _ => FrameKind::Script,
    };
    let body = Bytes::copy_from_slice(script.rest());
    let frame = flv::parse(kind, 0, body.clone());
    if let Ok(frame) = &frame {
        parts_lie_within_the_body(frame);
    }
    if let Some(bare) = frame.as_ref().ok().and_then(flv::without_adts) {
        assert!(bare.frame.body.len() < body.len() && body.ends_with(&bare.frame.body[2..]));
        parts_lie_within_the_body(&bare.frame);
        assert!(
            bare.sequence_header
                .is_none_or(|header| header.sequence_header())
        );
    }
    let passed = flv::parse_or_opaque(kind, 0, body.clone());
    assert_eq!(passed.body, body, "bodies are never changed");
    assert_eq!(
        passed.parts,
        frame.map(|frame| frame.parts).unwrap_or_default()
    );
    let played = flv::player_body(&passed);
    assert!(body.ends_with(&played));
    flv::metadata(&passed);
    assert!(flv::tag_header(kind, 0, body.len()).is_some());
}

fn parts_lie_within_the_body(frame: &Frame) {
    assert!(frame.parts.len() <= flv::TRACKS_PER_MESSAGE_MAX);
    let mut end = 0;
    for part in &frame.parts {
        let offset = usize::try_from(part.offset).unwrap();
        assert!(offset >= end, "parts overlap: {:?}", frame.parts);
        end = offset + usize::try_from(part.length).unwrap();
        assert!(
            end <= frame.body.len(),
            "{part:?} of {} bytes",
            frame.body.len()
        );
    }
}

/// Every codec whose decoder configuration or coded media is looked into.
const CODECS: [&[u8; 4]; 12] = [
    b"avc1", b"hvc1", b"vvc1", b"av01", b"vp08", b"vp09", b"mp4a", b"Opus", b"fLaC", b"ac-3",
    b"ec-3", b".mp3",
];

/// The first byte says which codec's configuration or coded media the rest is, and how long lengths in it are.
pub(crate) fn codec(data: &[u8]) {
    let mut script = Script::new(data);
    let choice = usize::from(script.u8());
    let codec = FourCc(*CODECS[choice % CODECS.len()]);
    let length_bytes = u8::try_from(choice / CODECS.len() % 6)
        .unwrap()
        .checked_sub(1);
    let bytes = script.rest();
    if let Ok(configuration) = codec::parse(codec, bytes) {
        is_plausible(&configuration);
    }
    if let Some(configuration) = codec::probe(codec, bytes) {
        is_plausible(&configuration);
    }
    random_access::look(codec, bytes, length_bytes);
    if let Some(length_bytes) = length_bytes.filter(|length| *length > 0)
        && let Ok(count) = nalu::check(bytes, length_bytes)
    {
        assert!((1..=NALUS_PER_FRAME_MAX).contains(&count));
        assert_eq!(nalu::units(bytes, length_bytes).count(), count);
    }
}

fn is_plausible(configuration: &CodecConfiguration) {
    let text = &configuration.codec_string;
    let clean = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    assert!(
        !text.is_empty() && text.len() <= 64 && text.bytes().all(clean),
        "{text:?}"
    );
    if let Some(Dimensions { width, height }) = configuration.dimensions {
        assert!((1..=DIMENSION_MAX).contains(&width) && (1..=DIMENSION_MAX).contains(&height));
    }
    if let Some(rate) = configuration.frame_rate {
        assert!(rate.numerator > 0 && rate.denominator > 0);
    }
}
