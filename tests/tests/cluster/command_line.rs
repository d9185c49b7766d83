//! The program as an operator types it.

use std::{
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tests::{
    api::IssuedKey,
    binary,
    deployment::APP,
    process::{self, Process},
    standalone::Standalone,
    turn,
    wait::{wait_for, wait_until},
    witness::Witness,
};

const ENDS: Duration = Duration::from_secs(10);
/// What is followed tells of it.
const PRINTED: Duration = Duration::from_secs(30);

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
        "tokens",
        "events",
        "webhooks",
        "quotas",
        "edges",
        "drain",
        "undrain",
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
        answer(arguments, &["--data-dir", &directory, "--json"])
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_gives_a_backend_a_token_of_its_own() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let data = standalone.data_directory();
    let addresses = std::fs::read(data.join("addresses.json")).unwrap();
    let addresses: Value = serde_json::from_slice(&addresses).unwrap();
    let url = addresses["grpc_url"].as_str().unwrap();
    let file = data.join("backend-token");
    let (directory, file_name) = (data.to_string_lossy(), file.to_string_lossy());
    let run = |arguments: &[&str], server: &[&str]| {
        let output = headwater(&[arguments, server, &["--json"]].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let answer = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.success(), answer, told)
    };
    let operator = ["--data-dir", &directory];
    let backend = ["--server", url, "--token-file", &file_name];

    let create = [
        "tokens",
        "create",
        "--scope",
        "keys:read",
        "--tenant",
        "default",
    ];
    let create = [&create[..], &["--secret-file", &file_name]].concat();
    let (created, token, told) = run(&create, &operator);
    assert!(created && token["secret"].is_null(), "{told}");
    let id = token["id"].as_str().unwrap();
    let (listed, keys, told) = run(&["keys", "list"], &backend);
    assert!(listed && keys.is_array(), "{told}");
    let (created, _, told) = run(&["keys", "create", "--stream", "mine"], &backend);
    assert!(!created && told.contains("SCOPE_MISSING"), "{told}");

    let rotate = ["tokens", "rotate", id, "--secret-file", &file_name];
    let before = std::fs::read_to_string(&file).unwrap();
    assert!(run(&rotate, &operator).0);
    assert_ne!(std::fs::read_to_string(&file).unwrap(), before);
    assert!(run(&["keys", "list"], &backend).0);
    let (revoked, token, told) = run(&["tokens", "revoke", id], &operator);
    assert!(revoked && !token["revoke_time"].is_null(), "{told}");
    let (listed, _, told) = run(&["keys", "list"], &backend);
    assert!(!listed && told.contains("TOKEN_INVALID"), "{told}");
    let (_, all, _) = run(&["tokens", "list", "--all"], &operator);
    assert_eq!(all[0]["id"], id, "{all}");
    let (_, got, _) = run(&["tokens", "get", id], &operator);
    assert_eq!(got["scopes"], serde_json::json!(["keys:read"]));
}

