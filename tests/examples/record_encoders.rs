//! Records what each real encoder sends, once: `make test-encoders ARGS=--record`. Beside each recording goes what is in
//! it, as the tests' own reader has it.
//!
//! Usage: record_encoders DIRECTORY

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool of the tests"
)]

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use tests::{
    amf::{self, Value},
    chunks::{self, AUDIO, COMMAND, DATA, VIDEO},
    clients::{Address, Client},
    deployment::APP,
    recorder::Recorder,
    standalone::Standalone,
};

const PUBLISHED: Duration = Duration::from_secs(60);
/// Enough for a keyframe and what follows.
const SECONDS: u32 = 1;
/// What stands in a recording for the stream key, as long as one.
const RECORDED_KEY: &str = "hw_recordedrecorded_recordedrecordedrecordedrecord";

const HEVC_OPUS: &[&str] = &[
    "-c:v",
    "libx265",
    "-x265-params",
    "log-level=error",
    "-c:a",
    "libopus",
];
const MULTITRACK: &[&str] = &[
    "-map", "0:v", "-map", "0:v", "-map", "1:a", "-map", "1:a", "-c:v:1", "libx265", "-c:a:1",
    "libopus",
];
/// 2^24 ms are half a second later.
const EXTENDED: &[&str] = &["-output_ts_offset", "16776.7"];

#[tokio::main]
async fn main() {
    let directory = PathBuf::from(std::env::args_os().nth(1).expect("a directory"));
    fs::create_dir_all(&directory).unwrap();
    for client in Client::ALL {
        record(client, "", &[], &directory).await;
    }
    for client in [Client::Ffmpeg5, Client::Ffmpeg9] {
        record(client, "-extended", EXTENDED, &directory).await;
    }
    record(Client::Ffmpeg9, "-hevc-opus", HEVC_OPUS, &directory).await;
    record(Client::Ffmpeg9, "-multitrack", MULTITRACK, &directory).await;
}

async fn record(client: Client, variant: &str, options: &[&str], directory: &std::path::Path) {
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "recorded").await;
    let recorder = Recorder::start(deployment).await;
    let address = Address {
        server: recorder.server(APP),
        ..Address::secure(deployment, &format!("{}?token=a&backup=1", key.secret))
    };
    let subscriber = deployment.subscribe(&key);
    let mut publisher = client.publish_with(options, &address, SECONDS, &deployment.logs);
    subscriber.frames(20, PUBLISHED).await;
    let status = publisher.finish().await;
    assert!(status.success(), "{client}: {}", publisher.said());
    subscriber.finish(PUBLISHED).await;

    let sent = without_secret(&recorder.recordings()[0], &key.secret);
    let name = format!("{client}{variant}");
    fs::write(directory.join(format!("{name}.rtmp")), &sent).unwrap();
    fs::write(directory.join(format!("{name}.txt")), described(&sent)).unwrap();
    println!("{name}: {} bytes", sent.len());
}

fn without_secret(sent: &[u8], secret: &str) -> Vec<u8> {
    assert_eq!(secret.len(), RECORDED_KEY.len());
    let mut sent = sent.to_vec();
    while let Some(at) = sent
        .windows(secret.len())
        .position(|window| window == secret.as_bytes())
    {
        sent[at..at + secret.len()].copy_from_slice(RECORDED_KEY.as_bytes());
    }
    // Nor across the border of two chunks.
    for message in chunks::of_client(&sent) {
        let body = String::from_utf8_lossy(&message.body);
        assert!(!body.contains(secret), "the key is cut by a chunk's border");
    }
    sent
}

/// What a server should have understood, a line for each event.
fn described(sent: &[u8]) -> String {
    let mut text = String::new();
    for message in chunks::of_client(sent) {
        let kind = match message.kind {
            AUDIO => "Audio",
            VIDEO => "Video",
            DATA => "Script",
            COMMAND => {
                command(&message.body, &mut text);
                continue;
            }
            _ => continue,
        };
        let (bytes, checksum) = (message.body.len(), crc32fast::hash(&message.body));
        writeln!(text, "{kind} {} {bytes} {checksum:08x}", message.timestamp).unwrap();
    }
    text
}

fn command(body: &[u8], text: &mut String) {
    let values = amf::decode(body);
    let argument = |index: usize| values.get(index).and_then(Value::text).unwrap_or_default();
    match argument(0) {
        "connect" => {
            let member = |name| {
                values[2]
                    .member(name)
                    .and_then(Value::text)
                    .unwrap_or_default()
            };
            writeln!(text, "connect {} {}", member("app"), member("flashVer")).unwrap();
        }
        "publish" => writeln!(text, "publish {}", argument(3)).unwrap(),
        // The end; what follows says the same again.
        name @ ("FCUnpublish" | "deleteStream") if !text.contains("\nend ") => {
            writeln!(text, "end {name}").unwrap();
        }
        _ => {}
    }
}
