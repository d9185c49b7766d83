//! Names that stand for several addresses, looked up again and again: what a headless Service answers changes with its
//! pods.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::{
    net::lookup_host,
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::warn;

/// Between two looks at DNS while all is well.
pub const RESOLVE_PERIOD: Duration = Duration::from_secs(10);
/// A name is not looked up more often than this.
pub const RESOLVE_PAUSE: Duration = Duration::from_secs(1);
/// Addresses of one name that are used.
pub const ADDRESSES_LIMIT: usize = 64;

/// Looks `host:port` names up now, every [`RESOLVE_PERIOD`], and after each `failed`; never ends. `learn` gets a name's
/// index and its addresses, each time and never none: a name that does not resolve keeps what it had.
pub async fn keep_resolved(
    names: &[String],
    failed: &Notify,
    mut learn: impl FnMut(usize, BTreeSet<SocketAddr>),
) {
    let mut unresolved = BTreeSet::new();
    loop {
        for (index, name) in names.iter().enumerate() {
            match lookup(name).await {
                Ok(addresses) => {
                    unresolved.remove(&index);
                    learn(index, addresses);
                }
                // Said once per outage.
                Err(reason) if unresolved.insert(index) => {
                    warn!(name, reason, "name does not resolve");
                }
                Err(_) => {}
            }
        }
        sleep(RESOLVE_PAUSE).await;
        // An error says that the period is over.
        timeout(RESOLVE_PERIOD, failed.notified()).await.ok();
    }
}

async fn lookup(name: &str) -> Result<BTreeSet<SocketAddr>, String> {
    let addresses: BTreeSet<SocketAddr> = timeout(RESOLVE_PERIOD, lookup_host(name))
        .await
        .map_err(|_elapsed| "no answer in time".to_owned())?
        .map_err(|error| error.to_string())?
        .take(ADDRESSES_LIMIT)
        .collect();
    if addresses.is_empty() {
        return Err("no address".to_owned());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_now_every_period_and_after_a_failure() {
        let names = ["127.0.0.1:7".to_owned(), "no such host:7".to_owned()];
        let failed = Arc::new(Notify::new());
        let learned = Arc::new(Mutex::new(Vec::new()));
        let (task_failed, task_learned) = (failed.clone(), learned.clone());
        let started = Instant::now();
        let task = tokio::spawn(async move {
            keep_resolved(&names, &task_failed, |index, addresses| {
                task_learned
                    .lock()
                    .push((index, addresses, started.elapsed().as_secs()));
            })
            .await;
        });
        let expected = |at| (0, BTreeSet::from(["127.0.0.1:7".parse().unwrap()]), at);
        sleep(RESOLVE_PAUSE + RESOLVE_PERIOD * 3 / 2).await;
        assert_eq!(*learned.lock(), [expected(0), expected(11)]);
        failed.notify_one();
        sleep(RESOLVE_PAUSE).await;
        assert_eq!(learned.lock().len(), 3, "{learned:?}");
        task.abort();
    }
}
