//! Whether a coded picture is one that a decoder can start at: what the access unit says against what its flag says.

use super::{
    av1,
    bits::{BitReader, rbsp},
    nalu::{self, NALUS_PER_FRAME_MAX},
    vpx,
};
use crate::FourCc;

/// What an access unit says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessUnit {
    /// It needs pictures before it.
    Dependent,
    /// A decoder can start here.
    RandomAccess,
    /// It does not say, or a decoder can start here after a fashion: its flag stands.
    Undecided,
}

/// Most bytes of a message of supplemental enhancement information that are looked through.
const SEI_BYTES_MAX: usize = 256;
/// Most bytes of a slice header that are looked at.
const SLICE_HEADER_BYTES_MAX: usize = 16;
/// `payloadType` of a recovery point, in H.264 and H.265 alike.
const SEI_RECOVERY_POINT: usize = 6;

/// Reads as far as the first picture of an access unit; `nalu_length_bytes` is what its sequence header announced.
pub fn look(codec: FourCc, payload: &[u8], nalu_length_bytes: Option<u8>) -> AccessUnit {
    match &codec.0 {
        b"avc1" => first_picture(payload, nalu_length_bytes, avc),
        b"hvc1" => first_picture(payload, nalu_length_bytes, hevc),
        b"vvc1" => first_picture(payload, nalu_length_bytes, vvc),
        b"av01" => av1::access(payload),
        b"vp08" => vpx::vp8_access(payload),
        b"vp09" => vpx::vp9_access(payload),
        _ => AccessUnit::Undecided,
    }
}

/// What a NAL unit is to the question.
enum Nalu<'a> {
    /// Neither a picture nor about one.
    Beside,
    Picture(AccessUnit),
    /// Supplemental enhancement information, behind its NAL unit header.
    Sei(&'a [u8]),
}

fn first_picture<'a>(
    payload: &'a [u8],
    nalu_length_bytes: Option<u8>,
    classify: fn(&'a [u8]) -> Nalu<'a>,
) -> AccessUnit {
    let Some(length_bytes) = nalu_length_bytes else {
        return AccessUnit::Undecided;
    };
    let mut recovery_point = false;
    for nalu in nalu::units(payload, length_bytes).take(NALUS_PER_FRAME_MAX) {
        match classify(nalu) {
            Nalu::Beside => {}
            // Open groups of pictures and periodic intra refresh: the encoder's word counts.
            Nalu::Picture(AccessUnit::Dependent) if recovery_point => return AccessUnit::Undecided,
            Nalu::Picture(said) => return said,
            Nalu::Sei(messages) => recovery_point |= has_recovery_point(messages),
        }
    }
    AccessUnit::Undecided
}

/// H.264 §7.4.1, table 7-1.
fn avc(nalu: &[u8]) -> Nalu<'_> {
    let Some((header, behind)) = nalu.split_first() else {
        return Nalu::Beside;
    };
    match header & 0x1f {
        // Some encoders never send another IDR picture than the first, and flag intra pictures.
        1 | 2 if intra_slice(behind) => Nalu::Picture(AccessUnit::Undecided),
        1 | 2 => Nalu::Picture(AccessUnit::Dependent),
        5 => Nalu::Picture(AccessUnit::RandomAccess),
        6 => Nalu::Sei(behind),
        _ => Nalu::Beside,
    }
}

/// H.264 §7.4.3, table 7-6: I and SI. What cannot be read contradicts nothing.
fn intra_slice(slice: &[u8]) -> bool {
    let header = rbsp(slice.get(..SLICE_HEADER_BYTES_MAX).unwrap_or(slice));
    let mut reader = BitReader::new(&header);
    let slice_type = reader.ue().and_then(|_first_macroblock| reader.ue());
    slice_type.is_ok_and(|slice_type| matches!(slice_type % 5, 2 | 4)) || slice_type.is_err()
}

/// H.265 §7.4.2.2, table 7-1.
fn hevc(nalu: &[u8]) -> Nalu<'_> {
    let Some(([header, _], behind)) = nalu.split_first_chunk::<2>() else {
        return Nalu::Beside;
    };
    match header >> 1 & 0x3f {
        0..=15 => Nalu::Picture(AccessUnit::Dependent),
        16..=23 => Nalu::Picture(AccessUnit::RandomAccess),
        24..=31 => Nalu::Picture(AccessUnit::Undecided),
        39 => Nalu::Sei(behind),
        _ => Nalu::Beside,
    }
}

