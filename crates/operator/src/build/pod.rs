//! The pods of a tier: ours, with what the user adds.

use k8s_openapi::{
    api::core::v1::{
        Container, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, TopologySpreadConstraint,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{
    environment::environment,
    files,
    metadata::{labels, pods_of},
    ports::Port,
    resources::resources,
    security,
};
use crate::{
    api::{IngestClusterSpec, LogFormat, PodTemplate, PullPolicy},
    names::Component,
    validate::ValidatedCluster,
};

/// The image's only program.
const PROGRAM: &str = "/usr/bin/headwater";
/// Beyond the drain, for the process to end what it still writes.
const GRACE_SECONDS: i64 = 60;
/// How long control's calls may take to end.
const CONTROL_DRAIN_SECONDS: i64 = 30;
/// A process may take two minutes to start: on a busy node, or while a database is being migrated.
const STARTUP_PROBES: i32 = 60;
const STARTUP_PERIOD_SECONDS: i32 = 2;

/// What pods run on.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// Set by Deployments.
const POD_TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// What a user changes in the pods of a tier.
pub(super) fn template(spec: &IngestClusterSpec, component: Component) -> &PodTemplate {
    match component {
        Component::Control => &spec.control.pod_template,
        Component::Edge => &spec.edge.pod_template,
        Component::Origin => &spec.origin.pod_template,
    }
}

/// For how long a process of a tier may drain: before it stops to accept, and after.
pub(super) fn drain_seconds(spec: &IngestClusterSpec, component: Component) -> (i64, i64) {
    match component {
        Component::Control => (0, CONTROL_DRAIN_SECONDS),
        Component::Edge => (
            spec.edge.drain.notice_seconds,
            spec.edge.drain.timeout_seconds,
        ),
        Component::Origin => (0, spec.origin.drain_timeout_seconds),
    }
}

/// The pods of a tier; `boot` is the ConfigMap of its configuration.
pub(super) fn pod_template(
    cluster: &ValidatedCluster,
    component: Component,
    boot: &str,
) -> PodTemplateSpec {
    let spec = &cluster.spec;
    let user = template(spec, component);
    let mut pod_labels = user.labels.clone();
    // Ours win: selectors are made of them.
    pod_labels.extend(labels(cluster, Some(component)));
    let (notice, timeout) = drain_seconds(spec, component);
    let security = user
        .security_context
        .clone()
        .unwrap_or_else(security::of_pod);
    let mut volumes = files::volumes(cluster, component, boot);
    volumes.extend(user.extra_volumes.iter().cloned());
    let account = user.service_account_name.clone();
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: (!user.annotations.is_empty()).then(|| user.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: user.affinity.clone(),
            automount_service_account_token: Some(false),
            // No process of ours looks at them, and a namespace of many Services has thousands.
            enable_service_links: Some(false),
            image_pull_secrets: (!spec.image_pull_secrets.is_empty())
                .then(|| spec.image_pull_secrets.clone()),
            node_selector: (!user.node_selector.is_empty()).then(|| user.node_selector.clone()),
            priority_class_name: user.priority_class_name.clone(),
            service_account_name: Some(account.unwrap_or_else(|| cluster.names.tier(component))),
            containers: vec![container(
                cluster,
                component,
                security::of_container(&security),
            )],
            security_context: Some(security),
            termination_grace_period_seconds: Some(notice + timeout + GRACE_SECONDS),
            tolerations: (!user.tolerations.is_empty()).then(|| user.tolerations.clone()),
            topology_spread_constraints: Some(
                user.topology_spread_constraints
                    .clone()
                    .unwrap_or_else(|| spread(cluster, component)),
            ),
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

fn container(
    cluster: &ValidatedCluster,
    component: Component,
    security: k8s_openapi::api::core::v1::SecurityContext,
) -> Container {
    let user = template(&cluster.spec, component);
    let pull_policy = match cluster.spec.image.pull_policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    };
    let mut mounts = files::mounts(cluster, component);
    mounts.extend(user.extra_volume_mounts.iter().cloned());
    Container {
        name: component.as_str().to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(pull_policy.to_owned()),
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(vec![
            component.as_str().to_owned(),
            "--config".to_owned(),
            files::boot_file(component),
        ]),
        env: Some(environment(cluster, component)),
        ports: Some(
            Port::of(cluster, component)
                .into_iter()
                .map(Port::of_container)
                .collect(),
        ),
        resources: Some(resources(&cluster.spec, component)),
        security_context: Some(security),
        startup_probe: Some(probe("/livez", STARTUP_PERIOD_SECONDS, STARTUP_PROBES)),
        // Asks for nothing outside of the process: an outage of Redis must not restart every edge.
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(Port::Admin.name().to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// Over zones and nodes, where there are some with room.
fn spread(cluster: &ValidatedCluster, component: Component) -> Vec<TopologySpreadConstraint> {
    [ZONE_LABEL, HOSTNAME_LABEL]
        .map(|topology_key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: topology_key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(pods_of(cluster, component)),
            // Pods of the revision that is going away must not push those of the new one off their nodes.
            match_label_keys: match component {
                Component::Control | Component::Edge => {
                    Some(vec![POD_TEMPLATE_HASH_LABEL.to_owned()])
                }
                Component::Origin => None,
            },
            ..TopologySpreadConstraint::default()
        })
        .into()
}

/// How a process writes its log.
pub(super) fn log_format(spec: &IngestClusterSpec) -> &'static str {
    match spec.logging.format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    }
}
