//! A client session under any server.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rtmp::{
    ClientConfig, ClientEvent, ClientSession, MediaKind, MediaMessage, Purpose, StreamKeyText,
    amf0::{Value, encode},
    chunk::{ChunkWriter, MessageHeader},
    handshake::PACKET_BYTES,
    message_type,
};

use crate::script::Script;

/// Its half of the handshake and the calls of a publish.
const SAID_UNASKED_BYTES: usize = 16 << 10;
const SAID_PER_BYTE: usize = 100;
const SENT_BODY: &[u8] = &[0x27; 300];

/// What a server says, step by step.
pub(crate) fn client(data: &[u8]) {
    let mut script = Script::new(data);
    let now = Instant::now();
    let mut session = ClientSession::new(config(), &[0xC1; 1528], now);
    let mut server = Server::default();
    let (mut said, mut sent, mut started, mut rejected) = (0, 0, 0, 0);
    while let Some(step) = script.next() {
        match step % 7 {
            0 => server.output.extend_from_slice(script.counted()),
            1 => server.output.extend_from_slice(&handshake()),
            2 => server.result(script.u8()),
            3 => server.status(script.u8()),
            4 => server.any(&mut script),
            5 => {
                session.send(&media());
                sent += 1;
            }
            _ => session.finish(),
        }
        let outcome = session.handle_input(&mut server.output, now);
        while let Some(bytes) = session.poll_transmit() {
            said += Bytes::len(&bytes);
        }
        while let Some(event) = session.poll_event() {
            match event {
                ClientEvent::PublishStarted => started += 1,
                ClientEvent::ReconnectRequested { .. } => {}
                ClientEvent::Rejected { .. } => rejected += 1,
                ClientEvent::Media(_) | ClientEvent::PlayEnded | ClientEvent::PlayStarted => {
                    panic!("a publisher plays")
                }
            }
        }
        if outcome.is_err() {
            break;
        }
    }
    assert!(started <= 1 && rejected <= 1 + data.len());
    let said_max =
        SAID_UNASKED_BYTES + SAID_PER_BYTE * server.said(data) + sent * 2 * SENT_BODY.len();
    assert!(said <= said_max, "{said} bytes said");
}

fn config() -> ClientConfig {
    ClientConfig {
        app: "live".to_owned(),
        tc_url: "rtmp://host/live".to_owned(),
        name: StreamKeyText::new("key".to_owned()),
        flash_ver: "fuzz".to_owned(),
        chunk_bytes_out: 4096,
        caps_ex: 0,
        purpose: Purpose::Publish,
    }
}

fn media() -> MediaMessage {
    MediaMessage {
        kind: MediaKind::Video,
        timestamp: 40,
        body: Bytes::from_static(SENT_BODY),
    }
}

/// S0, S1 and S2.
fn handshake() -> Vec<u8> {
    let mut bytes = vec![0; 1 + 2 * PACKET_BYTES];
    bytes[0] = 3;
    bytes
}

#[derive(Default)]
struct Server {
    writer: ChunkWriter,
    output: BytesMut,
    messages: usize,
}

impl Server {
    fn result(&mut self, transaction: u8) {
        let transaction = f64::from(transaction % 8);
        self.command(&[
            Value::text("_result"),
            Value::Number(transaction),
            Value::Null,
            Value::Number(1.0),
        ]);
    }

    fn status(&mut self, which: u8) {
        let (level, code) = match which % 3 {
            0 => ("status", "NetStream.Publish.Start"),
            1 => ("error", "NetStream.Publish.BadName"),
            _ => ("status", "NetStream.Unpublish.Success"),
        };
        let info = Value::object([
            ("level", Value::text(level)),
            ("code", Value::text(code)),
            ("description", Value::text("because")),
        ]);
        self.command(&[
            Value::text("onStatus"),
            Value::Number(0.0),
            Value::Null,
            info,
        ]);
    }

    fn any(&mut self, script: &mut Script<'_>) {
        let type_id = script.u8();
        self.send(type_id, script.counted());
    }

    fn command(&mut self, values: &[Value<'_>]) {
        self.send(message_type::COMMAND_AMF0, &encode(values));
    }

    fn send(&mut self, type_id: u8, body: &[u8]) {
        let header = MessageHeader {
            type_id,
            timestamp: 0,
            message_stream_id: 1,
        };
        self.writer.write(3, header, body, &mut self.output);
        self.messages += 1;
    }

    /// No message of its own has more than a few hundred bytes.
    fn said(&self, data: &[u8]) -> usize {
        data.len() + self.messages * 200
    }
}
