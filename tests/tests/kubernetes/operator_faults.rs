//! Edits, losses, failed calls and crashes in random order, on an API server that fails too: what must never happen does
//! not, what is lost comes back in time, and in the end everything is as wanted.

mod certificate;
mod random;
mod repair;
mod safety;
mod unreliable;

use std::{
    collections::BTreeSet,
    fs,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use data_encoding::BASE64;
use k8s_openapi::jiff::Timestamp;
use runtime::identity::Role;
use serde_json::{Value, json};
use tests::wait::wait_for;

use self::{
    random::Random,
    repair::{Disturbances, Loss, Repairs},
    safety::Safety,
    unreliable::UnreliableApi,
};
use crate::operator_harness::{CLUSTER, Installation, Plane, SOON, name};

const APPLICATIONS: &str = "apis/headwater.dev/v1alpha1";
/// What the operator puts back. Not what runs pods: where a StatefulSet is deleted and made again while Kubernetes' own
/// garbage collector cannot watch, that never takes the old one's pods away, and the new one waits for their names.
const OWNED: [(&str, &str, &str); 8] = [
    ("api/v1", "services", "live-edge"),
    ("api/v1", "services", "live-control-internal"),
    ("api/v1", "configmaps", "live-live"),
    ("apis/networking.k8s.io/v1", "networkpolicies", "live-edge"),
    ("apis/policy/v1", "poddisruptionbudgets", "live-origin"),
    ("api/v1", "secrets", "live-internal-edge"),
    ("api/v1", "secrets", "live-origin-tls"),
    ("api/v1", "secrets", "live-api-token"),
];
/// Their numbers are changed.
const WORKLOADS: [(&str, &str, &str); 2] = [
    ("apis/apps/v1", "deployments", "live-control"),
    ("apis/apps/v1", "statefulsets", "live-origin"),
];
/// Of the former, deleted before the operator is stopped after some write: each takes one to come back.
const DELETED_AT_ONCE: usize = 5;
/// The API server is away for this long at most, and for as long as it takes to start: sometimes a Lease ends meanwhile.
const AWAY_MILLISECONDS: usize = 12_000;

/// By then, an operator that may not act any more has seen it.
const LEASE_LOOK: Duration = Duration::from_secs(5);

/// What happens, and how often.
const STEPS: [(Step, usize); 13] = [
    (Step::Edit, 12),
    (Step::Delete, 12),
    (Step::EditLive, 3),
    (Step::EditReplicas, 3),
    (Step::LosePod, 3),
    (Step::AddApplication, 5),
    (Step::RemoveApplication, 3),
    (Step::RenewLeaf, 4),
    (Step::RotateAuthority, 2),
    (Step::LetTimePass, 3),
    (Step::Kill, 2),
    (Step::KillAfterWrite, 3),
    (Step::KillApiServer, 2),
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Edit,
    Delete,
    EditLive,
    EditReplicas,
    LosePod,
    AddApplication,
    RemoveApplication,
    /// A certificate whose time has come.
    RenewLeaf,
    RotateAuthority,
    /// The next CA has been told for long enough.
    LetTimePass,
    Kill,
    KillAfterWrite,
    KillApiServer,
}

#[tokio::test]
async fn whatever_happens_keys_stay_and_the_cluster_comes_right() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = u64::from(now.unwrap().subsec_nanos());
    println!("seed {seed}");
    let begun = Instant::now();
    let mut run = Run::begin(seed).await;
    let mut steps: Vec<Step> = STEPS
        .iter()
        .flat_map(|(step, count)| std::iter::repeat_n(*step, *count))
        .collect();
    run.random.shuffle(&mut steps);
    for (number, step) in steps.into_iter().enumerate() {
        let stormy = run.random.below(2) == 0;
        run.api.storm(stormy);
        let what = run.step(step).await;
        let weather = if stormy { ", stormy" } else { "" };
        println!("{:.1?} step {number}{weather}: {what}", begun.elapsed());
        run.keep_an_operator().await;
        if !stormy && run.random.below(3) == 0 {
            run.repairs.finish().await;
        }
        run.check().await;
    }
    run.end().await;
    println!("whole run: {:.1?}", begun.elapsed());
}

struct Run {
    installation: Installation,
    api: UnreliableApi,
    disturbances: Arc<Disturbances>,
    repairs: Repairs,
    safety: Safety,
    random: Random,
    /// Drain and image: what an edge's pods are made from here.
    pods: (usize, usize),
    /// Everything that they were ever to be made from.
    wanted: BTreeSet<(usize, usize)>,
    applications: BTreeSet<String>,
    /// Every request for a rotation is another.
    requests: usize,
}

