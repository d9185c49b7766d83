//! Both directions of the chunk stream with what belongs to neither side alone: protocol control (RTMP 1.0 §5.4),
//! user control (§7.1.7), acknowledgements, and the count of messages against their rates.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::chunk::{Bounds, ChunkReader, ChunkWriter, MessageHeader};
use crate::cursor::Cursor;
use crate::limits::{self, Limits};
use crate::message::message_type;
use crate::rate::Rate;
use crate::{Message, ProtocolError};

/// Chunk stream of protocol and user control (RTMP 1.0 §5.4).
const CONTROL_CHUNK_STREAM: u32 = 2;

/// Sends and receives messages after the handshake.
pub(crate) struct Link {
    reader: ChunkReader,
    writer: ChunkWriter,
    output: BytesMut,
    /// Since the handshake, modulo nothing.
    received_bytes: u64,
    acknowledged_bytes: u64,
    /// By the peer, as it says: nothing depends on it.
    peer_acknowledged: u32,
    /// The peer wants an acknowledgement at least this often, in bytes.
    peer_window_bytes: u32,
    /// What was announced to the peer, once it was.
    window_bytes: Option<u32>,
    /// Nothing is sent on our own account before `connect`: some clients count the handshake's bytes exactly.
    answers: bool,
    completed_messages: u64,
    /// Before the publish is accepted.
    messages_left: Option<u32>,
    chunk_bytes_in_min: u32,
    messages: Rate,
    control_messages: Rate,
    ping_answers: Rate,
    /// The last ping of ours that was not answered yet.
    ping: Option<Ping>,
    ping_time: u32,
    round_trip: Option<Duration>,
}

struct Ping {
    /// What the answer repeats.
    time: u32,
    sent: Instant,
}

impl Link {
    /// To a peer that nothing is known of: it may hold and say little.
    pub(crate) fn to_stranger(limits: &Limits, now: Instant) -> Self {
        let mut link = Self::new(Bounds::unpublished(), limits, now);
        link.set_messages_left(Some(limits::UNPUBLISHED_MESSAGES));
        link
    }

    pub(crate) fn new(bounds: Bounds, limits: &Limits, now: Instant) -> Self {
        Self {
            reader: ChunkReader::new(bounds),
            writer: ChunkWriter::new(),
            output: BytesMut::new(),
            received_bytes: 0,
            acknowledged_bytes: 0,
            peer_acknowledged: 0,
            peer_window_bytes: limits::WINDOW_BYTES,
            window_bytes: None,
            answers: false,
            completed_messages: 0,
            messages_left: None,
            chunk_bytes_in_min: limits.chunk_bytes_in_min,
            messages: Rate::new(limits.messages_per_second, now),
            control_messages: Rate::new(limits.control_messages_per_second, now),
            ping_answers: Rate::new(limits::PING_ANSWERS_PER_SECOND, now),
            ping: None,
            ping_time: 0,
            round_trip: None,
        }
    }

    /// The next message that is not protocol or user control; those are dealt with here.
    pub(crate) fn read(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
    ) -> Result<Option<Message>, ProtocolError> {
        loop {
            let before = input.len();
            let message = self.reader.read(input);
            let bytes = u64::try_from(before - input.len()).unwrap_or_default();
            self.received_bytes = self.received_bytes.wrapping_add(bytes);
            let Some(message) = message? else {
                self.acknowledge();
                return Ok(None);
            };
            self.completed_messages += 1;
            self.count_message(now)?;
            match message.type_id {
                message_type::SET_CHUNK_SIZE..=message_type::SET_PEER_BANDWIDTH => {
                    self.count_control(now)?;
                    self.handle_control(&message, now)?;
                }
                message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3 => {
                    self.count_control(now)?;
                    return Ok(Some(message));
                }
                _ => return Ok(Some(message)),
            }
        }
    }

    /// For messages inside of a message.
    pub(crate) fn count_message(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if let Some(left) = &mut self.messages_left {
            *left = left.checked_sub(1).ok_or(ProtocolError::TooManyMessages)?;
        }
        if !self.messages.admit(now) {
            return Err(ProtocolError::TooManyMessages);
        }
        Ok(())
    }

