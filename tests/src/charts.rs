//! The charts, and both Helms that people install them with.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use crate::binary::target_directory;

/// Helm 3 takes itself for a Helm of Kubernetes 1.20 where no server says otherwise.
const KUBERNETES: &str = "--kube-version=v1.36.0";

/// A major version of Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    V3,
    V4,
}

impl Helm {
    pub const ALL: [Self; 2] = [Self::V3, Self::V4];

    /// The program, with nothing of the user's own configuration. It finds the server in `kubeconfig`.
    pub fn command(self, kubeconfig: Option<&Path>) -> Command {
        let name = match self {
            Self::V3 => "helm3",
            Self::V4 => "helm",
        };
        let program = target_directory().join("kube/bin").join(name);
        assert!(
            program.exists(),
            "{} is missing: run `make test`, or `bash tests/kube/setup.sh control-plane {}`",
            program.display(),
            target_directory().display()
        );
        let home = target_directory().join("kube/helm").join(name);
        let mut command = Command::new(program);
        command
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"))
            .env(
                "KUBECONFIG",
                kubeconfig.unwrap_or_else(|| Path::new("/dev/null")),
            )
            .kill_on_drop(true);
        command
    }

    /// What `helm template` prints, or what it refuses the values with. The release is `ingest` in the namespace `live`.
    pub async fn template(self, chart: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(None);
        command
            .args(["template", "ingest", "--namespace=live", KUBERNETES])
            .arg(directory(chart))
            .args(arguments);
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// As [`template`](Self::template), which must succeed.
    pub async fn render(self, chart: &str, arguments: &[&str]) -> Vec<Value> {
        let text = self.template(chart, arguments).await;
        objects(&text.unwrap_or_else(|error| panic!("{chart} {arguments:?}: {error}")))
    }
}

/// Where a chart is.
pub fn directory(chart: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().join("charts").join(chart)
}

/// The arguments that select values files of the chart `headwater`: `["production", "aws-nlb"]`.
pub fn values(names: &[&str]) -> Vec<String> {
    let argument = |name: &&str| {
        let file = directory("headwater").join(format!("values-{name}.yaml"));
        format!("--values={}", file.display())
    };
    names.iter().map(argument).collect()
}

/// Presets for load balancers: each goes with every other values file.
pub fn presets() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory("headwater"))
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(
                name.strip_prefix("values-")?
                    .strip_suffix(".yaml")?
                    .to_owned(),
            )
        })
        .filter(|name| !["production", "quickstart"].contains(&name.as_str()))
        .collect();
    names.sort();
    names
}

/// The documents of a rendering.
pub fn objects(text: &str) -> Vec<Value> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" {
            documents.push(String::new());
        } else {
            let document = documents.last_mut().unwrap();
            document.push_str(line);
            document.push('\n');
        }
    }
    documents
        .iter()
        .map(|document| {
            serde_saphyr::from_str::<Value>(document)
                .unwrap_or_else(|error| panic!("{error}: {document}"))
        })
        .filter(|object| !object.is_null())
        .collect()
}

/// The only object of a kind.
pub fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}
