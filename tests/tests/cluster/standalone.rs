//! What a newcomer gets: one process that says how to use it, and is the same one after a restart.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tests::{
    ffmpeg::{self, Pace},
    fixture, http,
    http::FlvReader,
    standalone::Standalone,
    turn,
};

const PUBLISHED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_publishes_with_what_is_printed() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let text = |name: &str| standalone.ready[name].as_str().unwrap().to_owned();
    let printed = standalone.process.printed();
    for shown in [
        &text("rtmps_url"),
        &text("stream_key"),
        "ffmpeg",
        &text("admin_url"),
    ] {
        assert!(
            printed.contains(shown),
            "{shown:?} is not printed:\n{printed}"
        );
    }

    let reader = FlvReader::start(&format!("{}&wait=60", text("flv_url")));
    let url = format!("{}/{}", text("rtmps_url"), text("stream_key"));
    let logs = standalone.directory.path();
    let mut ffmpeg = ffmpeg::publish(&fixture("source.flv"), 1, Pace::RealTime, &url, logs);
    let status = ffmpeg.exit(PUBLISHED).await;
    assert!(status.success(), "{}", ffmpeg.log());
    let tags = reader.finish(PUBLISHED).await;
    assert!(tags.iter().any(tests::flv::Tag::is_keyframe));

    let (status, metrics) = http::get(&format!("{}/metrics", text("admin_url")))
        .await
        .unwrap();
    assert!(status.is_success());
    assert!(metrics.contains("headwater_"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_start_keeps_certificate_and_keys() {
    let _turn = turn().await;
    let first = Standalone::start().await;
    let secrets = first.data_directory();
    for name in fs::read_dir(&secrets).unwrap() {
        let path = name.unwrap().path();
        let is_secret = ["key", "token", "pepper"].iter().any(|word| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.contains(word)
        });
        if is_secret && path.is_file() {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
    assert_eq!(mode(&first.directory.path().join("ready.json")), 0o600);
    let key = first.deployment.api.create_key("live", "kept").await;
    let certificate = fs::read(&first.deployment.ca_file).unwrap();
    let before = first.ready.clone();

    let second = first.restart().await;
    for kept in ["stream_key", "api_token", "ca_file"] {
        assert_eq!(second.ready[kept], before[kept], "{kept}");
    }
    assert_eq!(fs::read(&second.deployment.ca_file).unwrap(), certificate);
    second.deployment.publish(&key).await;

    fs::remove_file(second.data_directory().join("first-stream-key")).unwrap();
    let third = second.restart().await;
    assert!(third.ready["stream_key"].is_null(), "{}", third.ready);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
