//! Why a session is over: the word for machines, the text for the person at the encoder (docs/reasons.md).

use std::borrow::Cow;

use tokio::sync::watch;

use crate::{limits::LimitFault, session::MediaFault};

/// Why a session is over: said once, heard by everyone who holds a clone.
#[derive(Clone)]
pub(crate) struct Ending {
    end: watch::Sender<Option<End>>,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The encoder said so in band.
    ClientClose,
    /// The connection broke without a word, or a write did not get through.
    Disconnected,
    /// This edge stops.
    Drain,
    /// The grant's time is over.
    Expired,
    /// Another publisher owns the stream.
    Fenced,
    /// A task of ours failed.
    Internal,
    /// The media is beyond what the grant allows.
    Limit(LimitFault),
    /// The encoder's media is nothing that anybody could play.
    Media(MediaFault),
    /// It went on elsewhere, as it was asked to.
    Moved,
    /// No origin took the session for too long.
    OriginLost,
    /// The encoder broke the protocol, a limit or a deadline.
    Protocol(&'static str),
    /// Revoked or terminated.
    Revoked,
}

/// What a session leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// The stream ends with the session.
    Ended,
    /// It was our doing that the session ended: the stream waits for the publisher as long as for any of our faults.
    Unbroken,
    /// The publisher was lost, and comes back within its window or not at all.
    WithoutPublisher,
}

impl Ending {
    pub(crate) fn new() -> Self {
        Self {
            end: watch::Sender::new(None),
        }
    }

    /// Ends the session; the first reason stays.
    pub(crate) fn end(&self, end: End) {
        self.end.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(end);
            first
        });
    }

    /// The reason, once there is one.
    pub(crate) async fn ended(&self) -> End {
        let mut ends = self.end.subscribe();
        // The sender is `self`: the channel cannot close here.
        let end = ends.wait_for(Option::is_some).await.ok();
        end.and_then(|end| *end).unwrap_or(End::Internal)
    }

    pub(crate) fn now(&self) -> Option<End> {
        *self.end.borrow()
    }
}

impl End {
    /// A stable word for metrics, logs and the origin.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::Disconnected => "disconnected",
            Self::Drain => "drain",
            Self::Expired => "session_expired",
            Self::Fenced => "fenced",
            Self::Internal => "internal",
            Self::Limit(fault) => fault.reason(),
            Self::Media(_) => "media_error",
            Self::Moved => "drain_move",
            Self::OriginLost => "origin_lost",
            Self::Protocol("deadline") => "idle",
            Self::Protocol(_) => "protocol_error",
            Self::Revoked => "kicked",
        }
    }

    /// What the encoder is told; `None` where it knows or cannot be told.
    pub(crate) fn description(self) -> Option<Cow<'static, str>> {
        let fixed = match self {
            Self::ClientClose | Self::Disconnected | Self::Moved => None,
            Self::Drain => Some("The server is restarting, please reconnect"),
            Self::Fenced => Some("Another publisher took over this stream"),
            Self::Internal | Self::OriginLost => {
                Some("The service is not available right now, please try again")
            }
            Self::Expired => Some("This stream's time is over"),
            Self::Limit(fault) => return Some(fault.to_string().into()),
            Self::Media(fault) => Some(fault.description()),
            Self::Protocol(_) => {
                Some("The connection broke the protocol or was silent for too long")
            }
            Self::Revoked => Some("This stream was ended by its owner"),
        };
        fixed.map(Cow::Borrowed)
    }

    /// What becomes of the stream.
    pub(crate) fn leaves(self) -> Leaves {
        match self {
            Self::ClientClose | Self::Expired | Self::Limit(_) | Self::Revoked => Leaves::Ended,
            Self::Disconnected | Self::Media(_) | Self::Protocol(_) => Leaves::WithoutPublisher,
            Self::Drain | Self::Fenced | Self::Internal | Self::Moved | Self::OriginLost => {
                Leaves::Unbroken
            }
        }
    }

    /// The end of a session that was asked to go on elsewhere: that is what it does now.
    pub(crate) fn once_asked_to_leave(self) -> Self {
        match self {
            Self::ClientClose | Self::Disconnected | Self::Fenced => Self::Moved,
            Self::Drain
            | Self::Expired
            | Self::Internal
            | Self::Limit(_)
            | Self::Media(_)
            | Self::Moved
            | Self::OriginLost
            | Self::Protocol(_)
            | Self::Revoked => self,
        }
    }
}