/// With a token of its own a backend creates a key; the operator follows the events, and the session that comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_follows_events_and_sessions() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let data = standalone.data_directory();
    let (directory, file) = (data.to_string_lossy(), data.join("backend-token"));
    let file = file.to_string_lossy();
    let url = standalone.ready["grpc_url"].as_str().unwrap();
    let operator = ["--data-dir", &*directory, "-o", "json"];
    let backend = ["--server", url, "--token-file", &*file, "-o", "json"];
    let follow = |name: &str, arguments: &[&str]| {
        let mut command = process::command(binary::headwater());
        command.args(arguments).args(operator);
        Process::spawn(name, &mut command, standalone.directory.path())
    };

    let create = ["tokens", "create", "--scope", "keys:write", "--secret-file"];
    let token = answer(&[&create[..], &[&file]].concat(), &operator);
    let hook = "https://backend.example/events";
    let created = answer(&["webhooks", "create", "--url", hook], &operator);
    let listed = answer(&["webhooks", "list"], &operator);
    assert!(created["secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(
        (&listed[0]["id"], &listed[0]["url"]),
        (&created["id"], &hook.into())
    );
    assert!(listed[0]["secret"].is_null(), "{listed}");
    let got = answer(
        &["webhooks", "get", listed[0]["id"].as_str().unwrap()],
        &operator,
    );
    assert_eq!(got, listed[0]);
    assert!(
        got["create_time"].is_string() && got["disable_time"].is_null(),
        "{got}"
    );
    let secret = data.join("webhook-secret");
    let create = ["webhooks", "create", "--url", hook, "--secret-file"];
    let created = answer(
        &[&create[..], &[&secret.to_string_lossy()]].concat(),
        &operator,
    );
    assert!(created["secret"].is_null(), "{created}");
    let secret = std::fs::read_to_string(&secret).unwrap();
    assert!(secret.starts_with("whsec_"), "not a webhook's secret");

    let events = follow("events", &["events", "tail", "--since", "1h"]);
    let sessions = follow("sessions", &["sessions", "watch", "--stream", "followed"]);
    let complete = printed(&sessions, |line| line["complete"] == true).await;
    assert_eq!(complete, serde_json::json!({"complete": true}));
    let created = answer(&["keys", "create", "--stream", "followed"], &backend);
    let event = printed(&events, |event| of(event, "key.created", "followed")).await;
    assert_eq!(event["data"]["stream_key_id"], created["id"]);
    let actor = event["data"]["actor"].as_str().unwrap();
    assert!(actor.contains(token["id"].as_str().unwrap()), "{event}");

    let text = |name: &str| created[name].as_str().unwrap().to_owned();
    let key = IssuedKey {
        id: text("id"),
        secret: text("secret"),
        app: text("app"),
        stream: text("stream"),
    };
    let encoder = standalone.deployment.publish(&key).await;
    let started = printed(&events, |event| of(event, "session.started", "followed")).await;
    let id = &started["data"]["session_id"];
    printed(&sessions, |line| line["session"]["id"] == *id).await;
    encoder.finish(&key.secret).await.unwrap();
    let ended = printed(&events, |event| of(event, "session.ended", "followed")).await;
    assert_eq!(ended["data"]["session_id"], *id);
    assert_eq!(ended["data"]["reason"], "client_close");
    printed(&sessions, |line| line["ended_session_id"] == *id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_changes_a_key_and_sets_quotas() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let directory = standalone.data_directory();
    let operator = ["--data-dir", &*directory.to_string_lossy(), "-o", "json"];
    let run = |arguments: &[&str]| answer(arguments, &operator);

    let create = ["keys", "create", "--stream", "changed", "--request-id", "1"];
    let settings = ["--label", "team=sports", "--max-bitrate", "6M"];
    let created = run(&[&create[..], &settings].concat());
    // The same command again does nothing.
    assert_eq!(run(&[&create[..], &settings].concat()), created);
    let listed = run(&["keys", "list", "--label", "team=sports"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let id = created["id"].as_str().unwrap();
    let updated = run(&[
        "keys",
        "update",
        id,
        "--clear",
        "labels",
        "--max-size",
        "640x360",
    ]);
    assert_eq!(updated["labels"], serde_json::json!({}));
    let etag = created["etag"].as_str().unwrap();
    let stale = ["keys", "rotate", id, "--etag", etag];
    let stale = headwater(&[&stale[..], &operator].concat());
    let told = String::from_utf8_lossy(&stale.stderr);
    assert!(
        !stale.status.success() && told.contains("ETAG_MISMATCH"),
        "{told}"
    );
    let rotated = run(&["keys", "rotate", id, "--overlap", "1h"]);
    assert_ne!(rotated["secret"], created["secret"]);

    let before = run(&["quotas", "get"])["use"]["keys"].as_u64().unwrap();
    let most = before.to_string();
    let set = run(&["quotas", "set", "--max-keys", &most]);
    assert_eq!(set["quota"]["max_keys"], before);
    let one_more = ["keys", "create", "--stream", "one-more"];
    let refused = headwater(&[&one_more[..], &operator].concat());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && told.contains("QUOTA_EXCEEDED"),
        "{told}"
    );
    run(&["keys", "delete", id]);
    run(&one_more);
    run(&["quotas", "set", "--remove"]);
    run(&["keys", "create", "--stream", "another"]);
}

fn of(event: &Value, event_type: &str, stream: &str) -> bool {
    event["type"] == format!("dev.headwater.{event_type}")
        && event["subject"] == format!("{APP}/{stream}")
}

/// The first line of a command that is so, once it was printed.
async fn printed(process: &Process, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for("a line", PRINTED, async || {
        let printed = process.printed();
        // The last one may not be whole.
        let lines = printed.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .find(&is_it)
    })
    .await
}

/// What a command answers that must succeed.
fn answer(arguments: &[&str], server: &[&str]) -> Value {
    let output = headwater(&[arguments, server].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn headwater(arguments: &[&str]) -> Output {
    Command::new(binary::headwater())
        .args(arguments)
        .output()
        .unwrap()
}