impl Run {
    async fn begin(seed: u64) -> Self {
        let plane = Plane::owned("operator-faults").await;
        let disturbances = Disturbances::new();
        let random = Random::new(seed.rotate_left(17));
        let api = UnreliableApi::start(&plane, random, disturbances.clone()).await;
        let mut installation = Installation::prepare(plane, Duration::from_millis(200)).await;
        let kubeconfig = fs::read_to_string(&installation.kubeconfig).unwrap();
        let server = installation.plane.server();
        fs::write(
            &installation.kubeconfig,
            kubeconfig.replace(&server, &api.url),
        )
        .unwrap();
        installation.start_operator().await;
        installation.apply(CLUSTER).await;
        installation.settled().await;
        Self {
            repairs: Repairs::new(installation.plane.client().await, disturbances.clone()),
            safety: Safety::new(&installation).await,
            installation,
            api,
            disturbances,
            random: Random::new(seed),
            pods: (0, 0),
            wanted: BTreeSet::from([(0, 0)]),
            applications: BTreeSet::from(["studio".to_owned()]),
            requests: 0,
        }
    }

    async fn step(&mut self, step: Step) -> String {
        match step {
            Step::Edit => self.edit().await,
            Step::Delete => {
                let object = *self.random.one_of(&OWNED);
                self.delete(object).await;
                format!("{}/{} deleted", object.1, object.2)
            }
            Step::EditLive => {
                let wrong = json!({ "data": { "live.yaml": "nonsense" } });
                let object = ("api/v1", "configmaps", "live-live");
                let field = "/data/live.yaml";
                self.spoil(object, field, "nonsense".into(), &wrong).await
            }
            Step::EditReplicas => {
                let wrong = json!({ "spec": { "replicas": 5 } });
                let object = *self.random.one_of(&WORKLOADS);
                self.spoil(object, "/spec/replicas", 5.into(), &wrong).await
            }
            Step::LosePod => self.lose_pod().await,
            Step::AddApplication => {
                let app = format!("app{}", self.random.below(5));
                let yaml = format!(
                    "apiVersion: headwater.dev/v1alpha1\nkind: IngestApplication\nmetadata:\n  name: {app}\n\
                     spec:\n  app: {app}\n  clusterRef:\n    name: live\n"
                );
                self.installation.apply(&yaml).await;
                self.applications.insert(app.clone());
                format!("application {app} added")
            }
            Step::RemoveApplication => {
                let all: Vec<String> = self.applications.iter().cloned().collect();
                if all.is_empty() {
                    return "no application to remove".to_owned();
                }
                let app = self.random.one_of(&all);
                let object = format!("ingestapplications/{app}");
                self.installation.kubectl(&["delete", &object]).await;
                self.applications.remove(app);
                format!("application {app} removed")
            }
            Step::RenewLeaf => self.renew_leaf().await,
            Step::RotateAuthority => {
                self.requests += 1;
                let request = format!("headwater.dev/rotate={}", self.requests);
                let arguments = ["annotate", "--overwrite", "secret/live-internal-ca"];
                let arguments = [&arguments[..], &[&request]].concat();
                self.installation.kubectl(&arguments).await;
                "the CA is to be rotated".to_owned()
            }
            Step::LetTimePass => self.let_time_pass().await,
            Step::Kill => {
                self.restart_operator().await;
                "the operator killed and started".to_owned()
            }
            Step::KillAfterWrite => self.kill_after_write().await,
            Step::KillApiServer => self.kill_api_server().await,
        }
    }

    async fn edit(&mut self) -> String {
        let number = self.random.below(3) + 1;
        let spec = match self.random.below(6) {
            0 => json!({ "edge": { "replicas": number } }),
            1 => json!({ "edge": { "limits": { "maxConnections": number } } }),
            2 => json!({ "logging": { "filter": format!("info,edge{number}=debug") } }),
            3 => json!({ "origin": { "replicas": number } }),
            4 => {
                self.pods.0 = number;
                json!({ "edge": { "drain": { "timeoutSeconds": 100 + number } } })
            }
            _ => {
                self.pods.1 = number;
                json!({ "image": { "tag": format!("t{number}") } })
            }
        };
        self.wanted.insert(self.pods);
        self.patch("igc/live", &json!({ "spec": spec })).await;
        spec.to_string()
    }

    async fn patch(&self, object: &str, patch: &Value) {
        let patch = patch.to_string();
        let arguments = ["patch", object, "--type=merge", "-p", &patch];
        self.installation.kubectl(&arguments).await;
    }

    async fn lose_pod(&mut self) -> String {
        let pods = self.installation.list("api/v1", "pods").await;
        if pods.is_empty() {
            return "no pod to delete".to_owned();
        }
        let pod = format!("pod/{}", name(self.random.one_of(&pods)));
        let arguments = ["delete", &pod, "--ignore-not-found", "--wait=false"];
        self.installation.kubectl(&arguments).await;
        format!("{pod} deleted")
    }

