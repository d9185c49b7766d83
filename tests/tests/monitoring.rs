//! Alerts, dashboards and runbooks: that they are right by themselves, and speak of metrics that exist.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tests::{
    binary,
    metrics::{self, Kind, Metric},
};

/// What Prometheus or the scrape configuration adds to every series.
const COMMON_LABELS: &[&str] = &[
    "alertname",
    "ingest_cluster",
    "instance",
    "job",
    "namespace",
    "pod",
    "revision",
    "role",
];
/// What Prometheus itself writes about each target.
const BUILT_IN: &[&str] = &["up"];
const RUNBOOK_SECTIONS: &[&str] = &[
    "## Meaning",
    "## Impact",
    "## Check",
    "## Mitigate",
    "## Verify",
    "## Escalate",
];

#[test]
fn the_documented_metrics_are_those_of_the_source() {
    let documented: BTreeSet<String> = metrics::documented()
        .iter()
        .map(|(name, metric)| match metric.kind {
            Kind::Counter => name.strip_suffix("_total").expect(name).to_owned(),
            Kind::Gauge | Kind::Histogram => name.clone(),
        })
        .collect();
    let registered = registered();
    assert!(registered.len() > 40, "the search finds what is there");
    assert_eq!(documented, registered, "docs/metrics.md against crates/");
}

#[test]
fn alerts_use_metrics_that_exist() {
    let recorded: BTreeSet<String> = rules()
        .iter()
        .filter_map(|rule| rule.value["record"].as_str().map(str::to_owned))
        .collect();
    for rule in rules() {
        check_expression(&rule.file, rule.text("expr"), &recorded);
    }
    for (file, expression) in dashboard_expressions().into_iter().chain(queries()) {
        check_expression(&file, &expression, &recorded);
    }
}

#[test]
fn every_alert_is_complete_and_has_a_runbook_and_a_test() {
    let unit_tests: String = files("deploy/monitoring/tests", "yaml")
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut alerts = BTreeSet::new();
    for rule in rules() {
        let Some(alert) = rule.value["alert"].as_str() else {
            continue;
        };
        alerts.insert(alert.to_owned());
        let severity = rule.value["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("page" | "ticket")),
            "{alert}: {severity:?}"
        );
        let annotation = |name: &str| rule.value["annotations"][name].as_str().unwrap_or_default();
        assert!(!annotation("summary").is_empty(), "{alert}: summary");
        assert!(
            annotation("description").contains("$labels.namespace"),
            "{alert}: the description says where"
        );
        assert_eq!(
            annotation("runbook_url"),
            format!("RUNBOOK_BASE/{alert}.md"),
            "{alert}"
        );
        for label in labels_of_template(annotation("description")) {
            assert!(
                rule.text("expr").contains(&label),
                "{alert}: the expression keeps no label {label}"
            );
        }
        let expected = format!("alertname=\"{alert}\", severity=\"{}\"", severity.unwrap());
        assert!(unit_tests.contains(&expected), "no unit test of {expected}");
    }
    let runbooks: BTreeSet<String> = files("docs/runbooks", "md")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(alerts, runbooks, "a runbook for each alert, and no other");
    for path in files("docs/runbooks", "md") {
        let text = fs::read_to_string(&path).unwrap();
        let mut rest = text.as_str();
        for section in RUNBOOK_SECTIONS {
            let (_, behind) = rest
                .split_once(section)
                .unwrap_or_else(|| panic!("{}: {section}, in its place", path.display()));
            rest = behind;
        }
    }
}

#[test]
fn promtool_accepts_the_alerts_and_their_unit_tests_pass() {
    for path in files("deploy/monitoring/alerts", "yaml") {
        promtool(&["check", "rules"], &path);
    }
    for path in files("deploy/monitoring/tests", "yaml") {
        promtool(&["test", "rules"], &path);
    }
}

