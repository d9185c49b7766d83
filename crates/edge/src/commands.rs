//! What this edge is told to do: to get empty, to take publishers in again, to end sessions.
//!
//! Commands come through the registry, which keeps them for an hour, and some of them also from the control that this edge
//! watches, which is faster. Either way they have the registry's number, and what comes twice is done once. A session
//! that is ended here ends by the revocation log as well: this is the way past a control that is down or hangs.
//!
//! What this edge has heard of stands in its announcement ([`Heard`]). Where the registry lost that, control has the next
//! order numbered above it all the same, and it does not count as one that comes late.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::internal::v1::{EdgeCommand, edge_command};
use registry::{Command, CommandId, DrainOrder};
use tracing::{info, warn};

use crate::{Context, live::Target, metrics::CommandLabels};

/// The highest number of a command that came, by either way.
#[derive(Default)]
pub(crate) struct Heard(Mutex<CommandId>);

impl Heard {
    pub(crate) fn highest(&self) -> CommandId {
        *self.0.lock()
    }

    fn note(&self, id: CommandId) {
        let mut highest = self.0.lock();
        *highest = id.max(*highest);
    }
}

/// Follows the registry for as long as the edge runs.
pub(crate) async fn follow(context: Arc<Context>) {
    let mut commands = context.registry.commands(&context.edge);
    loop {
        let (id, command) = commands.next().await;
        obey(&context, id, command, By::Registry);
    }
}

/// What control said.
pub(crate) fn pushed(context: &Context, message: EdgeCommand) {
    let id = CommandId {
        at_ms: message.at_ms,
        number: message.number,
    };
    let command = match message.command {
        Some(edge_command::Command::Drain(order)) => Command::Drain(DrainOrder {
            timeout: order.timeout_ms.map(Duration::from_millis),
            reconnect: order.reconnect,
            reason: order.reason,
        }),
        Some(edge_command::Command::Undrain(_)) => Command::Undrain,
        // Of a control of a later version.
        None => return,
    };
    obey(context, id, command, By::Control);
}

/// By which way a command came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Each one once, and in the order in which they were given, whatever their numbers.
    Registry,
    /// Perhaps later than what was given after it.
    Control,
}

impl By {
    fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Registry => "registry",
        }
    }
}

fn obey(context: &Context, id: CommandId, command: Command, way: By) {
    // Before what comes of it is announced.
    context.heard.note(id);
    let by = way.word();
    let (kind, news) = match command {
        Command::Drain(order) => {
            let news = context
                .drain
                .order((id, way), &order, context.config.drain_times);
            if news {
                let DrainOrder {
                    timeout,
                    reconnect,
                    reason,
                } = order;
                info!(%id, by, ?timeout, reconnect, reason, "ordered to drain");
            }
            ("drain", news)
        }
        Command::Undrain if context.shutdown.is_leaving() => {
            warn!(%id, by, "the process was told to stop: its drain is not taken back");
            return count(context, "undrain", "refused");
        }
        Command::Undrain => {
            let news = context.drain.take_back((id, way));
            if news {
                info!(%id, by, "ordered to serve");
            }
            ("undrain", news)
        }
        Command::Kick { session, .. } => {
            let target = Target::Session(session.as_str().to_owned());
            ("kick", end(context, id, target))
        }
        Command::Revoke { stream_key_id } => {
            let target = Target::StreamKey(stream_key_id);
            ("revoke", end(context, id, target))
        }
    };
    count(context, kind, if news { "done" } else { "known" });
}

/// Whether there was a session to end.
fn end(context: &Context, id: CommandId, target: Target) -> bool {
    let sessions = context.live.end_revoked(target);
    if sessions > 0 {
        info!(%id, sessions, "ended by a command");
    }
    sessions > 0
}

fn count(context: &Context, kind: &'static str, outcome: &'static str) {
    let labels = CommandLabels { kind, outcome };
    context.metrics.commands.get_or_create(&labels).inc();
}