    /// How many more messages may come; `None`: only the rates bound them.
    pub(crate) fn set_messages_left(&mut self, messages: Option<u32>) {
        self.messages_left = messages;
    }

    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.reader.set_bounds(bounds);
    }

    pub(crate) fn completed_messages(&self) -> u64 {
        self.completed_messages
    }

    /// From now on acknowledgements and answers to pings are sent.
    pub(crate) fn start_answering(&mut self) {
        self.answers = true;
    }

    pub(crate) fn send(&mut self, chunk_stream_id: u32, header: MessageHeader, body: &[u8]) {
        self.writer
            .write(chunk_stream_id, header, body, &mut self.output);
    }

    /// As [`send`](Self::send) without a copy of the body; what `ready` holds goes out before the rest of the output.
    pub(crate) fn send_shared(
        &mut self,
        chunk_stream_id: u32,
        header: MessageHeader,
        body: &Bytes,
        ready: &mut VecDeque<Bytes>,
    ) {
        self.writer
            .write_shared(chunk_stream_id, header, body, &mut self.output, ready);
    }

    /// Announces the chunk size and uses it from the next message on.
    pub(crate) fn send_chunk_size(&mut self, bytes: u32) {
        let bytes = bytes.clamp(1, 0x7FFF_FFFF);
        self.send_control(message_type::SET_CHUNK_SIZE, &bytes.to_be_bytes());
        self.writer.set_chunk_bytes(bytes);
    }

    pub(crate) fn send_window_size(&mut self, bytes: u32) {
        self.window_bytes = Some(bytes);
        self.send_control(
            message_type::WINDOW_ACKNOWLEDGEMENT_SIZE,
            &bytes.to_be_bytes(),
        );
    }

    /// With limit type "dynamic" (RTMP 1.0 §5.4.5).
    pub(crate) fn send_peer_bandwidth(&mut self, bytes: u32) {
        let mut body = [0, 0, 0, 0, 2];
        body.as_mut_slice().put_u32(bytes);
        self.send_control(message_type::SET_PEER_BANDWIDTH, &body);
    }

    pub(crate) fn send_stream_begin(&mut self, message_stream_id: u32) {
        self.send_user_control(user_control::STREAM_BEGIN, message_stream_id);
    }

    pub(crate) fn send_stream_eof(&mut self, message_stream_id: u32) {
        self.send_user_control(user_control::STREAM_EOF, message_stream_id);
    }

    /// What the peer says it has received; 0 before it says so.
    pub(crate) fn peer_acknowledged(&self) -> u32 {
        self.peer_acknowledged
    }

    /// Sends a ping. A later one takes the place of one that was not answered.
    pub(crate) fn ping(&mut self, now: Instant) {
        // Any number does that the answer can repeat.
        self.ping_time = self.ping_time.wrapping_add(1);
        self.ping = Some(Ping {
            time: self.ping_time,
            sent: now,
        });
        self.send_user_control(user_control::PING_REQUEST, self.ping_time);
    }

    /// How long the answer to the last ping took; once.
    pub(crate) fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    /// Bytes that belong in front of all messages: the handshake's.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Bytes of memory in unfinished messages and in what waits to be sent.
    pub(crate) fn held_bytes(&self) -> usize {
        self.reader.held_bytes() + self.output.len()
    }

    /// Everything that waits to be sent.
    pub(crate) fn take_output(&mut self) -> Option<Bytes> {
        if self.output.is_empty() {
            return None;
        }
        Some(self.output.split().freeze())
    }

    fn count_control(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.control_messages.admit(now) {
            Ok(())
        } else {
            Err(ProtocolError::TooManyControlMessages)
        }
    }

    fn handle_control(&mut self, message: &Message, now: Instant) -> Result<(), ProtocolError> {
        let mut body = Cursor::new(&message.body);
        match message.type_id {
            message_type::SET_CHUNK_SIZE => {
                let bytes = body.u32().ok_or(ProtocolError::MalformedControl {
                    type_id: message.type_id,
                })?;
                if bytes > 0x7FFF_FFFF || bytes < self.chunk_bytes_in_min.max(1) {
                    return Err(ProtocolError::ChunkSize { bytes });
                }
                self.reader.set_chunk_bytes(bytes);
            }
            message_type::ABORT => {
                if let Some(chunk_stream_id) = body.u32() {
                    self.reader.abort(chunk_stream_id);
                }
            }
            message_type::WINDOW_ACKNOWLEDGEMENT_SIZE => {
                if let Some(bytes) = body.u32().filter(|bytes| *bytes > 0) {
                    self.peer_window_bytes = bytes;
                }
            }
            // TCP limits the output; the sender of this still wants to hear our window (§5.4.5).
            message_type::SET_PEER_BANDWIDTH if self.answers && self.window_bytes.is_none() => {
                self.send_window_size(limits::WINDOW_BYTES);
            }
            message_type::USER_CONTROL => self.handle_user_control(body, now),
            // Nothing here waits for it, and its value may be anything.
            message_type::ACKNOWLEDGEMENT => {
                self.peer_acknowledged = body.u32().unwrap_or_default();
            }
            _ => {}
        }
        Ok(())
    }

    /// Unknown and short events are ignored.
    fn handle_user_control(&mut self, mut body: Cursor<'_>, now: Instant) {
        match (body.u16(), body.u32()) {
            (Some(user_control::PING_REQUEST), Some(time))
                if self.answers && self.ping_answers.admit(now) =>
            {
                self.send_user_control(user_control::PING_RESPONSE, time);
            }
            (Some(user_control::PING_RESPONSE), Some(time)) => {
                if let Some(ping) = self.ping.take_if(|ping| ping.time == time) {
                    self.round_trip = Some(now.saturating_duration_since(ping.sent));
                }
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self) {
        let due = (u64::from(self.peer_window_bytes) / 2)
            .clamp(limits::ACKNOWLEDGE_BYTES_MIN, limits::ACKNOWLEDGE_BYTES_MAX);
        if self.answers && self.received_bytes.wrapping_sub(self.acknowledged_bytes) >= due {
            self.acknowledged_bytes = self.received_bytes;
            let sequence = u32::try_from(self.received_bytes & 0xFFFF_FFFF).unwrap_or_default();
            self.send_control(message_type::ACKNOWLEDGEMENT, &sequence.to_be_bytes());
        }
    }

    fn send_user_control(&mut self, event: u16, data: u32) {
        let mut body = [0; 6];
        let mut fields = body.as_mut_slice();
        fields.put_u16(event);
        fields.put_u32(data);
        self.send_control(message_type::USER_CONTROL, &body);
    }

    fn send_control(&mut self, type_id: u8, body: &[u8]) {
        let header = MessageHeader {
            type_id,
            timestamp: 0,
            message_stream_id: 0,
        };
        self.send(CONTROL_CHUNK_STREAM, header, body);
    }
}

/// RTMP 1.0 §7.1.7.
mod user_control {
    pub(super) const STREAM_BEGIN: u16 = 0;
    pub(super) const STREAM_EOF: u16 = 1;
    pub(super) const PING_REQUEST: u16 = 6;
    pub(super) const PING_RESPONSE: u16 = 7;
}
