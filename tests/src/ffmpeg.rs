//! FFmpeg as encoder and as player.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    flv::{self, Tag},
    process::{self, Process},
};

/// How fast the file is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One second of media in one second.
    RealTime,
    /// As fast as it goes.
    Unpaced,
}

/// Publishes an FLV file as it is, `loops` times over.
pub fn publish(file: &Path, loops: u32, pace: Pace, url: &str, logs: &Path) -> Process {
    publish_named("ffmpeg", file, loops, pace, url, logs)
}

/// As [`publish`], with a name for the log: where more than one publishes.
pub fn publish_named(
    name: &str,
    file: &Path,
    loops: u32,
    pace: Pace,
    url: &str,
    logs: &Path,
) -> Process {
    let mut command = process::command("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "info", "-nostats"]);
    if pace == Pace::RealTime {
        command.arg("-re");
    }
    if loops > 1 {
        command.args(["-stream_loop", &(loops - 1).to_string()]);
    }
    command.arg("-i").arg(file);
    command.args(["-map", "0", "-c", "copy", "-f", "flv", url]);
    Process::spawn(name, &mut command, logs)
}

/// Plays a stream into an FLV file, packets as they are.
pub fn pull(name: &str, url: &str, file: &Path, logs: &Path) -> Process {
    let mut command = process::command("ffmpeg");
    command.args([
        "-hide_banner",
        "-loglevel",
        "info",
        "-nostats",
        "-y",
        "-i",
        url,
    ]);
    // Written packet by packet: FFmpeg else keeps 256 KiB for itself, half a minute of the harness's media.
    command
        .args(["-map", "0", "-c", "copy"])
        .args(["-flush_packets", "1", "-f", "flv"])
        .arg(file);
    Process::spawn(name, &mut command, logs)
}

/// What FFmpeg sends when it publishes a file: the same muxer, into a pipe.
pub fn as_published(file: &Path, directory: &Path) -> Vec<Tag> {
    let output = directory.join("as-published.flv");
    // A pipe cannot be rewound, just as a connection: the metadata are those of a live stream.
    let shell =
        "ffmpeg -hide_banner -loglevel error -i \"$0\" -map 0 -c copy -f flv pipe:1 | cat > \"$1\"";
    let status = Command::new("sh")
        .args(["-c", shell])
        .arg(file)
        .arg(&output)
        .stdin(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    flv::read_file(&output)
}

/// Decodes every frame of a stream or a file; what FFmpeg complains about, which should be nothing.
pub fn decode_errors(input: &str) -> String {
    let output = Command::new("ffmpeg")
        .args([
            "-hide_banner",
            "-loglevel",
            "warning",
            "-nostats",
            "-i",
            input,
        ])
        .args(["-f", "null", "-"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "ffmpeg cannot read {input}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ffmpeg_publishes_the_packets_of_the_fixture_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let source = crate::fixture("source.flv");
        let published = as_published(&source, directory.path());
        let file = flv::read_file(&source);
        flv::assert_same_packets(&flv::packets(&published), &flv::packets(&file));
        assert!(flv::described_media(&published).len() >= 5);
    }
}
