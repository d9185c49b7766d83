//! The command lines of `events`, `webhooks` and `sessions`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use proto::{cloud_events, v1::EventType};

use super::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Print events as they happen, until it is ended
    Tail(TailArguments),
}

#[derive(Args, Debug)]
pub(crate) struct TailArguments {
    /// Begin with what happened since then: a time (RFC 3339) or how long ago, such as `1h` [default: now]
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub(crate) since: Option<SystemTime>,
    /// Go on behind this event's cursor
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        conflicts_with = "since"
    )]
    pub(crate) cursor: String,
    /// Such as `session.started`; several times for several types
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    pub(crate) types: Vec<EventType>,
    /// Of one application alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) app: String,
    /// Of one tenant alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// Have events posted to a URL; what signs them is shown this once
    Create {
        /// https://host[:port]/path; on Kubernetes the port has to be one of the cluster's `networkPolicy.webhookPorts` (443)
        #[arg(long)]
        url: String,
        /// Such as `session.started`; several times for several types [default: every type]
        #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
        types: Vec<EventType>,
        /// For people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// [default: the tenant of the token]
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
        /// Write the secret to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// List webhooks, oldest first
    List {
        /// Of one tenant alone
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
    },
    /// Show a webhook, how much waits for it and what its last error was
    Get {
        /// As `webhooks list` shows it
        id: String,
    },
    /// Delete a webhook, with all that waits for it
    Delete {
        /// As `webhooks list` shows it
        id: String,
    },
    /// List events whose delivery was given up
    DeadLetters {
        /// As `webhooks list` shows it
        id: String,
    },
    /// Deliver again: dead letters, or all events since a time
    Replay {
        /// As `webhooks list` shows it
        id: String,
        /// A time (RFC 3339) or how long ago, such as `1h`
        #[arg(long, value_name = "TIME", value_parser = past)]
        since: Option<SystemTime>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List live sessions
    List(SessionFilter),
    /// Show one live session
    Get {
        /// As `sessions list` shows it
        id: String,
    },
    /// Print sessions as they begin, change and end, until it is ended
    Watch(SessionFilter),
    /// End a session and refuse its key for a while
    #[command(visible_alias = "kill")]
    End {
        /// As `sessions list` shows it
        id: String,
        /// For the log and the publisher
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// For how long the key is refused, such as `2h`; at most 30 days [default: 30s]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        ban: Option<Duration>,
    },
}

/// Which sessions.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SessionFilter {
    /// Of one application alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) app: String,
    /// Of one stream alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) stream: String,
    /// Of one tenant alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

fn event_type(name: &str) -> Result<EventType, String> {
    cloud_events::parse_name(name).ok_or_else(|| {
        let names = cloud_events::EVENT_TYPES.map(cloud_events::short_name);
        format!("not one of {}", names.join(", "))
    })
}

fn past(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.into());
    }
    let ago = duration(text).map_err(|_error| "neither a time (RFC 3339) nor how long ago")?;
    let time = SystemTime::now().checked_sub(ago);
    time.ok_or_else(|| "too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_two_ways() {
        let epoch = past("1970-01-01T00:00:00Z").unwrap();
        assert_eq!(epoch, SystemTime::UNIX_EPOCH);
        assert!(past("1h").unwrap() < SystemTime::now());
        assert!(past("yesterday").is_err());
    }

    #[test]
    fn types_have_names() {
        assert_eq!(event_type("session.ended"), Ok(EventType::SessionEnded));
        assert!(
            event_type("session")
                .unwrap_err()
                .contains("session.started")
        );
    }
}
