//! What the charts render, with either Helm and no server.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};
use tests::{
    binary,
    charts::{Helm, directory, objects, one, presets, values},
    kube::run,
};

const CHARTS: [&str; 3] = ["headwater-crds", "headwater-operator", "headwater"];

#[tokio::test]
async fn lint_has_nothing_to_say() {
    for helm in Helm::ALL {
        for chart in CHARTS {
            run(helm
                .command(None)
                .args(["lint", "--strict"])
                .arg(directory(chart)))
            .await;
        }
        let names: Vec<String> = presets();
        let behind = names
            .iter()
            .map(|preset| vec!["production", preset.as_str()]);
        for files in behind.chain([vec!["quickstart"]]) {
            let mut lint = helm.command(None);
            lint.args(["lint", "--strict"])
                .arg(directory("headwater"))
                .args(values(&files));
            run(&mut lint).await;
        }
    }
}

#[test]
fn what_is_made_from_other_files_is_up_to_date() {
    let script = directory("generate.py");
    let output = Command::new(binary::python())
        .arg(script)
        .arg("--check")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}

/// GitOps tools render again and again and compare.
#[tokio::test]
async fn a_rendering_is_the_same_every_time_and_with_either_helm() {
    let everything = [
        "--set=admissionPolicies.enabled=true,monitoring.podMonitor.enabled=true,watchNamespaces={live,other}",
        "--set=monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true",
    ];
    let quickstart = values(&["quickstart"]);
    let quickstart: Vec<&str> = quickstart.iter().map(String::as_str).collect();
    for (chart, arguments) in [
        ("headwater-operator", &everything[..]),
        ("headwater", &quickstart),
    ] {
        let first = Helm::V4.template(chart, arguments).await.unwrap();
        assert_eq!(first, Helm::V4.template(chart, arguments).await.unwrap());
        // The order of documents is each Helm's own.
        let sorted = |text: &str| {
            let mut objects: Vec<String> = objects(text).iter().map(Value::to_string).collect();
            objects.sort();
            objects
        };
        let other = Helm::V3.template(chart, arguments).await.unwrap();
        assert_eq!(sorted(&first), sorted(&other), "{chart}");
    }
}

