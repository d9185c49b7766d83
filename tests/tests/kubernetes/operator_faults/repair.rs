//! How long things are lost: each one that was deleted or edited is watched until it is as it should be.

use std::{sync::Arc, time::Duration};

use http::Request;
use kube::Client;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// For what was lost to be back, while nothing else goes wrong: word of it, the pause in which further changes are
/// gathered, and a pass that may still be at its end, where it waits for controls that do not answer.
const REPAIR: Duration = Duration::from_secs(5);
/// After the last thing that went wrong meanwhile: a dead operator's Lease has to end, refused passes are repeated after
/// some seconds.
const REPAIR_AFTER_FAULT: Duration = Duration::from_secs(25);
/// What is asserted is this many times what is wanted.
const TOLERANCE: u32 = 5;
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What goes wrong beside the losses: calls that fail, an operator or an API server that is away.
pub(super) struct Disturbances(Mutex<(u64, Instant)>);

/// What was lost, and by what it is known to be back.
pub(super) enum Loss {
    Deleted { uid: Value },
    Edited { field: &'static str, wrong: Value },
}

/// Everything that is being watched.
pub(super) struct Repairs {
    client: Client,
    disturbances: Arc<Disturbances>,
    running: JoinSet<Repair>,
    /// How long, and what.
    undisturbed: Vec<(Duration, String)>,
    disturbed: Vec<(Duration, String)>,
}

struct Repair {
    path: String,
    took: Duration,
    after_fault: Option<Duration>,
}

impl Disturbances {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((0, Instant::now()))))
    }

    pub(super) fn note(&self) {
        let mut last = self.0.lock();
        *last = (last.0 + 1, Instant::now());
    }

    fn last(&self) -> (u64, Instant) {
        *self.0.lock()
    }
}

impl Loss {
    fn is_over(&self, object: &Value) -> bool {
        match self {
            Self::Deleted { uid } => {
                let metadata = &object["metadata"];
                metadata["uid"] != *uid && metadata["deletionTimestamp"].is_null()
            }
            Self::Edited { field, wrong } => object.pointer(field).is_some_and(|now| now != wrong),
        }
    }
}

impl Repairs {
    pub(super) fn new(client: Client, disturbances: Arc<Disturbances>) -> Self {
        Self {
            client,
            disturbances,
            running: JoinSet::new(),
            undisturbed: Vec::new(),
            disturbed: Vec::new(),
        }
    }

    /// Watches one, from now on. `path` is the object's in the API.
    pub(super) fn watch(&mut self, path: String, loss: Loss) {
        let (client, disturbances) = (self.client.clone(), self.disturbances.clone());
        self.running.spawn(async move {
            let start = Instant::now();
            let before = disturbances.last().0;
            loop {
                let request = Request::get(&path).body(Vec::new()).unwrap();
                let object: Option<Value> = client.request(request).await.ok();
                let (count, last) = disturbances.last();
                let disturbed = (count != before).then(|| last.elapsed());
                let took = start.elapsed();
                if object.is_some_and(|object| loss.is_over(&object)) {
                    return Repair {
                        path,
                        took,
                        after_fault: disturbed,
                    };
                }
                match disturbed {
                    Some(since) => in_time(&path, since, REPAIR_AFTER_FAULT),
                    None => in_time(&path, took, REPAIR),
                }
                sleep(LOOK_AGAIN).await;
            }
        });
    }

    /// Waits for all of them.
    pub(super) async fn finish(&mut self) {
        while let Some(repair) = self.running.join_next().await {
            let repair = repair.unwrap();
            match repair.after_fault {
                Some(since) => self.disturbed.push((since, repair.path)),
                None => self.undisturbed.push((repair.took, repair.path)),
            }
        }
    }

    /// Says how long they took.
    pub(super) fn report(mut self) {
        for (what, goal, all) in [
            ("nothing else went wrong", REPAIR, &mut self.undisturbed),
            (
                "after the last fault",
                REPAIR_AFTER_FAULT,
                &mut self.disturbed,
            ),
        ] {
            all.sort();
            let median = all.get(all.len() / 2).map(|(took, _)| *took);
            let slowest = all.last();
            println!(
                "{} repairs, {what}: goal {goal:?}, median {median:.1?}, slowest {slowest:.1?}",
                all.len()
            );
            assert!(!all.is_empty(), "{what}: none");
        }
    }
}

fn in_time(path: &str, took: Duration, goal: Duration) {
    assert!(
        took < goal * TOLERANCE,
        "{path} is still not right after {took:?}; {goal:?} is the goal"
    );
}