#[test]
fn promtool_accepts_the_expressions_of_dashboards_and_documents() {
    let mut expressions = dashboard_expressions();
    assert!(expressions.len() > 40, "the search finds what is there");
    let queries = queries();
    assert!(queries.len() > 40, "the search finds what is there");
    expressions.extend(queries);
    let rules: Vec<Value> = expressions
        .iter()
        .map(|(_, expression)| serde_json::json!({"record": "dashboard", "expr": expression}))
        .enumerate()
        .map(|(index, mut rule)| {
            rule["labels"] = serde_json::json!({"index": index.to_string()});
            rule
        })
        .collect();
    let file = serde_json::json!({"groups": [{"name": "dashboards", "rules": rules}]});
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.json");
    // JSON is YAML.
    fs::write(&path, file.to_string()).unwrap();
    promtool(&["check", "rules"], &path);
}

#[test]
fn bash_can_read_the_commands_of_runbooks() {
    for path in files("docs/runbooks", "md") {
        for commands in code_blocks(&fs::read_to_string(&path).unwrap(), "```") {
            let output = Command::new("bash")
                .args(["-n", "-c", &commands])
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

#[test]
fn dashboards_are_what_their_description_makes_and_can_be_imported() {
    let output = Command::new("python3")
        .arg(root().join("deploy/monitoring/dashboards.py"))
        .arg("--check")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut uids = BTreeSet::new();
    for path in files("deploy/monitoring/dashboards", "json") {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let file = path.display();
        assert!(dashboard["schemaVersion"].as_i64() > Some(35), "{file}");
        assert!(dashboard["id"].is_null(), "{file}: Grafana gives the id");
        assert!(uids.insert(dashboard["uid"].to_string()), "{file}: the uid");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        assert!(
            variables
                .iter()
                .any(|variable| variable["type"] == "datasource"),
            "{file}: the data source can be chosen"
        );
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_i64().unwrap()), "{file}: ids");
            assert!(!panel["title"].as_str().unwrap().is_empty(), "{file}");
            if panel["type"] != "row" {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}");
            }
        }
    }
    assert!(uids.len() >= 4, "the search finds what is there");
}

/// A rule, alerting or recording.
struct Rule {
    file: String,
    value: Value,
}

impl Rule {
    fn text(&self, field: &str) -> &str {
        let text = self.value[field].as_str();
        text.unwrap_or_else(|| panic!("{}: {field} in {}", self.file, self.value))
    }
}

fn rules() -> Vec<Rule> {
    let mut found = Vec::new();
    for path in files("deploy/monitoring/alerts", "yaml") {
        let file: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for group in file["groups"].as_array().unwrap() {
            for value in group["rules"].as_array().unwrap() {
                found.push(Rule {
                    file: path.display().to_string(),
                    value: value.clone(),
                });
            }
        }
    }
    assert!(!found.is_empty(), "the search finds what is there");
    found
}

/// Expressions of all panels, with Grafana's variables replaced by something that parses.
fn dashboard_expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in files("deploy/monitoring/dashboards", "json") {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                let expression = expression.replace("$__rate_interval", "5m");
                found.push((path.display().to_string(), expression));
            }
        }
    }
    found
}

/// PromQL of the documents: in runbooks an expression a line, elsewhere one a block.
fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in files("docs/runbooks", "md") {
        let text = fs::read_to_string(&path).unwrap();
        for block in code_blocks(&text, "```promql") {
            let lines = block.lines().filter(|line| !line.trim().is_empty());
            found.extend(lines.map(|line| (path.display().to_string(), line.to_owned())));
        }
    }
    let path = root().join("docs/slo.md");
    for block in code_blocks(&fs::read_to_string(&path).unwrap(), "```promql") {
        found.push((path.display().to_string(), block.replace("$w", "5m")));
    }
    found
}

/// What stands between a fence like this one and the next.
fn code_blocks(text: &str, fence: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if !line.trim().starts_with("```") {
            continue;
        }
        let inside = lines
            .by_ref()
            .take_while(|line| !line.trim().starts_with("```"));
        let block: Vec<&str> = inside.collect();
        if line.trim() == fence {
            found.push(block.join("\n"));
        }
    }
    found
}

