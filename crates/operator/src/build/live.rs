//! What reaches running processes without a restart. Whatever is here must not be in the boot configuration.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use super::{
    files::{JWKS, LIVE_KEY, WEBHOOK_SECRET, application_file},
    metadata::object_meta,
    yaml,
};
use crate::validate::{ValidatedApplication, ValidatedAuth, ValidatedCluster};

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
        json!({"applications": cluster.applications.iter().map(application).collect::<Vec<_>>()}),
    );
    ConfigMap {
        metadata: object_meta(cluster, None, cluster.names.live()),
        data: Some(BTreeMap::from([(LIVE_KEY.to_owned(), yaml::render(&live))])),
        ..ConfigMap::default()
    }
}

/// One row of control's table.
fn application(application: &ValidatedApplication) -> Value {
    let app = &application.app;
    let admission = match &application.auth {
        ValidatedAuth::Managed => return json!(app),
        ValidatedAuth::Signed(signed) => json!({"signed": {
            "issuer": signed.issuer,
            "audience": signed.audience,
            "jwks_file": signed.jwks_secret_ref.as_ref().map(|_| application_file(app, JWKS)),
            "jwks_url": signed.jwks_url,
            "tenant": signed.tenant,
        }}),
        ValidatedAuth::Webhook(webhook) => json!({"webhook": {
            "url": webhook.url,
            "secret_file": application_file(app, WEBHOOK_SECRET),
            "timeout": format!("{}ms", webhook.timeout_milliseconds),
            "concurrency_max": webhook.max_concurrency,
            "tenant": webhook.tenant,
        }}),
    };
    json!({"name": app, "admission": admission})
}
