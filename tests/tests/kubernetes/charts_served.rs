//! The charts on a real API server: what it takes, what it refuses, and what upgrades change. The CRDs are everybody's,
//! so these tests have a control plane of their own, without controllers: what is installed is looked at, not run.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tests::{
    charts::{Helm, directory, objects, presets, values},
    kube::{ControlPlane, PodSecurity, run},
    wait::wait_for,
};
use tokio::io::AsyncWriteExt as _;

const PATIENCE: Duration = Duration::from_secs(20);
const CLUSTERS: &str = "crd/ingestclusters.headwater.dev";
/// The annotation that tells one version of a CRD from another.
const REVISION: &str = "headwater.dev/crd-revision";

#[tokio::test]
async fn the_charts_install_upgrade_and_uninstall() {
    let server = Server::start().await;
    for helm in Helm::ALL {
        server.crds_are_upgraded_and_kept(helm).await;
    }
    server.the_operator_is_installed_with_everything().await;
    server.every_values_file_is_accepted().await;
    server.pods_meet_pod_security().await;
    for helm in Helm::ALL {
        server.clusters_are_scaled(helm).await;
    }
    server.what_the_server_refuses_is_told().await;
    server.policies_ask_for_a_confirmation().await;
    server.everything_but_the_crds_goes().await;
}

