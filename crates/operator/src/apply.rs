//! Writes what [`crate::build`] wants: server-side apply under one field manager, in an order that works, and nothing at
//! all where everything is there already.
//!
//! Whether something is there is seen from the object alone, so that a restart of the operator writes nothing either:
//! an annotation holds the hash of what was applied last (which tells that a field is wanted no longer), and every field
//! that is wanted is compared with what is there (which tells that somebody changed one). Fields that the operator does
//! not set are other people's. An API server that writes a value in another way than it was given would make this
//! compare fail for ever: such an object is remembered as it was answered, and left alone while its generation stays.

mod compare;
mod prune;

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tracing::{info, warn};

use crate::{
    api::FIELD_MANAGER, build::Objects, discovery::Served, live::{self, Live},
    validate::ValidatedCluster,
};

/// Hash of what was applied last.
const APPLIED: &str = "headwater.dev/applied";
/// Digits of it.
const HASH_DIGITS: usize = 16;

/// Applies objects. One for the process: it remembers what the API server writes in its own way.
pub(crate) struct Applier {
    client: Client,
    rewritten: Mutex<BTreeMap<String, (String, Version)>>,
}

/// What an apply changed, for events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Writes, deletions too.
    pub(crate) writes: usize,
    /// A Deployment of edges that was made beside others.
    pub(crate) started: Option<String>,
    /// Deployments of edges that were replaced and are gone now.
    pub(crate) finished: Vec<String>,
    /// Edges of the present revision: from how many to how many.
    pub(crate) scaled: Option<(i32, i32)>,
}

/// An object could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("{kind} {name} cannot be deleted")]
    Delete {
        kind: String,
        name: String,
        source: kube::Error,
    },
    #[error("{kind} {name} cannot be applied")]
    Patch {
        kind: String,
        name: String,
        source: kube::Error,
    },
    #[error("the users of old configurations cannot be listed")]
    List(#[source] kube::Error),
    #[error("an object cannot be written as JSON")]
    Serialize(#[from] serde_json::Error),
}

/// A version of an object, as far as its specification goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    Generation(i64),
    Resource(Option<String>),
}

/// An object that is wanted.
struct Wanted {
    resource: ApiResource,
    name: String,
    value: Value,
    hash: String,
}

impl Applier {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            rewritten: Mutex::default(),
        }
    }

    /// Brings everything to what is wanted, in this order; `live` is kept up. With `hold`, what runs pods stays as it is:
    /// something that the pods need is missing.
    pub(crate) async fn apply(
        &self,
        cluster: &ValidatedCluster,
        objects: &Objects,
        live: &mut Live,
        served: Served,
        hold: bool,
    ) -> Result<Changes, ApplyError> {
        let mut changes = Changes::default();
        let wanted = wanted(objects, hold)?;
        note_edges(cluster, objects, live, hold, &mut changes);
        for one in &wanted {
            if self.is_settled(one, live) {
                continue;
            }
            let applied = self.write(cluster, one).await?;
            changes.writes += 1;
            self.remember(cluster, one, &applied);
            live.insert(&one.resource, applied);
        }
        if !hold {
            self.prune(cluster, &wanted, live, served, &mut changes).await?;
        }
        Ok(changes)
    }

    fn is_settled(&self, wanted: &Wanted, live: &Live) -> bool {
        let Some(present) = live.get(&wanted.resource, &wanted.name) else {
            return false;
        };
        if present.annotations().get(APPLIED) != Some(&wanted.hash) {
            return false;
        }
        let key = present.uid().unwrap_or_default();
        let answered = (wanted.hash.clone(), Version::of(present));
        compare::difference(&wanted.value, present).is_none()
            || self.rewritten.lock().get(&key) == Some(&answered)
    }

    async fn write(
        &self,
        cluster: &ValidatedCluster,
        wanted: &Wanted,
    ) -> Result<DynamicObject, ApplyError> {
        let Wanted {
            resource,
            name,
            value,
            hash: _,
        } = wanted;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &cluster.namespace, resource);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(name, &params, &Patch::Apply(value)).await;
        let applied = applied.map_err(|source| ApplyError::Patch {
            kind: resource.kind.clone(),
            name: name.clone(),
            source,
        })?;
        info!(kind = resource.kind, %name, cluster = cluster.names.cluster(), "applied");
        Ok(applied)
    }

    fn remember(&self, cluster: &ValidatedCluster, wanted: &Wanted, applied: &DynamicObject) {
        let key = applied.uid().unwrap_or_default();
        let Some(path) = compare::difference(&wanted.value, applied) else {
            self.rewritten.lock().remove(&key);
            return;
        };
        warn!(
            kind = wanted.resource.kind,
            name = wanted.name,
            cluster = cluster.names.cluster(),
            path,
            "the API server keeps a field in another form than it was given"
        );
        let answered = (wanted.hash.clone(), Version::of(applied));
        let mut rewritten = self.rewritten.lock();
        if rewritten.len() >= REWRITTEN_MAX {
            rewritten.clear();
        }
        rewritten.insert(key, answered);
    }
}

