//! A position in a body; reading behind the end is an error, never a panic.

use super::FlvError;
use crate::FourCc;

#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, position: 0 }
    }

    pub(super) fn u8(&mut self) -> Result<u8, FlvError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FlvError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u24(&mut self) -> Result<u32, FlvError> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_be_bytes([0, a, b, c]))
    }

    /// FLV's SI24: bit 23 is the sign.
    pub(super) fn i24(&mut self) -> Result<i32, FlvError> {
        let [a, b, c] = self.array()?;
        Ok(i32::from_be_bytes([a, b, c, 0]) >> 8)
    }

    pub(super) fn four_cc(&mut self) -> Result<FourCc, FlvError> {
        Ok(FourCc(self.array()?))
    }

    /// A reader of the next `bytes` alone; positions stay those of the whole body.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Self, FlvError> {
        let end = self
            .position
            .checked_add(bytes)
            .ok_or(FlvError::Truncated)?;
        let body = self.body.get(..end).ok_or(FlvError::Truncated)?;
        let taken = Self {
            body,
            position: self.position,
        };
        self.position = end;
        Ok(taken)
    }

    pub(super) fn offset(&self) -> u32 {
        // Bodies are bounded by 24 bits.
        u32::try_from(self.position).unwrap_or(u32::MAX)
    }

    pub(super) fn remaining(&self) -> u32 {
        u32::try_from(self.body.len().saturating_sub(self.position)).unwrap_or(u32::MAX)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FlvError> {
        let bytes = self
            .body
            .get(self.position..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or(FlvError::Truncated)?;
        self.position = self.position.saturating_add(N);
        Ok(*bytes)
    }
}
