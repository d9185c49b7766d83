//! The end of a cluster: its edges drain, for a bounded time, and then it goes. What is left is the garbage collector's.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{PersistentVolumeClaim, Secret},
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use serde_json::json;
use tracing::info;

use super::{Context, ReconcileError};
use crate::{
    api::{
        CLUSTER_LABEL, DRAIN_FINALIZER, DeletionPolicy, FIELD_MANAGER, FORCE_DELETE_ANNOTATION,
        IngestCluster,
    },
    dereference,
    events::{normal, warning},
    live::of_cluster,
    names::{Component, Names},
    secrets,
};

/// How often the draining edges are counted.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// After the drain, for pods to be gone: what Kubernetes needs itself.
const MARGIN_SECONDS: i64 = 60;

/// A pass over a cluster that is being deleted.
pub(super) async fn reconcile(
    cluster: &IngestCluster,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let holds = |finalizer: &String| finalizer == DRAIN_FINALIZER;
    if !cluster.finalizers().iter().any(holds) {
        return Ok(Action::await_change());
    }
    let forced = cluster.annotations().get(FORCE_DELETE_ANNOTATION);
    if forced.is_none_or(|forced| forced != "true")
        && let Some(action) = drain(cluster, context).await?
    {
        return Ok(action);
    }
    let_go_of_secrets(cluster, context).await?;
    release(cluster, context).await?;
    context.forget(cluster);
    Ok(Action::await_change())
}

/// What to do next while edges drain; nothing when they have, or took too long.
async fn drain(
    cluster: &IngestCluster,
    context: &Context,
) -> Result<Option<Action>, ReconcileError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &namespace);
    let listed = deployments.list(&of_cluster(&name)).await?;
    let edges = listed.into_iter().filter(|deployment| {
        let component = deployment.labels().get("app.kubernetes.io/component");
        component.is_some_and(|component| component == Component::Edge.as_str())
            && deployment.metadata.deletion_timestamp.is_none()
    });
    let mut begun = false;
    for edge in edges {
        match deployments.delete(&edge.name_any(), &DeleteParams::background()).await {
            Ok(_) => begun = true,
            Err(kube::Error::Api(answer)) if answer.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let pods = dereference::edge_pods(&context.client, &namespace, &name).await?;
    if begun {
        let note = format!("{} edges end when their sessions have", pods.len());
        context.events.publish(cluster, vec![normal("EdgeDrainStarted", note)]).await;
    }
    if pods.is_empty() {
        // The ReplicaSet controller may not have deleted, or the garbage collector not have seen, them yet.
        context.events.publish(cluster, vec![normal("EdgeDrained", "no edge is left")]).await;
        return Ok(None);
    }
    let drain = &cluster.spec.edge.drain;
    let allowed = drain.notice_seconds + drain.timeout_seconds + MARGIN_SECONDS;
    let began = cluster.meta().deletion_timestamp.as_ref().map(|time| time.0.as_second());
    let over = began.is_none_or(|began| Timestamp::now().as_second() >= began + allowed);
    if over {
        let note = format!("{} edges are still there after {allowed} s; they are left to Kubernetes", pods.len());
        context.events.publish(cluster, vec![warning("EdgeDrainTimeout", note)]).await;
        return Ok(None);
    }
    Ok(Some(Action::requeue(LOOK_PERIOD)))
}

/// The policy may have changed after the Secrets were written last.
async fn let_go_of_secrets(
    cluster: &IngestCluster,
    context: &Context,
) -> Result<(), ReconcileError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let names = Names::new(cluster);
    let owned = secrets::owned(&names);
    let existing = dereference::secrets(&context.client, &namespace, owned).await?;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    for (name, mut secret) in existing {
        // cert-manager's, or somebody's own.
        if secret.labels().get(CLUSTER_LABEL) != Some(&cluster.name_any()) {
            continue;
        }
        let done = match cluster.spec.deletion_policy {
            DeletionPolicy::DeleteAll => api.delete(&name, &DeleteParams::default()).await.map(drop),
            DeletionPolicy::Retain => {
                let owners = secret.metadata.owner_references.get_or_insert_default();
                let before = owners.len();
                owners.retain(|owner| Some(&owner.uid) != cluster.metadata.uid.as_ref());
                if owners.len() == before {
                    continue;
                }
                api.replace(&name, &PostParams::default(), &secret).await.map(drop)
            }
        };
        ignore_missing(done)?;
    }
    match cluster.spec.deletion_policy {
        DeletionPolicy::DeleteAll => {
            let claims: Api<PersistentVolumeClaim> =
                Api::namespaced(context.client.clone(), &namespace);
            let deleted = claims.delete(&names.control_data(), &DeleteParams::default()).await;
            ignore_missing(deleted.map(drop))
        }
        DeletionPolicy::Retain => Ok(()),
    }
}

fn ignore_missing(done: Result<(), kube::Error>) -> Result<(), ReconcileError> {
    match done {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

/// Takes the finalizer off.
async fn release(cluster: &IngestCluster, context: &Context) -> Result<(), ReconcileError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<IngestCluster> = Api::namespaced(context.client.clone(), &namespace);
    let mut finalizers = cluster.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != DRAIN_FINALIZER);
    let patch = json!({ "metadata": {
        "finalizers": finalizers,
        "resourceVersion": cluster.resource_version(),
    }});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let released = api.patch(&cluster.name_any(), &params, &Patch::Merge(patch)).await;
    ignore_missing(released.map(drop))?;
    info!(cluster = cluster.name_any(), namespace, "let go");
    Ok(())
}
