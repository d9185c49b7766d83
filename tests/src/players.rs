//! Real players over RTMP, from where the encoders are ([`clients`](crate::clients)): each keeps what it is sent in an
//! FLV file.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use crate::{
    clients::{ffmpeg9, in_root, work_directory},
    flv::{self, Tag},
    process::{self, Process},
};

/// To see that the stream is over, or that it is refused.
const END: Duration = Duration::from_secs(60);
const FILE: &str = "played.flv";
/// The same for Debian's.
const FILE_IN_ROOT: &str = "/mnt/played.flv";
/// How rtmpdump may end a stream whose duration nobody told: as if it had been cut short.
const RTMPDUMP_INCOMPLETE: i32 = 2;

/// A kind of player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Player {
    /// Debian 12's. Takes packets out and muxes them again.
    Ffmpeg5,
    /// From PyPI; as the other one.
    Ffmpeg9,
    /// GStreamer's own.
    Rtmp2Src,
    /// The program of librtmp.
    RtmpDump,
    /// GStreamer's, on librtmp.
    RtmpSrc,
}

/// A player at work.
pub struct Playing {
    pub process: Process,
    /// What it keeps.
    pub file: PathBuf,
    player: Player,
}

impl Player {
    pub const ALL: [Self; 5] = [
        Self::Ffmpeg5,
        Self::Ffmpeg9,
        Self::Rtmp2Src,
        Self::RtmpDump,
        Self::RtmpSrc,
    ];

    /// Plays until the stream ends. `ca_file` is what certificates are checked against, by those that check any.
    pub fn play(self, url: &str, ca_file: &Path, logs: &Path) -> Playing {
        let work = work_directory(&self.to_string(), ca_file, logs);
        let file = work.join(FILE);
        let mut command = match self {
            Self::Ffmpeg5 => {
                let mut command = in_root(&work, "ffmpeg");
                let trust = ["-tls_verify", "1", "-ca_file", "/mnt/certs/ca.pem"];
                ffmpeg(&mut command, url, &trust).arg(FILE_IN_ROOT);
                command
            }
            Self::Ffmpeg9 => {
                let mut command = process::command(ffmpeg9());
                let trust = ["-ca_file", ca_file.to_str().unwrap()];
                ffmpeg(&mut command, url, &trust).arg(&file);
                command
            }
            Self::Rtmp2Src => gstreamer(&work, "rtmp2src", &format!("location={url}")),
            Self::RtmpDump => {
                let mut command = in_root(&work, "rtmpdump");
                command.args(["--live", "--rtmp", url, "--flv", FILE_IN_ROOT]);
                command
            }
            Self::RtmpSrc => gstreamer(&work, "rtmpsrc", &format!("location={url} live=1")),
        };
        Playing {
            process: Process::spawn(&self.to_string(), &mut command, &work),
            file,
            player: self,
        }
    }
}

impl fmt::Display for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ffmpeg5 => "ffmpeg-5.1",
            Self::Ffmpeg9 => "ffmpeg-9.0",
            Self::Rtmp2Src => "rtmp2src-1.22",
            Self::RtmpDump => "rtmpdump-2.4",
            Self::RtmpSrc => "rtmpsrc-1.22",
        })
    }
}

impl Playing {
    /// Waits for its end.
    pub async fn finish(&mut self) -> ExitStatus {
        self.process.exit(END).await
    }

    /// Waits for its end, which has to be that of the stream, and reads what it kept.
    pub async fn played(&mut self) -> Vec<Tag> {
        let status = self.finish().await;
        let ended = match self.player {
            Player::RtmpDump => matches!(status.code(), Some(0 | RTMPDUMP_INCOMPLETE)),
            Player::Ffmpeg5 | Player::Ffmpeg9 | Player::Rtmp2Src | Player::RtmpSrc => {
                status.success()
            }
        };
        assert!(ended, "{}: {status}\n{}", self.player, self.said());
        flv::read_file(&self.file)
    }

    /// Everything that it printed.
    pub fn said(&self) -> String {
        self.process.printed() + &self.process.log()
    }
}

fn ffmpeg<'a>(command: &'a mut Command, url: &str, trust: &[&str]) -> &'a mut Command {
    command.args(["-hide_banner", "-nostats", "-y"]);
    if url.starts_with("rtmps:") {
        command.args(trust);
    }
    command.args(["-i", url, "-map", "0", "-c", "copy", "-f", "flv"])
}

fn gstreamer(work: &Path, source: &str, location: &str) -> Command {
    let mut command = in_root(work, "gst-launch-1.0");
    let sink = format!("location={FILE_IN_ROOT}");
    command.args(["-q", source, location, "!", "filesink", &sink]);
    command
}
