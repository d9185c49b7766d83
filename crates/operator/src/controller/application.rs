//! Statuses of applications. A cluster's pass writes those of its own; this watch finds those whose cluster is missing.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};

use super::{Context, ReconcileError, status_patch};
use crate::{
    api::{FIELD_MANAGER, IngestApplication, IngestCluster},
    controls::Control,
    status::{Outcome, application_status, same_application},
    validate::Acceptance,
};

/// An application whose cluster is there is its cluster's.
pub(super) async fn reconcile(
    name: Arc<IngestApplication>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let namespace = name.namespace().unwrap_or_default();
    let applications: Api<IngestApplication> = Api::namespaced(context.client.clone(), &namespace);
    let Some(application) = applications.get_opt(&name.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let clusters: Api<IngestCluster> = Api::namespaced(context.client.clone(), &namespace);
    let cluster = &application.spec.cluster_ref.name;
    if clusters.get_metadata_opt(cluster).await?.is_none() {
        write(&context, &application, &Outcome::ClusterMissing).await?;
    }
    Ok(Action::await_change())
}

/// Statuses of a cluster's applications.
pub(super) async fn write_all(
    context: &Context,
    accepted: &[(&IngestApplication, Acceptance)],
    buildable: bool,
    controls: &[Control],
    live_hash: &str,
) -> Result<(), ReconcileError> {
    for (application, acceptance) in accepted {
        let outcome = if buildable {
            Outcome::Considered {
                acceptance,
                controls,
                live_hash,
            }
        } else {
            Outcome::ClusterRefused
        };
        write(context, application, &outcome).await?;
    }
    Ok(())
}

async fn write(
    context: &Context,
    application: &IngestApplication,
    outcome: &Outcome<'_>,
) -> Result<(), ReconcileError> {
    let status = application_status(application, outcome, Timestamp::now());
    let before = application.status.as_ref();
    if before.is_some_and(|before| same_application(before, &status)) {
        return Ok(());
    }
    let namespace = application.namespace().unwrap_or_default();
    let api: Api<IngestApplication> = Api::namespaced(context.client.clone(), &namespace);
    let name = application.name_any();
    let patch = status_patch::<IngestApplication>(&name, &status);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
