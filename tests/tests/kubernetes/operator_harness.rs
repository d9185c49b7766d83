//! An operator as it is installed: with a ServiceAccount that may do what the chart's roles say, in a namespace of its
//! own, and kubelets that only say what real ones would.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::Request;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use tests::{
    binary::headwater,
    charts::Helm,
    http::{get, metric},
    kube::{
        self as harness, ControlPlane, PodSecurity,
        kubelets::{FakeKubelets, Life},
    },
    process::{Process, command},
    wait::wait_for,
};
use tokio::process::Command;

/// For anything that the operator does by itself.
pub(crate) const SOON: Duration = Duration::from_secs(90);
/// The chart's release, and so its ServiceAccount.
const ACCOUNT: &str = "headwater-operator";

/// A cluster that needs little.
pub(crate) const CLUSTER: &str = "\
apiVersion: headwater.dev/v1alpha1
kind: IngestCluster
metadata:
  name: live
spec:
  edge:
    replicas: 2
    service:
      type: ClusterIP
  origin:
    replicas: 1
  control:
    replicas: 1
    database:
      sqlite: {}
  redis:
    standalone:
      host: redis
  tls:
    selfSigned: {}
---
apiVersion: headwater.dev/v1alpha1
kind: IngestApplication
metadata:
  name: studio
spec:
  app: studio
  clusterRef:
    name: live
";

/// An operator and its namespace.
pub(crate) struct Installation {
    pub(crate) namespace: String,
    pub(crate) operators: Vec<Operator>,
    /// The operator's.
    pub(crate) kubeconfig: PathBuf,
    /// The operator's environment beside the usual.
    pub(crate) environment: Vec<(&'static str, String)>,
    client: Client,
    _kubelets: FakeKubelets,
    pub(crate) plane: Plane,
}

/// The control plane of an installation.
pub(crate) enum Plane {
    /// For whoever does nothing to it that others would notice.
    Shared(&'static ControlPlane),
    Owned(Box<ControlPlane>),
}

impl Plane {
    pub(crate) async fn owned(name: &str) -> Self {
        let plane = ControlPlane::start(name).await;
        Self::Owned(Box::new(plane.with_controller_manager().await))
    }

    /// To be killed and started.
    pub(crate) fn owned_mut(&mut self) -> &mut ControlPlane {
        match self {
            Self::Shared(_) => panic!("others use it"),
            Self::Owned(plane) => plane,
        }
    }
}

impl Deref for Plane {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        match self {
            Self::Shared(plane) => plane,
            Self::Owned(plane) => plane,
        }
    }
}

/// A running operator process.
pub(crate) struct Operator {
    pub(crate) process: Process,
    admin: u16,
}

impl Installation {
    /// With one operator, and pods that end `gone_after` they were told to.
    pub(crate) async fn start(gone_after: Duration) -> Self {
        let plane = Plane::Shared(ControlPlane::shared().await);
        let mut this = Self::prepare(plane, gone_after).await;
        this.start_operator().await;
        this
    }

    /// Without an operator yet.
    pub(crate) async fn prepare(plane: Plane, gone_after: Duration) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let namespace = format!("operator-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        plane.namespace(&namespace, PodSecurity::Restricted).await;
        let definitions = harness::run(Command::new(headwater()).arg("crds")).await;
        plane.apply(&definitions).await;
        let kubeconfig = plane.service_account_kubeconfig(&namespace, ACCOUNT).await;
        plane.apply(&roles(&namespace).await).await;
        let kubelets = FakeKubelets::start(&plane, &namespace, move |_| Life {
            gone_after,
            ..Life::default()
        })
        .await;
        Self {
            namespace,
            operators: Vec::new(),
            kubeconfig,
            environment: Vec::new(),
            client: plane.client().await,
            _kubelets: kubelets,
            plane,
        }
    }

    /// One more.
    pub(crate) async fn start_operator(&mut self) -> usize {
        let admin = tests::free_port();
        let mut command = command(headwater());
        command
            .args([
                "operator",
                "--log-format",
                "text",
                "--image-repository",
                "registry.test/headwater",
            ])
            .args([
                "--watch-namespace",
                &self.namespace,
                "--lease-namespace",
                &self.namespace,
            ])
            .args(["--admin-listen", &format!("127.0.0.1:{admin}")])
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(self.environment.iter().cloned());
        let index = self.operators.len();
        let name = format!("{}-{index}", self.namespace);
        let process = Process::spawn(&name, &mut command, self.plane.directory());
        let mut operator = Operator { process, admin };
        let url = format!("http://127.0.0.1:{admin}/readyz");
        wait_for("the operator to be ready", SOON, async || {
            let ended = operator.process.ended();
            assert!(ended.is_none(), "{ended:?}: {}", operator.process.log());
            let (status, _) = get(&url).await.ok()?;
            status.is_success().then_some(())
        })
        .await;
        self.operators.push(operator);
        index
    }

