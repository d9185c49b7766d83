//! What a collector is sent: one trace per publish through every role, nothing that was not sampled, and no secret.

use std::time::Duration;

use tests::{
    cluster::{Cluster, Layout},
    collector::{Collector, Exported},
    deployment::APP,
    encoder::RtmpStatus,
    secrets::Needle,
    standalone::Standalone,
    turn,
    wait::wait_for,
};

const LOGGED: Duration = Duration::from_secs(10);
const ENDS: Duration = Duration::from_secs(20);
const EDGE: &str = "headwater-edge";
const CONTROL: &str = "headwater-control";
const ORIGIN: &str = "headwater-origin";

/// A cluster that sends its spans to a collector.
async fn traced(collector: &Collector, more: &[(&'static str, String)]) -> Cluster {
    let mut common = vec![("TELEMETRY__OTLP_ENDPOINT", collector.url.clone())];
    common.extend(more.iter().cloned());
    Cluster::start(Layout {
        origins: 1,
        common,
        ..Layout::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_is_one_trace_through_every_role() {
    let _turn = turn().await;
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::start_with_tls(directory.path()).await;
    let ca_file = directory.path().join("collector.pem");
    let mut cluster = traced(
        &collector,
        &[
            ("TELEMETRY__CA_FILE", ca_file.display().to_string()),
            (
                "TELEMETRY__RESOURCE_ATTRIBUTES",
                "{k8s.pod.name: pod-1, k8s.node.name: 10}".to_owned(),
            ),
        ],
    )
    .await;
    let key = cluster.deployment.api.create_key(APP, "traced").await;
    let encoder = cluster.deployment.publish(&key).await;
    let line = cluster
        .edge
        .process()
        .log_line(&["session started"], LOGGED)
        .await;
    let session = field(&line, "session_id=");
    encoder.finish(&key.secret).await.unwrap();

    let publish = collector.span(EDGE, "rtmp.publish", &session).await;
    assert!(publish.span.parent_span_id.is_empty(), "{publish:?}");
    assert_eq!(publish.error(), None);
    assert_eq!(publish.text("app").as_deref(), Some(APP));
    let marks: Vec<&str> = publish
        .span
        .events
        .iter()
        .map(|event| &*event.name)
        .collect();
    assert_eq!(marks, ["publish.start"]);
    assert!(line.contains(&publish.trace_id()), "{line}");

    let asked = collector.child(&publish, EDGE, "authorize").await;
    let decided = collector.child(&asked, CONTROL, "authorize").await;
    let claimed = collector.child(&publish, EDGE, "registry.claim").await;
    assert_eq!(claimed.text("db.system.name").as_deref(), Some("redis"));
    let opened = collector.child(&publish, EDGE, "relay.open").await;
    let accepted = collector.child(&opened, ORIGIN, "origin.open").await;
    for (exported, service) in [(&publish, EDGE), (&decided, CONTROL), (&accepted, ORIGIN)] {
        assert_eq!(exported.resource("service.name").as_deref(), Some(service));
        assert_eq!(exported.resource("k8s.pod.name").as_deref(), Some("pod-1"));
        assert_eq!(exported.resource("k8s.node.name").as_deref(), Some("10"));
        assert!(exported.resource("service.version").is_some());
        assert!(exported.resource("service.instance.id").is_some());
    }
    let trace = collector.spans();
    let trace = trace
        .iter()
        .filter(|other| other.span.trace_id == publish.span.trace_id);
    assert_eq!(trace.count(), 6, "nothing else belongs to the publish");

    let end = collector.span(EDGE, "session.end", &session).await;
    assert_ne!(end.span.trace_id, publish.span.trace_id);
    assert_eq!(end.span.links[0].span_id, publish.span.span_id);
    assert_eq!(end.text("reason").as_deref(), Some("client_close"));
    the_last_spans_leave_with_the_process(&mut cluster, &collector).await;
}

/// A process that ends does not wait for its next batch.
async fn the_last_spans_leave_with_the_process(cluster: &mut Cluster, collector: &Collector) {
    let key = cluster.deployment.api.create_key(APP, "last").await;
    let _encoder = cluster.deployment.publish(&key).await;
    let session = cluster
        .deployment
        .api
        .session_of("last")
        .await
        .expect("live");
    cluster.edge.process().signal("TERM");
    cluster.edge.process().signal("TERM");
    cluster.edge.process_mut().exit(ENDS).await;
    let of_session = |exported: &Exported| {
        exported.span.name == "session.end"
            && exported.text("session_id").as_deref() == Some(&*session.id)
    };
    assert!(collector.spans().iter().any(of_session), "exported by then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_publishes_are_errors_and_no_secret_is_in_any_span() {
    let _turn = turn().await;
    let collector = Collector::start().await;
    let cluster = traced(&collector, &[("LOG__FILTER", "trace".to_owned())]).await;
    let deployment = &cluster.deployment;
    let key = deployment.api.create_key(APP, "canary").await;
    let encoder = deployment.publish(&key).await;
    let session = deployment.api.session_of("canary").await.expect("live");
    encoder.finish(&key.secret).await.unwrap();
    deployment.api.revoke_key(&key.id, "enough").await.unwrap();
    // The key where it does not belong, too.
    for (app, name) in [
        (APP, key.secret.clone()),
        (&*key.secret, "stream".to_owned()),
        (APP, format!("{}?user=me", key.secret)),
    ] {
        let mut encoder = deployment.encoder().await;
        encoder.publish(app, &name).await.ok();
    }

    let refused = wait_for("the refusals", ENDS, async || {
        let spans = collector.spans();
        let errors = |service: &str| {
            let of = spans.iter().filter(|exported| exported.service == service);
            of.filter_map(|exported| exported.error().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let (edge, control) = (errors(EDGE), errors(CONTROL));
        (edge.len() >= 2 && control.len() >= 2).then_some((edge, control))
    });
    let (edge, control) = refused.await;
    assert!(edge.contains(&"key_not_accepted".to_owned()), "{edge:?}");
    assert!(control.contains(&"revoked".to_owned()), "{control:?}");

    collector.span(EDGE, "session.end", &session.id).await;
    let dump = collector.dump();
    Needle::of_stream_key(&key.secret).assert_absent("the exported spans", dump.as_bytes());
    assert!(!dump.contains("127.0.0.1"), "nobody's address");
    // The search finds what is there.
    assert!(dump.contains(&session.id), "the search in the spans");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_is_not_exported() {
    let _turn = turn().await;
    let collector = Collector::start().await;
    let mut cluster = traced(&collector, &[("TELEMETRY__SAMPLE_RATIO", "0".to_owned())]).await;
    let key = cluster.deployment.api.create_key(APP, "unsampled").await;
    let encoder = cluster.deployment.publish(&key).await;
    let edge = cluster.edge.process();
    let line = edge.log_line(&["session started"], LOGGED).await;
    assert_eq!(
        field(&line, "trace_id=").len(),
        32,
        "log lines can be joined: {line}"
    );
    encoder.finish(&key.secret).await.unwrap();
    edge.log_line(&["session ended"], LOGGED).await;
    // Whatever they had to say is said when they end.
    for node in cluster.nodes() {
        node.process().signal("TERM");
    }
    cluster.edge.process_mut().exit(ENDS).await;
    cluster.controls[0].process_mut().exit(ENDS).await;
    cluster.origins[0].process_mut().exit(ENDS).await;
    assert!(collector.spans().is_empty(), "{}", collector.dump());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_its_spans_alone() {
    let _turn = turn().await;
    let nobody = format!("http://127.0.0.1:{}", tests::free_port());
    let cluster = Cluster::start(Layout {
        origins: 1,
        common: vec![("TELEMETRY__OTLP_ENDPOINT", nobody)],
        ..Layout::default()
    })
    .await;
    let key = cluster.deployment.api.create_key(APP, "untold").await;
    for _ in 0..2 {
        let encoder = cluster.deployment.publish(&key).await;
        encoder.finish(&key.secret).await.unwrap();
        let before = dropped(&cluster).await;
        wait_for("spans to be dropped", ENDS, async || {
            (dropped(&cluster).await > before).then_some(())
        })
        .await;
    }
    let log = cluster.edge.process().log();
    let said = log.lines().filter(|line| line.contains("trace collector"));
    assert_eq!(said.count(), 1, "once per outage: {log}");
}

async fn dropped(cluster: &Cluster) -> u64 {
    let metrics = cluster.edge.metrics().await.unwrap();
    let name = "headwater_spans_dropped_total{reason=\"export_failed\"} ";
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standalone_process_is_traced_as_well() {
    let _turn = turn().await;
    let collector = Collector::start().await;
    let standalone = Standalone::start_with_arguments(&["--otlp-endpoint", &collector.url]).await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "traced").await;
    let mut encoder = deployment.encoder().await;
    let status: RtmpStatus = encoder.publish(APP, &key.secret).await.unwrap();
    assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
    let session = deployment.api.session_of("traced").await.expect("live");
    let service = "headwater-standalone";
    let publish = collector.span(service, "rtmp.publish", &session.id).await;
    let opened = collector.child(&publish, service, "relay.open").await;
    collector.child(&opened, service, "origin.open").await;
}

/// What stands behind `name` in a log line, its quotes taken off.
fn field(line: &str, name: &str) -> String {
    let (_, rest) = line
        .split_once(name)
        .unwrap_or_else(|| panic!("no {name} in {line}"));
    let end = rest.find([' ', '}', ',']).unwrap_or(rest.len());
    rest[..end].trim_matches('"').to_owned()
}
