//! The command lines, as documentation shows them.

use std::{path::Path, process::Command};

use super::{Address, ffmpeg9 as ffmpeg9_program, in_root, made, script};
use crate::process;

/// Pictures a second.
const RATE: u32 = 15;
/// GStreamer counts sound in buffers of this many samples, 44 100 a second.
const SAMPLES: u32 = 1024;

pub(super) fn ffmpeg5(options: &[&str], address: &Address, seconds: u32, work: &Path) -> Command {
    let mut command = in_root(work, "ffmpeg");
    ffmpeg(&mut command, seconds);
    if address.server.starts_with("rtmps:") {
        // Off by default.
        command.args(["-tls_verify", "1", "-ca_file", "/mnt/certs/ca.pem"]);
    }
    command.args(options).arg(address.url_with_login());
    command
}

pub(super) fn ffmpeg9(options: &[&str], address: &Address, seconds: u32) -> Command {
    let mut command = process::command(ffmpeg9_program());
    ffmpeg(&mut command, seconds);
    if address.server.starts_with("rtmps:") {
        command.arg("-ca_file").arg(&address.ca_file);
        // With user and password it connects again, and forgets the options of TLS.
        command.env("SSL_CERT_FILE", &address.ca_file);
    }
    command.args(options).arg(address.url_with_login());
    command
}

fn ffmpeg(command: &mut Command, seconds: u32) {
    let picture = format!("testsrc2=s=160x90:r={RATE}");
    command.args(["-hide_banner", "-nostats", "-re", "-f", "lavfi", "-i"]);
    command.args([&picture, "-f", "lavfi", "-i", "sine"]);
    command.args(["-t", &seconds.to_string()]);
    // B-frames: presentation differs from decoding.
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2"]);
    command.args(["-pix_fmt", "yuv420p", "-g", &RATE.to_string()]);
    command.args(["-c:a", "aac", "-b:a", "48k", "-f", "flv"]);
}

pub(super) fn librtmp(address: &Address, seconds: u32, work: &Path) -> Command {
    let mut location = format!("location={} live=1", address.url());
    if let Some((user, password)) = &address.login {
        location += &format!(" pubUser={user} pubPasswd={password}");
    }
    gstreamer(work, seconds, &["rtmpsink", &location])
}

pub(super) fn rtmp2sink(address: &Address, seconds: u32, work: &Path) -> Command {
    let mut sink = vec![
        "rtmp2sink".to_owned(),
        format!("location={}", address.url()),
    ];
    if let Some((user, password)) = &address.login {
        sink.extend([format!("username={user}"), format!("password={password}")]);
    }
    let sink: Vec<&str> = sink.iter().map(String::as_str).collect();
    gstreamer(work, seconds, &sink)
}

fn gstreamer(work: &Path, seconds: u32, sink: &[&str]) -> Command {
    let mut command = in_root(work, "gst-launch-1.0");
    let pictures = format!("num-buffers={}", seconds * RATE);
    let sounds = format!("num-buffers={}", seconds * 44_100 / SAMPLES);
    let caps = format!("video/x-raw,width=160,height=90,framerate={RATE}/1");
    let interval = format!("key-int-max={RATE}");
    command.args(["-q", "-e", "flvmux", "name=mux", "streamable=true", "!"]);
    command.args(sink);
    command.args(["videotestsrc", "is-live=true", &pictures, "!", &caps, "!"]);
    command.args(["x264enc", "tune=zerolatency", "speed-preset=ultrafast"]);
    command.args([&interval, "bitrate=100", "!", "mux."]);
    command.args(["audiotestsrc", "is-live=true", &sounds, "!"]);
    command.args(["voaacenc", "bitrate=48000", "!", "mux."]);
    command
}

/// It forwards no TLS options: certificates are not checked.
pub(super) fn pyav(address: &Address, seconds: u32) -> Command {
    let mut command = process::command(made("python/bin/python"));
    command.arg(script("pyav_publish.py"));
    command.args([&address.url_with_login(), "libx264", &seconds.to_string()]);
    command
}
