//! Every limit against a hostile or broken peer, by name.
//!
//! [`Limits`] holds what a deployment may change; the constants hold what it may not. Sizes are in bytes.

use std::time::Duration;

/// Deadlines, sizes and rates that a deployment may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the connection's start to the last byte of C2.
    pub handshake_deadline: Duration,
    /// From there to `connect`.
    pub connect_deadline: Duration,
    /// From there to `publish`; also from the end of a publish to the next one.
    pub publish_deadline: Duration,
    /// From the accepted publish to the first audio or video message.
    pub first_media_deadline: Duration,
    /// The longest silence (no byte at all) of a publisher.
    pub idle_deadline: Duration,
    /// A message may take longer than this only at [`slow_drip_bytes_per_second`](Self::slow_drip_bytes_per_second)
    /// or faster.
    pub slow_drip_deadline: Duration,
    /// Bytes per second.
    pub slow_drip_bytes_per_second: u32,
    /// Smallest chunk size that a peer may set. Smaller chunks cost the reader more than the sender.
    pub chunk_bytes_in_min: u32,
    /// Largest audio message.
    pub audio_message_bytes: usize,
    /// Largest video (or aggregate) message; the format itself ends at 2^24 - 1.
    pub video_message_bytes: usize,
    /// Messages of any type per second, sustained; see [`RATE_WINDOW`].
    pub messages_per_second: u32,
    /// Protocol control, user control and command messages per second, sustained; see [`RATE_WINDOW`].
    pub control_messages_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_deadline: Duration::from_secs(10),
            connect_deadline: Duration::from_secs(10),
            publish_deadline: Duration::from_secs(20),
            first_media_deadline: Duration::from_secs(20),
            idle_deadline: Duration::from_secs(20),
            slow_drip_deadline: Duration::from_secs(10),
            slow_drip_bytes_per_second: 2_000,
            chunk_bytes_in_min: 128,
            audio_message_bytes: 1 << 20,
            video_message_bytes: MESSAGE_BYTES,
            messages_per_second: 5_000,
            control_messages_per_second: 200,
        }
    }
}

/// Rates are counted over windows of this length, so that a burst after a stalled network passes.
pub const RATE_WINDOW: Duration = Duration::from_secs(4);

/// Largest message that the chunk format can declare; larger chunk sizes mean the same as this one.
pub const MESSAGE_BYTES: usize = 0xFF_FFFF;
/// Largest command, data or unknown message of an accepted publisher.
pub const COMMAND_BYTES: usize = 256 << 10;
/// Chunk streams (csids) of an accepted publisher.
pub const CHUNK_STREAMS: usize = 32;
/// Messages that have begun and not ended, on different chunk streams.
pub const PARTIAL_MESSAGES: usize = 8;
/// Bytes in those.
pub const PARTIAL_BYTES: usize = 24 << 20;

/// Before the publish is accepted: largest message of any type.
pub const UNPUBLISHED_MESSAGE_BYTES: usize = 64 << 10;
/// Before the publish is accepted: bytes in unfinished messages.
pub const UNPUBLISHED_PARTIAL_BYTES: usize = 64 << 10;
/// Before the publish is accepted: chunk streams. FFmpeg needs five.
pub const UNPUBLISHED_CHUNK_STREAMS: usize = 8;
/// Before the publish is accepted: messages. FFmpeg needs seven.
pub const UNPUBLISHED_MESSAGES: u32 = 32;
/// Media that comes while nothing is published is dropped up to here, then the connection ends.
pub const UNPUBLISHED_MEDIA_BYTES: usize = 64 << 10;

/// Message streams (`createStream`) open at a time.
pub const MESSAGE_STREAMS: usize = 8;

/// AMF containers inside containers. Real metadata needs four.
pub const AMF_DEPTH: usize = 16;
/// AMF values in one message.
pub const AMF_NODES: usize = 65_536;
/// AMF values in one message before the publish is accepted.
pub const UNPUBLISHED_AMF_NODES: usize = 4_096;
/// One AMF string, key or XML document.
pub const AMF_STRING_BYTES: usize = 64 << 10;
/// Strings, objects and classes that AMF3 values of one message can refer to, each.
pub const AMF_REFERENCES: usize = 1_024;

/// `connect`'s app, with its query; what belongs to Adobe authentication does not count.
pub const APP_BYTES: usize = 256;
/// What Adobe authentication may add to it.
pub const ADOBE_QUERY_BYTES: usize = 512;
/// Adobe authentication: user, challenge, response, opaque, each.
pub const ADOBE_FIELD_BYTES: usize = 128;
/// FourCCs that are kept of each list and map in `connect`.
pub const FOUR_CCS: usize = 32;
/// `connect`'s tcUrl.
pub const TC_URL_BYTES: usize = 2_048;
/// `publish`'s name, with its query.
pub const NAME_BYTES: usize = 1_024;
/// All query strings of one publish.
pub const QUERY_BYTES: usize = 2_048;
/// Parameters in them.
pub const QUERY_PARAMETERS: usize = 64;
/// What is kept of `connect`'s flashVer, in characters.
pub const ENCODER_CHARACTERS: usize = 128;
/// What is said in a status description, in bytes.
pub const DESCRIPTION_BYTES: usize = 512;

/// Acknowledgement window of a peer that announces none.
pub const WINDOW_BYTES: u32 = 2_500_000;
/// An acknowledgement is due after at most this many bytes.
pub const ACKNOWLEDGE_BYTES_MAX: u64 = 1_250_000;
/// However small the peer's window, acknowledgements are this far apart.
pub const ACKNOWLEDGE_BYTES_MIN: u64 = 64 << 10;
/// Ping requests answered per second; the others are ignored.
pub const PING_ANSWERS_PER_SECOND: u32 = 10;
