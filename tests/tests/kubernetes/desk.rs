//! `headwater doctor` and `kubectl headwater`, as somebody at a desk runs them.

use std::{os::unix::fs::symlink, process::Output, time::Duration};

use serde_json::Value;
use tests::{
    binary::headwater,
    kube::{ControlPlane, PodSecurity},
    process::command,
};

use crate::operator_harness::{CLUSTER, Installation};

const QUICK: Duration = Duration::from_millis(200);

/// Runs a command of the program against a control plane.
fn run(program: &std::path::Path, plane: &ControlPlane, arguments: &[&str]) -> Output {
    command(program)
        .args(arguments)
        .arg("--kubeconfig")
        .arg(plane.kubeconfig())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn before_an_installation_the_doctor_says_what_to_install() {
    let plane = ControlPlane::start("doctor").await;
    plane.namespace("bare", PodSecurity::Restricted).await;
    let output = run(headwater(), &plane, &["doctor", "-n", "bare"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("ok    kubernetes: v1."), "{text}");
    assert!(
        text.contains("FAIL  CRDs: headwater.dev is not served: not installed yet"),
        "{text}"
    );
    assert!(
        text.contains("-> helm upgrade --install headwater-crds"),
        "{text}"
    );
    assert!(
        text.contains("bare enforces Pod Security restricted"),
        "{text}"
    );

    let missing = run(headwater(), &plane, &["doctor", "-n", "nowhere"]);
    assert!(
        stdout(&missing).contains("kubectl create namespace nowhere"),
        "{}",
        stdout(&missing)
    );
}

#[tokio::test]
async fn the_doctor_and_the_plugin_say_how_a_cluster_is() {
    let installation = Installation::start(QUICK).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let namespace = installation.namespace.as_str();
    let plane = &installation.plane;

    // Nobody runs in the pods: their API cannot be reached, and that is what is wrong.
    let output = run(
        headwater(),
        plane,
        &["doctor", "live", "--json", "-n", namespace],
    );
    assert_eq!(output.status.code(), Some(1));
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let outcome = |name: &str| -> Vec<&str> {
        checks
            .iter()
            .filter(|check| check["subject"] == "live" && check["check"] == name)
            .filter_map(|check| check["outcome"].as_str())
            .collect()
    };
    assert_eq!(outcome("Ready"), ["ok"]);
    assert_eq!(outcome("RTMPS certificate"), ["ok"]);
    assert_eq!(outcome("internal certificate"), ["ok"; 4]);
    assert_eq!(outcome("API"), ["failed"]);
    assert_eq!(
        outcome("application"),
        ["failed"],
        "no control has loaded it"
    );

    // As kubectl finds it: by its name.
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("kubectl-headwater");
    symlink(headwater(), &plugin).unwrap();
    let text = stdout(&run(&plugin, plane, &["status", "-n", namespace]));
    for part in [
        "IngestCluster live",
        "edges 2/2",
        "AllTiersAvailable",
        "live-origin-0",
        "studio",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for command in [
        "streams",
        "streams list",
        "keys list",
        "edges",
        "edges list",
        "drain live-edge-0 --timeout 30m --reason kernel --no-reconnect --wait",
        "undrain live-edge-0",
    ] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--cluster", "other", "-n", namespace]);
        let output = run(&plugin, plane, &arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        assert!(
            error.contains("there is no IngestCluster \"other\""),
            "{command}: {error}"
        );
    }
}
