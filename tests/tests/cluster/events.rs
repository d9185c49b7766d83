//! A webhook's receiver is down, and control is killed between changes and their delivery, and again amid it: every event
//! arrives, once or more, in the order of its stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use proto::v1::EventType;
use tests::{
    api::IssuedKey,
    backend::Backend,
    cluster::{Cluster, Layout},
    deployment::APP,
    encoder::Encoder,
    synthetic, turn,
    wait::{wait_for, wait_until},
};
use tokio::time::timeout;

const ROUNDS: usize = 3;
/// What happens in a round, in this order.
const HAPPENS: [&str; 4] = [
    "key.created",
    "session.started",
    "session.ended",
    "key.revoked",
];
/// A killed control's webhooks are another's after 15 s, and a receiver that was down is asked twice a minute.
const DELIVERED: Duration = Duration::from_secs(150);
const SERVES: Duration = Duration::from_secs(30);
/// So many deliveries fail first.
const FAILED: usize = 2;

/// What of each subject, in order.
type Events = BTreeMap<String, Vec<String>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_when_control_is_killed_before_its_delivery() {
    let _turn = turn().await;
    let directory = tempfile::tempdir().unwrap();
    let asked = AtomicUsize::new(0);
    let mut backend = Backend::new(directory.path(), move |_asked| {
        let fails = asked.fetch_add(1, Ordering::SeqCst) < FAILED;
        (if fails { 503 } else { 204 }, String::new())
    });
    let mut cluster = Cluster::start(Layout {
        controls: 1,
        control: vec![("CONTROL__EGRESS", backend.egress.clone())],
        ..Layout::postgres()
    })
    .await;
    let url = backend.url("/events");
    let secret = cluster.api(0).create_webhook(&url).await;
    let mut expected = Events::new();
    for round in 0..ROUNDS {
        let stream = format!("round-{round}");
        change_and_kill(&mut cluster, &stream).await;
        let happens = HAPPENS.map(|name| format!("dev.headwater.{name}"));
        expected.insert(format!("{APP}/{stream}"), happens.to_vec());
    }
    assert!(backend.asked().is_empty());

    backend.up().await;
    let what = "deliveries that fail, and one that does not";
    wait_until(what, DELIVERED, || backend.asked().len() > FAILED).await;
    // What was taken may not be written down yet.
    cluster.controls[0].kill();
    let before = backend.asked().len();
    cluster.controls[0].start().await;
    let all = ROUNDS * HAPPENS.len();
    let taken = wait_for("every event to arrive", DELIVERED, async || {
        let taken = taken(&backend);
        (taken.values().map(Vec::len).sum::<usize>() >= all).then_some(taken)
    })
    .await;
    assert_eq!(taken, expected);
    let requests = backend.asked();
    assert!(requests.iter().all(|request| request.is_signed(&secret)));
    println!(
        "{all} events in {} requests, {before} of them before control was killed amid the delivery",
        requests.len()
    );
}

/// A key is created, publishes and is revoked. After each step control is killed, and started again; the session ends
/// while it is away.
async fn change_and_kill(cluster: &mut Cluster, stream: &str) {
    let key = cluster.api(0).create_key(APP, stream).await;
    cluster.controls[0].kill();
    restart(cluster).await;
    let encoder = publish(cluster, &key).await;
    cluster.controls[0].kill();
    encoder.finish(&key.secret).await.unwrap();
    restart(cluster).await;
    let api = cluster.api(0);
    let ended = api.logs(EventType::SessionEnded, stream);
    timeout(SERVES, ended).await.unwrap().unwrap();
    api.revoke_key(&key.id, "enough").await.unwrap();
    cluster.controls[0].kill();
    restart(cluster).await;
}

async fn restart(cluster: &mut Cluster) {
    cluster.controls[0].start().await;
    cluster.controls[0].serves(SERVES).await;
}

/// The edge has to find control again first.
async fn publish(cluster: &Cluster, key: &IssuedKey) -> Encoder {
    let mut encoder = wait_for("control to be asked", SERVES, async || {
        let mut encoder = cluster.deployment.encoder().await;
        let status = encoder.publish(&key.app, &key.secret).await.unwrap();
        (status.code == "NetStream.Publish.Start").then_some(encoder)
    })
    .await;
    encoder.send(&synthetic::video_header()).await.unwrap();
    encoder.send(&synthetic::video(0, true, 400)).await.unwrap();
    encoder
}

/// Types of the events that the receiver has taken, in the order in which each came first.
fn taken(backend: &Backend) -> Events {
    let (mut events, mut known) = (Events::new(), BTreeSet::new());
    for request in backend.asked() {
        let event = request.json();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        if request.status == 204 && known.insert(text("id")) {
            let of_subject = events.entry(text("subject")).or_default();
            of_subject.push(text("type"));
        }
    }
    events
}
