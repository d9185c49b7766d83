//! A real Kubernetes control plane: etcd, the API server and, where wanted, the controller manager, on free loopback
//! ports. There is no node: [`kubelets`] says what becomes of pods.
//!
//! `tests/kube/setup.sh control-plane` gets the programs.

mod audit;
pub mod kubelets;
mod pki;
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    sync::{OnceCell, oneshot},
};

pub use self::audit::Request;
use self::pki::{Pki, User};
use crate::{process::Process, wait::wait_for};

/// For each process to be ready.
const START: Duration = Duration::from_secs(60);
/// For the controller manager to make what every namespace has.
const NAMESPACE: Duration = Duration::from_secs(30);
/// A ServiceAccount's token, longer than any test.
const TOKEN_SECONDS: i64 = 3600;
/// Who writes what a test applies.
const FIELD_MANAGER: &str = "test";

/// How strict a namespace is with its pods (Pod Security admission).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodSecurity {
    Privileged,
    /// Refuses every pod that may do more than it must.
    Restricted,
}

/// A running control plane. Ended when dropped; what it logged stays in its directory.
pub struct ControlPlane {
    controller_manager: Option<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
    pki: Pki,
    directory: PathBuf,
    etcd_port: u16,
    port: u16,
    kubeconfig: PathBuf,
}

impl ControlPlane {
    /// Starts etcd and the API server. `name` names the directory of its logs, under the target directory.
    pub async fn start(name: &str) -> Self {
        let directory = programs::directory(name);
        let pki = Pki::create(&directory.join("pki"));
        pki.server("api-server");
        fs::write(directory.join("audit-policy.yaml"), audit::POLICY).unwrap();
        let etcd_port = crate::free_port();
        let port = crate::free_port();
        let server = format!("https://127.0.0.1:{port}");
        let admin = pki.client("admin", Some("system:masters"));
        let kubeconfig = pki.kubeconfig("admin", &server, &User::Certificate(&admin));
        let etcd = programs::etcd(&directory, etcd_port);
        let mut this = Self {
            controller_manager: None,
            api_server: None,
            etcd: Some(etcd),
            pki,
            directory,
            etcd_port,
            port,
            kubeconfig,
        };
        this.start_api_server().await;
        this
    }

    /// Starts the controller manager too: garbage collection, namespaces, Deployments, ReplicaSets, StatefulSets, Jobs,
    /// EndpointSlices, PodDisruptionBudgets.
    pub async fn with_controller_manager(mut self) -> Self {
        let name = "kube-controller-manager";
        let user = self.pki.client(&format!("system:{name}"), None);
        let user = User::Certificate(&user);
        let kubeconfig = self.pki.kubeconfig(name, &self.server(), &user);
        let process = programs::controller_manager(&self.directory, &self.pki, &kubeconfig);
        self.controller_manager = Some(process);
        self.wait_for_default_service_account("default").await;
        self
    }

