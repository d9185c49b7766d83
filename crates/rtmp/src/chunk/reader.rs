//! Puts messages together from chunks.

use bytes::{Buf, Bytes, BytesMut};

use super::DEFAULT_CHUNK_BYTES;
use super::header::{ChunkHeader, Context, HeaderFields, MessageShape};
use crate::cursor::Cursor;
use crate::limits::{self, Limits};
use crate::message::message_type;
use crate::{Message, ProtocolError};

/// Reads the chunks of one direction of one connection.
pub struct ChunkReader {
    bounds: Bounds,
    chunk_bytes: usize,
    streams: Vec<ChunkStream>,
    /// The chunk whose payload is being read.
    chunk: Option<OpenChunk>,
    partial_messages: usize,
    partial_bytes: usize,
}

/// What a peer may make the reader remember.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// csids ever used.
    pub chunk_streams: usize,
    /// Unfinished messages at a time.
    pub partial_messages: usize,
    /// Bytes in them.
    pub partial_bytes: usize,
    /// Largest audio message, in bytes.
    pub audio_bytes: usize,
    /// Largest video or aggregate message, in bytes.
    pub video_bytes: usize,
    /// Largest message of any other type, in bytes.
    pub other_bytes: usize,
}

/// The memory that header compression needs, and the message under way.
struct ChunkStream {
    id: u32,
    timestamp: u32,
    /// The latest timestamp field: what a fmt 3 that begins a message adds, even if it was absolute (§5.3.1.2.4).
    field: u32,
    /// The extended timestamp of the latest header, if it had one.
    extended: Option<u32>,
    shape: MessageShape,
    message_stream_id: u32,
    body: Vec<u8>,
    is_partial: bool,
}

#[derive(Clone, Copy)]
struct OpenChunk {
    /// Index into `streams`.
    stream: usize,
    /// Payload bytes that are still to come.
    left: usize,
}

impl ChunkReader {
    /// Starts with chunks of 128 bytes.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            streams: Vec::new(),
            chunk: None,
            partial_messages: 0,
            partial_bytes: 0,
        }
    }

    /// Takes the next message out of `input`; `None` when more bytes are needed. What was understood is taken from
    /// `input`; an incomplete header (at most 17 bytes) stays.
    ///
    /// # Errors
    /// A malformed chunk, or one beyond the bounds. Nothing can be read after that.
    pub fn read(&mut self, input: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
        loop {
            if self.chunk.is_none() {
                let mut cursor = Cursor::new(input);
                let header = ChunkHeader::read(&mut cursor, |id| self.context(id));
                let Some(header) = header else {
                    return Ok(None);
                };
                let header_bytes = input.len() - cursor.rest().len();
                input.advance(header_bytes);
                self.chunk = Some(self.open(&header)?);
            }
            let Some(chunk) = self.chunk else {
                return Ok(None);
            };
            if chunk.left > 0 && input.is_empty() {
                return Ok(None);
            }
            if let Some(message) = self.read_payload(chunk, input)? {
                return Ok(Some(message));
            }
        }
    }

    /// What the peer says the size of its chunks is from the next chunk on. Sizes beyond the largest message mean the
    /// same.
    pub fn set_chunk_bytes(&mut self, bytes: u32) {
        self.chunk_bytes = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .clamp(1, limits::MESSAGE_BYTES);
    }

    /// Drops the unfinished message of a chunk stream (RTMP 1.0 §5.4.2).
    pub fn abort(&mut self, chunk_stream_id: u32) {
        let stream = self.streams.iter_mut().find(|s| s.id == chunk_stream_id);
        if let Some(stream) = stream.filter(|stream| stream.is_partial) {
            self.partial_messages -= 1;
            self.partial_bytes -= stream.body.len();
            stream.is_partial = false;
            stream.body = Vec::new();
        }
    }

    /// Bytes of memory that unfinished messages and chunk streams take.
    pub fn held_bytes(&self) -> usize {
        let bodies = self.streams.iter().map(|stream| stream.body.capacity());
        bodies.sum::<usize>() + self.streams.capacity() * size_of::<ChunkStream>()
    }

    /// From the next chunk on.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    fn context(&self, id: u32) -> Option<Context> {
        let stream = self.streams.iter().find(|stream| stream.id == id)?;
        Some(Context {
            extended: stream.extended,
            continues: stream.is_partial,
        })
    }

    /// Understands a header: the chunk that it opens.
    fn open(&mut self, header: &ChunkHeader) -> Result<OpenChunk, ProtocolError> {
        let index = self.stream_index(header)?;
        let Some(stream) = self.streams.get_mut(index) else {
            return Err(ProtocolError::UnknownChunkStream {
                chunk_stream_id: header.chunk_stream_id,
            });
        };
        if stream.is_partial {
            stream.go_on(&header.fields)?;
        } else {
            stream.begin(&header.fields);
            let limit = self.bounds.message_bytes(stream.shape.type_id);
            if stream.shape.bytes > limit {
                return Err(ProtocolError::MessageTooLarge {
                    bytes: stream.shape.bytes,
                    limit,
                });
            }
            self.partial_messages += 1;
            if self.partial_messages > self.bounds.partial_messages {
                return Err(ProtocolError::TooMuchUnfinished);
            }
        }
        Ok(OpenChunk {
            stream: index,
            left: (stream.shape.bytes - stream.body.len()).min(self.chunk_bytes),
        })
    }

    /// fmt 1 is accepted as a chunk stream's first header: old encoders begin csid 2 with it.
    fn stream_index(&mut self, header: &ChunkHeader) -> Result<usize, ProtocolError> {
        let id = header.chunk_stream_id;
        if let Some(index) = self.streams.iter().position(|stream| stream.id == id) {
            return Ok(index);
        }
        match header.fields {
            HeaderFields::Full { .. } | HeaderFields::SameStream { .. } => {}
            HeaderFields::SameShape { .. } | HeaderFields::Same { .. } => {
                return Err(ProtocolError::UnknownChunkStream {
                    chunk_stream_id: id,
                });
            }
        }
        if self.streams.len() >= self.bounds.chunk_streams {
            return Err(ProtocolError::TooManyChunkStreams {
                limit: self.bounds.chunk_streams,
            });
        }
        self.streams.push(ChunkStream::new(id));
        Ok(self.streams.len() - 1)
    }

    fn read_payload(
        &mut self,
        chunk: OpenChunk,
        input: &mut BytesMut,
    ) -> Result<Option<Message>, ProtocolError> {
        let Some(stream) = self.streams.get_mut(chunk.stream) else {
            return Ok(None);
        };
        let bytes = chunk.left.min(input.len());
        self.partial_bytes += bytes;
        if self.partial_bytes > self.bounds.partial_bytes {
            return Err(ProtocolError::TooMuchUnfinished);
        }
        stream.append(input.get(..bytes).unwrap_or_default());
        input.advance(bytes);
        let left = chunk.left - bytes;
        self.chunk = (left > 0).then_some(OpenChunk { left, ..chunk });
        if stream.body.len() < stream.shape.bytes {
            return Ok(None);
        }
        self.partial_messages -= 1;
        self.partial_bytes -= stream.body.len();
        Ok(Some(stream.finish()))
    }
}

