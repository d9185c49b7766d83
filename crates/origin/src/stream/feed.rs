//! What another origin's log tells, written into a log here: same broadcast, sessions, sequences, tokens and times, so that
//! a cursor means the same at both.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use media::{Frame, log::SequenceError};
use registry::{FencingToken, OriginName, Slot, StreamId};
use runtime::budget::Share;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{End, Followed, Slots, State, Stream, Streams, log_token};

/// The right to write to a followed stream, until a publisher comes here.
#[derive(Debug)]
pub(crate) struct Feed {
    stream: Arc<Stream>,
    /// Half-received bodies.
    partial: Share,
    superseded: oneshot::Receiver<()>,
    _admitted: OwnedSemaphorePermit,
}

/// Behind what is followed, where it begins again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) session_id: String,
    pub(crate) next_sequence: u64,
}

/// A publisher came here, or the stream ended.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the stream is not followed any more")]
pub(crate) struct Superseded;

/// What does not follow: the other origin has to be asked again.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FeedError {
    #[error("the process has no memory left for media")]
    Budget,
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error(transparent)]
    Superseded(#[from] Superseded),
}

/// A session as the other log tells of it.
pub(crate) struct SessionHeader<'a> {
    pub(crate) session_id: &'a str,
    pub(crate) slot: Slot,
    pub(crate) token: FencingToken,
    pub(crate) timeline_offset_ms: i64,
    /// Of the frame that comes next.
    pub(crate) sequence: u64,
    pub(crate) headers: &'a [(u64, Frame)],
    /// Of its grant.
    pub(crate) window: Option<Duration>,
}

impl Feed {
    /// A log that nobody can read yet: it enters the table with [`Streams::enter`]. `admitted`: from
    /// [`Streams::admit_followed`].
    pub(crate) fn new(
        streams: &Streams,
        admitted: OwnedSemaphorePermit,
        id: StreamId,
        broadcast_id: String,
        owner: OriginName,
    ) -> Self {
        let stream = Stream::new(id, broadcast_id, Slot::PRIMARY, streams.clone());
        let stream = Arc::new(stream);
        let (sender, superseded) = oneshot::channel();
        stream.state.lock().followed = Some(Followed {
            owner,
            timeline_offset_ms: 0,
            fed: None,
            dry: false,
            _superseded: sender,
        });
        Self {
            stream,
            partial: streams.budget().share(),
            superseded,
            _admitted: admitted,
        }
    }

    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Another origin has it now. What the one before it broke off is given up.
    pub(crate) fn owned_by(
        &mut self,
        owner: &OriginName,
        tokens: &Slots<FencingToken>,
    ) -> Result<(), Superseded> {
        self.partial.set(0);
        self.write(|state, followed| {
            followed.owner = owner.clone();
            followed.dry = false;
            for (slot, token) in tokens.iter() {
                state.raise_token(slot, *token);
            }
        })
    }

    /// Where to go on; `None`: nothing has come yet.
    pub(crate) fn position(&self) -> Option<Position> {
        let state = self.stream.state.lock();
        let (session_id, next_sequence, _) = state.log.session()?;
        Some(Position {
            session_id: session_id.to_owned(),
            next_sequence,
        })
    }

    pub(crate) fn header(&self, header: &SessionHeader<'_>) -> Result<(), Superseded> {
        let SessionHeader {
            session_id,
            slot,
            token,
            timeline_offset_ms,
            sequence,
            headers,
            window,
        } = *header;
        self.write(|state, followed| {
            state.raise_token(slot, token);
            state.inputs.of_mut(slot).window = window;
            state.selection.told(slot, Instant::now());
            followed.timeline_offset_ms = timeline_offset_ms;
            let log = &mut state.log;
            state.unplaced |= log.follow_session(session_id, log_token(slot, token), sequence);
            for (sequence, frame) in headers {
                log.seed_header(*sequence, frame);
            }
        })
    }

    pub(crate) fn gap(&self, session_id: &str, from: u64, to: u64) -> Result<(), Superseded> {
        self.write(|state, _followed| {
            state.unplaced |= state.log.follow_gap(session_id, from, to);
        })
    }

    /// Takes frames of the session of the last header, as the other origin puts them out. `partial_bytes`: of a body whose
    /// end is still to come.
    pub(crate) fn append(
        &mut self,
        frames: Vec<(u64, Frame)>,
        partial_bytes: usize,
    ) -> Result<(), FeedError> {
        self.partial.set(partial_bytes);
        let now = Instant::now();
        let appended = self.write(|state, followed| {
            let offset_ms = followed.timeline_offset_ms;
            // Those that readers have had are in another time.
            let next = state.log.session().map_or(0, |(_, next, _)| next);
            if let Some((_, first)) = frames.iter().find(|(sequence, _)| *sequence >= next)
                && std::mem::take(&mut state.unplaced)
            {
                state.log.place_session(offset_ms, first.timestamp_ms);
            }
            let appended = frames.into_iter().try_for_each(|(sequence, mut frame)| {
                frame.timestamp_ms = frame.timestamp_ms.saturating_sub(offset_ms);
                state.log.append(sequence, frame, now).map(drop)
            });
            followed.fed = Some(now);
            state.charge(&self.stream.streams);
            appended
        })?;
        self.stream.changed.send_replace(());
        appended?;
        if self.partial.budget().overrun() {
            return Err(FeedError::Budget);
        }
        Ok(())
    }

    /// Its owner has told all that it had.
    pub(crate) fn runs_dry(&self) -> Result<(), Superseded> {
        self.write(|_state, followed| followed.dry = true)?;
        self.stream.changed.send_replace(());
        Ok(())
    }

    /// The stream ends here.
    pub(crate) fn end(&self, end: End) {
        self.stream
            .end_if(end, |_stream, state| state.followed.is_some());
    }

    /// Whether anybody reads.
    pub(crate) fn is_read(&self) -> bool {
        self.stream.changed.receiver_count() > 0
    }

    /// Ends the stream if nobody reads it or is about to. Whether it ended.
    pub(crate) fn end_unread(&self) -> bool {
        let mut ended = false;
        let end = End::Moved {
            origin: self
                .stream
                .owner()
                .map_or_else(String::new, |o| o.to_string()),
        };
        // Who has found the stream in the table holds it: else the table and this are all that do.
        self.stream.end_if(end, |_stream, state| {
            ended =
                state.followed.is_some() && !self.is_read() && Arc::strong_count(&self.stream) <= 2;
            ended
        });
        ended
    }

    /// Until a publisher comes here or the stream ends.
    pub(crate) async fn superseded(&mut self) {
        // Nothing is ever sent.
        (&mut self.superseded).await.ok();
    }

    fn write<T>(
        &self,
        write: impl FnOnce(&mut State, &mut Followed) -> T,
    ) -> Result<T, Superseded> {
        let mut state = self.stream.state.lock();
        let mut followed = state.followed.take().ok_or(Superseded)?;
        let written = write(&mut state, &mut followed);
        state.followed = Some(followed);
        Ok(written)
    }
}
