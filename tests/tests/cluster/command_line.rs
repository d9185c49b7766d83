//! The program as an operator types it.

use std::{
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tests::{
    api::IssuedKey, binary, standalone::Standalone, turn, wait::wait_until, witness::Witness,
};

const ENDS: Duration = Duration::from_secs(10);

#[test]
fn help_names_every_command() {
    let help = headwater(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for command in [
        "standalone",
        "edge",
        "control",
        "origin",
        "keys",
        "sessions",
        "bench",
    ] {
        assert!(text.contains(command), "{command} is not in:\n{text}");
    }
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edge.yaml");
    std::fs::write(
        &file,
        "edge:\n  listen: nonsense\n  listne: 1\n  replay: yes\n",
    )
    .unwrap();
    let refused = headwater(&["edge", "--config", &file.to_string_lossy()]);
    assert_eq!(refused.status.code(), Some(64));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    for path in ["edge.listen", "edge.listne", "edge.replay"] {
        assert!(told.contains(path), "{path} is not in:\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_issues_a_key_sees_its_session_and_ends_it() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let data = standalone.data_directory();
    let run = |arguments: &[&str]| {
        let directory = data.to_string_lossy();
        let common = ["--data-dir", &directory, "--json"];
        let output = headwater(&[arguments, &common].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {told}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };

    let created = run(&["keys", "create", "--stream", "operated"]);
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let key = IssuedKey {
        id: text(&created, "id"),
        secret: text(&created, "secret"),
        app: text(&created, "app"),
        stream: text(&created, "stream"),
    };
    let witness = Witness::start(&standalone.deployment, key).await;
    let sessions = run(&["sessions", "list"]);
    let session = &sessions.as_array().unwrap()[0];
    assert_eq!(session["stream"], "operated");
    assert_eq!(session["stream_key_id"], created["id"]);

    run(&[
        "sessions",
        "kill",
        &text(session, "id"),
        "--reason",
        "enough",
    ]);
    wait_until("the session to end", ENDS, || !witness.is_publishing()).await;
    run(&["keys", "revoke", &witness.key.id]);
    let listed = run(&["keys", "list", "--all"]);
    let revoked = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["id"] == created["id"]);
    assert!(!revoked.unwrap()["revoke_time"].is_null(), "{listed}");

    // Where programs hand it on, the secret is nowhere but in the file.
    let file = data.join("stream-key");
    let path = file.to_string_lossy();
    let create = ["keys", "create", "--stream", "unseen", "--secret-file"];
    let created = run(&[&create[..], &[&path]].concat());
    assert!(created["secret"].is_null(), "{created}");
    let secret = std::fs::read_to_string(&file).unwrap();
    assert!(secret.starts_with("hw_"), "not a stream key");
}

fn headwater(arguments: &[&str]) -> Output {
    Command::new(binary::headwater())
        .args(arguments)
        .output()
        .unwrap()
}