impl ChunkStream {
    fn new(id: u32) -> Self {
        Self {
            id,
            timestamp: 0,
            field: 0,
            extended: None,
            shape: MessageShape {
                bytes: 0,
                type_id: 0,
            },
            message_stream_id: 0,
            body: Vec::new(),
            is_partial: false,
        }
    }

    /// The first chunk of a message.
    fn begin(&mut self, fields: &HeaderFields) {
        match *fields {
            HeaderFields::Full {
                timestamp,
                message,
                message_stream_id,
            } => {
                self.timestamp = timestamp.value;
                self.field = timestamp.value;
                self.extended = timestamp.is_extended.then_some(timestamp.value);
                self.shape = message;
                self.message_stream_id = message_stream_id;
            }
            HeaderFields::SameStream { delta, message } => {
                self.timestamp = self.timestamp.wrapping_add(delta.value);
                self.field = delta.value;
                self.extended = delta.is_extended.then_some(delta.value);
                self.shape = message;
            }
            HeaderFields::SameShape { delta } => {
                self.timestamp = self.timestamp.wrapping_add(delta.value);
                self.field = delta.value;
                self.extended = delta.is_extended.then_some(delta.value);
            }
            HeaderFields::Same { extended } => {
                // FFmpeg writes fmt 3 whenever the 24-bit fields are equal: the extended value may be a new one.
                if extended.is_some() {
                    self.extended = extended;
                }
                self.field = extended.unwrap_or(self.field);
                self.timestamp = self.timestamp.wrapping_add(self.field);
            }
        }
        self.is_partial = true;
    }

    /// A further chunk of a message: normally fmt 3; the header may be said again, but may not say anything else.
    fn go_on(&mut self, fields: &HeaderFields) -> Result<(), ProtocolError> {
        let restated = match *fields {
            HeaderFields::Full { .. } => None,
            HeaderFields::SameStream { delta, message } => {
                (message == self.shape).then_some(Some(delta))
            }
            HeaderFields::SameShape { delta } => Some(Some(delta)),
            HeaderFields::Same { .. } => Some(None),
        };
        let Some(restated) = restated else {
            return Err(ProtocolError::MessageInterrupted {
                chunk_stream_id: self.id,
            });
        };
        if let Some(delta) = restated {
            self.extended = delta.is_extended.then_some(delta.value);
        }
        Ok(())
    }

