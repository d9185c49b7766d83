//! How a connection ends.

use rtmp::{Rejection, ServerSession};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use super::{READ_BYTES, Session, State};
use crate::{end::End, metrics::Outcome};

/// What an encoder is told that is asked to connect elsewhere.
const RECONNECT: &str = "This server is about to restart";

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Our last words, and the time that they need to arrive.
    pub(super) async fn close(mut self, end: End) {
        let was_live = match std::mem::replace(&mut self.state, State::Refused) {
            State::Publishing {
                publishing, live, ..
            } => {
                publishing.feed.finish(live.end_for(end));
                true
            }
            State::Deciding(publishing) => {
                publishing.feed.finish(end);
                self.tell(end, |rtmp, rejection| rtmp.reject(rejection));
                false
            }
            State::Await | State::Challenging(_) | State::Refused => false,
        };
        if end == End::Disconnected {
            return;
        }
        if was_live {
            self.tell(end, |rtmp, rejection| rtmp.close(rejection));
        }
        if self.transmit().await.is_err() {
            return;
        }
        if end == End::ClientClose {
            // The encoder has more to say (deleteStream behind FCUnpublish) and takes a close before that for an error.
            self.linger().await;
        }
        let linger = self.context.config.connections.linger;
        if !matches!(timeout(linger, self.socket.shutdown()).await, Ok(Ok(()))) {
            return;
        }
        // Unread bytes would turn our close into a reset, and that may overtake what we said.
        self.linger().await;
    }

    /// Wants the encoder to connect elsewhere; until it leaves it is served as before.
    pub(super) fn ask_to_reconnect(&mut self) {
        let asked = self.rtmp.request_reconnect(RECONNECT);
        let outcome = if asked { "asked" } else { "not_asked" };
        let requests = &self.context.metrics.reconnect_requests;
        requests.get_or_create(&Outcome { outcome }).inc();
    }

    /// Reads and discards until the encoder closes, for a bounded time.
    async fn linger(&mut self) {
        let deadline = Instant::now() + self.context.config.connections.linger;
        loop {
            self.input.clear();
            self.input.reserve(READ_BYTES);
            let read = tokio::time::timeout_at(deadline, self.socket.read_buf(&mut self.input));
            if !matches!(read.await, Ok(Ok(1..))) {
                return;
            }
        }
    }

    fn tell(&mut self, end: End, how: impl FnOnce(&mut ServerSession, Rejection)) {
        if let Some(description) = end.description() {
            let rejection = Rejection {
                description: description.into_owned(),
            };
            how(&mut self.rtmp, rejection);
        }
    }
}
