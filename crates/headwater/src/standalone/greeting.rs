//! What a standalone process says of itself: to people on standard output, to scripts in the ready file.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    Addresses, DataDir, Secrets,
    first_stream_key::{APP, STREAM},
    reachable,
};
use crate::output;

/// Where everything is, and with which credentials.
pub(super) struct Greeting {
    admin_url: String,
    api_token: String,
    ca_file: String,
    /// For the commands that find this process by its data directory; empty for the one that they try first.
    data_dir_argument: String,
    first_stream_key_file: String,
    flv_url: String,
    pub(super) grpc_url: String,
    playback_grpc_url: String,
    playback_token: String,
    pull_url: String,
    rtmps_url: String,
    pub(super) stream_key: Option<String>,
}

impl Greeting {
    pub(super) fn new(
        addresses: &Addresses,
        admin_url: String,
        data_dir: &DataDir,
        secrets: &Secrets,
    ) -> Self {
        let ca_file = data_dir.certificate().certificate;
        // Scripts may run in another directory.
        let ca_file = ca_file.canonicalize().unwrap_or(ca_file);
        Self {
            admin_url,
            api_token: secrets.api_token.clone(),
            ca_file: ca_file.display().to_string(),
            data_dir_argument: data_dir.argument(),
            first_stream_key_file: data_dir.first_stream_key().display().to_string(),
            flv_url: format!(
                "http://{}/live/{APP}/{STREAM}.flv?token={}",
                reachable(addresses.http),
                secrets.playback_token
            ),
            grpc_url: grpc_url(addresses.grpc),
            playback_grpc_url: grpc_url(addresses.playback),
            playback_token: secrets.playback_token.clone(),
            pull_url: pull_url(addresses.pull, &secrets.playback_token),
            rtmps_url: format!("rtmps://{}/{APP}", rtmps_host(addresses.rtmps)),
            stream_key: None,
        }
    }

    /// For scripts.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "rtmps_url": self.rtmps_url,
            "stream_key": self.stream_key,
            "flv_url": self.flv_url,
            "pull_url": self.pull_url,
            "grpc_url": self.grpc_url,
            "playback_grpc_url": self.playback_grpc_url,
            "api_token": self.api_token,
            "playback_token": self.playback_token,
            "admin_url": self.admin_url,
            "ca_file": self.ca_file,
        })
    }

    /// For people. Standard output alone: the logger never sees a stream key.
    pub(super) fn print(&self) {
        output::line(self.text());
    }

    fn text(&self) -> String {
        let Self {
            admin_url,
            ca_file,
            flv_url,
            grpc_url,
            pull_url,
            rtmps_url,
            ..
        } = self;
        let headwater = output::program();
        let data_dir = &self.data_dir_argument;
        let stream_key = match &self.stream_key {
            Some(stream_key) => stream_key.clone(),
            None => format!(
                "not kept in {} any more; make one:\n                {headwater} keys create --stream NAME{data_dir}",
                self.first_stream_key_file
            ),
        };
        let publish_key = self.stream_key.as_deref().unwrap_or("STREAM_KEY");
        format!(
            "
Headwater is running. Ctrl-C stops it.

Publish with OBS (Settings, Stream, Service: Custom):
    Server      {rtmps_url}
    Stream Key  {stream_key}
    The certificate is self-signed: where the encoder refuses it, let this machine trust
    {ca_file}

Publish a test pattern with FFmpeg:
    ffmpeg -re -f lavfi -i testsrc2=size=1280x720:rate=30 -f lavfi -i sine=frequency=440:sample_rate=48000 \\
        -c:v libx264 -preset veryfast -tune zerolatency -pix_fmt yuv420p -g 60 -b:v 2500k -c:a aac -b:a 128k \\
        -f flv -tls_verify 0 '{rtmps_url}/{publish_key}'

Play it back, in another terminal:
    ffplay '{flv_url}'
    ffplay '{pull_url}'

Who publishes:  {headwater} sessions list{data_dir}
Stream keys:    {headwater} keys list{data_dir}
gRPC API:       {grpc_url}
Metrics:        {admin_url}/metrics
"
        )
    }
}

/// The port serves without TLS on loopback alone: see [`super::public_listener`].
fn grpc_url(address: SocketAddr) -> String {
    let scheme = if address.ip().is_loopback() {
        "http"
    } else {
        "https"
    };
    format!("{scheme}://{}", reachable(address))
}

/// The port serves without TLS on loopback alone, as the other one.
fn pull_url(address: SocketAddr, token: &str) -> String {
    let (scheme, host) = if address.ip().is_loopback() {
        ("rtmp", address.to_string())
    } else {
        ("rtmps", rtmps_host(address))
    };
    format!("{scheme}://{host}/{APP}/{STREAM}?token={token}")
}

/// A name rather than an address where there is one: encoders send it as SNI and check the certificate against it.
fn rtmps_host(address: SocketAddr) -> String {
    let reachable = reachable(address);
    if reachable.ip().is_loopback() && reachable.is_ipv4() {
        format!("localhost:{}", reachable.port())
    } else {
        reachable.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_that_listens_everywhere_is_shown_as_localhost() {
        assert_eq!(rtmps_host(address("0.0.0.0:8443")), "localhost:8443");
        assert_eq!(rtmps_host(address("[::]:8443")), "localhost:8443");
        assert_eq!(rtmps_host(address("127.0.0.1:1")), "localhost:1");
        assert_eq!(rtmps_host(address("192.0.2.7:1")), "192.0.2.7:1");
        assert_eq!(rtmps_host(address("[::1]:1")), "[::1]:1");
    }

    #[test]
    fn only_loopback_is_served_without_tls() {
        assert_eq!(grpc_url(address("127.0.0.1:7443")), "http://127.0.0.1:7443");
        assert_eq!(grpc_url(address("0.0.0.0:7443")), "https://127.0.0.1:7443");
        assert_eq!(grpc_url(address("192.0.2.7:1")), "https://192.0.2.7:1");
        let url = pull_url(address("127.0.0.1:1936"), "t");
        assert_eq!(url, "rtmp://127.0.0.1:1936/live/main?token=t");
        let url = pull_url(address("0.0.0.0:1936"), "t");
        assert_eq!(url, "rtmps://localhost:1936/live/main?token=t");
    }
}