    /// And looks when it is back.
    async fn delete(&mut self, (group, plural, name): (&str, &str, &str)) {
        let Some(object) = self.installation.get(group, plural, name).await else {
            // It is being watched already.
            return;
        };
        let argument = format!("{plural}/{name}");
        let arguments = ["delete", &argument, "--ignore-not-found", "--wait=false"];
        self.installation.kubectl(&arguments).await;
        let uid = object["metadata"]["uid"].clone();
        let path = self.path(group, plural, name);
        self.repairs.watch(path, Loss::Deleted { uid });
    }

    /// Changes an object's field, if it is there, and looks when it is put right.
    async fn spoil(
        &mut self,
        (group, plural, name): (&str, &str, &str),
        field: &'static str,
        wrong: Value,
        patch: &Value,
    ) -> String {
        if self.installation.get(group, plural, name).await.is_none() {
            return format!("{plural}/{name} is not there");
        }
        self.patch(&format!("{plural}/{name}"), patch).await;
        let path = self.path(group, plural, name);
        self.repairs.watch(path, Loss::Edited { field, wrong });
        format!("{field} of {plural}/{name} edited")
    }

    fn path(&self, group: &str, plural: &str, name: &str) -> String {
        let namespace = &self.installation.namespace;
        format!("/{group}/namespaces/{namespace}/{plural}/{name}")
    }

    async fn renew_leaf(&mut self) -> String {
        let role = *self.random.one_of(&Role::ALL);
        let authority = self
            .installation
            .get("api/v1", "secrets", "live-internal-ca");
        let authority = authority.await.expect("the CA stays");
        let (certificate, key) = certificate::due(&self.installation, role, &authority);
        let (certificate, key) = (
            BASE64.encode(certificate.as_bytes()),
            BASE64.encode(key.as_bytes()),
        );
        let patch = json!({ "data": { "tls.crt": certificate, "tls.key": key } });
        let secret = format!("live-internal-{role}");
        let object = ("api/v1", "secrets", secret.as_str());
        self.spoil(object, "/data/tls.crt", certificate.into(), &patch)
            .await
    }

    /// For the rotation of the CA, which waits until everybody has had its successor for some minutes.
    async fn let_time_pass(&self) -> String {
        let patch = json!({ "metadata": { "annotations": {
            "headwater.dev/bundle-since": "2020-01-01T00:00:00Z",
        }}});
        let mut count = 0;
        for secret in self.installation.list("api/v1", "secrets").await {
            if secret["metadata"]["annotations"]["headwater.dev/bundle-since"].is_string() {
                self.patch(&format!("secret/{}", name(&secret)), &patch)
                    .await;
                count += 1;
            }
        }
        format!("{count} bundles were told long ago")
    }

    async fn restart_operator(&mut self) {
        self.installation.operators.clear();
        self.disturbances.note();
        self.api.go_on();
        // Where a call fails at its start, it ends, and is started again after a while: nothing to be learnt.
        let stormy = self.api.is_stormy();
        self.api.storm(false);
        self.installation.start_operator().await;
        self.api.storm(stormy);
        self.disturbances.note();
    }

    /// In the middle of what it does, at a write that is done and that it does not know to be done.
    async fn kill_after_write(&mut self) -> String {
        let mut owned = OWNED;
        self.random.shuffle(&mut owned);
        let writes = self.random.below(DELETED_AT_ONCE) + 1;
        let stopped = self.api.stop_after(writes);
        for object in &owned[..DELETED_AT_ONCE] {
            self.delete(*object).await;
        }
        let stopped = tokio::time::timeout(SOON, stopped).await;
        stopped.expect("the operator writes").unwrap();
        self.restart_operator().await;
        format!("the operator killed after write {writes}")
    }

    async fn kill_api_server(&mut self) -> String {
        self.repairs.finish().await;
        collected(&self.installation).await;
        let plane = self.installation.plane.owned_mut();
        plane.kill_api_server();
        let away = u64::try_from(self.random.below(AWAY_MILLISECONDS)).unwrap();
        let away = Duration::from_millis(away);
        let begun = Instant::now();
        // The fault itself: nothing is waited for.
        tokio::time::sleep(away).await;
        plane.start_api_server().await;
        let away = begun.elapsed();
        let since = Timestamp::now() + LEASE_LOOK;
        wait_for("the operator to go on, or to end", SOON, async || {
            let ended = self.installation.operators.last_mut()?.process.ended();
            let renewed = self.installation.lease_renewed_at().await;
            (ended.is_some() || renewed.is_some_and(|renewed| renewed > since)).then_some(())
        })
        .await;
        self.disturbances.note();
        format!("the API server was away for {away:.1?}")
    }

