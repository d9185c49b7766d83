//! What running processes show is what docs/metrics.md promises: alerts and dashboards are written against it.

use tests::{
    cluster::{Cluster, Layout},
    deployment::APP,
    metrics::{self, Kind},
    turn,
    witness::Witness,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_show_the_metrics_that_are_documented() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    let key = cluster.deployment.api.create_key(APP, "measured").await;
    let witness = Witness::start(&cluster.deployment, key).await;
    witness.is_alive().await;
    let documented = metrics::documented();
    let mut seen = 0;
    for node in cluster.nodes() {
        for (name, kind) in metrics::shown(&node.metrics().await.unwrap()) {
            let (name, expected) = match kind.as_str() {
                "counter" => (format!("{name}_total"), Kind::Counter),
                "gauge" => (name, Kind::Gauge),
                "histogram" => (name, Kind::Histogram),
                other => panic!("{name} is a {other}"),
            };
            let metric = documented.get(&name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not documented"));
            assert_eq!(metric.kind, expected, "{name}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} metrics were shown");
    witness.finish().await;
}
