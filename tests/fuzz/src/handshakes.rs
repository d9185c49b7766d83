//! The handshake, both sides.

use bytes::BytesMut;
use rtmp::{
    ProtocolError,
    handshake::{self, PACKET_BYTES, ServerHandshake},
};

use crate::script::Script;

const RANDOM: [u8; 1528] = [0x51; 1528];

/// How the stream is cut, how long it is, and how it begins: nobody looks at the other bytes.
pub(crate) fn handshake(data: &[u8]) {
    let mut script = Script::new(data);
    let piece = usize::from(script.u8()) * 8 + 1;
    let length = usize::from(script.u16() % 8192);
    let mut stream = script.rest().to_vec();
    stream.resize(length, 0x5A);
    let stream = stream.as_slice();
    let whole = serve(stream, stream.len().max(1));
    assert_eq!(whole, serve(stream, piece), "pieces of {piece} bytes");
    if let Ok((done, left, said)) = &whole {
        let taken = stream.len() - left;
        assert!(taken <= 1 + 2 * PACKET_BYTES, "{taken} bytes were taken");
        assert_eq!(*done, taken == 1 + 2 * PACKET_BYTES);
        assert_eq!(
            *said,
            if taken > PACKET_BYTES {
                1 + 2 * PACKET_BYTES
            } else {
                0
            }
        );
    }
    answer(stream);
}

/// Whether it is over, what is left, and how many bytes were said.
fn serve(stream: &[u8], piece: usize) -> Result<(bool, usize, usize), ProtocolError> {
    let mut server = ServerHandshake::new(&RANDOM);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut done = false;
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        if !done {
            done = server.read(&mut input, &mut output)?;
        }
    }
    Ok((done, input.len(), output.len()))
}

/// The client takes all three packets or none.
fn answer(stream: &[u8]) {
    let mut input = BytesMut::from(stream);
    if let Ok(answer) = handshake::client_answer(&mut input) {
        let taken = stream.len() - input.len();
        match answer {
            Some(c2) => assert_eq!((taken, c2.len()), (1 + 2 * PACKET_BYTES, PACKET_BYTES)),
            None => assert_eq!(taken, 0),
        }
    }
}
