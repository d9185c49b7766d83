//! The same suite on SQLite and on a real PostgreSQL. Services are called directly; `tests/served.rs` goes through the
//! ports.

mod access;
mod access_over_tls;
mod admission_service;
mod adobe_authentication;
mod audit;
mod backend;
mod backup;
mod cluster_service;
mod database_faults;
mod deliveries;
mod edges;
mod event_service;
mod fixture;
mod guessing;
mod key_changes;
mod key_policies;
mod key_service;
mod postgres;
mod prune;
mod quotas;
mod rehash;
mod reload;
mod revocation_log;
mod session_service;
mod signed_keys;
mod start;
mod tokens;
mod watches;
mod webhook;

/// Runs each test on both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            use crate::tests::fixture::Fixture;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(Fixture::sqlite()).await;
            })+
        }

        mod postgresql {
            use crate::tests::fixture::Fixture;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(Fixture::postgres().await).await;
            })+
        }
    };
}

use on_both;
