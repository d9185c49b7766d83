//! A subset of `make chaos`, for every run of the tests: fewer publishers, a round or two of what happens most. In a
//! program of its own, so that nothing else runs beside it.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "in a test a panic is the report"
)]

use std::time::Duration;

use tests::{
    chaos::{
        fault::{Fault, Part},
        field::Field,
        network,
        round::{self, Plan},
        table::Table,
    },
    process,
};
use tokio::time::Instant;

const PUBLISHERS: usize = 12;
/// A busy test machine gets five times what a fault may take.
const PATIENCE: u32 = 5;
/// For all of it: five times what it takes alone.
const ALL: Duration = Duration::from_secs(15 * 60);

const SUBSET: [(Fault, usize); 7] = [
    (Fault::Killed(Part::Origin), 2),
    (Fault::Frozen(Part::Origin), 2),
    (Fault::Killed(Part::Control), 1),
    (Fault::Killed(Part::Database), 1),
    (Fault::RedisLosesWrites, 1),
    (Fault::EdgesReplaced, 1),
    (Fault::OriginsReplaced, 1),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subset_no_session_and_no_frame_is_lost() {
    const NAME: &str = "subset_no_session_and_no_frame_is_lost";
    process::alone_in_namespace("--net", NAME, ALL, subset()).await;
}

async fn subset() {
    let began = Instant::now();
    network::lay_bridge();
    let mut field = Field::start(false).await;
    let mut table = Table::default();
    for (fault, rounds) in SUBSET {
        let plan = Plan {
            publishers: PUBLISHERS,
            rounds,
            patience: PATIENCE,
            until: began + ALL,
        };
        let (there, rows) = round::run(field, fault, plan).await;
        field = there;
        table.rows.extend(rows);
    }
    println!("{table}\nin {:.0?}", began.elapsed());
    assert!(table.wrong().is_empty(), "{:#?}", table.wrong());
}