    /// Applies objects in the namespace, as a user does.
    pub(crate) async fn apply(&self, yaml: &str) {
        let namespaced = format!("metadata:\n  namespace: {}", self.namespace);
        self.plane
            .apply(&yaml.replace("metadata:", &namespaced))
            .await;
    }

    /// `kubectl` in the namespace.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.plane.kubectl();
        command
            .args(["--namespace", &self.namespace])
            .args(arguments);
        harness::run(&mut command).await
    }

    /// An object, if it is there: `apis/apps/v1`, `deployments`, name.
    pub(crate) async fn get(&self, group: &str, plural: &str, name: &str) -> Option<Value> {
        let path = format!("/{group}/namespaces/{}/{plural}/{name}", self.namespace);
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.client.request(request).await.ok()
    }

    /// Names of all of a kind.
    pub(crate) async fn list(&self, group: &str, plural: &str) -> Vec<Value> {
        let path = format!("/{group}/namespaces/{}/{plural}", self.namespace);
        let request = Request::get(path).body(Vec::new()).unwrap();
        let list: Value = self.client.request(request).await.unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// The cluster.
    pub(crate) async fn cluster(&self) -> Option<Value> {
        self.get("apis/headwater.dev/v1alpha1", "ingestclusters", "live")
            .await
    }

    /// Waits until a condition of the cluster has this status and reason, and gives its message.
    pub(crate) async fn condition(&self, about: &str, status: &str, reason: &str) -> String {
        let what = format!("{about} to be {status} ({reason}) in {}", self.namespace);
        wait_for(&what, SOON, async || {
            let cluster = self.cluster().await?;
            let conditions = cluster["status"]["conditions"].as_array()?;
            let one = conditions.iter().find(|one| one["type"] == about)?;
            let right = one["status"] == status && one["reason"] == reason;
            right.then(|| one["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// Every pod has the present template, and none is ending.
    pub(crate) async fn settled(&self) {
        self.condition("Ready", "True", "AllTiersAvailable").await;
        self.condition("RolloutProgressing", "False", "RolloutComplete")
            .await;
    }

    /// Waits for two more passes over the cluster: one may have begun before.
    pub(crate) async fn passed(&self, operator: usize) {
        let begin = self.passes(operator).await;
        wait_for("two more passes", SOON, async || {
            (self.passes(operator).await >= begin + 2.0).then_some(())
        })
        .await;
    }

    pub(crate) async fn passes(&self, operator: usize) -> f64 {
        let admin = self.operators[operator].admin;
        let (_, text) = get(&format!("http://127.0.0.1:{admin}/metrics"))
            .await
            .unwrap();
        let name = "headwater_operator_reconciles_total";
        metric(&text, name, &["kind=\"IngestCluster\"", "outcome=\"ok\""])
    }

    /// What the operator asked of the API server so far.
    pub(crate) fn requests(&self) -> impl Iterator<Item = harness::Request> {
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", self.namespace);
        let all = self.plane.audit().into_iter();
        all.filter(move |request| request.user == user)
    }

    /// What the operator wrote so far, its Lease left out: `verb resource/subresource name`.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.requests()
            .filter(harness::Request::is_write)
            .filter(|request| request.resource != "leases")
            .map(|request| {
                let (verb, resource, name) = (request.verb, request.resource, request.name);
                format!(
                    "{verb} {resource}/{} {name} {}",
                    request.subresource, request.code
                )
            })
            .collect()
    }

    /// Nothing was asked for that the rules do not allow.
    pub(crate) fn assert_nothing_was_forbidden(&self) {
        let forbidden: Vec<_> = self
            .requests()
            .filter(|request| request.code == 403)
            .collect();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
    }

    /// Who holds the Lease.
    pub(crate) async fn leader(&self) -> Option<String> {
        let lease = self.lease().await?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    /// When its holder renewed it last, by its own clock.
    pub(crate) async fn lease_renewed_at(&self) -> Option<Timestamp> {
        let lease = self.lease().await?;
        Some(lease["spec"]["renewTime"].as_str()?.parse().unwrap())
    }

    async fn lease(&self) -> Option<Value> {
        let group = "apis/coordination.k8s.io/v1";
        self.get(group, "leases", "headwater-operator").await
    }
}

/// The chart's ServiceAccount and roles.
pub(crate) async fn roles(namespace: &str) -> String {
    let arguments = [
        "--namespace",
        namespace,
        "--show-only=templates/rbac.yaml",
        "--set=fullnameOverride=headwater-operator",
    ];
    let rendered = Helm::V4.template("headwater-operator", &arguments).await;
    rendered.unwrap()
}

/// Name of an object.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}
