//! The chunk stream.

use bytes::BytesMut;
use rtmp::{
    Message, ProtocolError,
    chunk::{Bounds, ChunkReader, ChunkWriter, MessageHeader},
    limits::Limits,
    message_type,
};

use crate::script::Script;

/// What an incomplete chunk header may have (RTMP 1.0 §5.3.1): basic header, message header, extended timestamp, less
/// the byte that would complete it.
const HEADER_BYTES_MAX: usize = 3 + 11 + 4 - 1;

/// The first two bytes say who is asking and how the rest is cut.
pub(crate) fn chunk_reader(data: &[u8]) {
    let mut script = Script::new(data);
    let trusted = script.u8() & 1 == 1;
    let piece = usize::from(script.u8()) + 1;
    let stream = script.rest();
    let (messages, end) = read(stream, stream.len().max(1), trusted);
    let in_pieces = read(stream, piece, trusted);
    assert_eq!(messages, in_pieces.0, "pieces of {piece} bytes");
    assert_eq!(end, in_pieces.1, "pieces of {piece} bytes");
    let bodies: usize = messages.iter().map(|message| message.body.len()).sum();
    assert!(bodies <= stream.len(), "more came out than went in");
    written_again_they_read_the_same(&messages, piece);
}

/// The messages, and the error behind them. Chunk sizes and aborts are obeyed as a session does.
fn read(stream: &[u8], piece: usize, trusted: bool) -> (Vec<Message>, Option<ProtocolError>) {
    let mut reader = ChunkReader::new(if trusted {
        Bounds::publishing(&Limits::default())
    } else {
        Bounds::unpublished()
    });
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => {
                    obey(&mut reader, &message);
                    messages.push(message);
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(
            input.len() <= HEADER_BYTES_MAX,
            "{} bytes stay",
            input.len()
        );
    }
    (messages, None)
}

fn obey(reader: &mut ChunkReader, message: &Message) {
    let Ok(number) = <[u8; 4]>::try_from(&message.body[..]) else {
        return;
    };
    let number = u32::from_be_bytes(number);
    match message.type_id {
        message_type::SET_CHUNK_SIZE => reader.set_chunk_bytes(number),
        message_type::ABORT => reader.abort(number),
        _ => {}
    }
}

fn written_again_they_read_the_same(messages: &[Message], chunk_bytes: usize) {
    let mut writer = ChunkWriter::new();
    let mut reader = ChunkReader::new(Bounds::publishing(&Limits::default()));
    let chunk_bytes = u32::try_from(chunk_bytes).unwrap();
    writer.set_chunk_bytes(chunk_bytes);
    reader.set_chunk_bytes(chunk_bytes);
    for message in messages {
        let mut output = BytesMut::new();
        let header = MessageHeader {
            type_id: message.type_id,
            timestamp: message.timestamp,
            message_stream_id: message.message_stream_id,
        };
        // As few chunk streams as the reader allows.
        let chunk_stream_id = 60 + u32::from(message.type_id % 8);
        writer.write(chunk_stream_id, header, &message.body, &mut output);
        assert_eq!(
            reader.read(&mut output).as_ref(),
            Ok(&Some(message.clone()))
        );
        assert!(output.is_empty());
    }
}
