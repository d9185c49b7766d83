//! A cluster of hundreds of edges: what the operator writes depends on what is asked of it, not on how many pods there are.

use std::time::Duration;

use tests::wait::wait_for;
use tokio::time::Instant;

use crate::operator_harness::{CLUSTER, Installation, name};

/// Hundreds of pods on one machine.
const FLEET: Duration = Duration::from_secs(240);
/// Objects and Secrets of a new cluster, and its finalizer: about 45.
const WRITES_NEW: usize = 60;
/// Of objects, for one edit.
const WRITES_EDIT: usize = 8;
/// Of states, a second: changes that come one after the other are one pass.
const STATES_PER_SECOND: u64 = 3;
const EDGES: usize = 300;

#[tokio::test]
async fn hundreds_of_edges_cost_no_more_writes_than_a_few() {
    let installation = Installation::start(Duration::from_millis(200)).await;
    let replicas = format!("replicas: {EDGES}\n");
    let mut operation = Operation::begin(&installation);
    installation
        .apply(&CLUSTER.replace("replicas: 2\n", &replicas))
        .await;
    available(&installation, EDGES).await;
    operation = operation.end("300 edges made", WRITES_NEW);

    for edges in [EDGES + 20, EDGES] {
        let replicas = format!("--replicas={edges}");
        installation
            .kubectl(&["scale", "igc/live", &replicas])
            .await;
        available(&installation, edges).await;
        operation = operation.end(&format!("scaled to {edges}"), WRITES_EDIT);
    }

    let old = edges(&installation).await;
    let patch = r#"{"spec":{"edge":{"drain":{"timeoutSeconds":77}}}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    wait_for("the old revision to go", FLEET, async || {
        let now = edges(&installation).await;
        if now.iter().any(|(name, _)| *name == old[0].0) {
            return None;
        }
        assert_eq!(now[0].1, EDGES, "it went before the new one was available");
        Some(())
    })
    .await;
    available(&installation, EDGES).await;
    operation.end("revision replaced", WRITES_EDIT);

    // Nobody answers for control here: a pass comes every 5 s, not every 60 s as in a settled cluster.
    installation.passed(0).await;
    let before = installation.writes();
    let started = Instant::now();
    installation.passed(0).await;
    installation.passed(0).await;
    println!("settled: {:?}, 4 passes", started.elapsed());
    assert_eq!(installation.writes()[before.len()..], [] as [String; 0]);
    installation.assert_nothing_was_forbidden();
}

/// Names of the edges' Deployments, and how many of each are available.
async fn edges(installation: &Installation) -> Vec<(String, usize)> {
    let deployments = installation.list("apis/apps/v1", "deployments").await;
    deployments
        .iter()
        .filter(|one| name(one).contains("-edge-"))
        .map(|one| {
            let available = one["status"]["availableReplicas"].as_u64();
            let available = usize::try_from(available.unwrap_or_default()).unwrap();
            (name(one).to_owned(), available)
        })
        .collect()
}

/// Waits until so many edges are available, and the status says that nothing more goes on.
async fn available(installation: &Installation, number: usize) {
    wait_for("the edges to be available", FLEET, async || {
        let edges = edges(installation).await;
        (edges.len() == 1 && edges[0].1 == number).then_some(())
    })
    .await;
    installation.settled().await;
}

/// Something that is asked of the operator.
struct Operation<'a> {
    installation: &'a Installation,
    writes: usize,
    started: Instant,
}

impl<'a> Operation<'a> {
    fn begin(installation: &'a Installation) -> Self {
        Self {
            installation,
            writes: installation.writes().len(),
            started: Instant::now(),
        }
    }

    /// Says what it cost, which has a limit, and begins the next.
    fn end(self, what: &str, limit: usize) -> Self {
        let took = self.started.elapsed();
        let writes = self.installation.writes();
        let of_state = |write: &&String| write.contains("/status ") || write.contains(" events/");
        let (states, objects): (Vec<&String>, Vec<&String>) =
            writes[self.writes..].iter().partition(of_state);
        println!(
            "{what}: {took:.1?}, {} writes of objects, {} of states and events",
            objects.len(),
            states.len()
        );
        assert!(objects.len() <= limit, "{what}: {objects:#?}");
        let most = (took.as_secs() + 10) * STATES_PER_SECOND;
        assert!(states.len() as u64 <= most, "{what}: {states:#?}");
        Self::begin(self.installation)
    }
}