    /// The buffer grows with what came, never by what was declared, and ends at the declared size exactly.
    fn append(&mut self, payload: &[u8]) {
        const FIRST_BYTES: usize = 8 << 10;
        let needed = self.body.len() + payload.len();
        if needed > self.body.capacity() {
            let capacity = (self.body.capacity() * 2)
                .max(FIRST_BYTES)
                .max(needed)
                .min(self.shape.bytes);
            self.body.reserve_exact(capacity - self.body.len());
        }
        self.body.extend_from_slice(payload);
    }

    fn finish(&mut self) -> Message {
        self.is_partial = false;
        Message {
            type_id: self.shape.type_id,
            timestamp: self.timestamp,
            message_stream_id: self.message_stream_id,
            body: Bytes::from(std::mem::take(&mut self.body)),
        }
    }
}

impl Bounds {
    /// While nobody has vouched for the peer.
    pub fn unpublished() -> Self {
        Self {
            chunk_streams: limits::UNPUBLISHED_CHUNK_STREAMS,
            partial_messages: limits::PARTIAL_MESSAGES,
            partial_bytes: limits::UNPUBLISHED_PARTIAL_BYTES,
            audio_bytes: limits::UNPUBLISHED_MESSAGE_BYTES,
            video_bytes: limits::UNPUBLISHED_MESSAGE_BYTES,
            other_bytes: limits::UNPUBLISHED_MESSAGE_BYTES,
        }
    }

    /// For a publisher that was let in.
    pub fn publishing(limits: &Limits) -> Self {
        Self {
            chunk_streams: limits::CHUNK_STREAMS,
            partial_messages: limits::PARTIAL_MESSAGES,
            partial_bytes: limits::PARTIAL_BYTES,
            audio_bytes: limits.audio_message_bytes,
            video_bytes: limits.video_message_bytes,
            other_bytes: limits::COMMAND_BYTES,
        }
    }

    fn message_bytes(&self, type_id: u8) -> usize {
        match type_id {
            message_type::AUDIO => self.audio_bytes,
            message_type::VIDEO | message_type::AGGREGATE => self.video_bytes,
            _ => self.other_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> ChunkReader {
        ChunkReader::new(Bounds::publishing(&Limits::default()))
    }

    /// fmt 0 on csid 6, timestamp 0, type 9.
    fn full_header(length: u32) -> Vec<u8> {
        let [_, length @ ..] = length.to_be_bytes();
        [&[6, 0, 0, 0][..], &length, &[9, 1, 0, 0, 0]].concat()
    }

    #[test]
    fn memory_grows_with_what_came_not_with_what_was_declared() {
        let mut reader = reader();
        reader.set_chunk_bytes(0x7FFF_FFFF);
        let mut input = BytesMut::from(full_header(0xFF_FFFF).as_slice());
        assert_eq!(reader.read(&mut input), Ok(None));
        assert_eq!(reader.streams[0].body.capacity(), 0);
        for came in (1..=64).map(|kibibytes| kibibytes << 10) {
            input.extend_from_slice(&[0; 1 << 10]);
            assert_eq!(reader.read(&mut input), Ok(None));
            assert!(reader.streams[0].body.capacity() <= (2 * came).max(8 << 10));
        }
    }

    #[test]
    fn a_message_whose_end_is_known_is_allocated_once_and_exactly() {
        for length in [1, 100, 8 << 10, 60_000, 1 << 20] {
            let mut reader = reader();
            reader.set_chunk_bytes(0x7FFF_FFFF);
            let mut input = BytesMut::from(full_header(length).as_slice());
            input.resize(input.len() + length as usize, 7);
            let message = reader.read(&mut input).unwrap().unwrap();
            let buffer = Vec::from(message.body);
            assert_eq!(buffer.len(), length as usize);
            assert_eq!(buffer.capacity(), length as usize);
        }
    }

    #[test]
    fn an_empty_message_is_complete_with_its_header() {
        let mut reader = reader();
        let mut input = BytesMut::from(full_header(0).as_slice());
        let message = reader.read(&mut input).unwrap().unwrap();
        assert!(message.body.is_empty());
        assert_eq!(reader.read(&mut input), Ok(None));
        assert_eq!((reader.partial_messages, reader.partial_bytes), (0, 0));
    }

    #[test]
    fn an_aborted_message_leaves_nothing_behind() {
        let mut reader = reader();
        let mut input = BytesMut::from(full_header(200).as_slice());
        input.resize(input.len() + 128, 7);
        assert_eq!(reader.read(&mut input), Ok(None));
        assert_eq!((reader.partial_messages, reader.partial_bytes), (1, 128));
        reader.abort(6);
        reader.abort(7);
        assert_eq!((reader.partial_messages, reader.partial_bytes), (0, 0));
    }
}
