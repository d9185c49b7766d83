//! Watches both kinds and what belongs to them, and passes over whatever changed.

mod application;
mod cluster;
mod finalize;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use futures_util::{FutureExt as _, StreamExt as _, future, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::PartialObjectMeta,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
        watcher,
    },
};
use parking_lot::Mutex;
use runtime::error::chain;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    api::{CLUSTER_LABEL, FIELD_MANAGER, IngestApplication, IngestCluster},
    apply::{Applier, ApplyError},
    discovery::Served,
    events::Events,
    metrics::OperatorMetrics,
    secrets::SecretsError,
    validate::Defaults,
};

/// Changes that come one after the other are one pass.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Passes at a time, over different objects.
const CONCURRENCY: u16 = 4;
/// After the first failure of a pass; doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// At most.
const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// Doublings after which it is certainly at most.
const DOUBLINGS_MAX: u32 = 10;

/// What every pass needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) defaults: Defaults,
    pub(crate) applier: Applier,
    pub(crate) events: Events,
    pub(crate) metrics: OperatorMetrics,
    pub(crate) served: watch::Receiver<Served>,
    /// By `kind/namespace/name`.
    failures: Mutex<BTreeMap<String, u32>>,
    sessions_written: Mutex<BTreeMap<String, Timestamp>>,
}

/// A pass failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("Kubernetes refused a request")]
    Kube(#[from] kube::Error),
    #[error("Secret {name} cannot be written")]
    Secret { name: String, source: kube::Error },
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

impl Context {
    pub(crate) fn new(
        client: Client,
        defaults: Defaults,
        identity: &str,
        metrics: OperatorMetrics,
        served: watch::Receiver<Served>,
    ) -> Self {
        Self {
            applier: Applier::new(client.clone()),
            events: Events::new(client.clone(), identity),
            client,
            defaults,
            metrics,
            served,
            failures: Mutex::default(),
            sessions_written: Mutex::default(),
        }
    }

    fn forget(&self, cluster: &IngestCluster) {
        self.sessions_written.lock().remove(&key(cluster));
        self.failures.lock().remove(&key(cluster));
    }

    fn sessions_written(&self, cluster: &IngestCluster) -> Option<Timestamp> {
        self.sessions_written.lock().get(&key(cluster)).copied()
    }

    fn note_sessions_written(&self, cluster: &IngestCluster, now: Timestamp) {
        self.sessions_written.lock().insert(key(cluster), now);
    }

    /// How long to wait after one more failure.
    fn back_off(&self, key: String) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(key).or_default();
        let doublings = (*count).min(DOUBLINGS_MAX);
        *count = count.saturating_add(1);
        let wait = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        // Between a half and all of it, so that clusters that failed together do not come back together.
        let mut byte = [0];
        // Without randomness, they do.
        rand::fill(&mut byte).ok();
        let [byte] = byte;
        wait / 2 + wait / 2 * u32::from(byte) / 255
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{}/{namespace}/{}", K::kind(&()), object.name_any())
}

/// A status, for server-side apply.
fn status_patch<K: Resource<DynamicType = ()>>(name: &str, status: &impl Serialize) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": status,
    })
}

/// Runs both controllers over some namespace, or over all, until told to stop; passes that run are finished.
/// `watching` is called when both kinds were listed.
pub(crate) async fn run(
    context: Arc<Context>,
    namespace: Option<String>,
    stop: CancellationToken,
    watching: impl FnOnce(),
) {
    let scope = Scope {
        client: context.client.clone(),
        namespace,
    };
    let clusters = cluster_controller(&scope, &context);
    let applications = application_controller(&scope);
    let stores = (clusters.store(), applications.store());
    let listed = async move {
        let listed = (stores.0.wait_until_ready(), stores.1.wait_until_ready());
        if let (Ok(()), Ok(())) = future::join(listed.0, listed.1).await {
            watching();
        }
    };
    future::join3(
        drive(clusters, context.clone(), stop.clone(), cluster::reconcile),
        drive(applications, context, stop.clone(), application::reconcile),
        future::select(Box::pin(listed), Box::pin(stop.cancelled_owned())).map(drop),
    )
    .await;
}

/// One namespace, or all.
struct Scope {
    client: Client,
    namespace: Option<String>,
}

