//! What users change in pods: it may add, and must not take away what keeps a tier safe.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodSecurityContext, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    problems::{Problems, is_label},
    services::{check_annotations, is_qualified_name},
};
use crate::{
    api::{IngestClusterSpec, PodTemplate},
    build::{CONFIGURATION_DIRECTORY, DATA_DIRECTORY, VOLUMES},
    names::Component,
    quantity,
};

/// An edge or an origin with less could not hold a single stream.
const MEMORY_LIMIT_MIN: u64 = 128 * 1024 * 1024;

/// Labels of ours begin with one of these: selectors are made of them.
const OWN_LABEL_PREFIXES: [&str; 2] = ["app.kubernetes.io/", "headwater.dev/"];

pub(super) fn check(spec: &IngestClusterSpec, problems: &mut Problems) {
    for component in Component::ALL {
        let path = path(component);
        check_template(&path, template(spec, component), problems);
    }
    let resources = spec.edge.pod_template.resources.as_ref();
    if let (Some(_), Some(resources)) = (&spec.edge.autoscaling, resources) {
        let requested = [&resources.requests, &resources.limits]
            .into_iter()
            .flatten()
            .any(|quantities| quantities.contains_key("cpu"));
        if !requested {
            problems.add(
                "spec.edge.podTemplate.resources.requests.cpu",
                "is missing, which edge.autoscaling needs: its target is a share of it",
            );
        }
    }
}

/// Those of an edge and an origin, in bytes.
pub(super) fn memory_limits(
    spec: &IngestClusterSpec,
    problems: &mut Problems,
) -> (Option<u64>, Option<u64>) {
    let mut limit = |component| {
        let resources = crate::build::resources(spec, component);
        let limit = quantity::bytes(resources.limits.as_ref()?.get("memory")?)?;
        if limit < MEMORY_LIMIT_MIN {
            problems.add(
                format!("{}.resources.limits.memory", path(component)),
                "is below 128Mi, which holds no stream",
            );
        }
        Some(limit)
    };
    (limit(Component::Edge), limit(Component::Origin))
}

pub(super) fn check_labels(path: &str, labels: &BTreeMap<String, String>, problems: &mut Problems) {
    for (key, value) in labels {
        if !is_qualified_name(key) {
            problems.add(path, format!("{key:?} is not a key of a label"));
        }
        if !value.is_empty() && (value.contains('/') || !is_qualified_name(value)) {
            problems.add(path, format!("{key}: {value:?} is not a value of a label"));
        }
    }
}

fn path(component: Component) -> String {
    format!("spec.{component}.podTemplate")
}

fn template(spec: &IngestClusterSpec, component: Component) -> &PodTemplate {
    match component {
        Component::Control => &spec.control.pod_template,
        Component::Edge => &spec.edge.pod_template,
        Component::Origin => &spec.origin.pod_template,
    }
}

fn check_template(path: &str, template: &PodTemplate, problems: &mut Problems) {
    let labels = format!("{path}.labels");
    check_labels(&labels, &template.labels, problems);
    for key in template.labels.keys() {
        if OWN_LABEL_PREFIXES.iter().any(|own| key.starts_with(own)) || key == "pod-template-hash" {
            problems.add(labels.clone(), format!("{key:?} is the operator's"));
        }
    }
    check_annotations(
        &format!("{path}.annotations"),
        &template.annotations,
        problems,
    );
    check_labels(
        &format!("{path}.nodeSelector"),
        &template.node_selector,
        problems,
    );
    for (field, name) in [
        ("priorityClassName", &template.priority_class_name),
        ("serviceAccountName", &template.service_account_name),
    ] {
        if let Some(name) = name {
            problems.object_name(&format!("{path}.{field}"), name);
        }
    }
    if let Some(resources) = &template.resources {
        check_resources(&format!("{path}.resources"), resources, problems);
    }
    check_environment(&format!("{path}.extraEnv"), template, problems);
    check_volumes(path, template, problems);
    if let Some(security) = &template.security_context {
        check_security(&format!("{path}.securityContext"), security, problems);
    }
}

