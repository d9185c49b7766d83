//! What is said of a cluster, from what was seen. Pure: the same observation gives the same status, and a condition's
//! time changes only with its value.

mod applications;
mod conditions;
mod sessions;
#[cfg(test)]
mod tests;
mod tiers;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::Service,
};

pub(crate) use self::{
    applications::{Outcome, application_status},
    sessions::publishing,
};
use crate::{
    api::{
        ApplicationStatus, CertificateStatus, Certificates, ClusterStatus, Condition,
        ConditionType, Endpoint, IngestCluster, LiveConfiguration, Reason, SessionsStatus,
    },
    controls::Control,
    secrets::Fault,
    validate::{Problem, ValidatedCluster},
};

/// Everything that was seen in one pass.
pub(crate) struct Seen<'a> {
    pub(crate) cluster: &'a IngestCluster,
    /// What is to be built, or why not.
    pub(crate) validated: Result<&'a ValidatedCluster, &'a [Problem]>,
    /// What the operator cannot put right.
    pub(crate) faults: &'a [Fault],
    pub(crate) public_not_after: Option<Timestamp>,
    pub(crate) internal_not_after: Option<Timestamp>,
    pub(crate) workloads: Workloads,
    /// SHA-256 of the live configuration that is wanted; empty where nothing can be built.
    pub(crate) live_hash: String,
    pub(crate) controls: &'a [Control],
    /// What to say of live sessions.
    pub(crate) sessions: Option<i32>,
    /// Why the pass could not do everything.
    pub(crate) error: Option<String>,
}

/// What runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workloads {
    /// Of every revision.
    pub(crate) edges: Vec<Deployment>,
    pub(crate) origin: Option<StatefulSet>,
    pub(crate) control: Option<Deployment>,
    pub(crate) autoscaler: Option<HorizontalPodAutoscaler>,
    pub(crate) edge_service: Option<Service>,
    pub(crate) control_service: Option<Service>,
    /// Edges that end.
    pub(crate) draining: usize,
    /// Name of the present revision's Deployment.
    pub(crate) edge: String,
    /// The present revision.
    pub(crate) revision: String,
    /// Every edge's labels, as text.
    pub(crate) selector: String,
}

/// The status now.
pub(crate) fn cluster_status(seen: &Seen<'_>, now: Timestamp) -> ClusterStatus {
    let previous = seen.cluster.status.clone().unwrap_or_default();
    let loaded = is_loaded(seen.controls, &seen.live_hash);
    let mut status = ClusterStatus {
        observed_generation: seen.cluster.metadata.generation.unwrap_or_default(),
        version: match seen.validated {
            Ok(validated) => Some(validated.version.clone()),
            Err(_) => previous.version.clone(),
        },
        edge: tiers::edge(&seen.workloads, seen.cluster),
        origin: tiers::origin(seen.workloads.origin.as_ref(), seen.cluster),
        control: tiers::control(seen.workloads.control.as_ref(), seen.cluster),
        sessions: seen
            .sessions
            .map(|publishing| SessionsStatus { publishing }),
        endpoints: endpoints(&seen.workloads),
        certificates: Certificates {
            public: seen
                .public_not_after
                .map(|not_after| CertificateStatus { not_after }),
            internal: seen
                .internal_not_after
                .map(|not_after| CertificateStatus { not_after }),
        },
        live_configuration: match seen.validated {
            Ok(_) => LiveConfiguration {
                hash: seen.live_hash.clone(),
                loaded,
            },
            Err(_) => previous.live_configuration.clone(),
        },
        conditions: Vec::new(),
    };
    // Nothing was built: what was said of the revision still holds.
    if status.edge.revision.is_empty() {
        status.edge.revision.clone_from(&previous.edge.revision);
        status.edge.selector.clone_from(&previous.edge.selector);
    }
    let stated = conditions::all(seen, &status);
    status.conditions = conditions(
        stated,
        &previous.conditions,
        status.observed_generation,
        now,
    );
    status
}

/// What is said of one part.
pub(crate) struct Stated {
    pub(crate) about: ConditionType,
    /// `None` is `Unknown`.
    pub(crate) holds: Option<bool>,
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// Gives conditions their times: a time changes only with the value.
pub(crate) fn conditions(
    stated: Vec<Stated>,
    previous: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    // Kept to whole seconds, as Kubernetes writes times.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut conditions: Vec<Condition> = stated
        .into_iter()
        .map(|stated| {
            let status = match stated.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let mut before = previous.iter();
            let before = before.find(|before| before.condition_type == stated.about);
            let since = before.filter(|before| before.status == status);
            Condition {
                condition_type: stated.about,
                status: status.to_owned(),
                reason: stated.reason,
                message: stated.message,
                last_transition_time: since.map_or(now, |before| before.last_transition_time),
                observed_generation: generation,
            }
        })
        .collect();
    conditions.sort_by_key(|condition| condition.condition_type);
    conditions
}

/// Whether two statuses say the same: the API server may keep lists in another order.
pub(crate) fn same(before: &ClusterStatus, after: &ClusterStatus) -> bool {
    let sorted = |status: &ClusterStatus| {
        let mut status = status.clone();
        status
            .conditions
            .sort_by_key(|condition| condition.condition_type);
        status
            .endpoints
            .sort_by(|a, b| a.endpoint_type.cmp(&b.endpoint_type));
        status
    };
    sorted(before) == sorted(after)
}

/// The same for an application's.
pub(crate) fn same_application(before: &ApplicationStatus, after: &ApplicationStatus) -> bool {
    let sorted = |status: &ApplicationStatus| {
        let mut status = status.clone();
        status
            .conditions
            .sort_by_key(|condition| condition.condition_type);
        status
    };
    sorted(before) == sorted(after)
}

/// Every control that is ready has it, and there is one.
pub(crate) fn is_loaded(controls: &[Control], hash: &str) -> bool {
    let has = |control: &Control| {
        let state = control.state.as_ref();
        state.is_some_and(|state| state.live_config_hash == hash)
    };
    !controls.is_empty() && controls.iter().all(has)
}

fn endpoints(workloads: &Workloads) -> Vec<Endpoint> {
    let publish = workloads
        .edge_service
        .as_ref()
        .and_then(|service| endpoint(service, "Publish"));
    let api = workloads
        .control_service
        .as_ref()
        .and_then(|service| endpoint(service, "Api"));
    publish.into_iter().chain(api).collect()
}

/// A load balancer's address; without one, the Service's own name.
fn endpoint(service: &Service, endpoint_type: &str) -> Option<Endpoint> {
    let spec = service.spec.as_ref()?;
    let port = spec.ports.iter().flatten().next()?.port;
    let load_balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = load_balancer.and_then(|status| status.ingress.as_ref()?.first());
    let external =
        ingress.and_then(|ingress| ingress.hostname.clone().or_else(|| ingress.ip.clone()));
    let internal = || {
        let metadata = &service.metadata;
        Some(format!(
            "{}.{}.svc",
            metadata.name.as_ref()?,
            metadata.namespace.as_ref()?
        ))
    };
    Some(Endpoint {
        endpoint_type: endpoint_type.to_owned(),
        host: external.or_else(internal)?,
        port,
    })
}