/// H.266 §7.4.2.2, table 5. Of gradual decoding refresh (10) the flag says whether it is meant.
fn vvc(nalu: &[u8]) -> Nalu<'_> {
    let Some(([_, header], _)) = nalu.split_first_chunk::<2>() else {
        return Nalu::Beside;
    };
    match header >> 3 {
        0..=6 => Nalu::Picture(AccessUnit::Dependent),
        7..=9 | 11 => Nalu::Picture(AccessUnit::RandomAccess),
        10 => Nalu::Picture(AccessUnit::Undecided),
        _ => Nalu::Beside,
    }
}

/// H.264 §7.3.2.3.1, H.265 §7.3.5: messages of a type and a size, each in steps of 255.
fn has_recovery_point(messages: &[u8]) -> bool {
    let messages = rbsp(messages.get(..SEI_BYTES_MAX).unwrap_or(messages));
    let mut rest = &messages[..];
    // Behind the last message are trailing bits: one byte.
    while rest.len() > 1 {
        let Some((payload_type, behind)) = steps_of_255(rest) else {
            return false;
        };
        let Some((size, behind)) = steps_of_255(behind) else {
            return false;
        };
        if payload_type == SEI_RECOVERY_POINT {
            return true;
        }
        rest = behind.get(size..).unwrap_or_default();
    }
    false
}

