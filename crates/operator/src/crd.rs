//! The CustomResourceDefinitions, made from [`crate::api`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::api::{IngestApplication, IngestCluster};

/// Helm leaves an object with this annotation alone when its release goes: with a CRD, everything of its kind would go.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// Both CRDs, as the chart installs them.
pub fn crds() -> [CustomResourceDefinition; 2] {
    [IngestApplication::crd(), IngestCluster::crd()].map(|mut crd| {
        crd.metadata
            .annotations
            .get_or_insert_default()
            .insert(KEEP.0.to_owned(), KEEP.1.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{CRD_REVISION, CRD_REVISION_ANNOTATION};

    /// etcd takes 1.5 MiB and Helm keeps a whole chart in one Secret of 1 MiB.
    const BYTES_MAX: usize = 600 * 1024;

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
}
