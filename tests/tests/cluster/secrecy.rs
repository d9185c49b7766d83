//! A stream key's secret is known to the encoder and to whoever created the key, and is nowhere else: not in a log at
//! any level, not in a metric, not in Redis, not in the database, not in an error.

use std::{fs, path::Path, time::Duration};

use proto::v1::CreateStreamKeyRequest;
use tests::{
    api::IssuedKey,
    cluster::{Cluster, Database, Layout},
    deployment::{APP, Deployment},
    ffmpeg::{self, Pace},
    fixture, http,
    secrets::Needle,
    standalone::Standalone,
    turn,
};

const PUBLISHED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_stays_in_a_cluster_on_sqlite() {
    let _turn = turn().await;
    no_secret_stays_in_a_cluster(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_stays_in_a_cluster_on_postgres() {
    let _turn = turn().await;
    no_secret_stays_in_a_cluster(Database::Postgres).await;
}

async fn no_secret_stays_in_a_cluster(database: Database) {
    let mut cluster = Cluster::start(Layout {
        database,
        log_filter: "trace".to_owned(),
        ..Layout::default()
    })
    .await;
    cluster.redis.monitor().await;
    let used = use_keys(&cluster.deployment).await;

    let mut logs = String::new();
    for node in cluster.nodes() {
        let log = node.process().log();
        logs += &log;
        assert!(log.contains("TRACE"), "{} logs everything", node.name());
        used.assert_absent(&format!("the log of {}", node.name()), log.as_bytes());
        let metrics = node.metrics().await.unwrap();
        used.assert_absent(
            &format!("the metrics of {}", node.name()),
            metrics.as_bytes(),
        );
    }
    used.assert_logged(&logs);
    let commands = cluster.redis.commands().await;
    used.assert_absent("Redis's commands", commands.as_bytes());
    used.assert_absent("Redis's data", &cluster.redis.dump());
    let (place, stored) = match &cluster.postgres {
        Some(postgres) => ("the PostgreSQL database", postgres.dump().into_bytes()),
        None => ("the SQLite database", all_files(&cluster.base())),
    };
    used.assert_absent(place, &stored);
    used.assert_canary(place, &stored);

    // The searches find what is there.
    let planted = cluster.redis.observe(&["SET", "canary", &used.secrets[0]]);
    assert!(planted.status.success(), "{planted:?}");
    let commands = cluster.redis.commands().await;
    used.assert_present("Redis's commands", commands.as_bytes());
    used.assert_present("Redis's data", &cluster.redis.dump());
    let ffmpeg = cluster.directory.path().join("ffmpeg-secret.log");
    used.assert_present("the encoder's own log", &fs::read(ffmpeg).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_stays_in_the_standalone_process() {
    let _turn = turn().await;
    let standalone = Standalone::start_with("trace").await;
    let used = use_keys(&standalone.deployment).await;
    let log = standalone.process.log();
    assert!(log.contains("TRACE"), "everything is logged");
    used.assert_absent("the log", log.as_bytes());
    used.assert_logged(&log);
    let admin = standalone.ready["admin_url"].as_str().unwrap();
    let (_, metrics) = http::get(&format!("{admin}/metrics")).await.unwrap();
    used.assert_absent("the metrics", metrics.as_bytes());
    let data = all_files(&standalone.data_directory());
    used.assert_absent("the data directory", &data);
    used.assert_canary("the data directory", &data);
}

/// What was used, and must not be found.
struct Used {
    secrets: Vec<String>,
    /// Of the keys that have a password: what is stored for it, which only encrypted is anywhere.
    equivalents: Vec<Needle>,
    /// The public part of the first: logs and database do hold it.
    id: String,
    /// A text that control does store: where it is not found, the search looks in the wrong place.
    canary: String,
}

impl Used {
    fn assert_absent(&self, place: &str, haystack: &[u8]) {
        for secret in &self.secrets {
            Needle::of_stream_key(secret).assert_absent(place, haystack);
        }
        for equivalent in &self.equivalents {
            equivalent.assert_absent(place, haystack);
        }
    }

    fn assert_present(&self, place: &str, haystack: &[u8]) {
        let found = Needle::of_stream_key(&self.secrets[0]);
        assert!(
            !found.found_in(haystack).is_empty(),
            "the search in {place}"
        );
    }

    fn assert_logged(&self, logs: &str) {
        assert!(logs.contains(&self.id), "the search in the logs");
    }

    fn assert_canary(&self, place: &str, haystack: &[u8]) {
        let text = String::from_utf8_lossy(haystack);
        assert!(text.contains(&self.canary), "the search in {place}");
    }
}

/// Everything that handles keys: create, publish, refuse, list, terminate, revoke.
async fn use_keys(deployment: &Deployment) -> Used {
    let canary = "a description that is stored".to_owned();
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: "secret".to_owned(),
        description: canary.clone(),
        ..CreateStreamKeyRequest::default()
    };
    let key = deployment.api.try_create_key(request).await.unwrap();
    let subscriber = deployment.subscribe(&key);
    let mut ffmpeg = deployment.ffmpeg(&key, &fixture("source.flv"), 1, Pace::RealTime);
    subscriber.frames(100, PUBLISHED).await;
    // The key where it does not belong: as application, as a query, as a public name.
    for (app, name) in [
        (key.secret.clone(), "stream".to_owned()),
        (APP.to_owned(), format!("{}?user=me", key.secret)),
        (format!("{APP}?key={}", key.secret), "stream".to_owned()),
        (APP.to_owned(), format!("x{}", key.secret)),
        (format!("{APP}/{}", key.secret), "stream".to_owned()),
    ] {
        let mut encoder = deployment.encoder().await;
        if let Ok(status) = encoder.publish(&app, &name).await {
            let needle = Needle::of_stream_key(&key.secret);
            needle.assert_absent("the RTMP status", format!("{status:?}").as_bytes());
        }
    }
    let session = deployment.api.session_of("secret").await.expect("live");
    let shown = format!("{session:?}");
    Needle::of_stream_key(&key.secret).assert_absent("the session's list", shown.as_bytes());
    deployment
        .api
        .terminate(&session.id, "enough")
        .await
        .unwrap();
    ffmpeg.exit(PUBLISHED).await;

    let revoked = deployment.api.create_key(APP, "revoked").await;
    let mut encoder = deployment.publish(&revoked).await;
    deployment
        .api
        .revoke_key(&revoked.id, "enough")
        .await
        .unwrap();
    let status = encoder.final_status(PUBLISHED).await;
    let needle = Needle::of_stream_key(&revoked.secret);
    needle.assert_absent("the RTMP status", format!("{status:?}").as_bytes());
    let mut encoder = deployment.encoder().await;
    encoder.publish(APP, &revoked.secret).await.unwrap();
    let login = log_in(deployment).await;
    // To where a public name belongs.
    let read = http::get(&deployment.flv_urls(&revoked)[0].replace("revoked", &key.secret)).await;
    needle.assert_absent("HTTP's answer", format!("{read:?}").as_bytes());
    Used {
        id: key.id,
        equivalents: vec![Needle::of_password(&login.id, login.password())],
        secrets: vec![key.secret, revoked.secret, login.secret],
        canary,
    }
}

/// With a user and a password, right and wrong.
async fn log_in(deployment: &Deployment) -> IssuedKey {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: "login".to_owned(),
        adobe: true,
        ..CreateStreamKeyRequest::default()
    };
    let key = deployment.api.try_create_key(request).await.unwrap();
    for (name, password, succeeds) in [
        ("right", key.password(), true),
        ("wrong", &key.password()[1..], false),
    ] {
        let url = format!(
            "rtmps://{}:{password}@{}/{APP}/_adobe_/login",
            key.id, deployment.rtmps
        );
        let (name, file) = (format!("ffmpeg-{name}"), fixture("source.flv"));
        let mut ffmpeg =
            ffmpeg::publish_named(&name, &file, 1, Pace::Unpaced, &url, &deployment.logs);
        let status = ffmpeg.exit(PUBLISHED).await;
        assert_eq!(status.success(), succeeds, "{}", ffmpeg.log());
    }
    key
}

/// The content of every file below a directory.
fn all_files(directory: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            content.extend(all_files(&path));
        } else {
            content.extend(fs::read(&path).unwrap_or_default());
        }
    }
    content
}
