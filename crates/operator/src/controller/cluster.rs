//! One pass over an IngestCluster.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use runtime::{error::chain, identity};
use serde_json::json;
use tracing::{info, warn};

use super::{Context, ReconcileError, application, finalize};
use crate::{
    api::{ClusterStatus, DRAIN_FINALIZER, FIELD_MANAGER, IngestCluster},
    apply::Changes,
    build::{self, Objects},
    controls::{self, Control},
    dereference::{self, World},
    events::{self, normal},
    names::Names,
    secrets::{self, Plan, Write},
    status::{self, Seen, Workloads},
    validate::{Problem, ValidatedCluster, accept_applications, validate},
};

/// A cluster that is as it should be is looked at this often: certificates, Secrets of users, sessions.
const SETTLED_PERIOD: Duration = Duration::from_secs(60);
/// One that waits for something that sends no word: control's loading, cert-manager's Secrets.
const WAITING_PERIOD: Duration = Duration::from_secs(5);

/// dereference, validate, secrets, build, apply, status.
pub(super) async fn reconcile(
    name: Arc<IngestCluster>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let namespace = name.namespace().unwrap_or_default();
    let clusters: Api<IngestCluster> = Api::namespaced(context.client.clone(), &namespace);
    // The watch may be behind what was written in the pass before this one.
    let Some(cluster) = clusters.get_opt(&name.name_any()).await? else {
        context.forget(&name);
        return Ok(Action::await_change());
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return finalize::reconcile(&cluster, &context).await;
    }
    let cluster = hold(&clusters, cluster).await?;
    let served = *context.served.borrow();
    let mut world = World::read(&context.client, &cluster, served).await?;
    let applications = std::mem::take(&mut world.applications);
    let validated = validate(&cluster, &applications, &context.defaults);
    let mut pass = Pass {
        context: &context,
        cluster: &cluster,
        world,
        happened: Vec::new(),
        error: None,
    };
    let built = match &validated {
        Ok(validated) => Some(pass.build(validated).await?),
        Err(_) => None,
    };
    let validated = validated.as_ref().map_err(Vec::as_slice);
    let (status, controls) = pass.status(validated, built.as_ref()).await?;
    let accepted = accept_applications(&cluster, &applications);
    let live_hash = &status.live_configuration.hash;
    application::write_all(&context, &accepted, validated.is_ok(), &controls, live_hash).await?;
    let Pass {
        happened, error, ..
    } = pass;
    context.events.publish(&cluster, happened).await;
    if let Some(error) = error {
        return Err(error);
    }
    let waits = built.is_some_and(|built| !built.plan.faults.is_empty())
        || (validated.is_ok() && !status.live_configuration.loaded);
    Ok(Action::requeue(if waits {
        WAITING_PERIOD
    } else {
        SETTLED_PERIOD
    }))
}

/// Puts the finalizer on.
async fn hold(
    clusters: &Api<IngestCluster>,
    cluster: IngestCluster,
) -> Result<IngestCluster, ReconcileError> {
    let present = cluster.finalizers();
    if present.iter().any(|finalizer| finalizer == DRAIN_FINALIZER) {
        return Ok(cluster);
    }
    let mut finalizers = present.to_vec();
    finalizers.push(DRAIN_FINALIZER.to_owned());
    let patch = json!({ "metadata": {
        "finalizers": finalizers,
        // Somebody else's finalizer is not to be lost.
        "resourceVersion": cluster.resource_version(),
    }});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    Ok(clusters
        .patch(&cluster.name_any(), &params, &Patch::Merge(patch))
        .await?)
}

/// What one pass found and did.
struct Pass<'a> {
    context: &'a Context,
    cluster: &'a IngestCluster,
    world: World,
    happened: Vec<events::Happened>,
    /// What went wrong after everything was read: the status says it, and the pass is repeated.
    error: Option<ReconcileError>,
}

/// A cluster that makes sense.
struct Built {
    plan: Plan,
    objects: Objects,
    selector: String,
}

