//! What a source that hangs costs those who publish by others.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{Bench, BenchmarkError, Durations};
use crate::Config;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Each measures all there is to compare, one after the other, so that all of them have the machine's moods.
    pub rounds: u32,
    /// Of each part of a round; well below the deadline of the application that hangs.
    pub time: Duration,
    /// Questions that the application that hangs may have under way.
    pub concurrency_max: usize,
}

/// What was measured. Shown, it is a table of text.
#[derive(Clone, Debug, Default)]
pub struct BesideHung {
    calm: Durations,
    /// Beside an application at its bound, with as many waiting.
    application: Durations,
    /// Beside a key of the same application at its bound.
    key: Durations,
}

/// Measures Authorize of the application `others`, whose webhook answers; keys that begin with `hung` are never answered,
/// and nor are those of the application `hung`. `until_hung` waits until so many questions hang.
pub async fn beside_hung_source(
    config: Config,
    load: Rounds,
    until_hung: impl AsyncFn(usize),
) -> Result<BesideHung, BenchmarkError> {
    let bench = Arc::new(Bench::open(config).await?);
    let mut figures = BesideHung::default();
    for _ in 0..load.rounds {
        bench.measure(load.time, &mut figures.calm).await?;
        for (app, questions, hung, durations) in [
            (
                "hung",
                load.concurrency_max.saturating_mul(2),
                load.concurrency_max,
                &mut figures.application,
            ),
            ("others", KEY_QUESTIONS, KEY_QUESTIONS, &mut figures.key),
        ] {
            let mut hanging = JoinSet::new();
            for number in 0..questions {
                let bench = bench.clone();
                // Of an application many keys, of a key many sessions.
                let key = if app == "hung" { number } else { 0 };
                hanging.spawn(async move {
                    bench
                        .check(app, number, &format!("hung-{key}"))
                        .await
                        .map(drop)
                });
            }
            until_hung(hung).await;
            bench.measure(load.time, durations).await?;
            // Given up before their deadline: the breaker learns nothing.
            hanging.shutdown().await;
            until_hung(0).await;
        }
    }
    bench.shared.database.close().await;
    Ok(figures)
}

/// As many as one key may have under way.
const KEY_QUESTIONS: usize = 2;

impl Bench {
    /// For so long, each of another key.
    async fn measure(&self, time: Duration, into: &mut Durations) -> Result<(), BenchmarkError> {
        let started = Instant::now();
        let mut durations = std::mem::take(&mut into.sorted);
        while started.elapsed() < time {
            let number = durations.len();
            durations.push(
                self.check("others", number, &format!("key-{number}"))
                    .await?,
            );
        }
        let total = into.total.saturating_add(started.elapsed());
        *into = Durations::new(durations, total);
        Ok(())
    }
}

impl fmt::Display for BesideHung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p99 = |durations: &Durations| durations.percentile(99).as_secs_f64();
        let ratio = |durations| p99(durations) / p99(&self.calm);
        writeln!(f, "Authorize by webhook, nothing hangs: {}", self.calm)?;
        for (what, durations) in [
            ("an application at its bound", &self.application),
            ("a key of the same application at its bound", &self.key),
        ] {
            let ratio = ratio(durations);
            writeln!(
                f,
                "beside {what}: {durations}; p99 {ratio:.2} times as long"
            )?;
        }
        Ok(())
    }
}