/// Every metric of an expression exists, in the form that its kind has, with the labels that are asked for.
fn check_expression(file: &str, expression: &str, recorded: &BTreeSet<String>) {
    let documented = metrics::documented();
    for (name, labels) in selectors(expression) {
        if name.contains(':') {
            assert!(recorded.contains(&name), "{file}: nothing records {name}");
            continue;
        }
        if BUILT_IN.contains(&name.as_str()) {
            continue;
        }
        let metric = metric_of(&documented, &name)
            .unwrap_or_else(|| panic!("{file}: there is no metric {name}: {expression}"));
        for label in labels {
            let histogram = metric.kind == Kind::Histogram && label == "le";
            assert!(
                histogram
                    || metric.labels.contains(&label)
                    || COMMON_LABELS.contains(&label.as_str()),
                "{file}: {name} has no label {label}: {expression}"
            );
        }
    }
}

fn metric_of<'a>(documented: &'a BTreeMap<String, Metric>, name: &str) -> Option<&'a Metric> {
    if let Some(metric) = documented.get(name) {
        return (metric.kind != Kind::Histogram).then_some(metric);
    }
    let base = ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))?;
    documented
        .get(base)
        .filter(|metric| metric.kind == Kind::Histogram)
}

/// The metrics that an expression reads, with the labels in their braces.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        let word_end = rest[start..].find(|c| !is_name(c));
        let end = word_end.map_or(rest.len(), |length| start + length);
        let (word, behind) = (&rest[start..end], &rest[end..]);
        rest = behind;
        if let Some(braces) = behind.strip_prefix('{') {
            let (inside, after) = braces.split_once('}').expect("a closing brace");
            rest = after;
            found.push((word.to_owned(), labels_of(inside)));
        } else if word.starts_with("headwater_") || word.contains(':') {
            found.push((word.to_owned(), Vec::new()));
        }
    }
    found
}

/// Label names of `a="b",c=~"d|e"`.
fn labels_of(matchers: &str) -> Vec<String> {
    let outside = matchers.split('"').step_by(2);
    outside
        .map(|text| text.trim_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_')))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn labels_of_template(text: &str) -> Vec<String> {
    text.split("$labels.")
        .skip(1)
        .map(|behind| {
            behind
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

/// Names of the metrics that the source registers, without the `_total` of counters.
fn registered() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![root().join("crates")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "tests" {
                waiting.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                registered_in(&fs::read_to_string(&path).unwrap(), &mut found);
            }
        }
    }
    found
}

fn registered_in(source: &str, found: &mut BTreeSet<String>) {
    const CALLS: &[&str] = &[
        "register(",
        "register_with_unit(",
        "register_gauge(",
        "register_counter(",
        "encode_descriptor(",
    ];
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let prefix = source
        .split_once("sub_registry_with_prefix(\"")
        .and_then(|(_, behind)| behind.split_once('"'))
        .map(|(prefix, _)| format!("{prefix}_"))
        .unwrap_or_default();
    for call in CALLS {
        for behind in source.split(call).skip(1) {
            let Some(text) = behind.trim_start().strip_prefix('"') else {
                continue;
            };
            let (name, arguments) = text.split_once('"').expect("a closing quote");
            let arguments = arguments.split(");").next().unwrap_or_default();
            let arguments = arguments.split(")?").next().unwrap_or_default();
            let unit = if arguments.contains("Unit::Seconds") {
                "_seconds"
            } else {
                ""
            };
            found.insert(format!("headwater_{prefix}{name}{unit}"));
        }
    }
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new(binary::promtool())
        .args(arguments)
        .arg(file)
        .output()
        .expect("promtool: `bash tests/setup.sh TARGET_DIRECTORY` gets it");
    assert!(
        output.status.success(),
        "{}:\n{}{}",
        file.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The files of a directory with this extension, sorted.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
