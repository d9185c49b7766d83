//! Leaves an origin that says goodbye, without a break: it is served until another one has the session.

use std::{pin::Pin, time::Duration};

use registry::{Origin, OriginName};
use tokio::time::Instant;
use tracing::info;

use super::{OpenError, Opened, Outcome, ROUND_PAUSE_MAX, Relay};
use crate::{origins, revocations::jittered};

/// The search for another origin beside the one that the session has.
#[derive(Default)]
pub(super) struct Change {
    /// Not before this; set with the goodbye.
    next: Option<Instant>,
    opening: Option<Pin<Box<dyn Future<Output = Opened> + Send>>>,
    /// Who was asked in this round.
    asked: Vec<OriginName>,
}

/// An origin says goodbye to all its sessions at once: they leave spread over this time.
const SPREAD: Duration = Duration::from_millis(500);

impl Change {
    /// How the attempt under way went; pending where there is none.
    pub(super) async fn opened(&mut self) -> Opened {
        let opened = match &mut self.opening {
            Some(opening) => opening.await,
            None => std::future::pending().await,
        };
        self.opening = None;
        opened
    }
}

impl Relay {
    /// Asks the next origin, if it is time and there is one; `to`: this one alone, unless empty.
    pub(super) fn look_for_another(&mut self, left: &Origin, to: &str, change: &mut Change) {
        let now = Instant::now();
        let next = *change.next.get_or_insert_with(|| now + jittered(SPREAD));
        if change.opening.is_some() || now < next {
            return;
        }
        let mut others = self.context.origins.ranked(self.live.stream, None);
        others.retain(|other| !origins::same(other, left));
        // It said which one, and another one would say the same.
        others.retain(|other| to.is_empty() || other.name.as_str() == to);
        let Some(other) = others
            .iter()
            .find(|other| !change.asked.contains(&other.name))
        else {
            change.asked.clear();
            change.next = Some(now + jittered(ROUND_PAUSE_MAX));
            return;
        };
        let Ok(turn) = self.context.openings.clone().try_acquire_owned() else {
            return;
        };
        change.asked.push(other.name.clone());
        let open_by = now + self.context.config.relay.open_timeout;
        let opening = self.opening(other, open_by);
        change.opening = Some(Box::pin(async move {
            let opened = opening.await;
            drop(turn);
            opened
        }));
    }

    /// An attempt beside the session's origin is over.
    pub(super) fn changed(&mut self, opened: Opened, change: &mut Change) -> Option<Outcome> {
        match self.adopt(opened) {
            Ok(rpc) => {
                info!(origin = %rpc.origin.name, attempt = self.attempt, next_sequence = rpc.next_sequence,
                    "another origin has the session, and the one that leaves has it no more");
                self.moved("goodbye");
                Some(Outcome::Moved(Box::new(rpc)))
            }
            Err(OpenError::Fenced { .. }) => Some(Outcome::Fenced),
            Err(error) => {
                info!(reason = error.reason(), error = %error, attempt = self.attempt,
                    "an origin did not take a session that has to leave another one");
                self.feed.keep();
                change.next = Some(Instant::now());
                None
            }
        }
    }
}
