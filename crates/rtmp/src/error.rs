//! What a peer did wrong. Every [`ProtocolError`] ends the connection.

/// Why bytes are not acceptable AMF.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AmfError {
    /// An AMF3 object that only its own class can read.
    #[error("an externalizable object cannot be read")]
    Externalizable,
    /// A command's first value is not its name.
    #[error("the command has no name")]
    NoCommandName,
    /// A reference to nothing, or one in a command, where nothing legitimate has one.
    #[error("a reference is not allowed here")]
    Reference,
    /// A string beyond the limit.
    #[error("a string is too long")]
    StringTooLong,
    /// Containers nested too deeply.
    #[error("values are nested too deeply")]
    TooDeep,
    /// More strings, objects or classes than an AMF3 message may refer to.
    #[error("too many values that can be referred to")]
    TooManyReferences,
    /// More values than the budget.
    #[error("too many values")]
    TooManyValues,
    /// The bytes end in the middle of a value.
    #[error("the data ends early")]
    Truncated,
    /// A reserved or unknown marker, or an object's end where a value must be.
    #[error("unknown marker {0:#04x}")]
    UnknownMarker(u8),
}

/// The peer broke the protocol or a limit.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Set Chunk Size below the limit, zero, or with its top bit set.
    #[error("chunk size {bytes} is not allowed")]
    ChunkSize {
        /// As sent.
        bytes: u32,
    },
    /// Too slow.
    #[error("{phase} took too long")]
    Deadline {
        /// What was awaited.
        phase: &'static str,
    },
    /// HTTP where RTMP was expected: a probe, or a browser.
    #[error("HTTP was spoken, RTMP is expected")]
    Http,
    /// A command that cannot be read.
    #[error("a command is malformed")]
    MalformedCommand(#[source] AmfError),
    /// A protocol control message whose body is too short to mean anything.
    #[error("protocol control message {type_id} is malformed")]
    MalformedControl {
        /// The message type.
        type_id: u8,
    },
    /// Audio, video or data while nothing is published, more than can be a misunderstanding.
    #[error("media was sent before the publish was accepted")]
    MediaBeforePublish,
    /// A header in the middle of a message says that the message is another one.
    #[error("a message on chunk stream {chunk_stream_id} changed before it was complete")]
    MessageInterrupted {
        /// The csid.
        chunk_stream_id: u32,
    },
    /// A declared length beyond the limit of its type.
    #[error("a message of {bytes} bytes is larger than the allowed {limit}")]
    MessageTooLarge {
        /// As declared.
        bytes: usize,
        /// For this type, now.
        limit: usize,
    },
    /// Encrypted RTMP (RTMPE), which nothing current speaks.
    #[error("RTMPE is not supported, use rtmps://")]
    Rtmpe,
    /// TLS where plain RTMP was expected.
    #[error("TLS (rtmps://) was spoken where plain rtmp:// is expected")]
    Tls,
    /// More chunk streams than any encoder uses.
    #[error("more than {limit} chunk streams")]
    TooManyChunkStreams {
        /// At this point of the session.
        limit: usize,
    },
    /// A flood of commands or control messages.
    #[error("too many commands or control messages")]
    TooManyControlMessages,
    /// `createStream` again and again.
    #[error("more than {limit} message streams")]
    TooManyMessageStreams {
        /// On one connection.
        limit: usize,
    },
    /// A flood of messages, or too many of them before a publish.
    #[error("too many messages")]
    TooManyMessages,
    /// Too many, or too much data in, messages that are not complete.
    #[error("too much data in unfinished messages")]
    TooMuchUnfinished,
    /// A command or message before `connect`.
    #[error("{what} came before connect")]
    Unconnected {
        /// What it was.
        what: &'static str,
    },
    /// A chunk that refers to a header which was never sent.
    #[error("chunk stream {chunk_stream_id} has no header to continue")]
    UnknownChunkStream {
        /// The csid.
        chunk_stream_id: u32,
    },
    /// A first byte that no known protocol begins with.
    #[error("this is not RTMP: the first byte is {byte:#04x}")]
    UnknownProtocol {
        /// The first byte.
        byte: u8,
    },
}

impl ProtocolError {
    /// A stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ChunkSize { .. } => "chunk_size",
            Self::Deadline { .. } => "deadline",
            Self::Http => "http",
            Self::MalformedCommand(_) => "malformed_command",
            Self::MalformedControl { .. } => "malformed_control",
            Self::MediaBeforePublish => "media_before_publish",
            Self::MessageInterrupted { .. } => "message_interrupted",
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::Rtmpe => "rtmpe",
            Self::Tls => "tls_on_plain_port",
            Self::TooManyChunkStreams { .. } => "too_many_chunk_streams",
            Self::TooManyControlMessages => "too_many_control_messages",
            Self::TooManyMessageStreams { .. } => "too_many_message_streams",
            Self::TooManyMessages => "too_many_messages",
            Self::TooMuchUnfinished => "too_much_unfinished",
            Self::Unconnected { .. } => "unconnected",
            Self::UnknownChunkStream { .. } => "unknown_chunk_stream",
            Self::UnknownProtocol { .. } => "unknown_protocol",
        }
    }
}