impl Pass<'_> {
    async fn build(&mut self, validated: &ValidatedCluster) -> Result<Built, ReconcileError> {
        let client = &self.context.client;
        let names = secrets::names(validated);
        let existing = dereference::secrets(client, &validated.namespace, names).await?;
        let in_use = self.world.in_use(&validated.names);
        let mut plan = secrets::plan(validated, in_use, &existing, Timestamp::now())?;
        let served = *self.context.served.borrow();
        if !served.cert_manager {
            plan.faults
                .iter_mut()
                .for_each(secrets::Fault::nobody_issues);
        }
        let observed = served.observed(self.world.edge_replicas());
        let objects = build::build(validated, &observed);
        let built = |plan| Built {
            plan,
            objects,
            selector: build::edge_selector(validated),
        };
        if self.cluster.spec.paused {
            plan.writes.clear();
            return Ok(built(plan));
        }
        if let Err(error) = self.write_secrets(validated, &mut plan).await {
            self.error = Some(error);
            return Ok(built(plan));
        }
        if let Some(replicas) = build::edge_replicas_to_set(validated, &observed)
            && let Err(error) = self.set_replicas(replicas).await
        {
            self.error = Some(error);
        }
        let hold = plan.faults.iter().any(secrets::Fault::holds);
        let built = built(plan);
        let live = &mut self.world.live;
        let applied = self
            .context
            .applier
            .apply(validated, &built.objects, live, served, hold);
        match applied.await {
            Ok(changes) => self.note(&changes),
            Err(error) => self.error = Some(error.into()),
        }
        Ok(built)
    }

    fn note(&mut self, changes: &Changes) {
        self.happened.extend(events::of_changes(changes));
    }

    /// In their order: when one fails, the rest has to wait for the next pass.
    async fn write_secrets(
        &mut self,
        validated: &ValidatedCluster,
        plan: &mut Plan,
    ) -> Result<(), ReconcileError> {
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &validated.namespace);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        for write in std::mem::take(&mut plan.writes) {
            let name = write.name().to_owned();
            match &write {
                Write::Create(secret) => api.create(&params, secret).await,
                Write::Replace(secret) => api.replace(&name, &params, secret).await,
            }
            .map_err(|source| ReconcileError::Secret {
                name: name.clone(),
                source,
            })?;
            info!(
                secret = name,
                cluster = validated.names.cluster(),
                "secret written"
            );
        }
        for renewed in std::mem::take(&mut plan.renewed) {
            self.happened.push(normal("CertificateRenewed", renewed));
        }
        Ok(())
    }

    /// An autoscaler takes a cluster without a number for one that is switched off, and the scale subresource refuses to
    /// be set while there is none.
    async fn set_replicas(&self, replicas: i32) -> Result<(), ReconcileError> {
        let namespace = self.cluster.namespace().unwrap_or_default();
        let api: Api<IngestCluster> = Api::namespaced(self.context.client.clone(), &namespace);
        let patch = json!({ "spec": { "edge": { "replicas": replicas } } });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(&self.cluster.name_any(), &params, &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Asks the controls, and writes the status where it changed.
    async fn status(
        &mut self,
        validated: Result<&ValidatedCluster, &[Problem]>,
        built: Option<&Built>,
    ) -> Result<(ClusterStatus, Vec<Control>), ReconcileError> {
        let now = Timestamp::now();
        let plan = built.map(|built| &built.plan);
        let identity = plan.and_then(|plan| plan.identity.as_ref());
        let controls = controls::ask(&self.world.slices, identity, self.identity()).await;
        let before = self.cluster.status.as_ref();
        let written = before.and_then(|status| Some(status.sessions.as_ref()?.publishing));
        let written_at = self.context.sessions_written(self.cluster);
        let sessions = status::publishing(written, written_at, &controls, now);
        let names = Names::new(self.cluster);
        let present = self.world.workloads(&names);
        let workloads = match built {
            Some(built) => Workloads {
                edge: built.objects.edge.name_any(),
                revision: built.objects.edge_revision().to_owned(),
                selector: built.selector.clone(),
                ..present
            },
            None => present,
        };
        let seen = Seen {
            cluster: self.cluster,
            validated,
            faults: plan.map(|plan| plan.faults.as_slice()).unwrap_or_default(),
            public_not_after: plan.and_then(|plan| plan.public_not_after),
            internal_not_after: plan.and_then(|plan| plan.internal_not_after),
            workloads,
            live_hash: built
                .map(|built| built.objects.live_hash())
                .unwrap_or_default(),
            controls: &controls,
            sessions,
            error: self.error.as_ref().map(|error| chain(error)),
        };
        let status = status::cluster_status(&seen, now);
        if !before.is_some_and(|before| status::same(before, &status)) {
            self.happened.extend(events::of_status(before, &status));
            self.write_status(&status).await?;
            if sessions != written {
                self.context.note_sessions_written(self.cluster, now);
            }
        }
        Ok((status, controls))
    }

    async fn write_status(&self, status: &ClusterStatus) -> Result<(), ReconcileError> {
        let namespace = self.cluster.namespace().unwrap_or_default();
        let api: Api<IngestCluster> = Api::namespaced(self.context.client.clone(), &namespace);
        let patch = super::status_patch::<IngestCluster>(&self.cluster.name_any(), status);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = api
            .patch_status(&self.cluster.name_any(), &params, &Patch::Apply(patch))
            .await;
        match written {
            Ok(_) => Ok(()),
            // Deleted meanwhile.
            Err(kube::Error::Api(answer)) if answer.is_not_found() => {
                warn!(
                    cluster = self.cluster.name_any(),
                    "the cluster went while it was looked at"
                );
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn identity(&self) -> identity::Cluster {
        identity::Cluster {
            trust_domain: self.context.defaults.trust_domain.clone(),
            namespace: self.cluster.namespace().unwrap_or_default(),
            name: self.cluster.name_any(),
        }
    }
}
