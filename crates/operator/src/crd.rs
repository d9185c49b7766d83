//! The CustomResourceDefinitions, made from [`crate::api`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::api::{IngestApplication, IngestCluster};

/// Helm leaves an object with this annotation alone when its release goes: with a CRD, everything of its kind would go.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// Fields whose form is Kubernetes' own. What is below them is checked and not described: descriptions would be most of
/// the CRD, and `kubectl apply` keeps a whole object in one annotation of at most 256 KiB.
pub const FOREIGN: [&str; 13] = [
    "affinity",
    "apiFrom",
    "extraEgress",
    "extraEnv",
    EXTRA_VOLUMES,
    "extraVolumeMounts",
    "imagePullSecrets",
    "metricsFrom",
    "playbackFrom",
    "resources",
    "securityContext",
    "tolerations",
    "topologySpreadConstraints",
];

/// Its items are checked by the API server when a pod is made: the schema of every kind of volume is too large.
const EXTRA_VOLUMES: &str = "extraVolumes";

/// Both CRDs, as the chart installs them.
pub fn crds() -> [CustomResourceDefinition; 2] {
    [IngestApplication::crd(), IngestCluster::crd()].map(|mut crd| {
        crd.metadata
            .annotations
            .get_or_insert_default()
            .insert(KEEP.0.to_owned(), KEEP.1.to_owned());
        for version in &mut crd.spec.versions {
            let schema = version.schema.as_mut();
            if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                shorten(schema);
            }
        }
        crd
    })
}

/// A CRD as YAML.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    serde_saphyr::to_string(crd).map_err(|error| CrdError(error.to_string()))
}

/// A CRD could not be written.
#[derive(Debug, thiserror::Error)]
#[error("a CRD cannot be written as YAML: {0}")]
pub struct CrdError(String);

/// Looks for foreign fields, and takes out of them what is too much.
fn shorten(schema: &mut JSONSchemaProps) {
    for (name, field) in schema.properties.iter_mut().flatten() {
        if FOREIGN.contains(&name.as_str()) {
            for below in children(field) {
                forget_descriptions(below);
                if name == EXTRA_VOLUMES {
                    keep_only_the_name(below);
                }
            }
        } else {
            shorten(field);
        }
    }
}

fn forget_descriptions(schema: &mut JSONSchemaProps) {
    schema.description = None;
    for below in children(schema) {
        forget_descriptions(below);
    }
}

fn keep_only_the_name(volume: &mut JSONSchemaProps) {
    if let Some(fields) = &mut volume.properties {
        fields.retain(|name, _| name == "name");
    }
    volume.x_kubernetes_preserve_unknown_fields = Some(true);
}

/// The schemas right below one: of its fields, items and values.
fn children(schema: &mut JSONSchemaProps) -> Vec<&mut JSONSchemaProps> {
    let mut children: Vec<&mut JSONSchemaProps> = schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .collect();
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => children.push(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => children.extend(items),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        children.push(value);
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{CRD_REVISION, CRD_REVISION_ANNOTATION};

    /// `kubectl apply` keeps a whole object in an annotation, and annotations have 256 KiB in all. JSON there is smaller
    /// than YAML here.
    const BYTES_MAX: usize = 200 * 1024;

    #[test]
    fn a_crd_has_its_revision_and_is_small_enough() {
        for crd in crds() {
            let revision = &crd.metadata.annotations.as_ref().unwrap()[CRD_REVISION_ANNOTATION];
            assert_eq!(*revision, CRD_REVISION.to_string());
            let bytes = to_yaml(&crd).unwrap().len();
            println!("{}: {bytes} bytes", crd.metadata.name.as_ref().unwrap());
            assert!(bytes < BYTES_MAX, "{bytes}");
        }
    }

    #[test]
    fn foreign_fields_are_described_themselves_and_checked_below() {
        let crd = serde_json::to_value(&crds()[1]).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let template = &spec["properties"]["edge"]["properties"]["podTemplate"]["properties"];
        let affinity = &template["affinity"];
        assert!(affinity["description"].is_string());
        let pods = &affinity["properties"]["podAffinity"];
        assert!(pods.get("description").is_none() && pods["properties"].is_object());
        let volume = &template["extraVolumes"]["items"];
        assert_eq!(volume["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(volume["required"], serde_json::json!(["name"]));
        assert_eq!(volume["properties"].as_object().unwrap().len(), 1);
    }
}
