//! What the operator may do, and that it does all of it: nothing is granted for the case that.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tests::{
    charts::objects,
    kube::{ControlPlane, PodSecurity},
    wait::wait_for,
};

use crate::operator_harness::{CLUSTER, Installation, Plane, SOON, roles};

/// API group, resource (with its subresource), verb.
type Right = (String, String, String);

/// Never asked for, and yet needed: who sets an owner reference that blocks the owner's deletion must be allowed this,
/// where the admission plugin OwnerReferencesPermissionEnforcement is on. See below.
const UNSEEN: (&str, &str, &str) = ("headwater.dev", "ingestclusters/finalizers", "update");

const CORE: &str = "api/v1";
const SCALING: &str = "apis/autoscaling/v2";
const ISSUERS: &str = "apis/cert-manager.io/v1";
const MONITORS: &str = "apis/monitoring.coreos.com/v1";

/// What an older version made and this one does not.
const LEFT_OVER: [(&str, &str, &str, &str); 5] = [
    (
        CORE,
        "services",
        "v1",
        "kind: Service\nspec:\n  ports:\n  - port: 1\n",
    ),
    (CORE, "serviceaccounts", "v1", "kind: ServiceAccount\n"),
    (
        "apis/apps/v1",
        "statefulsets",
        "apps/v1",
        "kind: StatefulSet\nspec:\n  replicas: 0\n  serviceName: old\n  selector:\n    matchLabels:\n      old: old\n  \
         template:\n    metadata:\n      labels:\n        old: old\n    spec:\n      containers:\n      - name: old\n        \
         image: old\n",
    ),
    (
        "apis/networking.k8s.io/v1",
        "networkpolicies",
        "networking.k8s.io/v1",
        "kind: NetworkPolicy\nspec:\n  podSelector: {}\n",
    ),
    (
        "apis/policy/v1",
        "poddisruptionbudgets",
        "policy/v1",
        "kind: PodDisruptionBudget\nspec:\n  maxUnavailable: 1\n",
    ),
];

/// One of each kind that is applied, and its group.
const APPLIED: [(&str, &str, &str); 10] = [
    (CORE, "services", "live-edge"),
    (CORE, "serviceaccounts", "live-edge"),
    (CORE, "configmaps", "live-live"),
    (CORE, "persistentvolumeclaims", "live-control-data"),
    ("apis/apps/v1", "deployments", "live-control"),
    ("apis/apps/v1", "statefulsets", "live-origin"),
    ("apis/networking.k8s.io/v1", "networkpolicies", "live-edge"),
    ("apis/policy/v1", "poddisruptionbudgets", "live-origin"),
    (SCALING, "horizontalpodautoscalers", "live-edge"),
    (MONITORS, "podmonitors", "live-edge"),
];

#[tokio::test]
async fn every_right_of_the_chart_is_used_and_no_other_is_missed() {
    let plane = Plane::owned("operator-rights").await;
    plane.define_others().await;
    let mut installation = Installation::prepare(plane, Duration::from_millis(200)).await;
    installation.start_operator().await;
    installation.apply(CLUSTER).await;
    installation.settled().await;

    replaced(&installation).await;
    let autoscaled = r#"{"spec":{"edge":{"autoscaling":{"minReplicas":2,"maxReplicas":3},
        "podTemplate":{"resources":{"requests":{"cpu":"100m"}}}}}}"#;
    patch(&installation, autoscaled).await;
    appears(
        &installation,
        (SCALING, "horizontalpodautoscalers", "live-edge"),
        true,
    )
    .await;
    for object in APPLIED {
        repaired(&installation, object).await;
    }
    leftovers_go(&installation).await;
    issued_and_not(&installation).await;
    patch(
        &installation,
        r#"{"spec":{"edge":{"autoscaling":null},"observability":{"podMonitors":"Disabled"}}}"#,
    )
    .await;
    appears(
        &installation,
        (SCALING, "horizontalpodautoscalers", "live-edge"),
        false,
    )
    .await;
    appears(&installation, (MONITORS, "podmonitors", "live-edge"), false).await;
    installation
        .kubectl(&[
            "annotate",
            "secret/live-api-token",
            "headwater.dev/rotate=1",
        ])
        .await;
    scaled_twice(&installation).await;
    deleted_with_everything(&installation).await;

    installation.assert_nothing_was_forbidden();
    let granted = granted(&objects(&roles(&installation.namespace).await));
    let used = used(&installation);
    let (group, resource, verb) = UNSEEN;
    let unseen = (group.to_owned(), resource.to_owned(), verb.to_owned());
    let unused: Vec<&Right> = granted.difference(&used).collect();
    println!("{} rights, all but {unused:?} seen in use", granted.len());
    assert_eq!(unused, [&unseen]);
}

