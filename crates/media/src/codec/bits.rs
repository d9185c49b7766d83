//! A position in a record, in bits; reading behind the end is an error, never a panic.

use super::CodecError;

/// Most leading zeros of an Exp-Golomb code: 32 bits hold what it can say.
const EXP_GOLOMB_ZEROS_MAX: u32 = 31;

#[derive(Clone)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn flag(&mut self) -> Result<bool, CodecError> {
        let byte = self.bytes.get(self.position / 8);
        let byte = byte.ok_or(CodecError::Truncated)?;
        let set = byte >> (7 - self.position % 8) & 1 == 1;
        self.position += 1;
        Ok(set)
    }

    /// Up to 32 bits.
    pub(super) fn bits(&mut self, count: u32) -> Result<u32, CodecError> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Ok(value)
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        // Eight bits fit.
        Ok(self.bits(8)? as u8)
    }

    pub(super) fn u16(&mut self) -> Result<u16, CodecError> {
        // Sixteen bits fit.
        Ok(self.bits(16)? as u16)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        self.bits(32)
    }

    pub(super) fn skip(&mut self, bits: usize) -> Result<(), CodecError> {
        if bits > self.remaining() {
            return Err(CodecError::Truncated);
        }
        self.position = self.position.saturating_add(bits);
        Ok(())
    }

    /// Whole bytes; whatever is left of the current one is passed over.
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], CodecError> {
        let taken = self.rest().get(..bytes).ok_or(CodecError::Truncated)?;
        self.position = self
            .position
            .next_multiple_of(8)
            .saturating_add(bytes.saturating_mul(8));
        Ok(taken)
    }

    /// The whole bytes that are left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
            .get(self.position.div_ceil(8)..)
            .unwrap_or_default()
    }

    pub(super) fn align(&mut self) {
        self.position = self.position.next_multiple_of(8);
    }

    /// In bits.
    pub(super) fn remaining(&self) -> usize {
        let all = self.bytes.len().saturating_mul(8);
        all.saturating_sub(self.position)
    }

    /// An unsigned Exp-Golomb code.
    pub(super) fn ue(&mut self) -> Result<u32, CodecError> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > EXP_GOLOMB_ZEROS_MAX {
                return Err(CodecError::Invalid {
                    field: "Exp-Golomb code",
                });
            }
        }
        // The leading one and `zeros` bits behind it, less one: at most 2^32 - 2.
        let value = 1_u64 << zeros | u64::from(self.bits(zeros)?);
        u32::try_from(value - 1).map_err(|_| CodecError::Invalid {
            field: "Exp-Golomb code",
        })
    }

    /// As [`ue`](Self::ue), at most `max`.
    pub(super) fn ue_up_to(&mut self, max: u32, field: &'static str) -> Result<u32, CodecError> {
        let value = self.ue()?;
        if value > max {
            return Err(CodecError::Limit { field });
        }
        Ok(value)
    }

    /// A signed Exp-Golomb code.
    pub(super) fn se(&mut self) -> Result<i64, CodecError> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        Ok(if code % 2 == 1 { magnitude } else { -magnitude })
    }

    pub(super) fn skip_ue(&mut self, count: u32) -> Result<(), CodecError> {
        for _ in 0..count {
            self.ue()?;
        }
        Ok(())
    }
}

/// A NAL unit's payload without its emulation prevention bytes.
pub(super) fn rbsp(nalu: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(nalu.len());
    let mut zeros = 0;
    for byte in nalu {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        payload.push(*byte);
    }
    payload
}