struct Server {
    plane: ControlPlane,
    directory: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let plane = ControlPlane::start("charts").await;
        for namespace in ["system", "live", "other"] {
            plane.namespace(namespace, PodSecurity::Restricted).await;
            // The controller manager's work elsewhere.
            let mut account = plane.kubectl();
            account.args([
                "create",
                "serviceaccount",
                "default",
                "--namespace",
                namespace,
            ]);
            run(&mut account).await;
        }
        Self {
            plane,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    async fn crds_are_upgraded_and_kept(&self, helm: Helm) {
        let older = self.older_crds();
        self.helm(helm, &["install", "crds", &older, "--namespace=system"])
            .await
            .unwrap();
        assert_eq!(self.revision_and_logging().await, (json!("0"), false));
        let newer = directory("headwater-crds").to_string_lossy().into_owned();
        self.helm(helm, &["upgrade", "crds", &newer, "--namespace=system"])
            .await
            .unwrap();
        assert_eq!(self.revision_and_logging().await, (crd_revision(), true));
        self.helm(helm, &["uninstall", "crds", "--namespace=system"])
            .await
            .unwrap();
        assert_eq!(
            self.revision_and_logging().await,
            (crd_revision(), true),
            "with a CRD goes every object of its kind"
        );
        // A later release of the same name has them again; the operator's, of another name, must be able to.
        self.kubectl(&["delete", CLUSTERS, "crd/ingestapplications.headwater.dev"])
            .await
            .unwrap();
    }

    /// The chart as a version before this one would have been.
    fn older_crds(&self) -> String {
        let chart = self.directory.path().join("older");
        copy(&directory("headwater-crds"), &chart);
        let file = chart.join("files/ingestclusters.yaml");
        let mut crd = crd(&file);
        crd["metadata"]["annotations"][REVISION] = json!("0");
        let spec =
            &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["properties"]
            .as_object_mut()
            .unwrap()
            .remove("logging")
            .unwrap();
        fs::write(&file, crd.to_string()).unwrap();
        chart.to_string_lossy().into_owned()
    }

    /// What of the CRD tells its versions apart.
    async fn revision_and_logging(&self) -> (Value, bool) {
        let crd = self.get("default", CLUSTERS).await;
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let revision = &crd["metadata"]["annotations"][REVISION];
        (
            revision.clone(),
            spec["properties"].get("logging").is_some(),
        )
    }

    async fn the_operator_is_installed_with_everything(&self) {
        self.plane.apply(MONITORING).await;
        let chart = directory("headwater-operator")
            .to_string_lossy()
            .into_owned();
        let set = "--set=admissionPolicies.enabled=true,watchNamespaces={live,other},monitoring.podMonitor.enabled=true,\
             monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true";
        let install = [
            "install",
            "headwater-operator",
            &chart,
            "--namespace=system",
            set,
        ];
        self.helm(Helm::V4, &install).await.unwrap();
        self.may("patch ingestclusters --subresource=status", "live", true)
            .await;
        self.may("create secrets", "other", true).await;
        self.may(&format!("get {CLUSTERS}"), "default", true).await;
        // Not even in its own: it was told of others.
        self.may("list secrets", "system", false).await;
        self.may("get secrets", "default", false).await;
        self.may("list crd", "default", false).await;
        let upgrade = [
            "upgrade",
            "headwater-operator",
            &chart,
            "--namespace=system",
            "--reuse-values",
        ];
        for all in [true, false] {
            let set = format!("--set=watchAllNamespaces={all}");
            self.helm(Helm::V4, &[&upgrade[..], &[&set]].concat())
                .await
                .unwrap();
            self.may("create secrets", "default", all).await;
        }
    }

    /// What the operator may do in a namespace. The API server takes a moment to learn of it.
    async fn may(&self, what: &str, namespace: &str, expected: bool) {
        let account = "system:serviceaccount:system:headwater-operator";
        let what: Vec<&str> = what.split(' ').collect();
        let asked = ["auth", "can-i", "--as", account, "--namespace", namespace];
        let asked = [&asked[..], &what].concat();
        let told = format!("{what:?} in {namespace} to be {expected}");
        wait_for(&told, PATIENCE, async || {
            (self.kubectl(&asked).await.is_ok() == expected).then_some(())
        })
        .await;
    }

    /// No field that the server does not know, none that it refuses.
    async fn every_values_file_is_accepted(&self) {
        let presets = presets();
        let behind = presets
            .iter()
            .map(|preset| vec!["production", preset.as_str()]);
        for files in behind.chain([vec!["quickstart"], vec!["production"]]) {
            for helm in Helm::ALL {
                let arguments = values(&files);
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let rendered = helm.template("headwater", &arguments).await.unwrap();
                let apply = [
                    "apply",
                    "--server-side",
                    "--dry-run=server",
                    "--validate=strict",
                    "--filename=-",
                ];
                self.kubectl_with(&apply, &rendered)
                    .await
                    .unwrap_or_else(|error| panic!("{files:?}: {error}"));
            }
        }
    }

    /// The server only warns of a Deployment's pods: so they are made as pods.
    async fn pods_meet_pod_security(&self) {
        let quickstart = values(&["quickstart"]);
        let cluster = Helm::V4
            .template("headwater", &[&quickstart[0]])
            .await
            .unwrap();
        let operator = Helm::V4.template("headwater-operator", &[]).await.unwrap();
        let mut pods = 0;
        for object in objects(&cluster).into_iter().chain(objects(&operator)) {
            let spec = if object["kind"] == "Pod" {
                &object["spec"]
            } else if object["kind"] == "Deployment" {
                &object["spec"]["template"]["spec"]
            } else {
                continue;
            };
            let mut spec = spec.clone();
            spec["serviceAccountName"] = json!("default");
            let metadata = json!({"name": format!("pod-{pods}"), "namespace": "live"});
            let pod =
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            let create = ["create", "--dry-run=server", "--filename=-"];
            self.kubectl_with(&create, &pod.to_string()).await.unwrap();
            pods += 1;
        }
        assert_eq!(pods, 3, "Valkey, the test and the operator");
    }

    async fn clusters_are_scaled(&self, helm: Helm) {
        let name = if helm == Helm::V3 {
            "three-headwater"
        } else {
            "four-headwater"
        };
        let release = name.trim_end_matches("-headwater");
        let cluster = format!("ingestcluster/{name}");
        self.cluster(helm, "install", release, &[]).await.unwrap();
        self.cluster(helm, "upgrade", release, &["--set=edge.replicas=8"])
            .await
            .unwrap();
        let edges = async || self.get("live", &cluster).await["spec"]["edge"]["replicas"].clone();
        assert_eq!(edges().await, 8);
        self.kubectl(&["scale", &cluster, "--replicas=5", "--namespace=live"])
            .await
            .unwrap();
        assert_eq!(edges().await, 5);
        // Helm 4 applies on the server's side, and the field is somebody else's now: it says so, and can be told.
        let again = self
            .cluster(helm, "upgrade", release, &["--set=edge.replicas=6"])
            .await;
        if helm == Helm::V4 {
            let error = again.unwrap_err();
            assert!(error.contains(".spec.edge.replicas"), "{error}");
            let forced = ["--set=edge.replicas=6", "--force-conflicts"];
            self.cluster(helm, "upgrade", release, &forced)
                .await
                .unwrap();
        }
        assert_eq!(edges().await, 6);
        self.autoscaled(helm, release, &cluster).await;
    }

    /// With autoscaling on, the number is the autoscaler's, whatever else changes.
    async fn autoscaled(&self, helm: Helm, release: &str, cluster: &str) {
        self.cluster(
            helm,
            "upgrade",
            release,
            &["--set=edge.autoscaling.enabled=true"],
        )
        .await
        .unwrap();
        // The first is the operator's: an autoscaler cannot scale what has no number.
        for (number, further) in [(2, None), (4, Some("--subresource=scale"))] {
            let number = match further {
                None => json!({"spec": {"edge": {"replicas": number}}}),
                Some(_) => json!({"spec": {"replicas": number}}),
            };
            let number = number.to_string();
            let mut patch = vec!["patch", cluster, "--namespace=live", "--type=merge"];
            patch.extend(["--field-manager=autoscaler", "--patch", &number]);
            patch.extend(further);
            self.kubectl(&patch).await.unwrap();
        }
        let further = ["--set=edge.autoscaling.enabled=true,logging.filter=debug"];
        self.cluster(helm, "upgrade", release, &further)
            .await
            .unwrap();
        let edges = self.get("live", cluster).await["spec"]["edge"]["replicas"].clone();
        assert_eq!(edges, 4);
        // An application that is no longer in the values is no longer published to.
        self.cluster(
            helm,
            "upgrade",
            release,
            &["--set=edge.autoscaling.enabled=true,applications={studio}"],
        )
        .await
        .unwrap();
        let left = self
            .kubectl(&[
                "get",
                "iapp",
                "--namespace=live",
                "--output=name",
                "--selector",
                &format!("app.kubernetes.io/instance={release}"),
            ])
            .await
            .unwrap();
        assert_eq!(
            left.trim(),
            format!("ingestapplication.headwater.dev/{release}-headwater-studio")
        );
    }

    async fn what_the_server_refuses_is_told(&self) {
        let set = ["--set=edge.service.proxyProtocol=true"];
        let error = self
            .cluster(Helm::V4, "install", "wrong", &set)
            .await
            .unwrap_err();
        assert!(
            error.contains("edge.service.proxyProtocol needs trustedCidrs"),
            "{error}"
        );
        self.helm(Helm::V4, &["uninstall", "wrong", "--namespace=live"])
            .await
            .ok();
    }

    async fn policies_ask_for_a_confirmation(&self) {
        let cluster = "ingestcluster/three-headwater";
        let patch = async |patch: Value, further: &[&str]| {
            let patch = patch.to_string();
            let arguments = [
                "patch",
                cluster,
                "--namespace=live",
                "--type=merge",
                "--patch",
                &patch,
            ];
            self.kubectl(&[&arguments[..], further].concat()).await
        };
        let status = json!({"status": {"sessions": {"publishing": 7}}});
        patch(status, &["--subresource=status"]).await.unwrap();
        patch(json!({"spec": {"version": "0.10.0"}}), &[])
            .await
            .unwrap();
        let postgres =
            json!({"url": "postgres://a@b/c", "passwordSecretRef": {"name": "a", "key": "b"}});
        for (spec, annotation) in [
            (json!({"origin": {"replicas": 1}}), "confirm-shrink"),
            (json!({"control": {"replicas": 0}}), "confirm-outage"),
            (json!({"version": "0.9.9-rc.1"}), "confirm-downgrade"),
            (
                json!({"control": {"database": {"sqlite": null, "postgres": postgres}}}),
                "confirm-database-change",
            ),
        ] {
            let error = patch(json!({"spec": spec}), &[]).await.unwrap_err();
            assert!(
                error.contains(&format!("headwater.dev/{annotation}=true")),
                "{error}"
            );
            let annotations = json!({format!("headwater.dev/{annotation}"): "true"});
            patch(
                json!({"metadata": {"annotations": annotations}, "spec": spec}),
                &[],
            )
            .await
            .unwrap();
        }
        patch(json!({"spec": {"version": "0.9.10"}}), &[])
            .await
            .unwrap();

        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {
                "name": "three-headwater-pepper", "namespace": "live",
                "labels": {"app.kubernetes.io/managed-by": "headwater-operator"},
            },
        });
        self.plane.apply(&secret.to_string()).await;
        let delete = [
            "delete",
            "secret",
            "three-headwater-pepper",
            "--namespace=live",
        ];
        let error = self.kubectl(&delete).await.unwrap_err();
        assert!(
            error.contains("headwater.dev/confirm-delete=true"),
            "{error}"
        );
        let account = "--as=system:serviceaccount:system:headwater-operator";
        self.kubectl(&[&delete[..], &[account]].concat())
            .await
            .unwrap();
    }

    async fn everything_but_the_crds_goes(&self) {
        for (release, namespace) in [
            ("three", "live"),
            ("four", "live"),
            ("headwater-operator", "system"),
        ] {
            let uninstall = ["uninstall", release, &format!("--namespace={namespace}")];
            self.helm(Helm::V4, &uninstall).await.unwrap();
        }
        let kinds = "deployments,services,configmaps,ingestclusters,ingestapplications,networkpolicies,poddisruptionbudgets,\
             roles,rolebindings,clusterroles,clusterrolebindings,validatingadmissionpolicies,podmonitors,prometheusrules";
        let selector = "--selector=app.kubernetes.io/part-of=headwater";
        let left = self
            .kubectl(&["get", kinds, "--all-namespaces", selector, "--output=name"])
            .await
            .unwrap();
        assert_eq!(left.trim(), "");
        assert_eq!(self.revision_and_logging().await, (crd_revision(), true));
    }

    /// The quick start, as release `release` in the namespace `live`.
    async fn cluster(
        &self,
        helm: Helm,
        verb: &str,
        release: &str,
        further: &[&str],
    ) -> Result<String, String> {
        let chart = directory("headwater").to_string_lossy().into_owned();
        let quickstart = values(&["quickstart"]);
        let common = [verb, release, &chart, "--namespace=live", &quickstart[0]];
        self.helm(helm, &[&common[..], further].concat()).await
    }

    async fn helm(&self, helm: Helm, arguments: &[&str]) -> Result<String, String> {
        let mut command = helm.command(Some(self.plane.kubeconfig()));
        outcome(command.args(arguments).output().await.unwrap())
    }

    async fn get(&self, namespace: &str, what: &str) -> Value {
        let get = ["get", what, "--namespace", namespace, "--output=json"];
        serde_json::from_str(&self.kubectl(&get).await.unwrap()).unwrap()
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.kubectl_with(arguments, "").await
    }

    async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.plane.kubectl();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        outcome(process.wait_with_output().await.unwrap())
    }
}

fn outcome(output: std::process::Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Of the chart as it is.
fn crd_revision() -> Value {
    let file = directory("headwater-crds").join("files/ingestclusters.yaml");
    crd(&file)["metadata"]["annotations"][REVISION].clone()
}

fn crd(file: &Path) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The Prometheus operator's kinds, as far as the chart's objects need them to exist.
const MONITORING: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PodMonitor, plural: podmonitors, singular: podmonitor}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PrometheusRule, plural: prometheusrules, singular: prometheusrule}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
";
