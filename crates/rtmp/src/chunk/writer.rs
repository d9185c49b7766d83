//! Cuts messages into chunks.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::{DEFAULT_CHUNK_BYTES, EXTENDED};

/// Writes the chunks of one direction of one connection.
///
/// Each chunk stream begins with a full header; after that headers leave out the message stream id (fmt 1). A
/// timestamp that goes back or jumps far gets a full header again, so that no extended delta is ever sent; an extended
/// timestamp is repeated on every chunk of its message.
pub struct ChunkWriter {
    chunk_bytes: usize,
    streams: Vec<WrittenStream>,
}

/// Larger pieces of a shared body go out as they are.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

struct WrittenStream {
    id: u32,
    timestamp: u32,
    message_stream_id: u32,
}

impl ChunkWriter {
    /// Starts with chunks of 128 bytes.
    pub fn new() -> Self {
        Self {
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            streams: Vec::new(),
        }
    }

    /// From the next message on; the peer must have been told by Set Chunk Size.
    pub fn set_chunk_bytes(&mut self, bytes: u32) {
        self.chunk_bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
    }

    /// Appends a message to `output`. `chunk_stream_id` is 2..=65599; a body beyond 2^24 - 1 bytes is cut there.
    pub fn write(
        &mut self,
        chunk_stream_id: u32,
        header: MessageHeader,
        body: &[u8],
        output: &mut BytesMut,
    ) {
        let chunks = body.len() / self.chunk_bytes + 1;
        output.reserve(body.len() + 18 + chunks * 7);
        self.write_chunks(
            chunk_stream_id,
            header,
            body.len(),
            output,
            |range, output| {
                output.put_slice(body.get(range).unwrap_or_default());
            },
        );
    }

    /// As [`write`](Self::write), but what is large of a body is not copied: it goes to the end of `ready` by itself,
    /// behind what was gathered in `output` so far.
    pub fn write_shared(
        &mut self,
        chunk_stream_id: u32,
        header: MessageHeader,
        body: &Bytes,
        output: &mut BytesMut,
        ready: &mut VecDeque<Bytes>,
    ) {
        self.write_chunks(
            chunk_stream_id,
            header,
            body.len(),
            output,
            |range, output| {
                if range.len() > GATHERED_BYTES_MAX {
                    ready.push_back(output.split().freeze());
                    ready.push_back(body.slice(range));
                } else {
                    output.put_slice(body.get(range).unwrap_or_default());
                }
            },
        );
    }

    /// Headers go to `output`, and `put` puts each piece of the body behind them.
    fn write_chunks(
        &mut self,
        chunk_stream_id: u32,
        header: MessageHeader,
        body_bytes: usize,
        output: &mut BytesMut,
        mut put: impl FnMut(Range<usize>, &mut BytesMut),
    ) {
        let bytes = body_bytes.min(crate::limits::MESSAGE_BYTES);
        let extended = self.write_header(chunk_stream_id, header, bytes, output);
        let mut end = bytes.min(self.chunk_bytes);
        put(0..end, output);
        while end < bytes {
            put_basic_header(3, chunk_stream_id, output);
            if let Some(timestamp) = extended {
                output.put_u32(timestamp);
            }
            let next = bytes.min(end.saturating_add(self.chunk_bytes));
            put(end..next, output);
            end = next;
        }
    }

    /// The extended timestamp, if one was written.
    fn write_header(
        &mut self,
        chunk_stream_id: u32,
        header: MessageHeader,
        bytes: usize,
        output: &mut BytesMut,
    ) -> Option<u32> {
        let bytes = u64::try_from(bytes).unwrap_or_default();
        match self.delta(chunk_stream_id, header) {
            Some(delta) => {
                put_basic_header(1, chunk_stream_id, output);
                output.put_uint(u64::from(delta), 3);
                output.put_uint(bytes, 3);
                output.put_u8(header.type_id);
                None
            }
            None => {
                let extended = (header.timestamp >= EXTENDED).then_some(header.timestamp);
                put_basic_header(0, chunk_stream_id, output);
                output.put_uint(u64::from(header.timestamp.min(EXTENDED)), 3);
                output.put_uint(bytes, 3);
                output.put_u8(header.type_id);
                output.put_u32_le(header.message_stream_id);
                if let Some(timestamp) = extended {
                    output.put_u32(timestamp);
                }
                extended
            }
        }
    }

    /// Remembers the message; `None` if it needs a full header.
    fn delta(&mut self, id: u32, header: MessageHeader) -> Option<u32> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            self.streams.push(WrittenStream {
                id,
                timestamp: header.timestamp,
                message_stream_id: header.message_stream_id,
            });
            return None;
        };
        let delta = header.timestamp.wrapping_sub(stream.timestamp);
        let is_small = delta < EXTENDED && stream.message_stream_id == header.message_stream_id;
        stream.timestamp = header.timestamp;
        stream.message_stream_id = header.message_stream_id;
        is_small.then_some(delta)
    }
}

/// A message without its body.
#[derive(Clone, Copy, Debug)]
pub struct MessageHeader {
    /// One of [`message_type`](crate::message_type).
    pub type_id: u8,
    /// Milliseconds.
    pub timestamp: u32,
    /// 0 for the connection itself.
    pub message_stream_id: u32,
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self::new()
    }
}

fn put_basic_header(format: u8, id: u32, output: &mut BytesMut) {
    let format = format << 6;
    match (u8::try_from(id), u16::try_from(id.saturating_sub(64))) {
        (Ok(id @ 2..=63), _) => output.put_u8(format | id),
        (_, Ok(above)) if above <= 0xFF => {
            output.put_u8(format);
            output.put_uint(u64::from(above), 1);
        }
        (_, above) => {
            output.put_u8(format | 1);
            output.put_u16_le(above.unwrap_or(u16::MAX));
        }
    }
}
