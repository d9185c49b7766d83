//! Edits, losses and crashes in random order: what must never happen does not, and in the end everything is as wanted.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::operator_harness::{CLUSTER, Installation, name};

const STEPS: usize = 40;
/// What is never made anew: Secret and key.
const KEYS: [(&str, &str); 3] = [
    ("live-internal-ca", "ca.key"),
    ("live-pepper", "pepper"),
    ("live-grant", "grant.key"),
];
/// What the operator puts back.
const OWNED: [&str; 8] = [
    "service/live-edge",
    "service/live-control-internal",
    "deployment/live-control",
    "statefulset/live-origin",
    "configmap/live-live",
    "networkpolicy/live-edge",
    "secret/live-internal-edge",
    "secret/live-api-token",
];

#[tokio::test]
async fn whatever_happens_keys_stay_and_the_cluster_comes_right() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = u64::from(now.unwrap().subsec_nanos());
    println!("seed {seed}");
    let installation = Installation::start(Duration::from_millis(200)).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let mut run = Run {
        keys: keys(&installation).await,
        installation,
        random: seed | 1,
        pods: (0, 0),
        wanted: BTreeSet::from([(0, 0)]),
        seen: BTreeSet::new(),
    };
    for step in 0..STEPS {
        let what = run.step().await;
        println!("seed {seed} step {step}: {what}");
        run.check().await;
    }
    let Run {
        installation,
        keys: before,
        ..
    } = run;
    for object in OWNED
        .iter()
        .chain(&["networkpolicy/live-control", "pvc/live-control-data"])
    {
        tests::wait::wait_for(object, crate::operator_harness::SOON, async || {
            let arguments = ["get", object, "-o", "name", "--ignore-not-found"];
            let found = installation.kubectl(&arguments).await;
            (!found.is_empty()).then_some(())
        })
        .await;
    }
    let operator = installation.operators.len() - 1;
    installation.passed(operator).await;
    installation.settled().await;
    installation.passed(operator).await;

    // What concerns live settings and certificates alone leaves every pod as it is.
    let pods = uids(&installation).await;
    installation
        .kubectl(&[
            "delete",
            "secret/live-internal-edge",
            "secret/live-origin-tls",
        ])
        .await;
    let patch = r#"{"spec":{"logging":{"filter":"warn"},"edge":{"limits":{"maxConnections":77}}}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    installation.passed(operator).await;
    assert_eq!(uids(&installation).await, pods, "seed {seed}");

    let writes = installation.writes().len();
    installation.passed(operator).await;
    assert_eq!(
        installation.writes()[writes..],
        [] as [String; 0],
        "seed {seed}"
    );
    assert_eq!(keys(&installation).await, before, "seed {seed}");
    installation.assert_nothing_was_forbidden();
}

struct Run {
    installation: Installation,
    keys: Vec<Value>,
    random: u64,
    /// Drain and image: what an edge's pods are made from here.
    pods: (u64, u64),
    /// Everything that they were ever to be made from.
    wanted: BTreeSet<(u64, u64)>,
    /// Revisions that were there.
    seen: BTreeSet<String>,
}

impl Run {
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % limit as u64).unwrap()
    }

    async fn step(&mut self) -> String {
        let number = self.below(3) + 1;
        let spec = match self.below(11) {
            0 => format!(r#"{{"edge":{{"replicas":{number}}}}}"#),
            1 => format!(r#"{{"edge":{{"limits":{{"maxConnections":{number}}}}}}}"#),
            2 => format!(r#"{{"logging":{{"filter":"info,edge{number}=debug"}}}}"#),
            3 => format!(r#"{{"origin":{{"replicas":{number}}}}}"#),
            4 => {
                self.pods.0 = number as u64;
                format!(
                    r#"{{"edge":{{"drain":{{"timeoutSeconds":{}}}}}}}"#,
                    100 + number
                )
            }
            5 => {
                self.pods.1 = number as u64;
                format!(r#"{{"image":{{"tag":"t{number}"}}}}"#)
            }
            6 => return self.lose_pod().await,
            7 => {
                self.installation.operators.clear();
                self.installation.start_operator().await;
                return "the operator killed and started".to_owned();
            }
            8 => {
                let patch = r#"{"data":{"live.yaml":"nonsense"}}"#;
                let arguments = ["patch", "configmap/live-live", "--type=merge", "-p", patch];
                // It may be gone at the moment.
                let mut command = self.installation.plane.kubectl();
                command
                    .args(["--namespace", &self.installation.namespace])
                    .args(arguments);
                command.output().await.unwrap();
                return "live.yaml edited".to_owned();
            }
            _ => {
                let object = OWNED[self.below(OWNED.len())];
                self.delete(object).await;
                return format!("{object} deleted");
            }
        };
        self.wanted.insert(self.pods);
        let patch = format!(r#"{{"spec":{spec}}}"#);
        self.installation
            .kubectl(&["patch", "igc/live", "--type=merge", "-p", &patch])
            .await;
        spec
    }

    async fn lose_pod(&mut self) -> String {
        let pods = self.installation.list("api/v1", "pods").await;
        if pods.is_empty() {
            return "no pod to delete".to_owned();
        }
        let pod = format!("pod/{}", name(&pods[self.below(pods.len())]));
        self.delete(&pod).await;
        format!("{pod} deleted")
    }

    async fn delete(&self, object: &str) {
        let arguments = ["delete", object, "--ignore-not-found", "--wait=false"];
        self.installation.kubectl(&arguments).await;
    }

    async fn check(&mut self) {
        assert_eq!(keys(&self.installation).await, self.keys);
        let deployments = self.installation.list("apis/apps/v1", "deployments").await;
        let edges = deployments
            .iter()
            .map(name)
            .filter(|name| name.contains("-edge-"));
        self.seen.extend(edges.map(str::to_owned));
        assert!(
            self.seen.len() <= self.wanted.len(),
            "edges were replaced without need: {:?} for {:?}",
            self.seen,
            self.wanted
        );
    }
}

async fn keys(installation: &Installation) -> Vec<Value> {
    let mut keys = Vec::new();
    for (secret, key) in KEYS {
        let secret = installation.get("api/v1", "secrets", secret).await;
        keys.push(secret.expect("a key that is in use stays")["data"][key].clone());
    }
    keys
}

async fn uids(installation: &Installation) -> BTreeSet<String> {
    let pods = installation.list("api/v1", "pods").await;
    pods.iter()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
        .collect()
}
