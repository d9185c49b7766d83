//! An encoder written here, byte by byte: it can do what a real one would not, and sees every message that comes back.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use bytes::Buf as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    amf::{self, Value},
    chunks::{COMMAND, DATA, Message, Reader},
    flv::{Kind, Tag},
    tls::Connection,
};

/// C0 and C1, or C2.
const HANDSHAKE_BYTES: usize = 1536;
/// What this encoder announces: most bodies fit one chunk.
const CHUNK_BYTES: usize = 65_536;
/// To wait for any one answer.
const ANSWER: Duration = Duration::from_secs(15);
/// The message stream that createStream gives everywhere.
const MESSAGE_STREAM: u32 = 1;

const SET_CHUNK_SIZE: u8 = 1;

pub use crate::chunks::{AUDIO, VIDEO};

/// A connection to an RTMP server.
pub struct Encoder {
    connection: Box<dyn Connection>,
    reader: Reader,
    chunk_bytes_out: usize,
}

/// An `onStatus` or `_error` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtmpStatus {
    pub level: String,
    pub code: String,
    pub description: String,
}

impl Encoder {
    pub fn new(connection: Box<dyn Connection>) -> Self {
        Self {
            connection,
            reader: Reader::default(),
            chunk_bytes_out: 128,
        }
    }

    /// Handshake, connect, createStream, publish; what the server says to the last of them. `Err` where it closes the
    /// connection without a word.
    pub async fn publish(&mut self, app: &str, name: &str) -> io::Result<RtmpStatus> {
        self.handshake().await?;
        if let Err(refused) = self.connect(app).await? {
            return Ok(refused);
        }
        self.create_stream().await?;
        self.command(
            MESSAGE_STREAM,
            &["publish".into(), Value::Number(5.0), Value::Null]
                .into_iter()
                .chain([name.into(), "live".into()])
                .collect::<Vec<_>>(),
        )
        .await?;
        self.status().await
    }

    /// Handshake, connect, createStream, play; what the server says to the last of them.
    pub async fn play(&mut self, app: &str, name: &str) -> io::Result<RtmpStatus> {
        self.handshake().await?;
        if let Err(refused) = self.connect(app).await? {
            return Ok(refused);
        }
        self.create_stream().await?;
        let play = ["play".into(), Value::Number(5.0), Value::Null, name.into()];
        self.command(MESSAGE_STREAM, &play).await?;
        self.status().await
    }

    /// As [`publish`](Self::publish), and it must be accepted.
    pub async fn publish_accepted(&mut self, app: &str, name: &str) {
        let status = self.publish(app, name).await.unwrap();
        assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
    }

    pub async fn handshake(&mut self) -> io::Result<()> {
        let mut hello = vec![3];
        hello.resize(1 + HANDSHAKE_BYTES, 0x5a);
        hello[1..9].fill(0);
        self.send_bytes(&hello).await?;
        while self.reader.input.len() < 1 + 2 * HANDSHAKE_BYTES {
            self.fill().await?;
        }
        let input = &mut self.reader.input;
        assert_eq!(input[0], 3, "S0");
        input.advance(1);
        let answer = input.split_to(HANDSHAKE_BYTES);
        input.advance(HANDSHAKE_BYTES);
        self.send_bytes(&answer).await
    }

    /// `Ok(Err(_))` where the server refuses with an `_error`.
    pub async fn connect(&mut self, app: &str) -> io::Result<Result<(), RtmpStatus>> {
        let chunk_bytes = u32::try_from(CHUNK_BYTES).unwrap().to_be_bytes();
        self.send_message(2, SET_CHUNK_SIZE, 0, 0, &chunk_bytes)
            .await?;
        self.chunk_bytes_out = CHUNK_BYTES;
        let object = [
            ("app", app),
            ("type", "nonprivate"),
            ("flashVer", "FMLE/3.0 (compatible; Headwater tests)"),
            ("tcUrl", &format!("rtmps://localhost/{app}")),
        ]
        .map(|(name, value)| (name.to_owned(), value.into()));
        let connect = [
            "connect".into(),
            Value::Number(1.0),
            Value::Object(object.to_vec()),
        ];
        self.command(0, &connect).await?;
        loop {
            let values = self.next_command().await?;
            match values[0].text() {
                Some("_result") => return Ok(Ok(())),
                Some("_error") => return Ok(Err(read_status(&values))),
                _ => {}
            }
        }
    }

    pub async fn create_stream(&mut self) -> io::Result<()> {
        self.command(0, &["createStream".into(), Value::Number(4.0), Value::Null])
            .await?;
        while self.next_command().await?[0].text() != Some("_result") {}
        Ok(())
    }

