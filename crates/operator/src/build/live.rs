//! What reaches running processes without a restart. Whatever is here must not be in the boot configuration.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, json};

use super::{files::LIVE_KEY, metadata::object_meta, yaml};
use crate::validate::ValidatedCluster;

pub(super) fn config_map(cluster: &ValidatedCluster) -> ConfigMap {
    let limits = &cluster.spec.edge.limits;
    let mut live = Map::new();
    live.insert(
        "log".to_owned(),
        json!({"filter": cluster.spec.logging.filter}),
    );
    live.insert(
        "edge".to_owned(),
        json!({
            "connections": {
                "connections_max": limits.max_connections,
                "connections_per_address_max": limits.max_connections_per_ip,
            },
        }),
    );
    live.insert(
        "control".to_owned(),
        json!({"applications": cluster.applications}),
    );
    ConfigMap {
        metadata: object_meta(cluster, None, cluster.names.live()),
        data: Some(BTreeMap::from([(LIVE_KEY.to_owned(), yaml::render(&live))])),
        ..ConfigMap::default()
    }
}
