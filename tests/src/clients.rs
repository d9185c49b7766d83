//! Real encoders as their users run them: what `tests/encoders/setup.sh` gets, at the versions that it pins.
//!
//! Debian's run in a root directory of their own, each in a mount namespace where the certificate of the test is the
//! only one that is trusted.

mod commands;
mod obs;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use crate::{
    binary,
    deployment::{APP, Deployment},
    process,
    process::Process,
};

/// To start, to see that it is over, to say goodbye.
const END: Duration = Duration::from_secs(120);

/// A kind of encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Debian 12's.
    Ffmpeg5,
    /// From PyPI.
    Ffmpeg9,
    /// GStreamer's rtmpsink: what old devices are built on.
    Librtmp,
    /// OBS Studio 29 on an invisible display.
    Obs,
    /// FFmpeg 8.1 as a Python library.
    PyAv,
    /// GStreamer's own.
    Rtmp2Sink,
}

/// Where to publish, as a user types it.
#[derive(Clone, Debug)]
pub struct Address {
    /// `rtmps://host:port/app`
    pub server: String,
    /// The stream key, with a query behind it or not.
    pub name: String,
    /// User and password, for Adobe authentication.
    pub login: Option<(String, String)>,
    /// What certificates are checked against.
    pub ca_file: PathBuf,
}

/// An encoder at work.
pub struct Publisher {
    pub process: Process,
    client: Client,
    /// A display for the one that has a window.
    _display: Option<Process>,
}

impl Client {
    pub const ALL: [Self; 6] = [
        Self::Ffmpeg5,
        Self::Ffmpeg9,
        Self::Librtmp,
        Self::Obs,
        Self::PyAv,
        Self::Rtmp2Sink,
    ];

    /// How it names itself in `connect`, in part; `None` where it does not.
    pub fn encoder_name(self) -> Option<&'static str> {
        match self {
            Self::Ffmpeg5 => Some("Lavf59."),
            Self::Ffmpeg9 => Some("Lavf63."),
            Self::Librtmp => None,
            Self::Obs => Some("FMSc/1.0"),
            Self::PyAv => Some("Lavf62."),
            Self::Rtmp2Sink => Some("LNX 10,0,32,18"),
        }
    }

    /// Publishes 160×90 AVC with a keyframe each second, and AAC, in real time, for so many seconds; OBS until it is
    /// told to end. What it prints is kept in `logs`.
    pub fn publish(self, address: &Address, seconds: u32, logs: &Path) -> Publisher {
        self.publish_with(&[], address, seconds, logs)
    }

    /// As [`publish`](Self::publish), with output options of FFmpeg, which others have not.
    pub fn publish_with(
        self,
        options: &[&str],
        address: &Address,
        seconds: u32,
        logs: &Path,
    ) -> Publisher {
        let work = work_directory(&self.to_string(), &address.ca_file, logs);
        let display = (self == Self::Obs).then(|| obs::display(&work));
        let mut command = match self {
            Self::Ffmpeg5 => commands::ffmpeg5(options, address, seconds, &work),
            Self::Ffmpeg9 => commands::ffmpeg9(options, address, seconds),
            Self::Librtmp => commands::librtmp(address, seconds, &work),
            Self::Obs => obs::command(address, &work),
            Self::PyAv => commands::pyav(address, seconds),
            Self::Rtmp2Sink => commands::rtmp2sink(address, seconds, &work),
        };
        Publisher {
            process: Process::spawn(&self.to_string(), &mut command, &work),
            client: self,
            _display: display,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ffmpeg5 => "ffmpeg-5.1",
            Self::Ffmpeg9 => "ffmpeg-9.0",
            Self::Librtmp => "librtmp-2.4",
            Self::Obs => "obs-29.0",
            Self::PyAv => "pyav-18.1",
            Self::Rtmp2Sink => "gstreamer-1.22",
        })
    }
}

impl Address {
    /// With TLS, by the server's name.
    pub fn secure(deployment: &Deployment, name: &str) -> Self {
        Self::at("rtmps://localhost", deployment, name)
    }

    /// At the edge's port, by scheme and host.
    pub fn at(host: &str, deployment: &Deployment, name: &str) -> Self {
        Self {
            server: format!("{host}:{}/{APP}", deployment.rtmps.port()),
            name: name.to_owned(),
            login: None,
            ca_file: deployment.ca_file.clone(),
        }
    }

    /// Server and name in one, as most take it.
    pub fn url(&self) -> String {
        format!("{}/{}", self.server, self.name)
    }

    /// With user and password in it, as FFmpeg takes them.
    fn url_with_login(&self) -> String {
        let url = self.url();
        match &self.login {
            Some((user, password)) => url.replacen("://", &format!("://{user}:{password}@"), 1),
            None => url,
        }
    }
}

impl Publisher {
    /// Waits for its end; OBS is asked to, as by its user.
    pub async fn finish(&mut self) -> ExitStatus {
        if self.client == Client::Obs {
            self.process.signal("INT");
        }
        self.process.exit(END).await
    }

    /// Everything that it printed.
    pub fn said(&self) -> String {
        self.process.printed() + &self.process.log()
    }
}

/// What `tests/encoders/setup.sh` made.
fn made(name: &str) -> PathBuf {
    let path = binary::target_directory().join("encoders").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `bash tests/encoders/setup.sh {}`",
        path.display(),
        binary::target_directory().display()
    );
    path
}

/// FFmpeg 9.
pub fn ffmpeg9() -> PathBuf {
    made("python/bin/ffmpeg9")
}

/// A script beside `setup.sh`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("encoders")
        .join(name)
}

/// Its home, logs and trusted certificates. Several of a kind in one test have one each.
pub(crate) fn work_directory(program: &str, ca_file: &Path, logs: &Path) -> PathBuf {
    let work = (0..)
        .map(|number| logs.join(format!("{program}-{number}")))
        .find(|path| !path.exists())
        .unwrap();
    fs::create_dir_all(work.join("certs")).unwrap();
    for name in ["ca.pem", "ca-certificates.crt"] {
        fs::copy(ca_file, work.join("certs").join(name)).unwrap();
    }
    work
}

/// A program of Debian's, for which `work` is `/mnt`.
pub fn in_root(work: &Path, program: &str) -> Command {
    let mut command = process::in_namespace("--mount");
    command.args(["--", "sh"]);
    command.arg(script("root.sh"));
    // `root` is a directory behind a symbolic link, which a bind mount would not follow.
    command.arg(fs::canonicalize(made("root")).unwrap());
    command.arg(fs::canonicalize(work).unwrap());
    command.arg(program);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", "/mnt");
    command.env("LC_ALL", "C.UTF-8");
    // GLib's own reads settings of a desktop that is not there.
    command.env("GIO_USE_PROXY_RESOLVER", "dummy");
    command
}