#[tokio::test]
async fn the_number_of_edges_changes_nothing_else() {
    let files = values(&["production", "aws-nlb"]);
    let render = async |set: &str| {
        let mut arguments: Vec<&str> = files.iter().map(String::as_str).collect();
        arguments.extend(["--set", set]);
        Helm::V4.template("headwater", &arguments).await.unwrap()
    };
    let three = render("edge.replicas=3").await;
    let eight = render("edge.replicas=8").await;
    let changed: Vec<(&str, &str)> = three
        .lines()
        .zip(eight.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert_eq!(changed, [("    replicas: 3", "    replicas: 8")]);
    assert_eq!(three.lines().count(), eight.lines().count());

    // The autoscaler's number is not the chart's to write.
    let scaled = objects(&render("edge.autoscaling.enabled=true").await);
    let edge = &one(&scaled, "IngestCluster")["spec"]["edge"];
    assert!(edge["replicas"].is_null(), "{edge}");
    assert_eq!(edge["autoscaling"]["maxReplicas"], 10);
    assert!(edge["autoscaling"]["enabled"].is_null());
}

#[tokio::test]
async fn the_environment_has_each_name_once() {
    let names = |env: &Value| -> Vec<String> {
        let entries = env.as_array().unwrap().iter();
        entries
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let set = r#"extraEnv=[{"name":"HEADWATER_LOG_FILTER","value":"debug"},{"name":"OWN","value":"1"},{"name":"OWN","value":"2"}]"#;
    let rendered = Helm::V4
        .render("headwater-operator", &["--set-json", set])
        .await;
    let pod = &one(&rendered, "Deployment")["spec"]["template"]["spec"];
    let env = &pod["containers"][0]["env"];
    let listed = names(env);
    let once: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "{listed:?}");
    let value = |name: &str| {
        let entries = env.as_array().unwrap();
        entries.iter().find(|entry| entry["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(
        (value("HEADWATER_LOG_FILTER"), value("OWN")),
        (json!("debug"), json!("2"))
    );

    let set = r#"edge.podTemplate.extraEnv=[{"name":"A","value":"1"},{"name":"B","value":"$(A)"},{"name":"A","value":"2"}]"#;
    let mut arguments = values(&["quickstart"]);
    arguments.extend(["--set-json".to_owned(), set.to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rendered = Helm::V4.render("headwater", &arguments).await;
    let template = &one(&rendered, "IngestCluster")["spec"]["edge"]["podTemplate"];
    // In the order of writing: B refers to A.
    assert_eq!(
        template["extraEnv"],
        json!([{"name": "A", "value": "2"}, {"name": "B", "value": "$(A)"}])
    );
}

/// Values that make no sense, and a part of what is said of them.
const REFUSED: &[(&str, &str, &str)] = &[
    ("headwater", "edge.replica=3", "replica"),
    ("headwater", "edge.replicas=many", "replicas"),
    ("headwater", "edge.replicas=2000", "replicas"),
    ("headwater", "edge.autoscaling.mode=Keda", "mode"),
    ("headwater", "edge.service.type=External", "type"),
    ("headwater", "edge.service.port=0", "port"),
    ("headwater", "edge.podTemplate.replicas=1", "replicas"),
    ("headwater", "redis.keyPrefix=Upper", "keyPrefix"),
    ("headwater", "redis.sentinel.host=a", "sentinel"),
    ("headwater", "image.digest=sha256:1", "digest"),
    ("headwater", "image.pullPolicy=Sometimes", "pullPolicy"),
    ("headwater", "applications={a b}", "applications"),
    ("headwater", "applications=live", "applications"),
    ("headwater", "nonsense=1", "nonsense"),
    ("headwater", "test.url=https://ingest.example.com", "url"),
    ("headwater", "version=latest", "version"),
    ("headwater", "deletionPolicy=Delete", "deletionPolicy"),
    (
        "headwater",
        "tls.secretName=mine",
        "exactly one of secretName, issuerRef and selfSigned has to be given, not secretName and selfSigned",
    ),
    ("headwater", "tls.selfSigned=false", "not none"),
    (
        "headwater",
        "control.replicas=2",
        "SQLite is one process's; set control.replicas=1",
    ),
    (
        "headwater",
        "control.database.postgres.url=postgres://a@b/c",
        "give one of sqlite and postgres",
    ),
    (
        "headwater",
        "control.database.sqlite=null",
        "give postgres (url, passwordSecretRef)",
    ),
    ("headwater", "valkey.enabled=false", "where is Redis?"),
    (
        "headwater",
        "redis.tls.caSecretRef.name=ca",
        "redis.tls.enabled is not true",
    ),
    (
        "headwater",
        "fullnameOverride=a-name-that-is-as-long-as-forty-one-letters",
        "fullnameOverride",
    ),
    (
        "headwater",
        "nameOverride=a-name-that-is-as-long-as-40-letters-now",
        "set fullnameOverride",
    ),
    ("headwater-operator", "replicas=-1", "replicas"),
    ("headwater-operator", "logging.format=xml", "format"),
    (
        "headwater-operator",
        "watchNamespace=live",
        "watchNamespace",
    ),
    ("headwater-operator", "image.digest=latest", "digest"),
    ("headwater-operator", "crds.install=true", "install"),
    ("headwater-crds", "enabled=perhaps", "enabled"),
];

#[tokio::test]
async fn values_that_make_no_sense_are_refused_in_plain_words() {
    let quickstart = values(&["quickstart"]);
    for helm in Helm::ALL {
        for (chart, set, told) in REFUSED {
            let mut arguments = vec!["--set", set];
            if *chart == "headwater" {
                arguments.extend(quickstart.iter().map(String::as_str));
            }
            let Err(error) = helm.template(chart, &arguments).await else {
                panic!("{helm:?} takes {chart} with {set}");
            };
            assert!(
                error.contains(told),
                "{helm:?} {set}: {told:?} is not in {error}"
            );
        }
    }
}

/// What umbrella charts hand down.
#[tokio::test]
async fn global_is_open_and_enabled_false_renders_nothing() {
    let common = "--set=enabled=false,global.any.thing=1";
    for helm in Helm::ALL {
        for (chart, further) in [
            ("headwater-crds", None),
            ("headwater-operator", Some("--set=crds.enabled=false")),
            ("headwater", None),
        ] {
            let mut arguments = vec![common];
            arguments.extend(further);
            let rendered = helm.render(chart, &arguments).await;
            assert_eq!(rendered, [] as [Value; 0], "{helm:?} {chart}");
        }
    }
}

#[tokio::test]
async fn names_labels_and_further_objects_are_the_users() {
    let further = r#"extraObjects=[{"apiVersion":"v1","kind":"Secret","metadata":{"name":"{{ .Release.Name }}-mine"}}]"#;
    let mut arguments = values(&["quickstart"]);
    for argument in [
        "--set=fullnameOverride=weir,namespaceOverride=elsewhere,commonLabels.team=video",
        "--set=applications={live,Live_2},global.imageRegistry=mirror.example.com",
        "--set-json",
        further,
    ] {
        arguments.push(argument.to_owned());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let rendered = Helm::V4.render("headwater", &arguments).await;
    assert_eq!(one(&rendered, "Secret")["metadata"]["name"], "ingest-mine");
    assert_eq!(one(&rendered, "IngestCluster")["metadata"]["name"], "weir");
    let applications: Vec<(&Value, &Value)> = rendered
        .iter()
        .filter(|object| object["kind"] == "IngestApplication")
        .map(|object| (&object["metadata"]["name"], &object["spec"]["app"]))
        .collect();
    assert_eq!(
        applications,
        [
            (&json!("weir-live"), &json!("live")),
            // Names of objects take neither upper case nor underscores.
            (&json!("weir-live-2-a41968db"), &json!("Live_2")),
        ]
    );
    for object in rendered.iter().filter(|object| object["kind"] != "Secret") {
        assert_eq!(object["metadata"]["namespace"], "elsewhere", "{object}");
        assert_eq!(object["metadata"]["labels"]["team"], "video", "{object}");
    }
    let valkey = &one(&rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(valkey["image"], "mirror.example.com/valkey/valkey:8.1");
}

/// The one right beyond the namespace, and only for whoever asks for it.
#[tokio::test]
async fn controls_may_ask_about_tokens_where_it_is_wanted() {
    let arguments = values(&["quickstart"]);
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for helm in Helm::ALL {
        let without = helm.render("headwater", &arguments).await;
        let kinds: BTreeSet<&str> = without.iter().flat_map(|it| it["kind"].as_str()).collect();
        assert!(!kinds.contains("ClusterRole"), "{kinds:?}");
    }
    arguments.push("--set=rbac.tokenReview=true");
    for (own, account) in [
        (None, "ingest-headwater-control"),
        (
            Some("--set=control.podTemplate.serviceAccountName=mine"),
            "mine",
        ),
    ] {
        arguments.extend(own);
        let rendered = Helm::V4.render("headwater", &arguments).await;
        let rules = &one(&rendered, "ClusterRole")["rules"];
        let only = json!([{
            "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"],
        }]);
        assert_eq!(*rules, only);
        let binding = one(&rendered, "ClusterRoleBinding");
        assert_eq!(binding["subjects"][0]["name"], account);
        assert_eq!(
            binding["roleRef"]["name"],
            one(&rendered, "ClusterRole")["metadata"]["name"]
        );
    }
}
