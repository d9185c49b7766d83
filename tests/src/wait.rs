//! Waiting for conditions: never for time alone.

use std::time::Duration;

use tokio::time::Instant;

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until the condition yields a value; fails the test with `what` when it does not before the deadline.
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            start.elapsed() < deadline,
            "waited {deadline:?} in vain for: {what}"
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// As [`wait_for`], for a plain yes or no.
pub async fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, async || condition().then_some(())).await;
}
