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
    let command = || {
        let mut command = process::command(binary::python());
        let generated = binary::target_directory().join("python/generated");
        command.arg(example("python/issue_key.py"));
        command.env("PYTHONPATH", generated);
        command
    };
    issues_a_key_and_follows_it("python", command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_example_issues_a_key_and_follows_it() {
    let program = binary::target_directory().join("clients/issue_key");
    if is_made("the Go example", &program, &["go", "/usr/local/go/bin/go"]) {
        let command = || process::command(&program);
        issues_a_key_and_follows_it("go", command).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_example_issues_a_key_and_follows_it() {
    if is_made("the Node example", &example("node/node_modules"), &["npm"]) {
        let command = || {
            let mut command = process::command("node");
            command.arg(example("node/issue_key.js"));
            command
        };
        issues_a_key_and_follows_it("node", command).await;
    }
}

/// Whether tests/setup.sh has made what an example needs. Without its toolchain here that is said, and no failure.
fn is_made(what: &str, made: &Path, toolchain: &[&str]) -> bool {
    let there = |program: &&str| Command::new(program).arg("version").output().is_ok();
    assert!(
        made.exists() || !toolchain.iter().any(there),
        "{what} is not built: tests/setup.sh does that"
    );
    if !made.exists() {
        tests::not_run(what, &format!("no {} here", toolchain[0]));
    }
    made.exists()
}

async fn issues_a_key_and_follows_it(language: &'static str, command: impl Fn() -> Command) {
    let _turn = turn().await;
    // The standalone process has no TLS on loopback.
    let cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let address = cluster.controls[0].text("public");
    let logs = cluster.directory.path();
    let start = |name: &str, token_file: PathBuf| {
        let mut command = command();
        command
            .arg(address.replace("127.0.0.1", "localhost"))
            .arg(&cluster.deployment.ca_file)
            .arg(token_file)
            .args([APP, language]);
        Process::spawn(name, &mut command, logs)
    };
    let mut client = start(language, cluster.base().join("api-token"));

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

    // A call that fails tells its reason. The CA's file is no token.
    let mut stranger = start("stranger", cluster.deployment.ca_file.clone());
    assert!(!stranger.exit(LINE).await.success());
    let told = stranger.log();
    assert!(told.contains("TOKEN_INVALID: "), "{told}");

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