    /// The one with a controller manager that all tests of a program share, each in namespaces of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<&'static ControlPlane> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                let (started, wait) = oneshot::channel();
                // A process started by `setpriv --pdeathsig` ends with the thread that started it: not a test's own.
                std::thread::spawn(move || keep_running(started));
                wait.await.expect("the control plane starts")
            })
            .await
    }

    /// Ends the API server as a crash does. Owned control planes only: a shared one is never down.
    pub fn kill_api_server(&mut self) {
        self.api_server.take().expect("the API server runs").kill();
    }

    /// Starts the API server, again where it was, and waits until it is ready.
    pub async fn start_api_server(&mut self) {
        let mut process =
            programs::api_server(&self.directory, &self.pki, self.etcd_port, self.port);
        let client = self.client().await;
        wait_for("the API server to be ready", START, async || {
            let ended = process.ended();
            assert!(ended.is_none(), "the API server ended: {ended:?}");
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            client.request_text(request).await.ok()
        })
        .await;
        self.api_server = Some(process);
    }

    /// Where its logs, its keys and its kubeconfigs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The API server's address.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The kubeconfig of the user `admin`, who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of the user `admin`. It belongs to the runtime of the test that asks for it.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// The kubeconfig of another user who may do everything, so that [`audit`](Self::audit) tells the two apart.
    pub fn kubeconfig_as(&self, user: &str) -> PathBuf {
        let pair = self.pki.client(user, Some("system:masters"));
        let credentials = User::Certificate(&pair);
        self.pki.kubeconfig(user, &self.server(), &credentials)
    }

    /// Makes a namespace and waits until pods can be made in it.
    pub async fn namespace(&self, name: &str, security: PodSecurity) {
        let level = match security {
            PodSecurity::Privileged => "privileged",
            PodSecurity::Restricted => "restricted",
        };
        let labels = ["enforce", "warn", "audit"]
            .map(|mode| (format!("pod-security.kubernetes.io/{mode}"), level.into()));
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.into()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let namespaces: Api<Namespace> = Api::all(self.client().await);
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        if self.controller_manager.is_some() {
            self.wait_for_default_service_account(name).await;
        }
    }

    /// A kubeconfig that speaks as a ServiceAccount, which is made where it does not exist. It may do what RBAC says.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let params = PatchParams::apply(FIELD_MANAGER);
        accounts
            .patch(name, &params, &Patch::Apply(account))
            .await
            .unwrap();
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let issued = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .unwrap();
        let token = issued.status.expect("a token was issued").token;
        let file = format!("{namespace}-{name}");
        let user = User::Token(&token);
        self.pki.kubeconfig(&file, &self.server(), &user)
    }

    /// Applies objects (YAML, any number of documents) server-side, as `kubectl apply` does.
    pub async fn apply(&self, yaml: &str) {
        let mut command = self.kubectl();
        command
            .args(["apply", "--server-side", "--field-manager", FIELD_MANAGER])
            .args(["--filename", "-"])
            .stdin(Stdio::piped());
        let mut process = command.stdout(Stdio::null()).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(yaml.as_bytes()).await.unwrap();
        drop(stdin);
        let status = process.wait().await.unwrap();
        assert!(status.success(), "kubectl apply refused:\n{yaml}");
    }

    /// Serves the kinds of cert-manager and of the Prometheus operator. For owned control planes: every cluster on it is
    /// built in another way from then on.
    pub async fn define_others(&self) {
        let definitions = fs::read_to_string(programs::program("definitions.yaml")).unwrap();
        self.apply(&definitions).await;
        let mut command = self.kubectl();
        let established = [
            "wait",
            "--for=condition=Established",
            "customresourcedefinitions",
        ];
        run(command.args(established).args(["--all", "--timeout=60s"])).await;
    }

    /// Runs cert-manager's controllers in a namespace.
    pub fn start_cert_manager(&self, namespace: &str) -> Process {
        let kubeconfig = self.kubeconfig_as("cert-manager");
        programs::cert_manager(&self.directory, &kubeconfig, namespace)
    }

    /// `kubectl` as the user `admin`.
    pub fn kubectl(&self) -> Command {
        self.tool("kubectl")
    }

    /// `helm` (version 4) as the user `admin`.
    pub fn helm(&self) -> Command {
        self.tool("helm")
    }

    /// Every request so far, in the order in which they were answered. An answer may reach its client shortly before it
    /// is written down here: wait for what you look for.
    pub fn audit(&self) -> Vec<Request> {
        audit::read(&self.directory.join(programs::AUDIT_LOG))
    }

    fn tool(&self, name: &str) -> Command {
        let home = self.directory.join("home");
        let mut command = Command::new(programs::program(name));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", home.join("kube"))
            .env("HELM_CACHE_HOME", home.join("helm-cache"))
            .env("HELM_CONFIG_HOME", home.join("helm-config"))
            .env("HELM_DATA_HOME", home.join("helm-data"))
            .kill_on_drop(true);
        command
    }

    /// Without it, pods are refused.
    async fn wait_for_default_service_account(&self, namespace: &str) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let what = format!("the ServiceAccount default of {namespace}");
        wait_for(&what, NAMESPACE, async || {
            accounts.get("default").await.ok()
        })
        .await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.controller_manager = None;
        self.api_server = None;
        self.etcd = None;
        // Large, and of no use to a reader of logs.
        fs::remove_dir_all(self.directory.join("etcd")).ok();
    }
}

/// A client of a kubeconfig's user. It belongs to the runtime of the test that asks for it.
pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Runs a command to its end, which must be a good one, and returns what it printed.
pub async fn run(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{:?}: {}{}",
        command.as_std(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Body of the thread that the shared control plane lives on, until the test program ends.
fn keep_running(started: oneshot::Sender<&'static ControlPlane>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let name = programs::test_program();
        let plane = ControlPlane::start(&name).await;
        let plane = plane.with_controller_manager().await;
        // Fails where the test that asked gave up.
        started.send(Box::leak(Box::new(plane))).ok();
        std::future::pending::<()>().await;
    });
}

/// `namespace/name` of an object, for messages.
pub fn path_of(object: &impl kube::Resource) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
