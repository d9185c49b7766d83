//! The server side of one connection.
//!
//! The driver reads the socket into a buffer and calls [`handle_input`](ServerSession::handle_input), wakes at
//! [`poll_timeout`](ServerSession::poll_timeout) and calls [`handle_timeout`](ServerSession::handle_timeout), then
//! drains [`poll_transmit`](ServerSession::poll_transmit) and [`poll_event`](ServerSession::poll_event), in this order.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::{MediaMessage, ProtocolError};

/// What the server announces and allows.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Chunk size that is announced once, before connect's `_result`, in bytes.
    pub chunk_bytes_out: u32,
    /// Window acknowledgement size that is announced, in bytes.
    pub window_bytes: u32,
    /// Deadlines and limits.
    pub limits: crate::limits::Limits,
}

/// One publishing connection.
pub struct ServerSession {}

/// What happened.
#[derive(Debug, PartialEq)]
pub enum ServerEvent {
    /// Media of the accepted publish.
    Media(MediaMessage),
    /// The publish is over, in band: FCUnpublish, deleteStream or closeStream.
    PublishEnded(EndCause),
    /// An encoder wants to publish. Answer with [`ServerSession::accept_publish`] or
    /// [`ServerSession::reject`]; until then no input is taken.
    PublishRequested(PublishRequest),
}

/// How a publish ended in band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// `closeStream`
    CloseStream,
    /// `deleteStream`
    DeleteStream,
    /// `FCUnpublish`
    FcUnpublish,
}

/// What `connect` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// As sent, lossily decoded; may hold a query. A secret may be in it: for splitting, not for logs.
    pub app: String,
    /// As sent. A secret may be in it.
    pub tc_url: String,
    /// What the encoder calls itself.
    pub flash_ver: String,
    /// E-RTMP `capsEx` bits; 0 where absent.
    pub caps_ex: u32,
}

/// An encoder's wish, app and name already taken apart (rtmp facts: joined with "/", then the query cut).
/// No `Debug` of the key: see [`StreamKeyText`].
#[derive(Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Application path: everything before the last segment. No secret.
    pub app: String,
    /// The last segment: a stream key. A secret.
    pub stream_key: StreamKeyText,
    /// Query parameters in order, last one of a name wins; values may be secrets.
    pub query: Vec<(String, StreamKeyText)>,
    /// The `connect` before it.
    pub encoder: String,
    /// E-RTMP `capsEx` bits of connect.
    pub caps_ex: u32,
}

/// Text that may hold a secret: prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKeyText(String);

/// A refusal that the encoder shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For the person at the encoder. No secret.
    pub description: String,
}

impl ServerSession {
    /// `random` fills S1 (RTMP 1.0 §5.2.3).
    pub fn new(_config: ServerConfig, _random: &[u8; 1528], _now: Instant) -> Self {
        todo!()
    }

    /// Takes what it can from `input`; leaves the rest, which comes first in the next call.
    pub fn handle_input(
        &mut self,
        _input: &mut BytesMut,
        _now: Instant,
    ) -> Result<(), ProtocolError> {
        todo!()
    }

    /// Checks deadlines.
    pub fn handle_timeout(&mut self, _now: Instant) -> Result<(), ProtocolError> {
        todo!()
    }

    /// Bytes to send: a whole reply at a time, for one write.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        todo!()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        todo!()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). Idle and slow-drip deadlines stop while
    /// [`pause`](Self::pause)d.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Whether the driver should read the socket: no while a publish is undecided (beyond a small buffer), no when
    /// closing.
    pub fn wants_input(&self) -> bool {
        todo!()
    }

    /// The driver stops reading because of backpressure: silence is not the encoder's fault.
    pub fn pause(&mut self) {
        todo!()
    }

    /// The driver reads again.
    pub fn resume(&mut self, _now: Instant) {
        todo!()
    }

    /// Answers the requested publish with StreamBegin and NetStream.Publish.Start.
    pub fn accept_publish(&mut self, _now: Instant) {
        todo!()
    }

    /// Refuses the requested publish (NetStream.Publish.BadName with a description); the driver then flushes and closes.
    pub fn reject(&mut self, _rejection: Rejection) {
        todo!()
    }

    /// Ends a live publish from our side with a status that FFmpeg shows; the driver then flushes and closes.
    pub fn close(&mut self, _rejection: Rejection) {
        todo!()
    }

    /// Bytes received so far, for statistics.
    pub fn received_bytes(&self) -> u64 {
        todo!()
    }
}

impl StreamKeyText {
    /// Wraps it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for StreamKeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