fn steps_of_255(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let steps = bytes.iter().take_while(|byte| **byte == 0xff).count();
    let (last, behind) = bytes.get(steps..)?.split_first()?;
    // At most SEI_BYTES_MAX steps.
    Some((255 * steps + usize::from(*last), behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(codec: &[u8; 4], units: &[&[u8]]) -> AccessUnit {
        let payload: Vec<u8> = units
            .iter()
            .flat_map(|unit| [&u32::try_from(unit.len()).unwrap().to_be_bytes()[..], unit].concat())
            .collect();
        look(FourCc(*codec), &payload, Some(4))
    }

    use AccessUnit::{Dependent, RandomAccess, Undecided};

    /// First macroblock 0, slice types 7 (I) and 5 (P).
    const AVC_I: &[u8] = &[0x41, 0x88, 0x80];
    const AVC_P: &[u8] = &[0x41, 0x9a, 0x80];
    /// x264's version (truncated), then a recovery point, as x264 writes it for open groups of pictures.
    const AVC_RECOVERY_POINT: &[u8] = &[0x06, 0x05, 0x03, 1, 2, 3, 0x06, 0x01, 0xc4, 0x80];

    #[test]
    fn avc_says_it_by_its_idr_slices() {
        let (sps, pps, sei) = (&[0x67, 1][..], &[0x68, 1][..], &[6, 5, 1, 9, 0x80][..]);
        assert_eq!(said(b"avc1", &[sps, pps, sei, &[0x65, 0x88]]), RandomAccess);
        assert_eq!(said(b"avc1", &[&[9, 0x10], &[0x25, 0x88]]), RandomAccess);
        assert_eq!(said(b"avc1", &[&[9, 0x30], AVC_P]), Dependent);
        assert_eq!(said(b"avc1", &[sei, AVC_P]), Dependent);
        assert_eq!(said(b"avc1", &[&[0x41, 0x9e]]), Dependent, "B");
        assert_eq!(said(b"avc1", &[AVC_RECOVERY_POINT, AVC_P]), Undecided);
        assert_eq!(said(b"avc1", &[AVC_I]), Undecided);
        assert_eq!(said(b"avc1", &[&[0x41]]), Undecided, "a slice cut short");
        assert_eq!(said(b"avc1", &[sps, pps]), Undecided, "no picture");
        // Emulation prevention inside of a message does not shift what is behind it.
        let emulated = &[6, 5, 5, 0, 0, 3, 1, 0, 0, 6, 1, 0xc4, 0x80];
        assert_eq!(said(b"avc1", &[emulated, AVC_P]), Undecided);
        // A message longer than its unit, and one that is longer than what is looked at.
        assert_eq!(said(b"avc1", &[&[6, 5, 0xff, 0xff], AVC_P]), Dependent);
        let long = [&[6, 5, 0xff, 0xff, 0][..], &[7; 510], &[6, 1, 0xc4, 0x80]].concat();
        assert_eq!(said(b"avc1", &[&long, AVC_P]), Dependent);
    }

    #[test]
    fn hevc_and_vvc_say_it_by_the_type_of_their_pictures() {
        for nalu_type in 0..=63 {
            let expected = match nalu_type {
                0..=15 => Dependent,
                16..=23 => RandomAccess,
                _ => Undecided,
            };
            assert_eq!(
                said(b"hvc1", &[&[0x40, 1, 9], &[nalu_type << 1, 1, 9]]),
                expected
            );
        }
        let recovery_point = &[39 << 1, 1, 6, 1, 0x80, 0x80];
        assert_eq!(said(b"hvc1", &[recovery_point, &[2, 1, 9]]), Undecided);
        for nalu_type in 0..=31 {
            let expected = match nalu_type {
                0..=6 => Dependent,
                7..=9 | 11 => RandomAccess,
                _ => Undecided,
            };
            assert_eq!(
                said(b"vvc1", &[&[0, nalu_type << 3 | 1, 9]]),
                expected,
                "{nalu_type}"
            );
        }
    }

    #[test]
    fn nal_units_that_do_not_fit_or_are_too_many_decide_nothing() {
        let avc = FourCc(*b"avc1");
        assert_eq!(look(avc, &[0, 0, 0, 9, 0x65], Some(4)), Undecided);
        assert_eq!(look(avc, &[0, 0], Some(4)), Undecided);
        assert_eq!(look(avc, &[0, 0, 0, 2, 0x65, 1], None), Undecided);
        assert_eq!(look(avc, &[0, 1, 0x65], Some(2)), RandomAccess);
        let many = [vec![0; NALUS_PER_FRAME_MAX], vec![1, 0x65]].concat();
        assert_eq!(look(avc, &many, Some(1)), Undecided);
        assert_eq!(look(avc, &many[1..], Some(1)), RandomAccess);
    }

    #[test]
    fn vp8_vp9_and_av1_say_it_by_their_frame_headers() {
        let look = |codec: &[u8; 4], payload: &[u8]| look(FourCc(*codec), payload, None);
        assert_eq!(
            look(b"vp08", &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 64]),
            RandomAccess
        );
        assert_eq!(look(b"vp08", &[0x11, 0, 0]), Dependent);
        assert_eq!(look(b"vp08", &[0x10, 0, 0, 1, 2, 3]), Undecided);
        assert_eq!(look(b"vp08", &[]), Undecided);
        assert_eq!(look(b"vp09", &[0x82, 0x49, 0x83, 0x42, 0]), RandomAccess);
        assert_eq!(look(b"vp09", &[0x86, 0]), Dependent);
        assert_eq!(look(b"vp09", &[0x88]), Dependent, "shows an existing frame");
        assert_eq!(look(b"vp09", &[0x82, 1, 2, 3]), Undecided);
        assert_eq!(look(b"vp09", &[0]), Undecided);

        const SEQUENCE: &[u8] = b"\x0a\x0b\0\0\0\x24\xc4\xff\xdf\x3f\xfe\xbf\x02";
        let unit = |parts: &[&[u8]]| [&[0x12, 0][..], &parts.concat()].concat();
        // Frame type, whether it is shown: key, then inter, of a frame and of a frame header.
        assert_eq!(
            look(b"av01", &unit(&[SEQUENCE, &[0x32, 1, 0x10]])),
            RandomAccess
        );
        assert_eq!(
            look(b"av01", &unit(&[SEQUENCE, &[0x1a, 1, 0x10]])),
            RandomAccess
        );
        assert_eq!(
            look(b"av01", &unit(&[&[0x32, 1, 0x10]])),
            Undecided,
            "no sequence header"
        );
        assert_eq!(
            look(b"av01", &unit(&[SEQUENCE, &[0x32, 1, 0]])),
            Undecided,
            "hidden"
        );
        assert_eq!(
            look(b"av01", &unit(&[SEQUENCE, &[0x32, 1, 0x30]])),
            Dependent
        );
        assert_eq!(look(b"av01", &unit(&[&[0x32, 1, 0x30]])), Dependent);
        assert_eq!(
            look(b"av01", &unit(&[SEQUENCE, &[0x32, 1, 0x90]])),
            Undecided,
            "shown again"
        );
        assert_eq!(
            look(b"av01", &unit(&[&[0x32, 9, 0x30]])),
            Undecided,
            "cut short"
        );
        assert_eq!(look(b"Opus", &[0]), Undecided);
    }
}
