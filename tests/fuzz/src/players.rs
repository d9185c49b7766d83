//! The server's side of a player.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtmp::{
    MediaKind, PlayEvent, PlayRefusal, PlaySession, Rejection, ServerConfig,
    amf0::{Value, encode},
    chunk::{ChunkWriter, MessageHeader},
    handshake::{self, PACKET_BYTES},
    message_type,
};

use crate::script::Script;

/// Its half of the handshake, and a word at the end.
const SAID_UNASKED_BYTES: usize = 8 << 10;
/// The shortest question has a dozen bytes, the longest answer about a kilobyte.
const SAID_PER_BYTE: usize = 100;
const SENT_BODY: &[u8] = &[0x27; 300];

/// What a player, the driver and the clock do, step by step.
pub(crate) fn player(data: &[u8]) {
    let mut script = Script::new(data);
    let mut now = Instant::now();
    let mut session = PlaySession::new(ServerConfig::default(), &[0x51; 1528], now);
    let mut player = Player::default();
    let (mut said, mut sent, mut requests) = (0, 0, 0);
    while let Some(step) = script.next() {
        match step % 10 {
            0 => player.output.extend_from_slice(script.counted()),
            1 => player.handshake(),
            2 => player.connect(&mut script),
            3 => player.call("createStream", Value::Null),
            4 => player.call("play", Value::String(script.counted())),
            5 => player.any(&mut script),
            6 => session.accept_play(),
            7 => session.reject(PlayRefusal::StreamNotFound, rejection()),
            8 => {
                session.send(
                    MediaKind::Video,
                    script.u32(),
                    &Bytes::from_static(SENT_BODY),
                );
                sent += 1;
            }
            _ => now += Duration::from_millis(script.u16().into()),
        }
        let outcome = session
            .handle_input(&mut player.output, now)
            .and_then(|()| session.handle_timeout(now));
        while let Some(bytes) = session.poll_transmit() {
            said += Bytes::len(&bytes);
        }
        while let Some(PlayEvent::PlayRequested(_)) = session.poll_event() {
            requests += 1;
        }
        if outcome.is_err() || session.is_closing() {
            break;
        }
        assert!(session.poll_timeout().is_none_or(|deadline| deadline > now));
    }
    session.finish();
    assert!(requests <= 1, "{requests} requests");
    let said_max = SAID_UNASKED_BYTES + SAID_PER_BYTE * player.said + sent * 2 * SENT_BODY.len();
    assert!(
        said <= said_max + SAID_PER_BYTE * data.len(),
        "{said} bytes said"
    );
}

fn rejection() -> Rejection {
    Rejection {
        description: "no".to_owned(),
    }
}

#[derive(Default)]
struct Player {
    writer: ChunkWriter,
    output: BytesMut,
    /// Bytes of its messages.
    said: usize,
}

impl Player {
    fn handshake(&mut self) {
        let hello = handshake::client_opening(&[0xC1; 1528]);
        self.output.extend_from_slice(&hello);
        self.output.extend_from_slice(&[0; PACKET_BYTES]);
    }

    fn connect(&mut self, script: &mut Script<'_>) {
        let app = script.counted();
        let object = Value::Object(vec![(b"app", Value::String(app))]);
        let values = [Value::text("connect"), Value::Number(1.0), object];
        self.send(message_type::COMMAND_AMF0, &encode(&values));
    }

    fn call(&mut self, name: &str, argument: Value<'_>) {
        let values = [Value::text(name), Value::Number(4.0), Value::Null, argument];
        self.send(message_type::COMMAND_AMF0, &encode(&values));
    }

    fn any(&mut self, script: &mut Script<'_>) {
        let type_id = script.u8();
        self.send(type_id, script.counted());
    }

    fn send(&mut self, type_id: u8, body: &[u8]) {
        let header = MessageHeader {
            type_id,
            timestamp: 0,
            message_stream_id: 1,
        };
        self.said += body.len() + 8;
        self.writer.write(3, header, body, &mut self.output);
    }
}
