//! Many sessions through one edge and one origin, and a large one among them.

use std::{process::Command, time::Duration};

use tests::{
    bench::{Bench, Load},
    binary,
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    flv::sha256,
    process,
    process::Process,
    standalone::Standalone,
    synthetic, turn_alone,
    wait::wait_until,
};

const PUBLISHED: Duration = Duration::from_secs(180);
const KEYFRAME_BYTES: usize = 12 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_sessions_share_an_edge_and_an_origin() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(one_origin()).await;
    let load = Load {
        publishers: 500,
        seconds: 20,
        ramp_seconds: 10,
        kilobits_per_second: 32,
    };
    let mut bench = Bench::start(&cluster.deployment, "many", &load).await;
    bench.is_live(PUBLISHED).await;
    let reports = bench.finish_clean(PUBLISHED).await;
    println!("500 publishers: {}", reports.publish["connect_ms"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_keyframe_reaches_a_python_client_of_a_busy_cluster() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(one_origin()).await;
    a_large_keyframe_reaches_a_python_client(&cluster.deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_keyframe_reaches_a_python_client_of_a_busy_standalone_process() {
    let _turn = turn_alone().await;
    let standalone = Standalone::start().await;
    a_large_keyframe_reaches_a_python_client(&standalone.deployment).await;
}

fn one_origin() -> Layout {
    Layout {
        origins: 1,
        ..Layout::default()
    }
}

async fn a_large_keyframe_reaches_a_python_client(deployment: &Deployment) {
    let load = Load {
        publishers: 100,
        seconds: 25,
        ramp_seconds: 2,
        kilobits_per_second: 64,
    };
    let mut neighbours = Bench::start(deployment, "neighbour", &load).await;
    neighbours.is_live(PUBLISHED).await;

    let key = deployment.api.create_key(APP, "large").await;
    let mut client = python_subscriber(deployment, &key.stream);
    wait_until("the Python client to subscribe", PUBLISHED, || {
        client.printed().contains("subscribed")
    })
    .await;
    let mut encoder = deployment.publish(&key).await;
    encoder.send(&synthetic::video_header()).await.unwrap();
    let keyframe = synthetic::video(0, true, KEYFRAME_BYTES);
    encoder.send(&keyframe).await.unwrap();
    for number in 1..25 {
        encoder
            .send(&synthetic::video(number, false, 400))
            .await
            .unwrap();
    }
    encoder.finish(&key.secret).await.unwrap();

    let status = client.exit(PUBLISHED).await;
    assert!(status.success(), "{}", client.log());
    let hash = sha256(&keyframe.body);
    let expected = format!("keyframe {} {hash}", keyframe.body.len());
    assert!(
        client.printed().contains(&expected),
        "{expected}\n{}",
        client.log()
    );
    neighbours.finish_clean(PUBLISHED).await;
}

/// A client with grpcio's defaults: no message above 4 MiB.
fn python_subscriber(deployment: &Deployment, stream: &str) -> Process {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/subscribe.py");
    let generated = binary::target_directory().join("python/generated");
    let mut command: Command = process::command(binary::python());
    command
        .arg(script)
        .arg(&deployment.playback.origins[0])
        .arg(&deployment.playback.ca_file)
        .arg(&deployment.playback.token)
        .args([APP, stream])
        .env("PYTHONPATH", generated)
        .env("PYTHONUNBUFFERED", "1");
    Process::spawn("python", &mut command, &deployment.logs)
}
