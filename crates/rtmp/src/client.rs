//! The client side of one publishing connection: what the load generator and the tests speak.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::{MediaMessage, ProtocolError, StreamKeyText};

/// What to publish.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// connect's app.
    pub app: String,
    /// connect's tcUrl.
    pub tc_url: String,
    /// publish's name.
    pub name: StreamKeyText,
    /// connect's flashVer.
    pub flash_ver: String,
    /// Chunk size to send with, in bytes.
    pub chunk_bytes_out: u32,
}

/// One publishing connection.
pub struct ClientSession {}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// NetStream.Publish.Start: media may be sent.
    PublishStarted,
    /// The server refused, or ended a live publish.
    Rejected {
        /// `NetStream.Publish.BadName` and the like.
        code: String,
        /// What it said.
        description: String,
    },
}

impl ClientSession {
    /// `random` fills C1.
    pub fn new(_config: ClientConfig, _random: &[u8; 1528], _now: Instant) -> Self {
        todo!()
    }

    /// Takes what came.
    pub fn handle_input(
        &mut self,
        _input: &mut BytesMut,
        _now: Instant,
    ) -> Result<(), ProtocolError> {
        todo!()
    }

    /// Bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        todo!()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        todo!()
    }

    /// Queues a media message; only after [`ClientEvent::PublishStarted`].
    pub fn send(&mut self, _message: &MediaMessage) {
        todo!()
    }

    /// Queues FCUnpublish and deleteStream.
    pub fn finish(&mut self) {
        todo!()
    }
}
