//! The client examples of docs/clients, in each language against one process: what a product backend copies must work.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::{
    binary,
    cluster::{Cluster, Layout},
    deployment::APP,
    ffmpeg::{self, Pace},
    fixture, process,
    process::Process,
    turn,
    wait::wait_for,
};

/// For one line of an example: the first call, an event, the last call.
const LINE: Duration = Duration::from_secs(30);
const PUBLISHED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_example_issues_a_key_and_follows_it() {
    let mut command = process::command(binary::python());
    command.arg(example("python/issue_key.py")).env(
        "PYTHONPATH",
        binary::target_directory().join("python/generated"),
    );
    issues_a_key_and_follows_it("python", command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_example_issues_a_key_and_follows_it() {
    let program = binary::target_directory().join("clients/issue_key");
    if !program.exists() {
        println!("not run: no Go toolchain here (tests/setup.sh)");
        return;
    }
    let command = process::command(program);
    issues_a_key_and_follows_it("go", command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_example_issues_a_key_and_follows_it() {
    if !example("node/node_modules").exists() {
        println!("not run: no Node toolchain here (tests/setup.sh)");
        return;
    }
    let mut command = process::command("node");
    command.arg(example("node/issue_key.js"));
    issues_a_key_and_follows_it("node", command).await;
}

async fn issues_a_key_and_follows_it(language: &'static str, mut command: Command) {
    let _turn = turn().await;
    // The standalone process has no TLS on loopback.
    let cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let address = cluster.controls[0].text("public");
    command
        .arg(address.replace("127.0.0.1", "localhost"))
        .arg(&cluster.deployment.ca_file)
        .arg(cluster.base().join("api-token"))
        .args([APP, language]);
    let logs = cluster.directory.path();
    let mut client = Process::spawn(language, &mut command, logs);

    let created = line(&mut client, "created").await;
    let [_, id, secret] = words(&created);
    let url = format!("{}/{secret}", cluster.deployment.rtmps_url(APP));
    let mut encoder = ffmpeg::publish(&fixture("source.flv"), 1, Pace::RealTime, &url, logs);
    line(&mut client, "started").await;
    let status = encoder.exit(PUBLISHED).await;
    assert!(status.success(), "{}", encoder.log());
    let ended = line(&mut client, "ended").await;
    let [_, _, reason] = words(&ended);
    assert_eq!(reason, "client_close");
    assert_eq!(line(&mut client, "revoked").await, format!("revoked {id}"));
    let status = client.exit(LINE).await;
    assert!(status.success(), "{}", client.log());

    // It was revoked.
    let mut encoder = ffmpeg::publish(&fixture("source.flv"), 1, Pace::RealTime, &url, logs);
    let status = encoder.exit(PUBLISHED).await;
    assert!(!status.success(), "{}", encoder.log());
}

/// The line that begins with a word, once it was printed.
async fn line(client: &mut Process, word: &str) -> String {
    let what = format!("{word} from the {} example", client.name());
    wait_for(&what, LINE, async || {
        let printed = client.printed();
        let found = printed.lines().find(|line| line.starts_with(word));
        let found = found.map(str::to_owned);
        if found.is_none() && client.ended().is_some() {
            panic!("it ended:\n{}", client.log());
        }
        found
    })
    .await
}

fn words(line: &str) -> [&str; 3] {
    let words: Vec<_> = line.split(' ').collect();
    words.try_into().expect("three words")
}

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/clients")
        .join(path)
}
