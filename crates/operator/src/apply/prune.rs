//! Takes away what is wanted no longer: by label and owner, never by name.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet},
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodSpec},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
    core::{ApiResource, DynamicObject},
};
use tracing::info;

use super::{Applier, ApplyError, Changes, Wanted};
use crate::{
    api::REVISION_LABEL,
    discovery::Served,
    live::{self, Live},
    validate::ValidatedCluster,
};

/// Deployments of edges of other revisions.
pub(super) fn old_edges<'a>(
    cluster: &'a ValidatedCluster,
    live: &'a Live,
    current: &'a str,
) -> impl Iterator<Item = &'a DynamicObject> {
    let deployments = live.all(&ApiResource::erase::<Deployment>(&())).collect::<Vec<_>>();
    deployments.into_iter().filter(move |deployment| {
        is_ours(cluster, deployment)
            && deployment.labels().contains_key(REVISION_LABEL)
            && deployment.name_any() != current
    })
}

fn is_ours(cluster: &ValidatedCluster, object: &DynamicObject) -> bool {
    let mut owners = object.owner_references().iter();
    owners.any(|owner| owner.uid == cluster.owner.uid)
}

/// Every pod has the present template and counts as available.
pub(crate) fn is_fully_available(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let wanted = wanted.unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or_default() >= wanted
        && status.available_replicas.unwrap_or_default() >= wanted
}

impl Applier {
    pub(super) async fn prune(
        &self,
        cluster: &ValidatedCluster,
        wanted: &[Wanted],
        live: &mut Live,
        served: Served,
        changes: &mut Changes,
    ) -> Result<(), ApplyError> {
        let mut in_use = None;
        for resource in live.kinds(served) {
            // A volume holds what nobody could bring back.
            if resource.plural == ApiResource::erase::<PersistentVolumeClaim>(&()).plural {
                continue;
            }
            let is_wanted = |name: &str| {
                let mut all = wanted.iter();
                all.any(|one| one.name == name && one.resource.plural == resource.plural)
            };
            let orphans: Vec<DynamicObject> = live
                .all(&resource)
                .filter(|object| is_ours(cluster, object) && !is_wanted(&object.name_any()))
                .filter(|object| object.metadata.deletion_timestamp.is_none())
                .cloned()
                .collect();
            for orphan in orphans {
                let name = orphan.name_any();
                let edges = orphan.labels().contains_key(REVISION_LABEL);
                if edges && !may_go(cluster, wanted, live, &name) {
                    continue;
                }
                if resource.plural == ApiResource::erase::<ConfigMap>(&()).plural {
                    if in_use.is_none() {
                        in_use = Some(self.mounted(cluster, live).await?);
                    }
                    if in_use.as_ref().is_some_and(|in_use| in_use.contains(&name)) {
                        continue;
                    }
                }
                self.delete(cluster, &resource, &orphan).await?;
                changes.writes += 1;
                live.remove(&resource, &name);
                if edges {
                    changes.finished.push(name);
                }
            }
        }
        Ok(())
    }

    async fn delete(
        &self,
        cluster: &ValidatedCluster,
        resource: &ApiResource,
        orphan: &DynamicObject,
    ) -> Result<(), ApplyError> {
        let name = orphan.name_any();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &cluster.namespace, resource);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: orphan.uid(),
            resource_version: None,
        });
        match api.delete(&name, &params).await {
            Ok(_) => {
                info!(kind = resource.kind, %name, cluster = cluster.names.cluster(), "deleted");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => Err(ApplyError::Delete {
                kind: resource.kind.clone(),
                name,
                source,
            }),
        }
    }

    /// ConfigMaps that a pod, or a template that one may be made from, still names.
    async fn mounted(
        &self,
        cluster: &ValidatedCluster,
        live: &Live,
    ) -> Result<BTreeSet<String>, ApplyError> {
        let params = live::of_cluster(cluster.names.cluster());
        let (client, namespace) = (&self.client, cluster.namespace.as_str());
        let replica_sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
        let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let replica_sets = replica_sets.list(&params).await.map_err(ApplyError::List)?;
        let revisions = revisions.list(&params).await.map_err(ApplyError::List)?;
        let pods = pods.list(&params).await.map_err(ApplyError::List)?;

        let mut specs: Vec<PodSpec> = Vec::new();
        let deployments = live.all_typed::<Deployment>().into_iter();
        specs.extend(deployments.filter_map(|one| one.spec?.template.spec));
        let sets = live.all_typed::<StatefulSet>().into_iter();
        specs.extend(sets.filter_map(|one| one.spec?.template.spec));
        let replica_sets = replica_sets.items.into_iter();
        specs.extend(replica_sets.filter_map(|one| one.spec?.template?.spec));
        specs.extend(pods.items.into_iter().filter_map(|pod| pod.spec));
        specs.extend(revisions.items.into_iter().filter_map(|one| {
            let template = one.data?.0.pointer("/spec/template/spec").cloned()?;
            serde_json::from_value(template).ok()
        }));
        Ok(specs.iter().flat_map(config_maps).collect())
    }
}

/// Edges of another revision go when those of the present one have taken over: all of them are available. One that has
/// no available pod serves nobody, and goes at once when there is another that does.
fn may_go(cluster: &ValidatedCluster, wanted: &[Wanted], live: &Live, name: &str) -> bool {
    let current = wanted.iter().find(|one| {
        one.resource.plural == ApiResource::erase::<Deployment>(&()).plural
            && one.value.pointer("/metadata/labels").is_some_and(|labels| labels.get(REVISION_LABEL).is_some())
    });
    let Some(current) = current.and_then(|one| live.typed::<Deployment>(&one.name)) else {
        return false;
    };
    if is_fully_available(&current) {
        return true;
    }
    let available = |name: &str| {
        let deployment = live.typed::<Deployment>(name);
        let status = deployment.and_then(|deployment| deployment.status);
        status.and_then(|status| status.available_replicas).unwrap_or_default()
    };
    let current = current.name_any();
    let others = old_edges(cluster, live, &current).map(kube::ResourceExt::name_any);
    available(name) == 0 && others.into_iter().any(|other| available(&other) > 0)
}

fn config_maps(spec: &PodSpec) -> Vec<String> {
    let mut names = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        names.extend(volume.config_map.iter().map(|source| source.name.clone()));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        names.extend(sources.filter_map(|source| Some(source.config_map.as_ref()?.name.clone())));
    }
    names
}
