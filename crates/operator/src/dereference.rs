//! Reads everything that a pass over a cluster works on, once.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PartialObjectMeta},
};

use crate::{
    api::{CLUSTER_LABEL, IngestApplication, IngestCluster},
    discovery::Served,
    live::Live,
    names::{Component, Names},
    secrets::{Existing, InUse},
    status::Workloads,
};

/// Label of a tier's objects.
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// What there is.
pub(crate) struct World {
    pub(crate) applications: Vec<IngestApplication>,
    pub(crate) live: Live,
    /// Edges that end.
    pub(crate) draining: usize,
    /// Of control's internal port.
    pub(crate) slices: Vec<EndpointSlice>,
}

impl World {
    pub(crate) async fn read(
        client: &Client,
        cluster: &IngestCluster,
        served: Served,
    ) -> Result<Self, kube::Error> {
        let namespace = cluster.namespace().unwrap_or_default();
        let names = Names::new(cluster);
        let applications: Api<IngestApplication> = Api::namespaced(client.clone(), &namespace);
        let fields = format!("spec.clusterRef.name={}", names.cluster());
        let params = ListParams::default().fields(&fields);
        let applications = applications.list(&params).await?.items;
        let live = Live::list(client, &namespace, names.cluster(), served).await?;
        let edges = edge_pods(client, &namespace, names.cluster()).await?;
        let ending = edges.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some());
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &namespace);
        let service = format!("kubernetes.io/service-name={}", names.control_internal());
        let slices = slices.list(&ListParams::default().labels(&service)).await?.items;
        Ok(Self {
            applications,
            live,
            draining: ending.count(),
            slices,
        })
    }

    /// What depends on the Secrets.
    pub(crate) fn in_use(&self, names: &Names) -> InUse {
        let control = self.live.typed::<Deployment>(&names.tier(Component::Control));
        let data = self
            .live
            .typed::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(&names.control_data());
        let origin = self
            .live
            .typed::<k8s_openapi::api::apps::v1::StatefulSet>(&names.tier(Component::Origin));
        InUse {
            control: control.is_some() || data.is_some(),
            origin: origin.is_some(),
        }
    }

    /// How many edges there are, where there are any: of the revision with the most.
    pub(crate) fn edge_replicas(&self) -> Option<i32> {
        let edges = self.edges().into_iter();
        edges.filter_map(|edge| edge.spec?.replicas).max()
    }

    /// Deployments of edges, of every revision.
    pub(crate) fn edges(&self) -> Vec<Deployment> {
        let is_edge = |deployment: &Deployment| {
            let component = deployment.labels().get(COMPONENT_LABEL);
            component.is_some_and(|component| component == Component::Edge.as_str())
        };
        let deployments = self.live.all_typed::<Deployment>().into_iter();
        deployments.filter(is_edge).collect()
    }

    /// What runs, for the status.
    pub(crate) fn workloads(&self, names: &Names) -> Workloads {
        Workloads {
            edges: self.edges(),
            origin: self.live.typed(&names.tier(Component::Origin)),
            control: self.live.typed(&names.tier(Component::Control)),
            autoscaler: self.live.typed(&names.tier(Component::Edge)),
            edge_service: self.live.typed(&names.tier(Component::Edge)),
            control_service: self.live.typed(&names.tier(Component::Control)),
            draining: self.draining,
            ..Workloads::default()
        }
    }
}

/// Metadata of every edge pod.
pub(crate) async fn edge_pods(
    client: &Client,
    namespace: &str,
    cluster: &str,
) -> Result<Vec<PartialObjectMeta<Pod>>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{CLUSTER_LABEL}={cluster},{COMPONENT_LABEL}={}", Component::Edge);
    let params = ListParams::default().labels(&selector);
    Ok(pods.list_metadata(&params).await?.items)
}

/// Secrets by name; those that do not exist are left out.
pub(crate) async fn secrets(
    client: &Client,
    namespace: &str,
    names: Vec<String>,
) -> Result<Existing, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut existing = Existing::new();
    for name in names {
        if let Some(secret) = api.get_opt(&name).await? {
            existing.insert(name, secret);
        }
    }
    Ok(existing)
}
