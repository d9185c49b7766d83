//! colorInfo: a video track's colour and high dynamic range, as AMF0 (which is read here as far as numbers in objects
//! go).

use super::{CodecError, bits::BitReader};

/// Deepest nesting of objects that is read.
const DEPTH_MAX: usize = 8;
/// Most values of one packet.
const VALUES_MAX: usize = 256;

/// What colorInfo declares; `None` is "not declared". Every packet replaces the one before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColorInfo {
    /// `colorConfig.bitDepth`.
    pub bit_depth: Option<u8>,
    /// As ITU-T H.273 numbers them.
    pub color_primaries: Option<u8>,
    /// As ITU-T H.273 numbers them; 16 is PQ, 18 is HLG.
    pub transfer_characteristics: Option<u8>,
    /// As ITU-T H.273 numbers them.
    pub matrix_coefficients: Option<u8>,
    /// `hdrCll.maxFall`: brightest average of a frame, in cd/m².
    pub max_frame_average_light: Option<f64>,
    /// `hdrCll.maxCLL`: brightest pixel, in cd/m².
    pub max_content_light: Option<f64>,
    /// `hdrMdcv.maxLuminance`, in cd/m².
    pub mastering_max_luminance: Option<f64>,
    /// `hdrMdcv.minLuminance`, in cd/m².
    pub mastering_min_luminance: Option<f64>,
    /// `hdrMdcv`: x and y of red, green, blue and white, where all eight are declared.
    pub mastering_chromaticities: Option<[f64; 8]>,
}

/// Reads a Metadata packet: pairs of a name and a value. `None`: colorInfo is not among them.
pub fn parse(packet: &[u8]) -> Result<Option<ColorInfo>, CodecError> {
    let mut reader = Amf0 {
        reader: BitReader::new(packet),
        values: 0,
    };
    let mut found = None;
    while reader.reader.remaining() > 0 {
        if reader.reader.u8()? != STRING {
            return Err(CodecError::Invalid { field: "name" });
        }
        if reader.text()? == b"colorInfo" {
            let mut info = ColorInfo::default();
            let mut chromaticities = [None; 8];
            reader.value(&mut Vec::new(), &mut |path, number| {
                note(&mut info, &mut chromaticities, path, number);
            })?;
            if let [
                Some(a),
                Some(b),
                Some(c),
                Some(d),
                Some(e),
                Some(f),
                Some(g),
                Some(h),
            ] = chromaticities
            {
                info.mastering_chromaticities = Some([a, b, c, d, e, f, g, h]);
            }
            found = Some(info);
        } else {
            reader.value(&mut Vec::new(), &mut |_path, _number| {})?;
        }
    }
    Ok(found)
}

const CHROMATICITIES: [&[u8]; 8] = [
    b"redX",
    b"redY",
    b"greenX",
    b"greenY",
    b"blueX",
    b"blueY",
    b"whitePointX",
    b"whitePointY",
];

/// Numbers that no byte holds say nothing.
fn note(info: &mut ColorInfo, chromaticities: &mut [Option<f64>; 8], path: &[&[u8]], number: f64) {
    let byte = || {
        let whole = number.fract() == 0.0 && (0.0..=255.0).contains(&number);
        // Within a byte.
        whole.then_some(number as u8)
    };
    let number = Some(number).filter(|number| number.is_finite());
    match path {
        [b"colorConfig", b"bitDepth"] => info.bit_depth = byte(),
        [b"colorConfig", b"colorPrimaries"] => info.color_primaries = byte(),
        [b"colorConfig", b"transferCharacteristics"] => info.transfer_characteristics = byte(),
        [b"colorConfig", b"matrixCoefficients"] => info.matrix_coefficients = byte(),
        [b"hdrCll", b"maxFall"] => info.max_frame_average_light = number,
        [b"hdrCll", b"maxCLL"] => info.max_content_light = number,
        [b"hdrMdcv", b"maxLuminance"] => info.mastering_max_luminance = number,
        [b"hdrMdcv", b"minLuminance"] => info.mastering_min_luminance = number,
        [b"hdrMdcv", name] => {
            let place = CHROMATICITIES.iter().position(|known| known == name);
            if let Some(place) = place.and_then(|index| chromaticities.get_mut(index)) {
                *place = number;
            }
        }
        _ => {}
    }
}

const NUMBER: u8 = 0;
const BOOLEAN: u8 = 1;
const STRING: u8 = 2;
const OBJECT: u8 = 3;
const NULL: u8 = 5;
const UNDEFINED: u8 = 6;
const ECMA_ARRAY: u8 = 8;
const OBJECT_END: u8 = 9;
const STRICT_ARRAY: u8 = 10;
const DATE: u8 = 11;
const LONG_STRING: u8 = 12;

struct Amf0<'a> {
    reader: BitReader<'a>,
    values: usize,
}

impl<'a> Amf0<'a> {
    /// Reads a value; `number` gets what is a number, with the names that lead to it.
    fn value(
        &mut self,
        path: &mut Vec<&'a [u8]>,
        number: &mut dyn FnMut(&[&[u8]], f64),
    ) -> Result<(), CodecError> {
        self.values += 1;
        if self.values > VALUES_MAX || path.len() > DEPTH_MAX {
            return Err(CodecError::Limit {
                field: "AMF0 value",
            });
        }
        match self.reader.u8()? {
            NUMBER => {
                let bits = u64::from(self.reader.u32()?) << 32 | u64::from(self.reader.u32()?);
                number(path, f64::from_bits(bits));
                Ok(())
            }
            BOOLEAN => self.reader.skip(8),
            STRING => self.text().map(|_text| ()),
            OBJECT => self.properties(path, number),
            NULL | UNDEFINED => Ok(()),
            ECMA_ARRAY => {
                // Its count is a hint: what counts is the end marker.
                self.reader.skip(32)?;
                self.properties(path, number)
            }
            STRICT_ARRAY => {
                path.push(b"");
                // Each value has a byte at least, and they are counted.
                for _ in 0..self.reader.u32()? {
                    self.value(path, number)?;
                }
                path.pop();
                Ok(())
            }
            DATE => self.reader.skip(64 + 16),
            LONG_STRING => {
                let length = usize::try_from(self.reader.u32()?).unwrap_or(usize::MAX);
                self.reader.take(length).map(|_text| ())
            }
            _ => Err(CodecError::Invalid {
                field: "AMF0 marker",
            }),
        }
    }

    fn properties(
        &mut self,
        path: &mut Vec<&'a [u8]>,
        number: &mut dyn FnMut(&[&[u8]], f64),
    ) -> Result<(), CodecError> {
        loop {
            let name = self.text()?;
            if name.is_empty() && self.reader.rest().first() == Some(&OBJECT_END) {
                return self.reader.skip(8);
            }
            path.push(name);
            self.value(path, number)?;
            path.pop();
        }
    }

    /// A string without its marker.
    fn text(&mut self) -> Result<&'a [u8], CodecError> {
        let length = self.reader.u16()?;
        self.reader.take(length.into())
    }
}