    /// As a kubelet does. An operator ends by itself where it can no longer be sure to be the only one.
    async fn keep_an_operator(&mut self) {
        let Some(operator) = self.installation.operators.last_mut() else {
            panic!("none was started");
        };
        if let Some(ended) = operator.process.ended() {
            let log = operator.process.log();
            assert_eq!(ended.code(), Some(1), "{log}");
            assert!(log.contains("Lease"), "{log}");
            println!("the operator had lost its Lease");
            self.restart_operator().await;
        }
    }

    async fn check(&mut self) {
        let images: BTreeSet<usize> = self.wanted.iter().map(|(_, image)| *image).collect();
        let (edges, others) = (self.wanted.len(), images.len());
        self.safety.check(&self.installation, edges, others).await;
    }

    async fn end(mut self) {
        self.api.storm(false);
        // From here on nothing ends one.
        self.restart_operator().await;
        let operator = self.installation.operators.len() - 1;
        self.installation.passed(operator).await;
        self.installation.settled().await;
        self.repairs.finish().await;
        self.installation.settled().await;
        self.check().await;
        self.check_applications().await;

        // What concerns live settings and certificates alone leaves every pod as it is.
        let pods = pods(&self.installation).await;
        self.delete(OWNED[5]).await;
        self.delete(OWNED[6]).await;
        let renewed = self.renew_leaf().await;
        let spec = json!({ "spec": {
            "logging": { "filter": "warn" },
            "edge": { "limits": { "maxConnections": 77 } },
        }});
        self.patch("igc/live", &spec).await;
        self.repairs.finish().await;
        self.installation.passed(operator).await;
        assert_eq!(self::pods(&self.installation).await, pods, "{renewed}");
        self.check().await;

        let writes = self.installation.writes().len();
        self.installation.passed(operator).await;
        let later = self.installation.writes();
        assert_eq!(later[writes..], [] as [String; 0]);
        Safety::check_rights(&self.installation);
        self.repairs.report();
    }

    /// Control is told of those that are there, and their users are answered.
    async fn check_applications(&self) {
        let live = self.installation.get("api/v1", "configmaps", "live-live");
        let live = live.await.unwrap();
        let live = live["data"]["live.yaml"].as_str().unwrap();
        for app in (0..5).map(|number| format!("app{number}")) {
            let known = live.contains(&app);
            assert_eq!(known, self.applications.contains(&app), "{app}: {live}");
        }
        let all = self
            .installation
            .list(APPLICATIONS, "ingestapplications")
            .await;
        assert_eq!(all.len(), self.applications.len());
        wait_for("the applications' conditions", SOON, async || {
            let all = self
                .installation
                .list(APPLICATIONS, "ingestapplications")
                .await;
            all.iter()
                .all(|one| one["status"]["conditions"][0]["reason"] == "AwaitingControl")
                .then_some(())
        })
        .await;
    }
}

/// Kubernetes' own garbage collector never takes away what belonged to a Deployment that was deleted and made again while
/// it could not watch: that is not what is tested here.
async fn collected(installation: &Installation) {
    let group = "apis/apps/v1";
    wait_for("what deleted owners left to go", SOON, async || {
        let mut owners = BTreeSet::new();
        let mut owned = Vec::new();
        for (group, plural) in [
            (group, "deployments"),
            (group, "statefulsets"),
            (group, "replicasets"),
            ("api/v1", "pods"),
        ] {
            for object in installation.list(group, plural).await {
                let metadata = &object["metadata"];
                owners.insert(metadata["uid"].to_string());
                if matches!(plural, "replicasets" | "pods") {
                    owned.push(metadata["ownerReferences"][0]["uid"].to_string());
                }
            }
        }
        owned
            .iter()
            .all(|owner| owners.contains(owner))
            .then_some(())
    })
    .await;
}

/// Their uids, once there are as many as are wanted: what a deleted Deployment leaves is gone a while after another made its
/// own.
async fn pods(installation: &Installation) -> BTreeSet<String> {
    let group = "apis/apps/v1";
    let mut wanted = installation.list(group, "deployments").await;
    wanted.extend(installation.list(group, "statefulsets").await);
    let wanted: u64 = wanted
        .iter()
        .filter_map(|one| one["spec"]["replicas"].as_u64())
        .sum();
    wait_for(&format!("{wanted} pods"), SOON, async || {
        let pods = installation.list("api/v1", "pods").await;
        let uids = pods
            .iter()
            .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned());
        (pods.len() as u64 == wanted).then(|| uids.collect())
    })
    .await
}
