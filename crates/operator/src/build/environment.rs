//! What differs from pod to pod, by environment. `HEADWATER__A__B` sets the field `a.b`; its value is read as YAML.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

use super::{
    pod::{ZONE_LABEL, template},
    ports::Port,
};
use crate::{names::Component, validate::ValidatedCluster};

/// What the pod is told of itself first, since later values refer to it; then what the process reads; then the user's,
/// in place of ours of the same name.
pub(super) fn environment(cluster: &ValidatedCluster, component: Component) -> Vec<EnvVar> {
    let mut variables = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        field("NODE_NAME", "spec.nodeName"),
        // Empty where the API server does not copy it from the node.
        field("POD_ZONE", &format!("metadata.labels['{ZONE_LABEL}']")),
    ];
    match component {
        Component::Control => {}
        // Quoted: a zone may be called 1.
        Component::Edge => variables.push(value("HEADWATER__EDGE__ZONE", "\"$(POD_ZONE)\"")),
        Component::Origin => {
            variables.push(value("HEADWATER__ORIGIN__ZONE", "\"$(POD_ZONE)\""));
            variables.push(value("HEADWATER__ORIGIN__NAME", "$(POD_NAME)"));
            let address = format!("$(POD_IP):{}", Port::Relay.number());
            variables.push(value("HEADWATER__ORIGIN__RELAY__ADVERTISE", &address));
        }
    }
    if cluster.spec.observability.tracing.is_some() {
        let attributes = format!(
            "{{headwater.cluster: \"{}\", k8s.namespace.name: \"$(POD_NAMESPACE)\", \
             k8s.node.name: \"$(NODE_NAME)\", k8s.pod.name: \"$(POD_NAME)\"}}",
            cluster.names.cluster()
        );
        variables.push(value(
            "HEADWATER__TELEMETRY__RESOURCE_ATTRIBUTES",
            &attributes,
        ));
    }
    for extra in &template(&cluster.spec, component).extra_env {
        match variables.iter_mut().find(|ours| ours.name == extra.name) {
            Some(ours) => *ours = extra.clone(),
            None => variables.push(extra.clone()),
        }
    }
    variables
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

/// Of the pod.
fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                // As the API server fills it in: nothing is left to apply again.
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}
