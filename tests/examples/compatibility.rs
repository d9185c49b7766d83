//! An edge of another version before this version's control and origins, and the other way round: streams come through,
//! an origin's death is not noticed, a revoked key is off the air. `tests/compatibility.sh` builds the other version.
//!
//! Usage: compatibility PROGRAM      the `headwater` of the other version

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "in a test a panic is the report"
)]

use std::path::PathBuf;

use tests::{
    binary,
    cluster::{Cluster, Layout, Programs},
    scenario,
};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let other = std::env::args_os()
        .nth(1)
        .expect("usage: compatibility PROGRAM");
    let other = PathBuf::from(other);
    let this = binary::headwater().to_owned();
    println!("compatibility: an edge of the other version, control and origins of this one");
    side_by_side(other.clone(), this.clone()).await;
    println!("compatibility: an edge of this version, control and origins of the other one");
    side_by_side(this, other).await;
}

async fn side_by_side(edge: PathBuf, others: PathBuf) {
    let mut cluster = Cluster::start(Layout {
        programs: Programs { edge, others },
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    scenario::revocation_ends_the_session(deployment, &deployment.api, "revoked").await;
    scenario::origin_dies_under_ffmpeg(&mut cluster, false).await;
}
