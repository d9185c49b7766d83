//! What FFmpeg 9 sends in Enhanced RTMP: codecs that FLV never had, and several tracks. It is the judge too: of what it
//! muxes into a file, and of what came out, to readers and to players.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tests::{
    clients,
    deployment::APP,
    flv::{self, Kind, Tag},
    players::Player,
    process::{self, Process},
    standalone::Standalone,
    turn,
};

use super::players::play;

const PUBLISHED: Duration = Duration::from_secs(60);
/// Sound before the first keyframe, which a player does not get that is woken a moment later.
const LEAD_MAX: usize = 2;
/// One that knows these codecs, and those that keep what they are sent as it is. Each announces nothing in `connect`.
const PLAYERS: [Player; 4] = [
    Player::Ffmpeg9,
    Player::Rtmp2Src,
    Player::RtmpDump,
    Player::RtmpSrc,
];

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

/// Encodes a few seconds, publishes them as they are, and finds every byte at the origin and at players; the session's
/// tracks are the codecs that were sent.
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
    let players = play(deployment, &deployment.pull_urls(&key)[0], &PLAYERS).await;
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
    for (player, mut playing) in players {
        let played = playing.played().await;
        if player == Player::Ffmpeg9 {
            // It muxes anew, with metadata of its own.
            assert_same_packets(&playing.file, &file, tracks, player);
        } else {
            assert_same_bodies(&played, &sent, player);
        }
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
    // Longer than a lease's period, which tells the tracks: FFmpeg may send faster than `-re` says.
    command.args(["-f", "lavfi", "-i", "sine=r=48000", "-t", "9", "-g", "15"]);
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

fn assert_same_bodies(played: &[Tag], sent: &[Tag], player: Player) {
    let audio = |tags| bodies(tags, Kind::Audio);
    assert_all(&audio(played), &audio(sent), LEAD_MAX, player);
    let mut sent = bodies(sent, Kind::Video);
    // Too small for a picture, they think: ends of sequences.
    sent.retain(|body| body.len() > 5);
    assert_all(&bodies(played, Kind::Video), &sent, 0, player);
}

/// So many tracks of pictures, then those of sound.
fn assert_same_packets(played: &Path, sent: &Path, pictures: usize, player: Player) {
    let (played, sent) = (packets(played), packets(sent));
    assert_eq!(played.len(), sent.len(), "{player}");
    for (track, (played, sent)) in played.iter().zip(&sent).enumerate() {
        let missing_max = if track < pictures { 0 } else { LEAD_MAX };
        assert_all(played, sent, missing_max, player);
    }
}

/// All of it, but for so many behind the headers.
fn assert_all<T: PartialEq>(got: &[T], sent: &[T], missing_max: usize, player: Player) {
    let missing = sent.len().saturating_sub(got.len());
    let same = got.iter().zip(sent).take_while(|(got, sent)| got == sent);
    let headers = same.count();
    let (got, sent) = (&got[headers..], &sent[headers + missing..]);
    assert!(
        missing <= missing_max && got == sent,
        "{player}: {missing} are missing, and {} differ",
        got.len()
    );
}

/// Size and checksum of every packet of each track.
fn packets(file: &Path) -> Vec<Vec<[String; 2]>> {
    let output = Command::new(clients::ffmpeg9())
        .args(["-loglevel", "error", "-i"])
        .arg(file)
        .args([
            "-map", "0:v", "-map", "0:a", "-c", "copy", "-f", "framecrc", "-",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut tracks: Vec<Vec<[String; 2]>> = Vec::new();
    for line in lines.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let track: usize = cells[0].parse().unwrap();
        tracks.resize(tracks.len().max(track + 1), Vec::new());
        tracks[track].push([cells[4], cells[5]].map(str::to_owned));
    }
    tracks
}
