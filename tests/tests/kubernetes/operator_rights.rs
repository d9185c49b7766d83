//! What the operator may do: the same in the chart and in the tests, which search the audit log for refusals.

use serde_json::Value;
use tests::charts::{Helm, objects};

#[tokio::test]
async fn the_chart_grants_what_the_tests_do() {
    let tested = objects(include_str!("operator_rules.yaml"));
    let rules = |objects: &[Value], kind: &str| -> Vec<Vec<String>> {
        let roles = objects.iter().filter(|object| object["kind"] == kind);
        let mut all: Vec<Vec<String>> = roles
            .map(|role| {
                let rules = role["rules"].as_array().unwrap().iter();
                let mut rules: Vec<String> = rules.map(Value::to_string).collect();
                rules.sort();
                rules
            })
            .collect();
        all.sort();
        all
    };
    for helm in Helm::ALL {
        let rendered = helm.render("headwater-operator", &[]).await;
        let (chart, tests) = (rules(&rendered, "Role"), rules(&tested, "Role"));
        for role in &tests {
            assert!(
                chart.contains(role),
                "{helm:?}: {role:#?} not in {chart:#?}"
            );
        }
    }
}
