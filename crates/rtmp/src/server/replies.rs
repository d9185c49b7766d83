//! What the server says: replies that every encoder in the field is content with.
//!
//! A status for a publish carries the message stream id that createStream gave; an error always has a description
//! (OBS 29 crashes without one); `onBWDone` is never sent, clients would answer it with `_checkbw`.

use super::connect::every_four_cc;
use super::{Rejection, ServerConfig, ServerSession};
use crate::amf0::{Value, encode};
use crate::capabilities::{CAPS_EX, Capabilities, RECONNECT_REQUEST};
use crate::chunk::MessageHeader;
use crate::limits::DESCRIPTION_BYTES;
use crate::link::Link;
use crate::message::message_type;

/// Chunk streams: replies to commands, and statuses of a message stream.
const COMMAND_CHUNK_STREAM: u32 = 3;
const STATUS_CHUNK_STREAM: u32 = 5;

/// The one code for a refused publish: OBS, librtmp, GStreamer and HaishinKit know it.
const BAD_NAME: &str = "NetStream.Publish.BadName";

/// What publishers and players are told alike.
impl Link {
    /// Everything that follows `connect`, in one write.
    pub(super) fn send_connected(
        &mut self,
        transaction: f64,
        config: &ServerConfig,
        announced: &Capabilities,
    ) {
        self.start_answering();
        self.send_window_size(config.window_bytes);
        self.send_peer_bandwidth(config.window_bytes);
        self.send_chunk_size(config.chunk_bytes_out);
        // E-RTMP: 4 = can forward. Bodies pass untouched, whatever the codec.
        let forward_all = || Value::object([("*", Value::Number(4.0))]);
        // Commands and statuses are always AMF0, so that is what is answered to a client that would speak AMF3 too.
        let mut information = vec![
            ("level", Value::text("status")),
            ("code", Value::text("NetConnection.Connect.Success")),
            ("description", Value::text("Connection succeeded.")),
            ("objectEncoding", Value::Number(0.0)),
            ("capsEx", Value::Number(CAPS_EX.into())),
            ("videoFourCcInfoMap", forward_all()),
            ("audioFourCcInfoMap", forward_all()),
        ];
        if !announced.four_cc_list.is_empty() {
            information.push(("fourCcList", every_four_cc()));
        }
        self.send_command(&[
            Value::text("_result"),
            Value::Number(transaction),
            Value::object([
                ("fmsVer", Value::text("FMS/3,0,1,123")),
                ("capabilities", Value::Number(31.0)),
            ]),
            Value::object(information),
        ]);
    }

    /// Refuses `connect`; the connection must then be closed.
    pub(super) fn send_connect_error(&mut self, transaction: f64, description: &str) {
        self.send_command(&[
            Value::text("_error"),
            Value::Number(transaction),
            Value::Null,
            status("error", "NetConnection.Connect.Rejected", description),
        ]);
    }

    pub(super) fn send_result(&mut self, transaction: f64, result: Value<'_>) {
        self.send_command(&[
            Value::text("_result"),
            Value::Number(transaction),
            Value::Null,
            result,
        ]);
    }

    /// `onFCPublish`, `onFCUnpublish`: some hardware waits for them.
    pub(super) fn send_fc(&mut self, name: &str, code: &str, description: &[u8]) {
        self.send_command(&[
            Value::text(name),
            Value::Number(0.0),
            Value::Null,
            Value::object([
                ("code", Value::text(code)),
                ("description", Value::String(description)),
            ]),
        ]);
    }

    pub(super) fn send_status(&mut self, message_stream_id: u32, status: Value<'_>) {
        let body = encode(&[
            Value::text("onStatus"),
            Value::Number(0.0),
            Value::Null,
            status,
        ]);
        let header = MessageHeader {
            type_id: message_type::COMMAND_AMF0,
            timestamp: 0,
            message_stream_id,
        };
        self.send(STATUS_CHUNK_STREAM, header, &body);
    }

    fn send_command(&mut self, values: &[Value<'_>]) {
        let header = MessageHeader {
            type_id: message_type::COMMAND_AMF0,
            timestamp: 0,
            message_stream_id: 0,
        };
        self.send(COMMAND_CHUNK_STREAM, header, &encode(values));
    }
}

impl ServerSession {
    /// Refuses `connect`; the driver then closes. Some clients wait for that, OBS among them.
    pub(super) fn refuse_connect(&mut self, transaction: f64, description: &str) {
        self.link.send_connect_error(transaction, description);
        self.closing = Some(Rejection {
            description: description.to_owned(),
        });
    }

    pub(super) fn send_publish_start(&mut self, message_stream_id: u32) {
        self.link.send_stream_begin(message_stream_id);
        self.link.send_status(
            message_stream_id,
            status("status", "NetStream.Publish.Start", "Publishing."),
        );
    }

    pub(super) fn send_unpublished(&mut self, message_stream_id: u32) {
        self.link.send_status(
            message_stream_id,
            status("status", "NetStream.Unpublish.Success", "Unpublished."),
        );
    }

    /// Refuses a publish; the driver then closes.
    pub(super) fn refuse_publish(&mut self, message_stream_id: u32, rejection: Rejection) {
        self.send_bad_name(message_stream_id, &rejection.description);
        self.closing = Some(rejection);
    }

    pub(super) fn send_bad_name(&mut self, message_stream_id: u32, description: &str) {
        self.link
            .send_status(message_stream_id, status("error", BAD_NAME, description));
    }

    /// Refuses a play; the driver then closes.
    pub(super) fn refuse_play(&mut self, message_stream_id: u32, description: &str) {
        self.link.send_status(
            message_stream_id,
            status("error", "NetStream.Play.Failed", description),
        );
        self.closing = Some(Rejection {
            description: description.to_owned(),
        });
    }

    /// On message stream 0: it is about the connection.
    pub(super) fn send_reconnect_request(&mut self, description: &str) {
        self.link
            .send_status(0, status("status", RECONNECT_REQUEST, description));
    }

    /// Ends a live publish: FFmpeg stops at the level, OBS needs the close that follows.
    pub(super) fn send_failure(&mut self, message_stream_id: u32, description: &str) {
        self.link.send_status(
            message_stream_id,
            status("error", "NetStream.Failed", description),
        );
    }
}

pub(super) fn status<'a>(level: &'a str, code: &'a str, description: &'a str) -> Value<'a> {
    let end = description.floor_char_boundary(DESCRIPTION_BYTES);
    let description = match description.get(..end) {
        None | Some("") => "Refused.",
        Some(description) => description,
    };
    Value::object([
        ("level", Value::text(level)),
        ("code", Value::text(code)),
        ("description", Value::text(description)),
    ])
}
