//! The simple handshake (RTMP 1.0 §5.2): version byte, 1536 bytes each way, and their echo.
//!
//! The digest variant of Flash times is left out: S1 says version 0, and S2 is C1 byte for byte, which is what every
//! current client accepts and some insist on. Nobody's echo is verified.

use bytes::{Buf, Bytes, BytesMut};

use crate::ProtocolError;

/// C0, S0: RTMP without encryption.
pub const VERSION: u8 = 0x03;
/// C1, S1, C2, S2: 4 bytes time, 4 bytes zero (or a product version), 1528 bytes of anything.
pub const PACKET_BYTES: usize = 1536;

/// The server's half.
pub struct ServerHandshake {
    random: Box<[u8; 1528]>,
    answered: bool,
}

impl ServerHandshake {
    /// `random` fills S1.
    pub fn new(random: &[u8; 1528]) -> Self {
        Self {
            random: Box::new(*random),
            answered: false,
        }
    }

    /// Takes C0, C1 and C2 from `input` as they come and writes S0, S1 and S2 at once. Whether that was all.
    ///
    /// # Errors
    /// The first byte says that this is not RTMP.
    pub fn read(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<bool, ProtocolError> {
        if !self.answered {
            if let Some(&byte) = input.first() {
                check_version(byte)?;
            }
            let Some(c1) = input.get(1..=PACKET_BYTES) else {
                return Ok(false);
            };
            output.extend_from_slice(&[VERSION]);
            output.extend_from_slice(&[0; 8]);
            output.extend_from_slice(self.random.as_slice());
            output.extend_from_slice(c1);
            input.advance(1 + PACKET_BYTES);
            self.answered = true;
        }
        if input.len() < PACKET_BYTES {
            return Ok(false);
        }
        input.advance(PACKET_BYTES);
        Ok(true)
    }
}

/// The client's half: C0 and C1.
pub fn client_opening(random: &[u8; 1528]) -> Bytes {
    let mut opening = BytesMut::with_capacity(1 + PACKET_BYTES);
    opening.extend_from_slice(&[VERSION]);
    opening.extend_from_slice(&[0; 8]);
    opening.extend_from_slice(random);
    opening.freeze()
}

/// The client's half: takes S0, S1 and S2 once they are whole and gives C2.
///
/// # Errors
/// The first byte says that this is not RTMP.
pub fn client_answer(input: &mut BytesMut) -> Result<Option<Bytes>, ProtocolError> {
    if let Some(&byte) = input.first() {
        check_version(byte)?;
    }
    if input.len() < 1 + 2 * PACKET_BYTES {
        return Ok(None);
    }
    input.advance(1);
    let c2 = input.split_to(PACKET_BYTES);
    input.advance(PACKET_BYTES);
    Ok(Some(c2.freeze()))
}

fn check_version(byte: u8) -> Result<(), ProtocolError> {
    match byte {
        VERSION => Ok(()),
        0x06 => Err(ProtocolError::Rtmpe),
        0x16 => Err(ProtocolError::Tls),
        b'G' | b'P' | b'H' => Err(ProtocolError::Http),
        byte => Err(ProtocolError::UnknownProtocol { byte }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_s1_s2_come_in_one_piece_with_four_zero_bytes_and_an_exact_echo() {
        let mut handshake = ServerHandshake::new(&[0x5A; 1528]);
        let mut opening = BytesMut::from(client_opening(&[0xC1; 1528]).as_ref());
        let c1 = opening.get(1..).unwrap().to_vec();
        let mut output = BytesMut::new();

        assert_eq!(handshake.read(&mut opening, &mut output), Ok(false));
        assert_eq!(output.len(), 3073);
        assert_eq!(output[0], VERSION);
        assert_eq!(output[5..9], [0; 4]);
        assert_eq!(output[1537..], c1);

        let mut c2 = client_answer(&mut output).unwrap().unwrap().to_vec();
        c2.fill(0xEE);
        c2.extend_from_slice(b"connect");
        let mut input = BytesMut::from(c2.as_slice());
        assert_eq!(handshake.read(&mut input, &mut output), Ok(true));
        assert_eq!(&input[..], b"connect", "what follows C2 stays");
    }

    #[test]
    fn nothing_is_answered_before_c1_is_complete() {
        let mut handshake = ServerHandshake::new(&[0; 1528]);
        let mut input = BytesMut::from(&client_opening(&[0; 1528])[..1536]);
        let mut output = BytesMut::new();
        assert_eq!(handshake.read(&mut input, &mut output), Ok(false));
        assert!(output.is_empty());
    }

    #[test]
    fn the_first_byte_tells_what_the_peer_speaks() {
        for (byte, error) in [
            (0x16, ProtocolError::Tls),
            (b'G', ProtocolError::Http),
            (b'P', ProtocolError::Http),
            (b'H', ProtocolError::Http),
            (6, ProtocolError::Rtmpe),
            (0, ProtocolError::UnknownProtocol { byte: 0 }),
            (255, ProtocolError::UnknownProtocol { byte: 255 }),
        ] {
            let outcome = ServerHandshake::new(&[0; 1528])
                .read(&mut BytesMut::from([byte].as_slice()), &mut BytesMut::new());
            assert_eq!(outcome, Err(error));
        }
    }
}