/// Another revision, and the old one's configuration goes.
async fn replaced(installation: &Installation) {
    patch(
        installation,
        r#"{"spec":{"edge":{"drain":{"timeoutSeconds":77}}}}"#,
    )
    .await;
    wait_for("the old configuration to go", SOON, async || {
        let gone = installation.requests().any(|request| {
            request.verb == "delete" && request.resource == "configmaps" && request.code == 200
        });
        gone.then_some(())
    })
    .await;
    installation.settled().await;
}

/// As somebody's change of an object is.
async fn repaired(installation: &Installation, (group, plural, name): (&str, &str, &str)) {
    let key = "headwater.dev/applied";
    let object = format!("{plural}/{name}");
    let changed = format!("{key}=changed");
    installation
        .kubectl(&["annotate", "--overwrite", &object, &changed])
        .await;
    wait_for(&format!("{object} to be put right"), SOON, async || {
        let object = installation.get(group, plural, name).await?;
        (object["metadata"]["annotations"][key] != "changed").then_some(())
    })
    .await;
}

async fn leftovers_go(installation: &Installation) {
    let cluster = installation.cluster().await.unwrap();
    let uid = cluster["metadata"]["uid"].as_str().unwrap();
    for (group, plural, version, rest) in LEFT_OVER {
        let object = format!(
            "apiVersion: {version}\nmetadata:\n  name: old\n  labels:\n    headwater.dev/cluster: live\n  \
             ownerReferences:\n  - apiVersion: headwater.dev/v1alpha1\n    kind: IngestCluster\n    name: live\n    \
             uid: {uid}\n{rest}"
        );
        // Once: the template's own metadata has no namespace.
        let namespaced = format!("metadata:\n  namespace: {}", installation.namespace);
        let object = object.replacen("metadata:", &namespaced, 1);
        installation.plane.apply(&object).await;
        appears(installation, (group, plural, "old"), false).await;
    }
}

async fn issued_and_not(installation: &Installation) {
    let certificate = (ISSUERS, "certificates", "live-edge-tls");
    patch(
        installation,
        r#"{"spec":{"tls":{"selfSigned":null,"issuerRef":{"name":"nobody"},"dnsNames":["live.example.com"]}}}"#,
    )
    .await;
    appears(installation, certificate, true).await;
    repaired(installation, certificate).await;
    patch(
        installation,
        r#"{"spec":{"tls":{"selfSigned":{},"issuerRef":null}}}"#,
    )
    .await;
    appears(installation, certificate, false).await;
}

/// What happens again is counted by the event that is there.
async fn scaled_twice(installation: &Installation) {
    for replicas in ["3", "2", "3"] {
        let argument = format!("--replicas={replicas}");
        installation
            .kubectl(&["scale", "igc/live", &argument])
            .await;
        wait_for("the edges to follow", SOON, async || {
            let arguments = ["get", "igc/live", "-o", "jsonpath={.status.edge.replicas}"];
            (installation.kubectl(&arguments).await == replicas).then_some(())
        })
        .await;
    }
}

