//! What a user of Headwater has in hand, whatever it consists of: where to publish, where to read, the API. Tests that
//! hold for the separate roles and for the standalone process alike are written against this.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    api::{Api, IssuedKey},
    encoder::Encoder,
    ffmpeg::{self, Pace},
    http::FlvReader,
    process::Process,
    subscriber::{Playback, Subscriber},
    tls,
};

/// The one application that a fresh installation has.
pub const APP: &str = "live";

/// Addresses and credentials.
#[derive(Clone)]
pub struct Deployment {
    pub api: Api,
    /// Where encoders connect, with TLS.
    pub rtmps: SocketAddr,
    /// Trusts what `rtmps` shows.
    pub ca_file: PathBuf,
    /// gRPC playback, an entry for each origin.
    pub playback: Playback,
    /// `http://host:port` of each origin.
    pub http: Vec<String>,
    /// `host:port` of each origin, for players over RTMP.
    pub rtmp: Vec<SocketAddr>,
    /// `http://host:port` of each process's metrics.
    pub admin: Vec<String>,
    /// Where publishers and readers of this test write their logs.
    pub logs: PathBuf,
}

impl Deployment {
    /// The server URL that goes into an encoder.
    pub fn rtmps_url(&self, app: &str) -> String {
        format!("rtmps://{}/{app}", self.rtmps)
    }

    /// Starts FFmpeg on a file.
    pub fn ffmpeg(&self, key: &IssuedKey, file: &Path, loops: u32, pace: Pace) -> Process {
        let url = format!("{}/{}", self.rtmps_url(&key.app), key.secret);
        let name = format!("ffmpeg-{}", key.stream);
        ffmpeg::publish_named(&name, file, loops, pace, &url, &self.logs)
    }

    /// Connects an encoder of our own, TLS done.
    pub async fn encoder(&self) -> Encoder {
        self.try_encoder().await.unwrap()
    }

    /// As [`encoder`](Self::encoder), where the server may refuse.
    pub async fn try_encoder(&self) -> std::io::Result<Encoder> {
        let config = tls::trusting(&self.ca_file, &[]);
        Ok(Encoder::new(tls::connect(self.rtmps, config).await?))
    }

    /// Connects and publishes, which must be accepted.
    pub async fn publish(&self, key: &IssuedKey) -> Encoder {
        let mut encoder = self.encoder().await;
        encoder.publish_accepted(&key.app, &key.secret).await;
        encoder
    }

    /// Follows a stream over gRPC, on whatever origin it is and moves to.
    pub fn subscribe(&self, key: &IssuedKey) -> Subscriber {
        Subscriber::start(&self.playback, &key.app, &key.stream)
    }

    /// Waits for a stream over gRPC at every origin: attached before anybody publishes.
    pub fn subscribe_everywhere(&self, key: &IssuedKey) -> Vec<Subscriber> {
        let at = |origin: &String| Playback {
            origins: vec![origin.clone()],
            ..self.playback.clone()
        };
        let origins = self.playback.origins.iter();
        origins
            .map(|origin| Subscriber::start(&at(origin), &key.app, &key.stream))
            .collect()
    }

    /// A stream's FLV URL at every origin; a reader who comes early waits for the stream.
    pub fn flv_urls(&self, key: &IssuedKey) -> Vec<String> {
        let token = &self.playback.token;
        self.http
            .iter()
            .map(|base| {
                format!(
                    "{base}/live/{}/{}.flv?token={token}&wait=60",
                    key.app, key.stream
                )
            })
            .collect()
    }

    /// A stream's RTMP URL at every origin; a player who comes early waits for the stream.
    pub fn pull_urls(&self, key: &IssuedKey) -> Vec<String> {
        let IssuedKey { app, stream, .. } = key;
        let token = &self.playback.token;
        self.rtmp
            .iter()
            .map(|origin| format!("rtmp://{origin}/{app}/{stream}?token={token}&wait=60"))
            .collect()
    }

    /// Reads a stream's FLV at every origin.
    pub fn read_everywhere(&self, key: &IssuedKey) -> Vec<FlvReader> {
        let urls = self.flv_urls(key);
        urls.iter().map(|url| FlvReader::start(url)).collect()
    }
}
