//! What FFmpeg 9 sends in Enhanced RTMP: codecs that FLV never had, and several tracks. It is the judge too: of what it
//! muxes into a file, and of what came out.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tests::{
    clients,
    deployment::APP,
    flv::{self, Kind, Tag},
    process::{self, Process},
    standalone::Standalone,
    turn,
};

const PUBLISHED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hevc_and_opus() {
    let codecs = [
        "-c:v",
        "libx265",
        "-x265-params",
        "log-level=error",
        "-c:a",
        "libopus",
    ];
    arrive(&codecs, 1, &["hvc1", "Opus"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn av1_and_flac() {
    let codecs = ["-c:v", "libsvtav1", "-preset", "12", "-c:a", "flac"];
    arrive(&codecs, 1, &["av01", "fLaC"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vp9_and_ac3() {
    let codecs = [
        "-c:v",
        "libvpx-vp9",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-c:a",
        "ac3",
    ];
    arrive(&codecs, 1, &["vp09", "ac-3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avc_and_e_ac3() {
    let codecs = [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "eac3",
    ];
    arrive(&codecs, 1, &["avc1", "ec-3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vvc_and_opus() {
    let codecs = [
        "-c:v",
        "libvvenc",
        "-preset",
        "faster",
        "-pix_fmt",
        "yuv420p10",
        "-c:a",
        "libopus",
    ];
    arrive(&codecs, 1, &["vvc1", "Opus"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pictures_and_two_sounds() {
    let codecs = [
        &[
            "-c:v:0",
            "libx264",
            "-preset:v:0",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
        ][..],
        &["-c:v:1", "libx265", "-x265-params", "log-level=error"],
        &["-c:a:0", "aac", "-c:a:1", "libopus"],
    ]
    .concat();
    arrive(&codecs, 2, &["avc1", "hvc1", "mp4a", "Opus"]).await;
}

/// Encodes a few seconds, publishes them as they are, and finds every byte at the origin; the session's tracks are the
/// codecs that were sent.
async fn arrive(codecs: &[&str], tracks: usize, expected: &[&str]) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "encoder").await;
    let source = encode(codecs, tracks, &deployment.logs);
    let file = deployment.logs.join("as-published.flv");
    run(Command::new(clients::ffmpeg9())
        .args(["-loglevel", "error", "-i"])
        .arg(&source)
        .args([
            "-map",
            "0",
            "-c",
            "copy",
            "-flvflags",
            "no_duration_filesize",
        ])
        .arg(&file));

    let subscriber = deployment.subscribe(&key);
    let mut command = process::command(clients::ffmpeg9());
    command
        .args(["-hide_banner", "-nostats", "-re", "-i"])
        .arg(&source);
    command.args(["-map", "0", "-c", "copy", "-f", "flv", "-ca_file"]);
    command.arg(&deployment.ca_file);
    let port = deployment.rtmps.port();
    command.arg(format!("rtmps://localhost:{port}/{APP}/{}", key.secret));
    let mut publisher = Process::spawn("ffmpeg9", &mut command, &deployment.logs);
    let mut known = Vec::new();
    tests::wait::wait_for("every track to be listed", PUBLISHED, async || {
        let session = deployment.api.session_of(&key.stream).await?;
        let tracks = session.tracks.iter();
        known = tracks.map(|track| track.codec.clone()).collect();
        let mut sorted = known.clone();
        let mut expected: Vec<String> = expected.iter().map(|&codec| codec.to_owned()).collect();
        sorted.sort();
        expected.sort();
        (sorted == expected).then_some(())
    })
    .await;
    let status = publisher.exit(PUBLISHED).await;
    assert!(status.success(), "{status}: {}", publisher.log());
    let received = subscriber.finish(PUBLISHED).await;
    received.assert_contiguous();
    let sent = flv::read_file(&file);
    for kind in [Kind::Audio, Kind::Video] {
        assert_eq!(
            bodies(&received.tags(), kind),
            bodies(&sent, kind),
            "{kind:?}"
        );
    }
    println!("{expected:?}: {} frames", received.frames.len());
}

/// A file that holds what FLV cannot in legacy form, and is copied from. Matroska, save for VVC, whose decode times FFmpeg does
/// not find there.
fn encode(codecs: &[&str], tracks: usize, directory: &Path) -> PathBuf {
    let matroska = !codecs.contains(&"libvvenc");
    let file = directory.join(if matroska { "source.mkv" } else { "source.mp4" });
    let mut command = Command::new(clients::ffmpeg9());
    command.args([
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=160x90:r=15",
    ]);
    command.args(["-f", "lavfi", "-i", "sine=r=48000", "-t", "6", "-g", "15"]);
    for _ in 0..tracks {
        command.args(["-map", "0:v"]);
    }
    for _ in 0..tracks {
        command.args(["-map", "1:a"]);
    }
    run(command.args(codecs).args(["-b:a", "64k"]).arg(&file));
    file
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// In the order in which they were sent.
fn bodies(tags: &[Tag], kind: Kind) -> Vec<Vec<u8>> {
    let of_kind = tags.iter().filter(|tag| tag.kind == kind);
    of_kind.map(|tag| tag.body.clone()).collect()
}