async fn deleted_with_everything(installation: &Installation) {
    patch(installation, r#"{"spec":{"deletionPolicy":"DeleteAll"}}"#).await;
    installation.passed(0).await;
    installation
        .kubectl(&["delete", "igc/live", "--wait=false"])
        .await;
    wait_for("the cluster to go", SOON, async || {
        installation.cluster().await.is_none().then_some(())
    })
    .await;
}

async fn patch(installation: &Installation, patch: &str) {
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
}

async fn appears(
    installation: &Installation,
    (group, plural, name): (&str, &str, &str),
    there: bool,
) {
    let what = format!("{plural}/{name} to be there: {there}");
    wait_for(&what, SOON, async || {
        let object = installation.get(group, plural, name).await;
        (object.is_some() == there).then_some(())
    })
    .await;
}

fn granted(roles: &[Value]) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().unwrap().iter();
        all.map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for role in roles {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let verbs = texts(&rule["verbs"]).into_iter();
                    rights.extend(verbs.map(|verb| (group.clone(), resource.clone(), verb)));
                }
            }
        }
    }
    rights
}

fn used(installation: &Installation) -> BTreeSet<Right> {
    let answered = installation.requests().filter(|request| request.code < 300);
    answered
        .flat_map(|request| {
            let resource = match request.subresource.as_str() {
                "" => request.resource,
                subresource => format!("{}/{subresource}", request.resource),
            };
            // Applied, and not there before: both rights are asked for.
            let made = request.verb == "patch" && request.code == 201;
            let right = |verb: &str| (request.group.clone(), resource.clone(), verb.to_owned());
            [Some(right(&request.verb)), made.then(|| right("create"))]
        })
        .flatten()
        .collect()
}

/// The two rights that no request shows.
#[tokio::test]
async fn applying_what_is_not_there_needs_create_and_owning_needs_the_finalizers() {
    let plane = ControlPlane::shared().await;
    let namespace = "rights";
    plane.namespace(namespace, PodSecurity::Restricted).await;
    let mut definitions = tokio::process::Command::new(tests::binary::headwater());
    let definitions = tests::kube::run(definitions.arg("crds")).await;
    plane.apply(&definitions).await;
    let cluster = CLUSTER.split("---").next().unwrap();
    let namespaced = format!("metadata:\n  namespace: {namespace}");
    plane
        .apply(&cluster.replace("metadata:", &namespaced))
        .await;
    let arguments = [
        "-n",
        namespace,
        "get",
        "igc/live",
        "-o",
        "jsonpath={.metadata.uid}",
    ];
    let uid = tests::kube::run(plane.kubectl().args(arguments)).await;
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\n  namespace: {namespace}\n  ownerReferences:\n  \
         - apiVersion: headwater.dev/v1alpha1\n    kind: IngestCluster\n    name: live\n    uid: {uid}\n    \
         controller: true\n    blockOwnerDeletion: true\n"
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("map.yaml");
    std::fs::write(&file, map).unwrap();
    for (verbs, finalizers, refused) in [
        ("patch", true, Some("cannot create resource")),
        (
            "patch, create",
            false,
            Some("cannot set blockOwnerDeletion"),
        ),
        ("patch, create", true, None),
    ] {
        let group = if finalizers {
            "headwater.dev"
        } else {
            "nobody.headwater.dev"
        };
        plane
            .apply(&format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: some\n  namespace: {namespace}\n\
                 rules:\n- apiGroups: [\"\"]\n  resources: [configmaps]\n  verbs: [{verbs}]\n- apiGroups: [{group}]\n  \
                 resources: [ingestclusters/finalizers]\n  verbs: [update]\n---\napiVersion: rbac.authorization.k8s.io/v1\n\
                 kind: RoleBinding\nmetadata:\n  name: some\n  namespace: {namespace}\nroleRef:\n  apiGroup: \
                 rbac.authorization.k8s.io\n  kind: Role\n  name: some\nsubjects:\n- kind: User\n  name: somebody\n"
            ))
            .await;
        // The API server takes a moment to know new roles.
        wait_for(&format!("{refused:?}"), SOON, async || {
            let mut command = plane.kubectl();
            command
                .args(["--as=somebody", "--as-group=system:authenticated"])
                .args(["apply", "--server-side", "--validate=false", "--filename"]);
            let output = command.arg(&file).output().await.unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            match refused {
                None => output.status.success().then_some(()),
                Some(part) => {
                    assert!(!output.status.success(), "made with {verbs}, {finalizers}");
                    told.contains(part).then_some(())
                }
            }
        })
        .await;
    }
}
