//! What a peer did wrong. Every one of these ends the connection.

/// The peer broke the protocol or a limit.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Too slow.
    #[error("{phase} took too long")]
    Deadline {
        /// What was awaited.
        phase: &'static str,
    },
}

impl ProtocolError {
    /// A stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "deadline",
        }
    }
}
