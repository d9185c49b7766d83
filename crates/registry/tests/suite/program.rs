//! The server programs that are run.

use std::path::PathBuf;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The system's.
    Redis,
    /// The oldest that is supported. It was built without TLS.
    Redis62,
    Valkey,
}

impl Program {
    pub(crate) fn path(self) -> PathBuf {
        let program = match self {
            Self::Redis => return PathBuf::from("redis-server"),
            Self::Redis62 => "redis-6.2/redis-server",
            Self::Valkey => "valkey/valkey-server",
        };
        // Where tests/setup.sh has put it: beside the programs that Cargo makes.
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(3).unwrap().join(program)
    }
}

/// The same tests with both.
macro_rules! with_redis_and_valkey {
    ($($test:ident)*) => {
        mod with_redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::program::Program::Redis).await;
            })*
        }
        mod with_valkey {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::program::Program::Valkey).await;
            })*
        }
    };
}