impl Scope {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Metadata alone: what changed is read when it is passed over.
    fn metadata<K>(&self) -> Api<PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

fn cluster_controller(scope: &Scope, context: &Context) -> Controller<IngestCluster> {
    let ours = || watcher::Config::default().labels(CLUSTER_LABEL);
    let config = controller::Config::default()
        .debounce(DEBOUNCE)
        .concurrency(CONCURRENCY);
    let served = context.served.clone();
    let served = stream::unfold(served, |mut served| async move {
        served.changed().await.ok().map(|()| ((), served))
    });
    Controller::new(scope.api::<IngestCluster>(), watcher::Config::default())
        .with_config(config)
        .watches(scope.metadata::<Deployment>(), ours(), labelled)
        .watches(scope.metadata::<StatefulSet>(), ours(), labelled)
        .watches(scope.metadata::<Service>(), ours(), labelled)
        .watches(scope.metadata::<ServiceAccount>(), ours(), labelled)
        .watches(scope.metadata::<ConfigMap>(), ours(), labelled)
        .watches(scope.metadata::<PodDisruptionBudget>(), ours(), labelled)
        .watches(scope.metadata::<NetworkPolicy>(), ours(), labelled)
        .watches(
            scope.metadata::<HorizontalPodAutoscaler>(),
            ours(),
            labelled,
        )
        .watches(scope.metadata::<Secret>(), ours(), labelled)
        .watches(scope.metadata::<Pod>(), ours(), labelled)
        .watches(scope.metadata::<EndpointSlice>(), ours(), labelled)
        .watches(
            scope.api::<IngestApplication>(),
            watcher::Config::default(),
            |application| {
                let namespace = application.namespace()?;
                Some(ObjectRef::new(&application.spec.cluster_ref.name).within(&namespace))
            },
        )
        .reconcile_all_on(served)
}

fn application_controller(scope: &Scope) -> Controller<IngestApplication> {
    let config = controller::Config::default().debounce(DEBOUNCE);
    let controller = Controller::new(scope.api::<IngestApplication>(), watcher::Config::default());
    let applications = controller.store();
    controller.with_config(config).watches(
        scope.metadata::<IngestCluster>(),
        watcher::Config::default(),
        move |cluster| {
            let (namespace, name) = (cluster.namespace(), cluster.name_any());
            let its = applications.state().into_iter().filter(move |application| {
                application.namespace() == namespace && application.spec.cluster_ref.name == name
            });
            its.map(|application| ObjectRef::from_obj(&*application))
                .collect::<Vec<_>>()
        },
    )
}

fn labelled<K: Resource<DynamicType = ()>>(
    object: PartialObjectMeta<K>,
) -> Option<ObjectRef<IngestCluster>> {
    let cluster = object.labels().get(CLUSTER_LABEL)?;
    Some(ObjectRef::new(cluster).within(&object.namespace()?))
}

/// Runs a controller, and tells of what went wrong.
async fn drive<K, Pass, Passed>(
    controller: Controller<K>,
    context: Arc<Context>,
    stop: CancellationToken,
    pass: Pass,
) where
    K: Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Resource<DynamicType = ()>
        + Send
        + Sync
        + 'static,
    Pass: Fn(Arc<K>, Arc<Context>) -> Passed + Copy + Send + Sync + 'static,
    Passed: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    let timed = move |object: Arc<K>, context: Arc<Context>| async move {
        let started = Instant::now();
        let key = key(&*object);
        let passed = pass(object, context.clone()).await;
        let outcome = if passed.is_ok() { "ok" } else { "error" };
        if passed.is_ok() {
            context.failures.lock().remove(&key);
        }
        context
            .metrics
            .reconciled(kind::<K>(), outcome, started.elapsed());
        passed
    };
    let failed = |object: Arc<K>, error: &ReconcileError, context: Arc<Context>| {
        let wait = context.back_off(key(&*object));
        let reason = chain(error);
        warn!(
            object = key(&*object),
            reason,
            ?wait,
            manager = FIELD_MANAGER,
            "a pass failed"
        );
        Action::requeue(wait)
    };
    controller
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(timed, failed, context.clone())
        .for_each(|passed| {
            match passed {
                // Told above.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                Err(controller::Error::QueueError(error)) => {
                    context.metrics.watch_failed(kind::<K>());
                    warn!(%error, kind = kind::<K>(), "a watch failed and is begun again");
                }
                // Deleted between the word of it and the pass.
                Err(error) => debug!(%error, "nothing to pass over"),
            }
            future::ready(())
        })
        .await;
}

/// For metrics: two kinds are passed over.
fn kind<K: Resource<DynamicType = ()>>() -> &'static str {
    if K::kind(&()) == IngestCluster::kind(&()) {
        "IngestCluster"
    } else {
        "IngestApplication"
    }
}
