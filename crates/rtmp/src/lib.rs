//! RTMP as a state machine: bytes and time in, bytes and events out; server and client side.
//!
//! Deterministic: no socket, no clock, no executor, no randomness of its own.
//!
//! | specification | where |
//! |---|---|
//! | RTMP 1.0 §5.2 handshake | [`handshake`] |
//! | RTMP 1.0 §5.3, §5.4 chunk stream, protocol control | [`chunk`] |
//! | AMF0 | [`amf0`] |
//! | RTMP 1.0 §7 commands, server side | [`server`] |
//! | RTMP 1.0 §7 commands, client side | [`client`] |
//! | limits against hostile peers | [`limits`] |

#![deny(clippy::indexing_slicing)]
#![deny(missing_docs)]

pub mod amf0;
pub mod chunk;
pub mod client;
mod error;
pub mod handshake;
pub mod limits;
mod message;
pub mod server;

pub use client::{ClientConfig, ClientEvent, ClientSession};
pub use error::ProtocolError;
pub use message::{MediaKind, MediaMessage};
pub use server::{
    ConnectRequest, EndCause, PublishRequest, Rejection, ServerConfig, ServerEvent, ServerSession,
    StreamKeyText,
};
