//! The one binary of Headwater: reads arguments and configuration, wires the roles, decides nothing.
//!
//! This crate alone reads the environment, and it alone writes to standard output.

mod api;
mod backup;
mod bench;
mod bootstrap;
mod channel;
mod cli;
mod config;
mod crds;
mod edges;
mod events;
mod files;
mod keys;
mod kubectl;
mod live;
mod output;
mod probe;
mod process;
mod quotas;
mod ready;
mod roles;
mod secrets;
mod sessions;
mod standalone;
mod tokens;
mod webhooks;

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;

use crate::cli::{Cli, Command, EdgesRequest};

/// Something failed.
const FAILURE: u8 = 1;
/// The command line or the configuration is wrong (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// For threads that still work when all is done.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(kubectl::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error, USAGE),
    };
    runtime::tls::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&anyhow::Error::new(error).context("cannot start the async runtime"));
            return ExitCode::from(FAILURE);
        }
    };
    let ended = runtime.block_on(run(cli.command));
    // Not for what cannot be ended, such as a resolver that hangs.
    runtime.shutdown_timeout(LEFT_BEHIND_MAX);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            let usage = error.is::<config::ConfigError>() || error.is::<cli::UsageError>();
            let step = error.downcast_ref::<probe::Failed>();
            ExitCode::from(match step {
                Some(probe::Failed(step)) => step.exit_code(),
                None if usage => USAGE,
                None => FAILURE,
            })
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Backup(arguments) => backup::run(&arguments).await,
        Command::Bench(arguments) => bench::run(arguments).await,
        Command::Bootstrap { directory } => bootstrap::run(&directory),
        Command::Control(arguments) => roles::control::run(&arguments).await,
        Command::Crds { directory } => crds::run(directory.as_deref()),
        Command::Doctor { desk, name } => kubectl::doctor::run(&desk, name.as_deref()).await,
        Command::Drain { server, command } => {
            edges::run(&server, EdgesRequest::Drain(command)).await
        }
        Command::Edge(arguments) => roles::edge::run(&arguments).await,
        Command::Edges { server, command } => edges::run(&server, command).await,
        Command::Events { server, command } => events::run(&server, command).await,
        Command::Keys { server, command } => keys::run(&server, command).await,
        Command::Kubectl { desk, command } => kubectl::run(&desk, command).await,
        Command::Operator(arguments) => roles::operator::run(*arguments).await,
        Command::Origin(arguments) => roles::origin::run(&arguments).await,
        Command::Probe(arguments) => probe::run(*arguments).await,
        Command::Quotas { server, command } => quotas::run(&server, command).await,
        Command::Sessions { server, command } => sessions::run(&server, command).await,
        Command::Standalone(arguments) => standalone::run(&arguments).await,
        Command::Tokens { server, command } => tokens::run(&server, command).await,
        Command::Undrain { server, edge } => {
            edges::run(&server, EdgesRequest::Undrain { edge }).await
        }
        Command::Webhooks { server, command } => webhooks::run(&server, command).await,
    }
}
