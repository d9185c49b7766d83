//! RTMP as a state machine: bytes and time in, bytes and events out; server and client side.
//!
//! Deterministic: no socket, no clock, no executor, no randomness of its own.
//!
//! | specification | where |
//! |---|---|
//! | RTMP 1.0 §5.2 handshake | [`handshake`] |
//! | RTMP 1.0 §5.3 chunk stream | [`chunk`] |
//! | RTMP 1.0 §5.4, §7.1.7 protocol control, user control | `link` |
//! | RTMP 1.0 §7.1.6 aggregate messages | `aggregate` |
//! | AMF0 | [`amf0`] |
//! | AMF3, reading | [`amf3`] |
//! | RTMP 1.0 §7 commands, server side | [`server`]; of players, [`PlaySession`] |
//! | RTMP 1.0 §7 commands, client side | [`client`] |
//! | E-RTMP v2, what `connect` announces | [`Capabilities`] |
//! | Adobe authentication (`authmod=adobe`) | [`AdobeResponse`] |
//! | how encoders spell application, stream key and query | [`publish_path`] |
//! | limits against hostile peers | [`limits`] |

#![deny(clippy::indexing_slicing)]
#![deny(missing_docs)]

mod adobe;
mod aggregate;
pub mod amf0;
pub mod amf3;
mod capabilities;
pub mod chunk;
pub mod client;
mod command;
mod cursor;
mod error;
pub mod handshake;
pub mod limits;
mod link;
mod message;
pub mod publish_path;
mod rate;
mod script;
pub mod server;

pub use adobe::{ADOBE_SEGMENT, AdobeChallenge, AdobeResponse};
pub use capabilities::{Capabilities, caps_ex};
pub use client::{Awaits, ClientConfig, ClientEvent, ClientSession, Purpose};
pub use error::{AmfError, ProtocolError};
pub use message::{MediaKind, MediaMessage, Message, message_type};
pub use publish_path::{PublishPath, PublishPathError};
pub use server::play::{PlayEvent, PlayRefusal, PlayRequest, PlaySession};
pub use server::{
    ConnectRequest, EndCause, PublishRequest, Rejection, ServerConfig, ServerEvent, ServerSession,
    StreamKeyText,
};
