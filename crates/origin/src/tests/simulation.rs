//! Ownership under faults: sessions that claim, renew, move, are kicked and replaced, while messages are late, out of order,
//! lost or doubled, edges sleep, origins restart or lose sight of the registry, and the registry is emptied, loses its last
//! writes, or has its clock set.
//!
//! What is run is the product: the registry in memory or in Redis, the origin's [`fencing`](crate::fencing) decisions,
//! streams and recheck, and what a follower is given. What an edge does with answers is in `session`, in the same words as
//! there. After every step the invariants of `world` are checked, and at the end, once faults are over, that one owner
//! remains and everybody agrees.
//!
//! `make simulate SEEDS=100000` runs more. What has failed once is in `proptest-regressions` and runs first. That a broken
//! product would be found is a test too: [`Mutant`].

mod registries;
mod session;
mod world;

use proptest::{
    prelude::*,
    test_runner::{Config as Run, FileFailurePersistence, TestCaseError, TestError, TestRunner},
};
use registry::Slot;

use self::{
    registries::{Redis, RedisServer, Registries},
    world::{Violation, World},
};
use super::*;

/// Something that happens. Numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(u8, u8),
    /// A message arrives, perhaps before others.
    Deliver(u8),
    Lose(u8),
    /// A claim is given up, and arrives all the same.
    Delay(u8),
    Duplicate(u8),
    Renew(u8),
    Send(u8),
    Cut(u8),
    Restart(u8),
    /// From the registry, or back to it.
    CutOffOrigin(u8),
    CutOffEdge(u8),
    Pause(u8),
    Recheck(u8),
    Flush,
    /// Loses this many writes; the clock is off by this many tenths of a second.
    FailOver(u8, i8),
    /// Tenths of a second.
    Pass(u8),
    Kick,
    End(u8),
    /// Is asked to go on elsewhere.
    Leave(u8),
    Follow(u8, u8),
}

/// A product that is broken in one way, which an invariant has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// A claim that is repeated gets another epoch.
    ClaimsAgain,
    /// Epochs are counted from what is stored alone.
    EpochNotFloored,
    /// A kick deletes the lease and does not raise the epoch.
    KickDeletes,
    /// A renewal compares the holder and takes no notice of epochs.
    RenewalCompares,
    /// An edge takes a claim of the session's own, carried out late, for another publisher's.
    FencesItself,
    /// An origin takes a lower token.
    TakesLower,
}

fn place() -> (StreamId, Slot) {
    (stream_id("main"), Slot::PRIMARY)
}

const EDGES: usize = 3;
const ORIGINS: usize = 3;
/// Of one run.
const SESSIONS_MAX: usize = 6;
/// Of one run.
const STEPS_MAX: usize = 160;
/// Runs in process memory.
const RUNS: u32 = 4000;
/// Runs in Redis, where each step costs round trips.
const REDIS_RUNS: u32 = 40;
/// Within this many runs a broken product is found.
const MUTANT_RUNS: u32 = 2000;
/// When a run begins, in milliseconds since the Unix epoch.
const BEGAN_MS: u64 = 1_800_000_000_000;

fn origin_name(number: usize) -> OriginName {
    OriginName::new(&format!("origin-{number}")).unwrap()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(edge, policy)| Step::Publish(edge, policy)),
        24 => (0_u8..4).prop_map(Step::Deliver),
        6 => any::<u8>().prop_map(Step::Deliver),
        2 => any::<u8>().prop_map(Step::Lose),
        2 => any::<u8>().prop_map(Step::Delay),
        2 => any::<u8>().prop_map(Step::Duplicate),
        6 => any::<u8>().prop_map(Step::Renew),
        6 => any::<u8>().prop_map(Step::Send),
        2 => any::<u8>().prop_map(Step::Cut),
        1 => any::<u8>().prop_map(Step::Restart),
        1 => any::<u8>().prop_map(Step::CutOffOrigin),
        1 => any::<u8>().prop_map(Step::CutOffEdge),
        2 => any::<u8>().prop_map(Step::Pause),
        3 => any::<u8>().prop_map(Step::Recheck),
        1 => Just(Step::Flush),
        1 => (any::<u8>(), any::<i8>()).prop_map(|(lost, skew)| Step::FailOver(lost, skew)),
        4 => any::<u8>().prop_map(Step::Pass),
        1 => Just(Step::Kick),
        1 => any::<u8>().prop_map(Step::End),
        1 => any::<u8>().prop_map(Step::Leave),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(reader, origin)| Step::Follow(reader, origin)),
    ];
    prop::collection::vec(step, 1..STEPS_MAX)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

