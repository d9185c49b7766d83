//! The control plane itself: what the other tests here rely on.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tests::{
    kube::{
        ControlPlane, PodSecurity, client,
        kubelets::{self, FakeKubelets, Life},
        run,
    },
    wait::wait_for,
};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
/// Enough for what the operator is tested with.
const PODS: i32 = 300;

const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: weirs.test.headwater.dev}
spec:
  group: test.headwater.dev
  names: {kind: Weir, plural: weirs, singular: weir}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {gates: {type: integer, minimum: 1}, height: {type: integer}}
";

#[tokio::test]
async fn the_server_keeps_fields_for_who_applied_them() {
    let plane = ControlPlane::shared().await;
    plane.namespace("fields", PodSecurity::Restricted).await;
    plane.apply(CRD).await;
    let kind = GroupVersionKind::gvk("test.headwater.dev", "v1", "Weir");
    let resource = ApiResource::from_gvk_with_plural(&kind, "weirs");
    let client = plane.client().await;
    let weirs: Api<DynamicObject> = Api::namespaced_with(client, "fields", &resource);
    let apply = async |manager: &str, spec: serde_json::Value| {
        let weir = json!({
            "apiVersion": "test.headwater.dev/v1",
            "kind": "Weir",
            "metadata": { "name": "lower" },
            "spec": spec,
        });
        let params = PatchParams::apply(manager);
        weirs.patch("lower", &params, &Patch::Apply(weir)).await
    };

    // The server serves a new kind a moment after it took its definition.
    wait_for("the kind to be served", PATIENCE, async || {
        apply("builder", json!({ "gates": 2 })).await.ok()
    })
    .await;
    let both = apply("surveyor", json!({ "height": 3 })).await.unwrap();
    assert_eq!(both.data["spec"], json!({ "gates": 2, "height": 3 }));

    let conflict = apply("surveyor", json!({ "gates": 4 })).await;
    assert_eq!(code(conflict), 409, "gates are the builder's");
    let invalid = apply("builder", json!({ "gates": 0 })).await;
    assert_eq!(code(invalid), 422, "the definition wants a gate");
    let kept = weirs.get("lower").await.unwrap();
    assert_eq!(kept.data["spec"], json!({ "gates": 2, "height": 3 }));
}

#[tokio::test]
async fn a_restricted_namespace_refuses_a_pod_that_may_do_too_much() {
    let plane = ControlPlane::shared().await;
    plane.namespace("strict", PodSecurity::Restricted).await;
    plane.namespace("lax", PodSecurity::Privileged).await;
    let client = plane.client().await;
    for (namespace, privileged, allowed) in [
        ("strict", false, true),
        ("strict", true, false),
        ("lax", true, true),
    ] {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": format!("privileged-{privileged}") },
            "spec": pod_spec(),
        });
        if privileged {
            pod["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
        }
        let pod = serde_json::from_value(pod).unwrap();
        let created = pods.create(&Default::default(), &pod).await;
        match created {
            Ok(_) => assert!(allowed, "{namespace} took privileged: {privileged}"),
            Err(_) => {
                assert!(!allowed, "{created:?}");
                assert_eq!(code(created), 403);
            }
        }
    }
}

#[tokio::test]
async fn hundreds_of_pods_become_ready_and_go() {
    let plane = ControlPlane::shared().await;
    plane.namespace("many", PodSecurity::Restricted).await;
    let ready_after = Duration::from_millis(500);
    let _kubelets = FakeKubelets::start(plane, "many", move |_| Life {
        ready_after: Some(ready_after),
        ..Life::default()
    })
    .await;
    let client = plane.client().await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "many");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "many");

    let start = Instant::now();
    deployment(&deployments, PODS).await;
    wait_for("every pod to be ready", PATIENCE, async || {
        let status = deployments.get_status("web").await.unwrap().status?;
        (status.available_replicas == Some(PODS)).then_some(())
    })
    .await;
    println!("{PODS} pods were ready after {:?}", start.elapsed());
    assert!(start.elapsed() >= ready_after, "the delay was kept");

    let listed = pods.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(listed.len(), usize::try_from(PODS).unwrap());
    let nodes: Api<Node> = Api::all(client);
    for node in nodes.list(&ListParams::default()).await.unwrap() {
        let name = node.name_any();
        let on_node = |pod: &&Pod| pod.spec.as_ref().unwrap().node_name.as_ref() == Some(&name);
        assert_eq!(listed.iter().filter(on_node).count(), 100, "{name}");
    }

    let start = Instant::now();
    deployments
        .delete("web", &kube::api::DeleteParams::background())
        .await
        .unwrap();
    wait_for("every pod to be gone", PATIENCE, async || {
        let left = pods.list(&ListParams::default()).await.unwrap().items;
        left.is_empty().then_some(())
    })
    .await;
    println!("{PODS} pods were gone after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_pod_that_never_becomes_ready_holds_a_rollout_up() {
    let plane = ControlPlane::shared().await;
    plane.namespace("stuck", PodSecurity::Restricted).await;
    let _kubelets = FakeKubelets::start(plane, "stuck", |pod| {
        let broken = pod.annotations().contains_key("broken");
        Life {
            ready_after: (!broken).then_some(Duration::ZERO),
            ..Life::default()
        }
    })
    .await;
    let deployments: Api<Deployment> = Api::namespaced(plane.client().await, "stuck");
    deployment(&deployments, 4).await;
    wait_for("the first revision", PATIENCE, async || {
        let status = deployments.get_status("web").await.unwrap().status?;
        (status.available_replicas == Some(4)).then_some(())
    })
    .await;

    let broken =
        json!({ "spec": { "template": { "metadata": { "annotations": { "broken": "" } } } } });
    deployments
        .patch("web", &PatchParams::default(), &Patch::Merge(broken))
        .await
        .unwrap();
    wait_for("a pod of the second revision", PATIENCE, async || {
        let status = deployments.get_status("web").await.unwrap().status?;
        (status.updated_replicas >= Some(1) && status.unavailable_replicas >= Some(1)).then_some(())
    })
    .await;
    let status = deployments.get_status("web").await.unwrap().status.unwrap();
    assert!(status.available_replicas >= Some(3), "{status:?}");
}

