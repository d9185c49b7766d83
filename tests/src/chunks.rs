//! The chunk stream (RTMP 1.0 §5.3), read by the book: independent of the product's reader.

use std::collections::BTreeMap;

use bytes::{Buf as _, BytesMut};

use crate::flv::{Kind, Tag};

/// C0, C1 and C2.
const HANDSHAKE_BYTES: usize = 1 + 1536 + 1536;

const SET_CHUNK_SIZE: u8 = 1;
pub const AUDIO: u8 = 8;
pub const VIDEO: u8 = 9;
pub const DATA: u8 = 18;
pub const COMMAND: u8 = 20;

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    /// In milliseconds.
    pub timestamp: u32,
    pub body: Vec<u8>,
}

impl Message {
    /// The media in it.
    pub fn tag(&self) -> Option<Tag> {
        let kind = match self.kind {
            AUDIO => Kind::Audio,
            VIDEO => Kind::Video,
            DATA => Kind::Script,
            _ => return None,
        };
        Some(Tag {
            kind,
            timestamp_ms: self.timestamp.into(),
            body: self.body.clone(),
        })
    }
}

/// All messages of a client, from the first byte that it sent.
pub fn of_client(sent: &[u8]) -> Vec<Message> {
    let Some(behind_handshake) = sent.get(HANDSHAKE_BYTES..) else {
        return Vec::new();
    };
    let mut reader = Reader::default();
    reader.input.extend_from_slice(behind_handshake);
    std::iter::from_fn(|| reader.take()).collect()
}

/// Puts messages together.
pub struct Reader {
    /// What was received and not yet read.
    pub input: BytesMut,
    streams: BTreeMap<u32, ChunkStream>,
    chunk_bytes: usize,
}

#[derive(Clone, Default)]
struct ChunkStream {
    kind: u8,
    length: usize,
    timestamp: u32,
    /// The latest timestamp field, a delta or not.
    field: u32,
    extended: bool,
    body: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            input: BytesMut::new(),
            streams: BTreeMap::new(),
            chunk_bytes: 128,
        }
    }
}

impl Reader {
    /// The next message, where it is complete.
    pub fn take(&mut self) -> Option<Message> {
        loop {
            let header = ChunkHeader::read(&self.input, &self.streams)?;
            let ChunkHeader {
                id,
                mut stream,
                bytes,
            } = header;
            let payload = (stream.length - stream.body.len()).min(self.chunk_bytes);
            if self.input.len() < bytes + payload {
                return None;
            }
            self.input.advance(bytes);
            stream.body.extend(self.input.split_to(payload));
            let complete = stream.body.len() == stream.length;
            let message = complete.then(|| Message {
                kind: stream.kind,
                timestamp: stream.timestamp,
                body: std::mem::take(&mut stream.body),
            });
            self.streams.insert(id, stream);
            if let Some(message) = message {
                if message.kind == SET_CHUNK_SIZE {
                    let size = u32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.chunk_bytes = size.try_into().unwrap();
                }
                return Some(message);
            }
        }
    }
}

/// A chunk's header as read: what its chunk stream will be, and how long the header is.
struct ChunkHeader {
    id: u32,
    stream: ChunkStream,
    bytes: usize,
}

impl ChunkHeader {
    fn read(input: &[u8], streams: &BTreeMap<u32, ChunkStream>) -> Option<Self> {
        let first = *input.first()?;
        let (id, basic_bytes) = match first & 0x3f {
            0 => (64 + u32::from(*input.get(1)?), 2),
            1 => {
                let (low, high) = (*input.get(1)?, *input.get(2)?);
                (64 + u32::from(low) + 256 * u32::from(high), 3)
            }
            id => (u32::from(id), 1),
        };
        let mut stream = streams.get(&id).cloned().unwrap_or_default();
        let format = first >> 6;
        let header_bytes = [11, 7, 3, 0][usize::from(format)];
        let fields = input.get(basic_bytes..basic_bytes + header_bytes)?;
        if format < 3 {
            stream.field = u32::from_be_bytes([0, fields[0], fields[1], fields[2]]);
            stream.extended = stream.field == 0x00ff_ffff;
        }
        if format < 2 {
            let length = u32::from_be_bytes([0, fields[3], fields[4], fields[5]]);
            stream.length = length.try_into().unwrap();
            stream.kind = fields[6];
        }
        let mut bytes = basic_bytes + header_bytes;
        if stream.extended {
            let field = input.get(bytes..bytes + 4)?;
            stream.field = u32::from_be_bytes(field.try_into().unwrap());
            bytes += 4;
        }
        // Further chunks of a message say nothing new.
        if stream.body.is_empty() {
            stream.timestamp = match format {
                0 => stream.field,
                _ => stream.timestamp.wrapping_add(stream.field),
            };
        }
        Some(Self { id, stream, bytes })
    }
}
