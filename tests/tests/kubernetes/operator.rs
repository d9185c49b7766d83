//! The operator against a real API server and controller manager.

use std::time::Duration;

use tests::{
    binary::headwater,
    kube::{self, ControlPlane},
    process::{Process, command},
    wait::wait_for,
};
use tokio::process::Command;

use crate::operator_harness::{CLUSTER, Installation, SOON, name};

const APPS: &str = "apis/apps/v1";
const CORE: &str = "api/v1";
const QUICK: Duration = Duration::from_millis(200);

#[tokio::test]
async fn everything_is_made_and_then_nothing_is_written() {
    let installation = Installation::start(QUICK).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    for (group, plural, name) in [
        (APPS, "deployments", "live-control"),
        (APPS, "statefulsets", "live-origin"),
        (CORE, "configmaps", "live-live"),
        (CORE, "persistentvolumeclaims", "live-control-data"),
        (CORE, "secrets", "live-internal-ca"),
        (CORE, "secrets", "live-internal-operator"),
        (CORE, "secrets", "live-edge-tls"),
        (CORE, "secrets", "live-pepper"),
        (CORE, "services", "live-edge"),
        (CORE, "services", "live-control-internal"),
        (CORE, "services", "live-playback"),
        ("apis/networking.k8s.io/v1", "networkpolicies", "live-edge"),
        ("apis/policy/v1", "poddisruptionbudgets", "live-origin"),
    ] {
        let object = installation.get(group, plural, name).await;
        let object = object.unwrap_or_else(|| panic!("{plural}/{name}"));
        assert_eq!(
            object["metadata"]["labels"]["headwater.dev/cluster"], "live",
            "{name}"
        );
        let owned = object["metadata"]["ownerReferences"].is_array();
        assert_eq!(
            owned,
            !matches!(plural, "secrets" | "persistentvolumeclaims"),
            "{name}"
        );
    }
    // Nobody runs in the pods: what controls have loaded is not known.
    let application = installation
        .get(
            "apis/headwater.dev/v1alpha1",
            "ingestapplications",
            "studio",
        )
        .await;
    let conditions = &application.unwrap()["status"]["conditions"];
    assert_eq!(conditions[0]["reason"], "AwaitingControl", "{conditions}");

    installation.passed(0).await;
    let before = installation.writes();
    installation
        .kubectl(&["annotate", "igc/live", "example.com/looked=1"])
        .await;
    installation.passed(0).await;
    let after = installation.writes();
    assert_eq!(after[before.len()..], [] as [String; 0]);

    // Nor does an operator that has just started.
    let mut installation = installation;
    installation.operators.clear();
    let operator = installation.start_operator().await;
    installation.passed(operator).await;
    let restarted = installation.writes();
    assert_eq!(restarted[before.len()..], [] as [String; 0]);
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn what_somebody_changes_is_put_back_and_what_they_add_stays() {
    let installation = Installation::start(QUICK).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    installation
        .kubectl(&["scale", "deployment/live-control", "--replicas=5"])
        .await;
    installation
        .kubectl(&["label", "service/live-edge", "example.com/mine=1"])
        .await;
    installation
        .kubectl(&["delete", "networkpolicy/live-origin"])
        .await;
    let patch = r#"{"data":{"live.yaml":"nonsense"}}"#;
    installation
        .kubectl(&["patch", "configmap/live-live", "--type=merge", "-p", patch])
        .await;
    wait_for("all of it to be put back", SOON, async || {
        let control = installation
            .get(APPS, "deployments", "live-control")
            .await?;
        let live = installation.get(CORE, "configmaps", "live-live").await?;
        let policy = installation
            .get(
                "apis/networking.k8s.io/v1",
                "networkpolicies",
                "live-origin",
            )
            .await;
        let live = live["data"]["live.yaml"].as_str()?.contains("applications");
        (control["spec"]["replicas"] == 1 && live && policy.is_some()).then_some(())
    })
    .await;
    let service = installation
        .get(CORE, "services", "live-edge")
        .await
        .unwrap();
    assert_eq!(service["metadata"]["labels"]["example.com/mine"], "1");
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn a_new_revision_takes_over_before_the_old_one_goes() {
    let installation = Installation::start(Duration::from_secs(3)).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let edges = async || {
        let deployments = installation.list(APPS, "deployments").await;
        let edges = deployments
            .iter()
            .map(name)
            .filter(|name| name.contains("-edge-"));
        edges.map(str::to_owned).collect::<Vec<_>>()
    };
    let boot = async || {
        let maps = installation.list(CORE, "configmaps").await;
        maps.iter()
            .map(name)
            .filter(|name| name.contains("-boot-"))
            .count()
    };
    let (old, maps) = (edges().await, boot().await);
    assert_eq!((old.len(), maps), (1, 3));
    let patch = r#"{"spec":{"edge":{"drain":{"timeoutSeconds":77}}}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    wait_for("both revisions", SOON, async || {
        (edges().await.len() == 2).then_some(())
    })
    .await;
    wait_for("the old revision to go", SOON, async || {
        let now = edges().await;
        if now.contains(&old[0]) {
            // It serves until the new one is available.
            return None;
        }
        let new = installation.get(APPS, "deployments", &now[0]).await?;
        assert_eq!(new["status"]["availableReplicas"], 2, "{new:#}");
        Some(())
    })
    .await;
    // Readiness does not wait for edges that end.
    installation
        .condition("Ready", "True", "AllTiersAvailable")
        .await;
    installation.settled().await;
    wait_for("the old configuration to go", SOON, async || {
        (boot().await == 3).then_some(())
    })
    .await;
    let events = installation.kubectl(&["get", "events", "-o", "json"]).await;
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    for reason in ["RolloutStarted", "RolloutFinished"] {
        let mut found = events["items"].as_array().unwrap().iter();
        assert!(
            found.any(|event| event["reason"] == reason),
            "{reason}: {events:#}"
        );
    }
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn a_deleted_secret_is_repaired_and_a_ca_never_is() {
    let installation = Installation::start(QUICK).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let uid = async |name: &str| {
        let secret = installation.get(CORE, "secrets", name).await?;
        Some(secret["metadata"]["uid"].as_str()?.to_owned())
    };
    let before = uid("live-internal-edge").await.unwrap();
    installation
        .kubectl(&[
            "delete",
            "secret/live-internal-edge",
            "secret/live-api-token",
        ])
        .await;
    wait_for("the Secrets to be made again", SOON, async || {
        uid("live-api-token").await?;
        (uid("live-internal-edge").await? != before).then_some(())
    })
    .await;

    let saved = installation
        .kubectl(&["get", "secret/live-internal-ca", "-o", "yaml"])
        .await;
    installation
        .kubectl(&["delete", "secret/live-internal-ca"])
        .await;
    let message = installation
        .condition("CertificatesReady", "False", "SecretMissing")
        .await;
    assert!(message.contains("live-internal-ca"), "{message}");
    installation.passed(0).await;
    assert_eq!(uid("live-internal-ca").await, None);
    let event = installation.kubectl(&["get", "igc/live"]).await;
    assert!(event.contains("SecretMissing"), "{event}");
    // Restored, everything goes on.
    let restored: String = saved
        .lines()
        .filter(|line| !line.contains("resourceVersion:") && !line.contains("uid:"))
        .map(|line| format!("{line}\n"))
        .collect();
    installation.plane.apply(&restored).await;
    installation.settled().await;
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn a_deleted_cluster_waits_for_its_edges_and_leaves_its_secrets() {
    let installation = Installation::start(Duration::from_secs(5)).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    installation
        .kubectl(&["delete", "igc/live", "--wait=false"])
        .await;
    let edges = async || {
        let pods = installation.list(CORE, "pods").await;
        let component = "app.kubernetes.io/component";
        pods.iter()
            .filter(|pod| pod["metadata"]["labels"][component] == "edge")
            .count()
    };
    wait_for("the cluster to go", SOON, async || {
        let left = edges().await;
        if installation.cluster().await.is_some() {
            return None;
        }
        assert_eq!(left, 0, "it went before its edges");
        Some(())
    })
    .await;
    assert!(
        installation
            .get(CORE, "secrets", "live-pepper")
            .await
            .is_some()
    );
    wait_for("the application to say so", SOON, async || {
        let group = "apis/headwater.dev/v1alpha1";
        let application = installation
            .get(group, "ingestapplications", "studio")
            .await?;
        (application["status"]["conditions"][0]["reason"] == "ClusterMissing").then_some(())
    })
    .await;
    // It comes back with the stream keys of before.
    installation.apply(CLUSTER).await;
    installation.settled().await;
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn a_forced_end_waits_for_nobody_and_takes_the_secrets_along() {
    let installation = Installation::start(Duration::from_secs(3600)).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let patch = r#"{"spec":{"deletionPolicy":"DeleteAll"}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    installation
        .kubectl(&["delete", "igc/live", "--wait=false"])
        .await;
    installation.passed(0).await;
    assert!(
        installation.cluster().await.is_some(),
        "edges are still there"
    );
    installation
        .kubectl(&["annotate", "igc/live", "headwater.dev/force-delete=true"])
        .await;
    wait_for("the cluster to go", SOON, async || {
        installation.cluster().await.is_none().then_some(())
    })
    .await;
    wait_for("its Secrets to go", SOON, async || {
        let secrets = installation.list(CORE, "secrets").await;
        let mut names = secrets.iter().map(name);
        (!names.any(|name| name.starts_with("live-"))).then_some(())
    })
    .await;
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn an_autoscaler_finds_a_number_and_moves_it() {
    let installation = Installation::start(QUICK).await;
    let autoscaled = "autoscaling:
      minReplicas: 2
      maxReplicas: 6
    podTemplate:
      resources:
        requests:
          cpu: 100m
";
    installation
        .apply(&CLUSTER.replace("replicas: 2\n", autoscaled))
        .await;
    let replicas = async |number: i64| {
        let cluster = installation.cluster().await?;
        (cluster["spec"]["edge"]["replicas"] == number).then_some(())
    };
    wait_for("the first number", SOON, async || replicas(3).await).await;
    installation.settled().await;
    let group = "apis/autoscaling/v2";
    let autoscaler = installation
        .get(group, "horizontalpodautoscalers", "live-edge")
        .await;
    let target = &autoscaler.unwrap()["spec"]["scaleTargetRef"];
    assert_eq!(
        (&target["kind"], &target["name"]),
        (&"IngestCluster".into(), &"live".into())
    );

    // As the autoscaler does.
    installation
        .kubectl(&["scale", "igc/live", "--replicas=4"])
        .await;
    wait_for("the edges to follow", SOON, async || {
        let scale = installation
            .kubectl(&["get", "igc/live", "-o", "jsonpath={.status.edge.replicas}"])
            .await;
        (scale == "4").then_some(())
    })
    .await;
    installation.settled().await;
    let events = installation.kubectl(&["get", "events"]).await;
    assert_eq!(events.matches("ScaledOut").count(), 1, "{events}");
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn what_makes_no_sense_changes_nothing_that_runs() {
    let installation = Installation::start(QUICK).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let before = installation
        .get(APPS, "statefulsets", "live-origin")
        .await
        .unwrap();
    let patch = r#"{"spec":{"version":"99.0.0","origin":{"replicas":2}}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    let message = installation
        .condition("VersionSupported", "False", "UnsupportedVersion")
        .await;
    assert!(message.contains("99.0.0"), "{message}");
    installation
        .condition("Stalled", "True", "UnsupportedVersion")
        .await;
    let after = installation
        .get(APPS, "statefulsets", "live-origin")
        .await
        .unwrap();
    assert_eq!(
        before["metadata"]["generation"],
        after["metadata"]["generation"]
    );
    let events = installation.kubectl(&["get", "events"]).await;
    assert_eq!(events.matches("ConfigRejected").count(), 1, "{events}");

    // Nor does a pause, but the status goes on.
    let patch = r#"{"spec":{"version":null,"paused":true}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    installation.condition("Ready", "True", "Paused").await;
    let after = installation
        .get(APPS, "statefulsets", "live-origin")
        .await
        .unwrap();
    assert_eq!(
        before["metadata"]["generation"],
        after["metadata"]["generation"]
    );
    let patch = r#"{"spec":{"paused":false}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    wait_for("the change to be made", SOON, async || {
        let origin = installation
            .get(APPS, "statefulsets", "live-origin")
            .await?;
        (origin["spec"]["replicas"] == 2).then_some(())
    })
    .await;
    installation.assert_nothing_was_forbidden();
}

#[tokio::test]
async fn without_its_definitions_the_operator_says_what_to_do() {
    let plane = ControlPlane::start("operator-definitions").await;
    let refused = async |name: &str| {
        let mut command = command(headwater());
        command
            .args([
                "operator",
                "--log-format",
                "text",
                "--watch-namespace",
                "default",
            ])
            .args(["--admin-listen", "127.0.0.1:0"])
            .env("KUBECONFIG", plane.kubeconfig());
        let mut process = Process::spawn(name, &mut command, plane.directory());
        let status = process.exit(SOON).await;
        assert_eq!(status.code(), Some(1), "{}", process.log());
        process.log()
    };
    let log = refused("missing").await;
    assert!(log.contains("is not installed"), "{log}");
    assert!(
        log.contains("headwater crds | kubectl apply --server-side -f -"),
        "{log}"
    );
    let definitions = kube::run(Command::new(headwater()).arg("crds")).await;
    let before = "headwater.dev/crd-revision: \"";
    let (_, rest) = definitions.split_once(before).unwrap();
    let (revision, _) = rest.split_once('"').unwrap();
    let old = definitions.replace(&format!("{before}{revision}"), &format!("{before}0"));
    assert_ne!(old, definitions);
    plane.apply(&old).await;
    let log = refused("old").await;
    let told = format!("has revision 0, and {revision} is needed");
    assert!(log.contains(&told), "{log}");
}

#[tokio::test]
async fn one_operator_acts_and_the_next_takes_over() {
    let mut installation = Installation::start(QUICK).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let second = installation.start_operator().await;
    let leader = installation.leader().await.unwrap();
    installation.operators[0].process.signal("TERM");
    let status = installation.operators[0].process.exit(SOON).await;
    assert!(
        status.success(),
        "{status}: {}",
        installation.operators[0].process.log()
    );
    // Given back: nobody waits for its end.
    wait_for("the next leader", SOON, async || {
        let now = installation.leader().await?;
        (now != leader).then_some(())
    })
    .await;
    installation.kubectl(&["delete", "service/live-edge"]).await;
    wait_for("the next one to act", SOON, async || {
        installation.get(CORE, "services", "live-edge").await
    })
    .await;
    // Killed: the third waits for the Lease to end.
    let third = installation.start_operator().await;
    installation.operators[second].process.kill();
    installation.kubectl(&["delete", "service/live-edge"]).await;
    wait_for("the third one to act", SOON, async || {
        installation.get(CORE, "services", "live-edge").await
    })
    .await;
    assert!(installation.operators[third].process.ended().is_none());
    installation.assert_nothing_was_forbidden();
}
