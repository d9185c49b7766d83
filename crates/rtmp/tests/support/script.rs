//! Bytes as a client sends them. The tests of the edge send them too.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]

use bytes::BytesMut;
use rtmp::amf0::{Value, encode};
use rtmp::chunk::{ChunkWriter, MessageHeader};
use rtmp::{handshake, message_type};

/// Writes a client's half of a conversation.
pub struct Script {
    writer: ChunkWriter,
    pub bytes: BytesMut,
}

impl Script {
    /// C0, C1 and C2.
    pub fn new() -> Self {
        let mut bytes = BytesMut::from(handshake::client_opening(&[0xC1; 1528]).as_ref());
        bytes.extend_from_slice(&[0; handshake::PACKET_BYTES]);
        Self {
            writer: ChunkWriter::new(),
            bytes,
        }
    }

    /// Up to and with createStream.
    pub fn connected() -> Self {
        let mut script = Self::new();
        script.connect("live");
        script.command(3, 0, &call("createStream", 4.0, &[]));
        script
    }

    /// Up to and with publish.
    pub fn published() -> Self {
        let mut script = Self::connected();
        script.publish("key");
        script
    }

    pub fn connect(&mut self, app: &str) {
        let object = Value::object([
            ("app", Value::text(app)),
            ("flashVer", Value::text("FMLE/3.0 (compatible; test)")),
            ("tcUrl", Value::text("rtmp://localhost/live")),
        ]);
        let values = [Value::text("connect"), Value::Number(1.0), object];
        self.command(3, 0, &values);
    }

    pub fn publish(&mut self, name: &str) {
        let arguments = [Value::text(name), Value::text("live")];
        self.command(8, 1, &call("publish", 5.0, &arguments));
    }

    pub fn command(&mut self, csid: u32, msid: u32, values: &[Value<'_>]) {
        self.message(csid, message_type::COMMAND_AMF0, 0, msid, &encode(values));
    }

    pub fn message(&mut self, csid: u32, type_id: u8, timestamp: u32, msid: u32, body: &[u8]) {
        let header = MessageHeader {
            type_id,
            timestamp,
            message_stream_id: msid,
        };
        self.writer.write(csid, header, body, &mut self.bytes);
    }

    pub fn control(&mut self, type_id: u8, body: &[u8]) {
        self.message(2, type_id, 0, 0, body);
    }

    /// Set Chunk Size, and chunks of that size from then on.
    pub fn chunk_bytes(&mut self, bytes: u32) {
        self.control(message_type::SET_CHUNK_SIZE, &bytes.to_be_bytes());
        self.writer.set_chunk_bytes(bytes);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A full header (fmt 0) on a csid below 64, by hand.
    pub fn raw_full_header(&mut self, csid: u8, timestamp: u32, length: usize, type_id: u8) {
        let field = timestamp.min(0xFF_FFFF);
        self.raw(&[csid]);
        self.raw(&field.to_be_bytes()[1..]);
        self.raw(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
        self.raw(&[type_id, 1, 0, 0, 0]);
        if field == 0xFF_FFFF {
            self.raw(&timestamp.to_be_bytes());
        }
    }
}

/// A command with a null object.
pub fn call<'a>(name: &'a str, transaction: f64, arguments: &[Value<'a>]) -> Vec<Value<'a>> {
    let head = [Value::text(name), Value::Number(transaction), Value::Null];
    head.into_iter().chain(arguments.iter().cloned()).collect()
}
