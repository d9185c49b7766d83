//! FFmpeg with a user and a password instead of a stream key (Adobe authentication).

use std::{
    process::{Command, Output},
    time::Duration,
};

use proto::v1::CreateStreamKeyRequest;
use serde_json::Value;
use tests::{
    api::IssuedKey,
    binary,
    cluster::{Cluster, Database, Layout},
    deployment::{APP, Deployment},
    ffmpeg::{self, Pace},
    fixture, flv,
    process::Process,
    standalone::Standalone,
    turn,
    witness::Witness,
};

/// The fixture takes ten seconds to publish.
const PUBLISHED: Duration = Duration::from_secs(60);
const SOURCE: &str = "source.flv";
/// What a refused encoder shows.
const REFUSED: &str = "User or password not accepted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_logs_in_with_what_the_command_line_printed() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let data = standalone.data_directory();
    let run = |arguments: &[&str]| {
        let directory = data.to_string_lossy();
        let arguments = [arguments, &["--data-dir", &directory]].concat();
        let output = Command::new(binary::headwater()).args(&arguments).output();
        told(&output.unwrap(), &arguments)
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let created = json(&run(&[
        "keys", "create", "--stream", "login", "--adobe", "--json",
    ]));
    let text = |name: &str| created[name].as_str().unwrap().to_owned();
    let key = IssuedKey {
        id: text("id"),
        secret: text("secret"),
        app: text("app"),
        stream: text("stream"),
    };
    assert_eq!(text("user"), key.id);
    assert_eq!(text("password"), key.password());
    let plain = run(&["keys", "create", "--stream", "plain"]);
    assert!(!plain.contains("password"), "{plain}");
    let shown = run(&["keys", "create", "--stream", "shown", "--adobe"]);
    assert!(
        shown.contains("user      ") && shown.contains("password  "),
        "{shown}"
    );
    assert!(shown.contains("as good as the password"), "{shown}");
    let listed = json(&run(&["keys", "list", "--json"]));
    let logins = listed.as_array().unwrap().iter();
    let logins: Vec<bool> = logins.map(|key| key["adobe"].as_bool().unwrap()).collect();
    // The first is the one that a new installation has.
    assert_eq!(logins, [false, true, false, true]);
    assert!(run(&["keys", "list"]).contains("key, password"));

    ffmpeg_logs_in(&standalone.deployment, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_logs_in_where_each_of_its_connections_may_ask_another_control() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        database: Database::Postgres,
        controls: 2,
        edge_knows_all_controls: true,
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let key = create(deployment, "login", true).await;
    ffmpeg_logs_in(deployment, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_password_is_told_in_one_sentence() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let witness = Witness::start(deployment, create(deployment, "witness", false).await).await;
    let key = create(deployment, "right", true).await;
    let plain = create(deployment, "plain", false).await;
    let revoked = create(deployment, "revoked", true).await;
    deployment.api.revoke_key(&revoked.id, "").await.unwrap();
    for (case, user, password) in [
        ("wrong-password", key.id.as_str(), plain.password()),
        ("unknown-user", "0123456789abcdef", key.password()),
        ("no-key-at-all", "bob", "secret"),
        ("without-adobe", &plain.id, plain.password()),
        ("revoked", &revoked.id, revoked.password()),
    ] {
        let mut ffmpeg = publish(deployment, case, (user, password), "right");
        let status = ffmpeg.exit(PUBLISHED).await;
        assert!(!status.success(), "{case}");
        let log = ffmpeg.log();
        assert!(log.contains(REFUSED), "{case}: {log}");
    }
    let mut ffmpeg = publish(deployment, "other-name", (&key.id, key.password()), "other");
    assert!(!ffmpeg.exit(PUBLISHED).await.success());
    assert!(
        ffmpeg.log().contains("Stream name not accepted"),
        "{}",
        ffmpeg.log()
    );
    witness.finish().await;
}

async fn create(deployment: &Deployment, stream: &str, adobe: bool) -> IssuedKey {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: stream.to_owned(),
        adobe,
        ..CreateStreamKeyRequest::default()
    };
    deployment.api.try_create_key(request).await.unwrap()
}

async fn ffmpeg_logs_in(deployment: &Deployment, key: &IssuedKey) {
    let subscriber = deployment.subscribe(key);
    let mut ffmpeg = publish(deployment, "login", (&key.id, key.password()), &key.stream);
    let status = ffmpeg.exit(PUBLISHED).await;
    assert!(status.success(), "{status}: {}", ffmpeg.log());
    let received = subscriber.finish(PUBLISHED).await;
    received.assert_contiguous();
    let source = flv::read_file(&fixture(SOURCE));
    flv::assert_same_packets(&flv::packets(&received.tags()), &flv::packets(&source));
}

/// Starts FFmpeg, which connects three times.
fn publish(
    deployment: &Deployment,
    case: &str,
    (user, password): (&str, &str),
    stream: &str,
) -> Process {
    let url = format!(
        "rtmps://{user}:{password}@{}/{APP}/_adobe_/{stream}",
        deployment.rtmps
    );
    let (name, file) = (format!("ffmpeg-{case}"), fixture(SOURCE));
    ffmpeg::publish_named(&name, &file, 1, Pace::RealTime, &url, &deployment.logs)
}

fn told(output: &Output, arguments: &[&str]) -> String {
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaints}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
