//! `IngestApplication`: one application name that encoders may publish to, on one cluster.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, KeyReference};

/// One RTMP application (`rtmps://host/<app>`) of a cluster.
#[derive(CustomResource, Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "IngestApplication",
    namespaced,
    doc = "An application that encoders may publish to (rtmps://host/<app>) on an IngestCluster",
    shortname = "iapp",
    category = "ingest",
    status = "ApplicationStatus",
    derive = "PartialEq",
    selectable = ".spec.clusterRef.name",
    annotation("headwater.dev/crd-revision", "7"),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "App", type_ = "string", json_path = ".spec.app"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct IngestApplicationSpec {
    /// The IngestCluster, in this namespace.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef is immutable: delete the application and create it anew"))]
    pub cluster_ref: ClusterReference,
    /// As in the RTMPS URL's path. Unique per cluster: the oldest IngestApplication has it, later ones are in conflict.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("app is immutable: delete the application and create it anew"))]
    pub app: String,
    /// What decides who may publish; by default the stream keys that the cluster's controls keep.
    #[serde(default)]
    pub auth: ApplicationAuth,
}

/// What decides on an application's publishers.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("(self.mode == 'Signed') == has(self.signed) && (self.mode == 'Webhook') == has(self.webhook)")
    .message("auth: signed with mode Signed, webhook with mode Webhook, and neither with Managed"))]
#[serde(rename_all = "camelCase")]
pub struct ApplicationAuth {
    /// Managed: stream keys of the cluster's API. Signed: JWTs that a platform signs. Webhook: a platform's backend is
    /// asked.
    #[serde(default)]
    pub mode: AuthMode,
    /// With mode Signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedAuth>,
    /// With mode Webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookAuth>,
}

/// Which of the three.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum AuthMode {
    /// Stream keys of the cluster's API.
    #[default]
    Managed,
    /// JWTs that a platform signs.
    Signed,
    /// A platform's backend is asked.
    Webhook,
}

/// JWTs in place of stream keys.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.jwksUrl), has(self.jwksSecretRef)].exists_one(x, x)")
    .message("auth.signed: exactly one of jwksUrl and jwksSecretRef"))]
#[serde(rename_all = "camelCase")]
pub struct SignedAuth {
    /// The claim `iss`.
    #[schemars(length(min = 1, max = 256))]
    pub issuer: String,
    /// One of the claim `aud`.
    #[schemars(length(min = 1, max = 256))]
    pub audience: String,
    /// Where the public keys are served, as a JSON Web Key Set. https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 10, max = 2048))]
    pub jwks_url: Option<String>,
    /// The public keys themselves, as a JSON Web Key Set. Changed keys are taken without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_secret_ref: Option<KeyReference>,
    /// Whom all the application's streams belong to; by default whom the claim `tenant` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub tenant: Option<String>,
}

/// A platform's backend.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookAuth {
    /// What is asked for each publish. https.
    #[schemars(length(min = 10, max = 2048))]
    pub url: String,
    /// What requests are signed with (Standard Webhooks): `whsec_` and base64 of 24 to 64 bytes.
    pub secret_ref: KeyReference,
    /// For one decision, in milliseconds.
    #[serde(default = "WebhookAuth::timeout_milliseconds")]
    #[schemars(range(min = 100, max = 2000))]
    pub timeout_milliseconds: i32,
    /// Requests at once, by each control; as many more wait.
    #[serde(default = "WebhookAuth::max_concurrency")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_concurrency: i32,
    /// Whom all the application's streams belong to; by default whom the answer names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub tenant: Option<String>,
}

impl WebhookAuth {
    fn timeout_milliseconds() -> i32 {
        1500
    }

    fn max_concurrency() -> i32 {
        32
    }
}

/// An IngestCluster of the same namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReference {
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationStatus {
    /// Of the spec that the conditions speak of.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Accepted` (every control has loaded it), `Ready` (the same, for tools that look for it).
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
