//! Clusters as users write them, and everything that is built for them, as text.

use std::{
    fs,
    path::{Path, PathBuf},
};

use operator::{
    api::{IngestApplication, IngestCluster},
    build::{Objects, Observed, build},
    validate::{Defaults, Problem, ValidatedCluster, validate},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Where the fixtures are, a directory each.
pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
/// What the objects of a fixture are kept in.
pub const GOLDEN_FILE: &str = "objects.yaml";

/// `cluster.yaml` of a fixture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    pub name: String,
    /// Each a name, or a spec without its cluster.
    pub applications: Vec<Value>,
    #[serde(default)]
    pub observed: Served,
    pub spec: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Served {
    pub cert_manager: bool,
    pub pod_monitors: bool,
    pub edge_replicas: Option<i32>,
}

impl Fixture {
    pub fn read(directory: &Path) -> Self {
        let file = directory.join("cluster.yaml");
        let text = fs::read_to_string(&file).unwrap();
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    pub fn cluster(&self) -> IngestCluster {
        serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1",
            "kind": "IngestCluster",
            "metadata": {
                "name": self.name,
                "namespace": "media",
                "uid": "7a1d2c9e-0000-4000-8000-000000000001",
                "generation": 3,
            },
            "spec": self.spec,
        }))
        .unwrap()
    }

    pub fn validate(&self) -> Result<ValidatedCluster, Vec<Problem>> {
        let applications: Vec<IngestApplication> = self
            .applications
            .iter()
            .enumerate()
            .map(|(index, app)| {
                let name = format!("app-{index}");
                match app.as_str() {
                    Some(app) => application(&name, &self.name, app),
                    None => {
                        let mut object = application(&name, &self.name, "");
                        let mut spec = app.clone();
                        spec["clusterRef"] = json!({"name": self.name});
                        object.spec = serde_json::from_value(spec).unwrap();
                        object
                    }
                }
            })
            .collect();
        validate(&self.cluster(), &applications, &defaults())
    }

    pub fn validated(&self) -> ValidatedCluster {
        self.validate()
            .unwrap_or_else(|problems| panic!("{}: {problems:#?}", self.name))
    }

    pub fn observed(&self) -> Observed {
        Observed {
            cert_manager: self.observed.cert_manager,
            pod_monitors: self.observed.pod_monitors,
            edge_replicas: self.observed.edge_replicas,
        }
    }

    pub fn objects(&self) -> Objects {
        build(&self.validated(), &self.observed())
    }
}

pub fn defaults() -> Defaults {
    Defaults {
        image_repository: "headwater.example/headwater".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
    }
}

pub fn application(name: &str, cluster: &str, app: &str) -> IngestApplication {
    serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1",
        "kind": "IngestApplication",
        "metadata": {
            "name": name,
            "namespace": "media",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"clusterRef": {"name": cluster}, "app": app},
    }))
    .unwrap()
}

/// Every fixture's directory.
pub fn directories() -> Vec<PathBuf> {
    let entries = fs::read_dir(FIXTURES).unwrap();
    let mut directories: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    directories
}

/// Each object as a value, in the order in which they are applied.
pub fn values(objects: &Objects) -> Vec<Value> {
    let Objects {
        service_accounts,
        network_policies,
        boot,
        live,
        certificates,
        services,
        disruption_budgets,
        volume_claims,
        origin,
        control,
        edge,
        autoscaler,
        pod_monitors,
    } = objects;
    let mut values = Vec::new();
    extend(&mut values, service_accounts);
    extend(&mut values, network_policies);
    extend(&mut values, boot);
    extend(&mut values, [live]);
    extend(&mut values, certificates);
    extend(&mut values, services);
    extend(&mut values, disruption_budgets);
    extend(&mut values, volume_claims);
    extend(&mut values, [origin]);
    extend(&mut values, [control]);
    extend(&mut values, [edge]);
    extend(&mut values, autoscaler);
    extend(&mut values, pod_monitors);
    values
}

fn extend<T: Serialize>(values: &mut Vec<Value>, objects: impl IntoIterator<Item = T>) {
    for object in objects {
        values.push(sorted(serde_json::to_value(object).unwrap()));
    }
}

/// A YAML document for each object.
pub fn render(objects: &Objects) -> String {
    let documents = values(objects)
        .into_iter()
        .map(|value| format!("---\n{}", serde_saphyr::to_string(&value).unwrap()));
    documents.collect()
}

/// Keys in order, whatever the features that serde_json was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            entries.sort_by(|(left, _), (right, _)| left.cmp(right));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        scalar @ (Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_)) => scalar,
    }
}
