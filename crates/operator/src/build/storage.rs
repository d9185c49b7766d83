//! The volume of SQLite.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};

use super::metadata::object_meta;
use crate::{
    api::DeletionPolicy,
    names::Component,
    validate::{ValidatedCluster, ValidatedDatabase},
};

pub(super) fn volume_claims(cluster: &ValidatedCluster) -> Vec<PersistentVolumeClaim> {
    let ValidatedDatabase::Sqlite(sqlite) = &cluster.database else {
        return Vec::new();
    };
    let mut metadata = object_meta(
        cluster,
        Some(Component::Control),
        cluster.names.control_data(),
    );
    match cluster.spec.deletion_policy {
        DeletionPolicy::DeleteAll => {}
        // What has no owner outlives it: with the volume, every stream key would go.
        DeletionPolicy::Retain => metadata.owner_references = None,
    }
    vec![PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    sqlite.size.clone(),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: sqlite.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }]
}
