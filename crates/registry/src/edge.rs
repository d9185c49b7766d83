//! What an edge says of itself, and what it is told to do.

use std::time::Duration;

use crate::{EdgeName, SessionId, Slot, StreamId};

/// What an edge says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Its name.
    pub name: EdgeName,
    /// The machine that it runs on, for people: on Kubernetes the pod. Empty where that is not known.
    pub host: String,
    /// Where it stands; empty where zones are not known.
    pub zone: String,
    /// Of the program.
    pub version: String,
    /// How far it is on its way to be empty.
    pub phase: EdgePhase,
    /// Its process was told to stop: it does not come back from its drain.
    pub stopping: bool,
    /// Sessions that publish there.
    pub sessions: u32,
    /// When a drain closes the last session, by the edge's clock, in milliseconds since the Unix epoch.
    pub drain_until_ms: Option<u64>,
    /// What the order to drain said why; empty without one.
    pub drain_reason: String,
    /// The highest number of a command that it has heard of; zero: of none, or it does not say.
    pub heard: CommandId,
}

/// How far an edge is on its way to be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgePhase {
    /// It takes publishers in.
    Serving,
    /// It is not ready, and takes in who comes in spite of that.
    Noticed,
    /// It takes nobody in, and its sessions leave.
    Draining,
    /// It drained, and no session is left.
    Empty,
}

impl EdgePhase {
    /// In the order in which they come.
    pub const ALL: [Self; 4] = [Self::Serving, Self::Noticed, Self::Draining, Self::Empty];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Noticed => "noticed",
            Self::Draining => "draining",
            Self::Empty => "empty",
        }
    }
}

/// What an edge is told to do. Any of them may come twice, and by two ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// To get empty.
    Drain(DrainOrder),
    /// To end this session.
    Kick {
        /// What it publishes.
        stream: StreamId,
        /// In which slot.
        slot: Slot,
        /// Which one.
        session: SessionId,
    },
    /// To end every session of a stream key: a hint, the revocation log being what holds.
    Revoke {
        /// The key's public part.
        stream_key_id: String,
    },
    /// To take publishers in again.
    Undrain,
}

/// How an edge is to get empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// Until the last session is closed, from when the edge hears of it; zero: at once. `None`: the edge's own time.
    pub timeout: Option<Duration>,
    /// Whether encoders that can are asked to connect elsewhere.
    pub reconnect: bool,
    /// For people; at most [`REASON_BYTES_MAX`].
    pub reason: String,
}

/// Of a reason, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

/// The place of a command among those of its edge, as the registry grants it: what an edge hears of by two ways is put
/// into order by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// The registry's clock, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Within the millisecond.
    pub number: u64,
}

impl CommandId {
    /// The first one above it.
    pub(crate) fn above(self) -> Self {
        match self.number.checked_add(1) {
            Some(number) => Self { number, ..self },
            None => Self {
                at_ms: self.at_ms.saturating_add(1),
                number: 0,
            },
        }
    }
}

impl std::fmt::Display for CommandId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.at_ms, self.number)
    }
}

/// How many commands of an edge are kept, about.
pub(crate) const COMMANDS_MAX: usize = 1000;

/// For how long they are, behind the last one. A name is that of one process: there is nobody to read older ones.
pub(crate) const COMMANDS_TTL: Duration = Duration::from_secs(60 * 60);
