//! What there is of a cluster in Kubernetes: every kind that the operator applies, listed by label.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde::de::DeserializeOwned;

use crate::{api::CLUSTER_LABEL, discovery::Served};

/// Objects of a cluster by kind (plural) and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    objects: BTreeMap<String, BTreeMap<String, DynamicObject>>,
}

/// cert-manager's.
pub(crate) fn certificate() -> ApiResource {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    ApiResource::from_gvk_with_plural(&kind, "certificates")
}

/// The Prometheus operator's.
pub(crate) fn pod_monitor() -> ApiResource {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    ApiResource::from_gvk_with_plural(&kind, "podmonitors")
}

/// Every kind that may be there.
fn kinds(served: Served) -> Vec<ApiResource> {
    let mut kinds = vec![
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
    ];
    if served.cert_manager {
        kinds.push(certificate());
    }
    if served.pod_monitors {
        kinds.push(pod_monitor());
    }
    kinds
}

/// Selects what belongs to a cluster.
pub(crate) fn of_cluster(name: &str) -> ListParams {
    ListParams::default().labels(&format!("{CLUSTER_LABEL}={name}"))
}

impl Live {
    /// Reads everything.
    pub(crate) async fn list(
        client: &Client,
        namespace: &str,
        cluster: &str,
        served: Served,
    ) -> Result<Self, kube::Error> {
        let mut live = Self::default();
        for resource in kinds(served) {
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &resource);
            for object in api.list(&of_cluster(cluster)).await? {
                live.insert(&resource, object);
            }
        }
        Ok(live)
    }

    /// Adds one, or puts it in the place of an older version.
    pub(crate) fn insert(&mut self, resource: &ApiResource, object: DynamicObject) {
        let kind = self.objects.entry(resource.plural.clone()).or_default();
        kind.insert(object.name_any(), object);
    }

    /// Takes one away.
    pub(crate) fn remove(&mut self, resource: &ApiResource, name: &str) {
        if let Some(kind) = self.objects.get_mut(&resource.plural) {
            kind.remove(name);
        }
    }

    /// One, if it is there.
    pub(crate) fn get(&self, resource: &ApiResource, name: &str) -> Option<&DynamicObject> {
        self.objects.get(&resource.plural)?.get(name)
    }

    /// All of a kind.
    pub(crate) fn all(&self, resource: &ApiResource) -> impl Iterator<Item = &DynamicObject> {
        let kind = self.objects.get(&resource.plural);
        kind.into_iter().flat_map(BTreeMap::values)
    }

    /// Every kind that holds objects.
    pub(crate) fn kinds(&self, served: Served) -> Vec<ApiResource> {
        let filled = |resource: &ApiResource| self.objects.contains_key(&resource.plural);
        kinds(served).into_iter().filter(filled).collect()
    }

    /// One, in its own type. One that cannot be read counts as not there.
    pub(crate) fn typed<K>(&self, name: &str) -> Option<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned,
    {
        read(self.get(&ApiResource::erase::<K>(&()), name)?)
    }

    /// All of a kind, in their own type.
    pub(crate) fn all_typed<K>(&self) -> Vec<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned,
    {
        let resource = ApiResource::erase::<K>(&());
        self.all(&resource).filter_map(read).collect()
    }
}

fn read<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(
    object: &DynamicObject,
) -> Option<K> {
    let value = serde_json::to_value(object).ok()?;
    serde_json::from_value(value).ok()
}
