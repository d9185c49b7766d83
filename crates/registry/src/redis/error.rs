//! What goes wrong with Redis, and what of it passes when the command is sent again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use redis::{RedisError, ServerErrorKind, Value};

use crate::RegistryError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("an address is not host:port")]
    Address,
    #[error("no address of a server, or too many")]
    AddressCount,
    #[error("redis cluster has database 0 alone")]
    ClusterDatabase,
    #[error("redis refused the user or the password")]
    Credentials(#[source] RedisError),
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the key prefix {prefix:?} has other characters than letters, digits, '.', '_', ':' and '-'"
    )]
    KeyPrefix { prefix: String },
    #[error("the sentinels' name of the primary is empty")]
    MasterName,
    #[error("no node of the cluster tells who has which slots")]
    NoNode,
    #[error("no PEM {what} in {}", path.display())]
    NoPem { what: &'static str, path: PathBuf },
    #[error("no sentinel answers")]
    NoSentinel,
    #[error("redis at {address} is no primary but a {role}")]
    NotPrimary { address: String, role: String },
    #[error("cannot connect to redis")]
    Redis(#[source] RedisError),
    #[error("no connection to redis within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("no sentinel knows {master_name:?}")]
    UnknownMaster { master_name: String },
    #[error("not a redis URL")]
    Url(#[source] RedisError),
    #[error("credentials belong in the username and the password file, not in the URL")]
    UrlCredentials,
    #[error("the URL begins with neither redis:// nor rediss://")]
    UrlScheme,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("the connection to redis is down: {}", Chain(&**.0))]
    Down(Arc<ConnectError>),
    #[error("the connection to redis broke")]
    Broken(#[source] RedisError),
    #[error("the connection to redis was given up")]
    GivenUp,
    #[error("redis refused the command: {0}")]
    Refused(redis::ServerError),
    #[error("redis did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("no node of the redis cluster has slot {0}")]
    Uncovered(u16),
}

impl CommandError {
    /// Whether Redis may have done what it was told.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Broken(_) | Self::GivenUp | Self::Timeout(_) => true,
            Self::Down(_) | Self::Refused(_) | Self::Uncovered(_) => false,
        }
    }
}

/// A reply that is an error of Redis, as the caller's error.
pub(super) fn refused(error: redis::ServerError) -> RegistryError {
    match error.code() {
        // Our scripts say so; WRONGTYPE is said by Redis.
        "MALFORMED"
            if error
                .details()
                .is_some_and(|what| what.starts_with("epoch")) =>
        {
            RegistryError::Malformed { what: "epoch" }
        }
        "MALFORMED" => RegistryError::Malformed { what: "lease" },
        "WRONGTYPE" => RegistryError::Malformed { what: "key" },
        _ => RegistryError::Unavailable(CommandError::Refused(error).into()),
    }
}

pub(super) fn kind(value: &Value) -> Option<ServerErrorKind> {
    let Value::ServerError(error) = value else {
        return None;
    };
    error.kind()
}

/// An error with its causes, on one line.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