async fn run(mut world: World, steps: &[Step]) -> Result<(), Violation> {
    for step in steps {
        world.step(*step).await?;
    }
    world.heal().await
}

fn in_memory(mutant: Mutant, keep: bool, steps: &[Step]) -> Result<(), Violation> {
    let registries = Registries::memory(BEGAN_MS, mutant == Mutant::EpochNotFloored);
    // An epoch that an origin grants is of the clock, from which such a registry's are far.
    let keep = keep && mutant != Mutant::EpochNotFloored;
    let world = World::new(mutant, keep, registries, BEGAN_MS);
    runtime().block_on(run(world, steps))
}

/// `PROPTEST_CASES` asks for more.
fn runner(runs: u32, persistent: bool) -> TestRunner {
    let asked = Run::default().cases;
    let failures = FileFailurePersistence::SourceParallel("proptest-regressions");
    TestRunner::new(Run {
        cases: if persistent { runs.max(asked) } else { runs },
        failure_persistence: persistent.then(|| Box::new(failures) as _),
        source_file: Some(file!()),
        max_shrink_iters: 20_000,
        ..Run::default()
    })
}

#[test]
fn one_owner_remains_whatever_happens() {
    let mut runner = runner(RUNS, true);
    let began = std::time::Instant::now();
    let result = runner.run(&(any::<bool>(), steps()), |(keep, steps)| {
        in_memory(Mutant::None, keep, &steps).map_err(TestCaseError::fail)
    });
    println!("{} runs in {:?}", runner.config().cases, began.elapsed());
    result.unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn one_owner_remains_with_redis() {
    let server = RedisServer::start();
    let runtime = runtime();
    runtime.block_on(server.answers());
    let began = std::time::Instant::now();
    let mut runner = runner(REDIS_RUNS, false);
    let result = runner.run(&(any::<bool>(), steps()), |(keep, steps)| {
        let ran = runtime.block_on(async {
            let registries = Registries::Redis(Redis::connect(&server.url).await);
            let world = World::new(Mutant::None, keep, registries, BEGAN_MS);
            run(world, &steps).await
        });
        ran.map_err(TestCaseError::fail)
    });
    println!("{} runs in {:?}", runner.config().cases, began.elapsed());
    result.unwrap_or_else(|failed| panic!("{failed}"));
}

/// By what the mutant is found.
fn found(mutant: Mutant) -> String {
    let mut runner = runner(MUTANT_RUNS, false);
    let result = runner.run(&(any::<bool>(), steps()), |(keep, steps)| {
        in_memory(mutant, keep, &steps).map_err(TestCaseError::fail)
    });
    match result {
        Err(TestError::Fail(why, (_, steps))) => {
            println!("{mutant:?}: {why}, by {steps:?}");
            why.to_string()
        }
        other => panic!("{mutant:?} is not found: {other:?}"),
    }
}

#[test]
fn a_product_that_is_broken_is_found() {
    for (mutant, invariant) in [
        (Mutant::ClaimsAgain, "a claim that is repeated"),
        (
            Mutant::EpochNotFloored,
            "epochs are above those that were forgotten",
        ),
        (Mutant::KickDeletes, "a kicked session does not come back"),
        (Mutant::RenewalCompares, "nobody is fenced by a lower epoch"),
        (Mutant::FencesItself, "nobody is fenced by itself"),
        (Mutant::TakesLower, "an origin takes higher tokens alone"),
    ] {
        let why = found(mutant);
        assert!(why.contains(invariant), "{mutant:?} is found by {why}");
    }
}
