//! The command lines of `edges`, `drain` and `undrain`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum EdgesCommand {
    /// List the edges that are there, with their sessions and how far their drains are
    List,
}

/// What is asked of edges: each is a command of its own, here and of kubectl.
#[derive(Debug)]
pub(crate) enum EdgesRequest {
    Drain(DrainArguments),
    List,
    Undrain { edge: String },
}

impl From<EdgesCommand> for EdgesRequest {
    fn from(command: EdgesCommand) -> Self {
        match command {
            EdgesCommand::List => Self::List,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct DrainArguments {
    /// Name or host, as `edges list` shows it
    pub(crate) edge: String,
    /// Until the last session is closed, such as `30m`; 0s: at once [default: as where the edge's process ends]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Do not ask encoders that can to connect elsewhere: all stay until they are closed
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// For the log, and for whoever looks at the edge
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// Return once no session is left
    #[arg(long)]
    pub(crate) wait: bool,
}