    /// Waits for the next `onStatus`.
    pub async fn status(&mut self) -> io::Result<RtmpStatus> {
        loop {
            let values = self.next_command().await?;
            if values[0].text() == Some("onStatus") {
                return Ok(read_status(&values));
            }
        }
    }

    /// Sends a tag as the message that it is.
    pub async fn send(&mut self, tag: &Tag) -> io::Result<()> {
        let timestamp = u32::try_from(tag.timestamp_ms).unwrap();
        let (chunk_stream, kind) = match tag.kind {
            Kind::Audio => (4, AUDIO),
            Kind::Script => (5, DATA),
            Kind::Video => (6, VIDEO),
        };
        self.send_message(chunk_stream, kind, MESSAGE_STREAM, timestamp, &tag.body)
            .await
    }

    /// FCUnpublish and deleteStream, and the connection closed. Waits for the server's close too: a socket that is given
    /// up with something unread in it takes back what is still under way to the server.
    pub async fn finish(mut self, name: &str) -> io::Result<()> {
        let unpublish = [
            "FCUnpublish".into(),
            Value::Number(6.0),
            Value::Null,
            name.into(),
        ];
        self.command(0, &unpublish).await?;
        let delete = [
            "deleteStream".into(),
            Value::Number(7.0),
            Value::Null,
            Value::Number(MESSAGE_STREAM.into()),
        ];
        self.command(0, &delete).await?;
        self.connection.shutdown().await?;
        self.until_closed(ANSWER).await;
        Ok(())
    }

    pub async fn command(&mut self, message_stream: u32, values: &[Value]) -> io::Result<()> {
        self.send_message(3, COMMAND, message_stream, 0, &amf::encode(values))
            .await
    }

    /// A whole message: one chunk with a full header, the others with none.
    pub async fn send_message(
        &mut self,
        chunk_stream: u8,
        kind: u8,
        message_stream: u32,
        timestamp: u32,
        body: &[u8],
    ) -> io::Result<()> {
        let mut bytes = message_header(chunk_stream, kind, message_stream, timestamp, body.len());
        for (index, chunk) in body.chunks(self.chunk_bytes_out).enumerate() {
            if index > 0 {
                bytes.push(0xc0 | chunk_stream);
            }
            bytes.extend(chunk);
        }
        self.send_bytes(&bytes).await
    }

    /// Whatever one likes. Fails when the server takes nothing for a while.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = timeout(ANSWER, async {
            self.connection.write_all(bytes).await?;
            self.connection.flush().await
        });
        sent.await.map_err(|_elapsed| ErrorKind::TimedOut)?
    }

    /// Reads until the server closes; the messages that came before.
    pub async fn until_closed(&mut self, deadline: Duration) -> Vec<Message> {
        let mut messages = Vec::new();
        let read = timeout(deadline, async {
            while let Ok(message) = self.next_message().await {
                messages.push(message);
            }
        });
        assert!(
            read.await.is_ok(),
            "the server keeps the connection open for {deadline:?}"
        );
        messages
    }

    /// The last status that the server sends before it closes.
    pub async fn final_status(&mut self, deadline: Duration) -> Option<RtmpStatus> {
        let messages = self.until_closed(deadline).await;
        let commands = messages.iter().filter(|message| message.kind == COMMAND);
        commands
            .map(|message| amf::decode(&message.body))
            .rfind(|values| matches!(values[0].text(), Some("onStatus" | "_error")))
            .map(|values| read_status(&values))
    }

    async fn next_command(&mut self) -> io::Result<Vec<Value>> {
        let next = timeout(ANSWER, async {
            loop {
                let message = self.next_message().await?;
                if message.kind == COMMAND {
                    return Ok(amf::decode(&message.body));
                }
            }
        });
        next.await.map_err(|_elapsed| ErrorKind::TimedOut)?
    }

    pub async fn next_message(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.reader.take() {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.connection.read_buf(&mut self.reader.input).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The full form (RTMP 1.0 §5.3.1.2.1), up to where the payload starts.
pub fn message_header(
    chunk_stream: u8,
    kind: u8,
    message_stream: u32,
    timestamp: u32,
    length: usize,
) -> Vec<u8> {
    assert!(timestamp < 0x00ff_ffff, "no extended timestamps here");
    let mut bytes = vec![chunk_stream];
    bytes.extend(&timestamp.to_be_bytes()[1..]);
    bytes.extend(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
    bytes.push(kind);
    bytes.extend(message_stream.to_le_bytes());
    bytes
}

fn read_status(values: &[Value]) -> RtmpStatus {
    let object = values.get(3).cloned().unwrap_or(Value::Null);
    let text = |name| {
        let member = object.member(name).and_then(Value::text);
        member.unwrap_or_default().to_owned()
    };
    RtmpStatus {
        level: text("level"),
        code: text("code"),
        description: text("description"),
    }
}
