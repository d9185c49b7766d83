//! FFmpeg publishes more than its key allows, and shows why it was ended; one at its limit is not.

use std::{path::Path, process::Stdio, time::Duration};

use proto::v1::{CreateStreamKeyRequest, MediaLimits, PublishPolicy};
use tests::{
    api::IssuedKey,
    deployment::{APP, Deployment},
    ffmpeg::Pace,
    process::Process,
    standalone::Standalone,
    turn_alone,
    wait::wait_until,
};

/// The longest of the files takes 14 s to publish.
const PUBLISHED: Duration = Duration::from_secs(90);
/// What is measured over ten seconds has ended by then.
const MEASURED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_is_told_which_limit_it_broke() {
    let _turn = turn_alone().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let bitrate = MediaLimits {
        max_bitrate_bps: 2_000_000,
        ..MediaLimits::default()
    };
    let size = MediaLimits {
        max_width: 1280,
        max_height: 720,
        ..MediaLimits::default()
    };
    let twice = constant_bitrate(&deployment.logs, 4);
    let exactly = constant_bitrate(&deployment.logs, 2);
    let large = picture(&deployment.logs, "1920x1080");
    let fitting = picture(&deployment.logs, "1280x720");

    let (_, mut good) = publish(deployment, "at-its-bitrate", &bitrate, &exactly).await;
    let (_, mut fits) = publish(deployment, "at-its-size", &size, &fitting).await;
    let (key, too_fast) = publish(deployment, "too-fast", &bitrate, &twice).await;
    is_told(&too_fast, "Bitrate above this key's limit of 2 Mb/s").await;
    is_over(&standalone, &key, "limit_bitrate").await;
    let (key, too_large) = publish(deployment, "too-large", &size, &large).await;
    let told = "Picture of 1920x1080 above this key's limit of 1280x720";
    is_told(&too_large, told).await;
    is_over(&standalone, &key, "limit_size").await;
    for process in [&mut good, &mut fits] {
        let status = process.exit(PUBLISHED).await;
        assert!(status.success(), "{status}: {}", process.log());
    }
}

async fn publish(
    deployment: &Deployment,
    stream: &str,
    limits: &MediaLimits,
    file: &Path,
) -> (IssuedKey, Process) {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: stream.to_owned(),
        policy: Some(PublishPolicy {
            limits: Some(limits.clone()),
            ..PublishPolicy::default()
        }),
        ..CreateStreamKeyRequest::default()
    };
    let key = deployment.api.try_create_key(request).await.unwrap();
    let process = deployment.ffmpeg(&key, file, 1, Pace::RealTime);
    (key, process)
}

async fn is_told(ffmpeg: &Process, text: &str) {
    wait_until(text, MEASURED, || ffmpeg.log().contains(text)).await;
    let log = ffmpeg.log();
    let line = log.lines().find(|line| line.contains(text));
    println!("FFmpeg shows: {}", line.unwrap_or_default());
}

async fn is_over(standalone: &Standalone, key: &IssuedKey, reason: &str) {
    let reason = format!("reason=\"{reason}\"");
    let parts = ["session ended", reason.as_str()];
    standalone.process.log_line(&parts, MEASURED).await;
    let api = &standalone.deployment.api;
    assert!(api.session_of(&key.stream).await.is_none());
}

/// 14 s of H.264 at exactly that many megabits a second: what the picture does not need is filled.
fn constant_bitrate(directory: &Path, megabits: u32) -> std::path::PathBuf {
    let file = directory.join(format!("{megabits}-megabits.flv"));
    let (rate, buffer) = (format!("{megabits}M"), format!("{}M", megabits * 2));
    encode(
        &file,
        "testsrc2=s=320x180:r=30:d=14",
        &[
            "-b:v",
            &rate,
            "-minrate",
            &rate,
            "-maxrate",
            &rate,
            "-bufsize",
            &buffer,
            "-x264-params",
            "nal-hrd=cbr",
        ],
    );
    file
}

fn picture(directory: &Path, size: &str) -> std::path::PathBuf {
    let file = directory.join(format!("{size}.flv"));
    encode(&file, &format!("testsrc2=s={size}:r=10:d=6"), &[]);
    file
}

fn encode(file: &Path, source: &str, options: &[&str]) {
    let mut command = std::process::Command::new("ffmpeg");
    command.args([
        "-hide_banner",
        "-loglevel",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        source,
    ]);
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-g", "30"]);
    command
        .args(["-pix_fmt", "yuv420p"])
        .args(options)
        .arg(file);
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "ffmpeg cannot make {}", file.display());
}