#[tokio::test]
async fn a_service_account_may_do_what_its_role_says_and_the_audit_log_tells() {
    let plane = ControlPlane::shared().await;
    plane.namespace("accounts", PodSecurity::Restricted).await;
    let kubeconfig = plane.service_account_kubeconfig("accounts", "reader").await;
    plane
        .apply(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: accounts}
rules: [{apiGroups: [''], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: accounts}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: accounts}]
",
        )
        .await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&kubeconfig).await, "accounts");
    wait_for("the role to hold", PATIENCE, async || {
        maps.list(&ListParams::default()).await.ok()
    })
    .await;
    let denied = maps.delete("kube-root-ca.crt", &Default::default()).await;
    assert_eq!(code(denied), 403);

    let entry = wait_for("the audit log to tell", PATIENCE, async || {
        let log = plane.audit();
        log.into_iter().find(|request| {
            request.user == "system:serviceaccount:accounts:reader" && request.is_write()
        })
    })
    .await;
    assert_eq!((entry.verb.as_str(), entry.code), ("delete", 403));
    assert_eq!(entry.resource, "configmaps");
    assert_eq!(entry.namespace, "accounts");
    assert_eq!(entry.name, "kube-root-ca.crt");
}

#[tokio::test]
async fn helm_installs_a_chart_and_waits_for_its_pods() {
    let plane = ControlPlane::shared().await;
    plane.namespace("charts", PodSecurity::Restricted).await;
    let _kubelets = FakeKubelets::start(plane, "charts", |_| Life::default()).await;
    let chart = tempfile::tempdir().unwrap();
    let templates = chart.path().join("templates");
    std::fs::create_dir(&templates).unwrap();
    let about = "{apiVersion: v2, name: web, version: 1.0.0}";
    std::fs::write(chart.path().join("Chart.yaml"), about).unwrap();
    // JSON is YAML.
    let web = deployment_object(2).to_string();
    std::fs::write(templates.join("web.yaml"), web).unwrap();

    let start = Instant::now();
    let mut helm = plane.helm();
    helm.args(["install", "web"]).arg(chart.path()).args([
        "--namespace",
        "charts",
        "--wait",
        "--timeout",
        "60s",
    ]);
    run(&mut helm).await;
    println!("helm install --wait took {:?}", start.elapsed());
    let mut kubectl = plane.kubectl();
    kubectl.args(["--namespace", "charts", "get", "deployment", "web"]);
    kubectl.args(["--output", "jsonpath={.status.readyReplicas}"]);
    assert_eq!(run(&mut kubectl).await, "2");
}

#[tokio::test]
async fn what_was_stored_outlives_a_crash_of_the_api_server() {
    let mut plane = ControlPlane::start("api-server-crash").await;
    let maps: Api<ConfigMap> = Api::namespaced(plane.client().await, "default");
    let stored: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "stored" },
        "data": { "key": "value" },
    }))
    .unwrap();
    maps.create(&Default::default(), &stored).await.unwrap();
    plane.kill_api_server();
    maps.get("stored").await.unwrap_err();
    let start = Instant::now();
    plane.start_api_server().await;
    println!("the API server was back after {:?}", start.elapsed());
    assert_eq!(maps.get("stored").await.unwrap().data, stored.data);
    let users = plane.audit().into_iter().map(|request| request.user);
    assert!(users.into_iter().any(|user| user == "admin"));
    assert!(
        !plane
            .audit()
            .iter()
            .any(|entry| entry.user == kubelets::USER)
    );
}

async fn deployment(deployments: &Api<Deployment>, replicas: i32) {
    let deployment = serde_json::from_value(deployment_object(replicas)).unwrap();
    deployments
        .create(&Default::default(), &deployment)
        .await
        .unwrap();
}

fn deployment_object(replicas: i32) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": pod_spec() },
        },
    })
}

/// A pod that a restricted namespace takes.
fn pod_spec() -> serde_json::Value {
    json!({
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{
            "name": "web",
            "image": "web:1",
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
            },
        }],
    })
}

/// The HTTP status of a refusal.
fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("refused by the server, not {other:?}"),
    }
}
