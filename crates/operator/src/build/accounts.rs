//! ServiceAccounts: an identity of its own for each tier, and no rights. No process of ours calls Kubernetes, but for
//! controls that are told to check ServiceAccounts' tokens there.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{metadata::object_meta, pod::template};
use crate::{names::Component, validate::ValidatedCluster};

/// One for each tier that is not given one.
pub(super) fn service_accounts(cluster: &ValidatedCluster) -> Vec<ServiceAccount> {
    Component::ALL
        .into_iter()
        .filter(|component| {
            template(&cluster.spec, *component)
                .service_account_name
                .is_none()
        })
        .map(|component| ServiceAccount {
            metadata: object_meta(cluster, Some(component), cluster.names.tier(component)),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        })
        .collect()
}