fn check_resources(path: &str, resources: &ResourceRequirements, problems: &mut Problems) {
    let none = BTreeMap::new();
    let requests = resources.requests.as_ref().unwrap_or(&none);
    let limits = resources.limits.as_ref().unwrap_or(&none);
    for (field, quantities) in [("requests", requests), ("limits", limits)] {
        for (resource, Quantity(text)) in quantities {
            if quantity::bytes(&Quantity(text.clone())).is_none() {
                problems.add(
                    format!("{path}.{field}.{resource}"),
                    format!("{text:?} is not a quantity (such as 500m or 2Gi)"),
                );
            }
        }
    }
    for (resource, request) in requests {
        let limit = limits.get(resource).and_then(quantity::nano);
        if let (Some(limit), Some(request)) = (limit, quantity::nano(request))
            && request > limit
        {
            problems.add(format!("{path}.requests.{resource}"), "is above the limit");
        }
    }
}

fn check_environment(path: &str, template: &PodTemplate, problems: &mut Problems) {
    let names = template
        .extra_env
        .iter()
        .map(|variable| variable.name.as_str());
    for name in names.clone() {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty()
            || name.starts_with(|first: char| first.is_ascii_digit())
            || !name.bytes().all(inner)
        {
            problems.add(path, format!("{name:?} is not the name of a variable"));
        }
    }
    problems.unique(path, names);
    for variable in &template.extra_env {
        if variable.value.is_some() && variable.value_from.is_some() {
            problems.add(
                path,
                format!("{:?} has both value and valueFrom", variable.name),
            );
        }
    }
}

fn check_volumes(path: &str, template: &PodTemplate, problems: &mut Problems) {
    let volumes = format!("{path}.extraVolumes");
    let names = || {
        template
            .extra_volumes
            .iter()
            .map(|volume| volume.name.as_str())
    };
    for name in names() {
        if !is_label(name) {
            problems.add(
                volumes.clone(),
                format!("{name:?} is not a name of a volume"),
            );
        }
        if VOLUMES.contains(&name) {
            problems.add(
                volumes.clone(),
                format!("{name:?} is the operator's; choose another name"),
            );
        }
    }
    problems.unique(&volumes, names());

    let mounts = format!("{path}.extraVolumeMounts");
    for mount in &template.extra_volume_mounts {
        if !names().any(|name| name == mount.name) {
            problems.add(
                mounts.clone(),
                format!("{:?} is not one of extraVolumes", mount.name),
            );
        }
        let own = [CONFIGURATION_DIRECTORY, DATA_DIRECTORY];
        let is_below = |directory: &str, path: &str| {
            let rest = path.strip_prefix(directory);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mount_path = mount.mount_path.trim_end_matches('/');
        if !mount.mount_path.starts_with('/') {
            problems.add(
                mounts.clone(),
                format!("{:?} is not an absolute path", mount.mount_path),
            );
        } else if own
            .iter()
            .any(|own| is_below(own, mount_path) || is_below(mount_path, own))
        {
            problems.add(
                mounts.clone(),
                format!("{:?} hides the operator's own files", mount.mount_path),
            );
        }
    }
    let paths = template.extra_volume_mounts.iter();
    problems.unique(&mounts, paths.map(|mount| mount.mount_path.as_str()));
}

/// The container itself says that it is not root: a pod that says otherwise would never start.
fn check_security(path: &str, security: &PodSecurityContext, problems: &mut Problems) {
    if security.run_as_user == Some(0) {
        problems.add(
            format!("{path}.runAsUser"),
            "is root, which Headwater does not run as",
        );
    }
    if security.run_as_non_root == Some(false) {
        problems.add(
            format!("{path}.runAsNonRoot"),
            "is false: Headwater does not run as root",
        );
    }
    if security.windows_options.is_some() {
        problems.add(format!("{path}.windowsOptions"), "Headwater runs on Linux");
    }
    let profile = security.seccomp_profile.as_ref();
    if profile.is_some_and(|profile| profile.type_ == "Unconfined") {
        problems.add(
            format!("{path}.seccompProfile.type"),
            "is Unconfined: choose RuntimeDefault or Localhost",
        );
    }
}