/// Objects that are remembered as rewritten; far more than there should ever be.
const REWRITTEN_MAX: usize = 4096;

impl Version {
    /// Objects without a generation (ConfigMap, Service, …) have no status that changes by itself either.
    fn of(object: &DynamicObject) -> Self {
        match object.metadata.generation {
            Some(generation) => Self::Generation(generation),
            None => Self::Resource(object.resource_version()),
        }
    }
}

/// Takes the objects apart without `..`: a new field that is never applied does not compile.
fn wanted(objects: &Objects, hold: bool) -> Result<Vec<Wanted>, ApplyError> {
    let Objects {
        service_accounts,
        network_policies,
        boot,
        live,
        certificates,
        services,
        disruption_budgets,
        volume_claims,
        origin,
        control,
        edge,
        autoscaler,
        pod_monitors,
    } = objects;
    let mut all = Vec::new();
    typed::<ServiceAccount>(&mut all, service_accounts)?;
    typed::<NetworkPolicy>(&mut all, network_policies)?;
    typed::<ConfigMap>(&mut all, boot)?;
    typed::<ConfigMap>(&mut all, [live])?;
    dynamic(&mut all, &live::certificate(), certificates)?;
    typed::<Service>(&mut all, services)?;
    typed::<PodDisruptionBudget>(&mut all, disruption_budgets)?;
    typed::<PersistentVolumeClaim>(&mut all, volume_claims)?;
    if !hold {
        typed::<StatefulSet>(&mut all, [origin])?;
        typed::<Deployment>(&mut all, [control, edge])?;
        typed::<HorizontalPodAutoscaler>(&mut all, autoscaler)?;
    }
    dynamic(&mut all, &live::pod_monitor(), pod_monitors)?;
    Ok(all)
}

fn typed<'a, K>(
    all: &mut Vec<Wanted>,
    objects: impl IntoIterator<Item = &'a K>,
) -> Result<(), ApplyError>
where
    K: kube::Resource<DynamicType = ()> + Serialize + 'a,
{
    let resource = ApiResource::erase::<K>(&());
    for object in objects {
        all.push(Wanted::new(&resource, object.name_any(), object)?);
    }
    Ok(())
}

fn dynamic(
    all: &mut Vec<Wanted>,
    resource: &ApiResource,
    objects: &[DynamicObject],
) -> Result<(), ApplyError> {
    for object in objects {
        all.push(Wanted::new(resource, object.name_any(), object)?);
    }
    Ok(())
}

impl Wanted {
    fn new(
        resource: &ApiResource,
        name: String,
        object: &impl Serialize,
    ) -> Result<Self, ApplyError> {
        let mut value = serde_json::to_value(object)?;
        // A type's own serialization may leave these out.
        if let Some(object) = value.as_object_mut() {
            object.insert("apiVersion".to_owned(), resource.api_version.clone().into());
            object.insert("kind".to_owned(), resource.kind.clone().into());
            object.remove("status");
        }
        let text = serde_json::to_vec(&value)?;
        let mut hash = HEXLOWER.encode(digest::digest(&digest::SHA256, &text).as_ref());
        hash.truncate(HASH_DIGITS);
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            let annotations = metadata
                .entry("annotations")
                .or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(APPLIED.to_owned(), hash.clone().into());
            }
        }
        Ok(Self {
            resource: resource.clone(),
            name,
            value,
            hash,
        })
    }
}

/// What the edges' Deployment will be, beside what is there.
fn note_edges(
    cluster: &ValidatedCluster,
    objects: &Objects,
    live: &Live,
    hold: bool,
    changes: &mut Changes,
) {
    if hold {
        return;
    }
    let name = objects.edge.name_any();
    let replicas = |deployment: &Deployment| deployment.spec.as_ref()?.replicas;
    match live.typed::<Deployment>(&name) {
        Some(present) => {
            let pair = replicas(&present).zip(replicas(&objects.edge));
            changes.scaled = pair.filter(|(from, to)| from != to);
        }
        None if prune::old_edges(cluster, live, &name).next().is_some() => {
            changes.started = Some(name);
        }
        None => {}
    }
}

#[cfg(test)]
mod tests;
