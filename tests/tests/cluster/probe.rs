//! `headwater probe` against the real thing, and against certificates that are not to be trusted.

use std::{
    fs,
    process::{Command, Output},
    sync::Arc,
};

use runtime::identity::Role;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    authority::{Authority, Validity, bootstrapped_cluster},
    binary,
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    standalone::Standalone,
    turn,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::client_certificates::{Encoders, NAME, bound_key};

async fn probe(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary::headwater());
    command.arg("probe").args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Its JSON, at the deployment's edge.
async fn probe_edge(deployment: &Deployment, path: &str, more: &[&str]) -> (Option<i32>, Value) {
    let url = format!("rtmps://localhost:{}/{path}", deployment.rtmps.port());
    let ca_file = deployment.ca_file.to_str().unwrap();
    let arguments = [&["--json", "--ca-file", ca_file, &url], more].concat();
    let output = probe(&arguments).await;
    let report = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        report.unwrap_or_else(|error| panic!("{error}: {output:?}")),
    )
}

/// The steps at the address that answered.
fn steps(report: &Value) -> Vec<&Value> {
    let addresses = report["addresses"].as_array().unwrap();
    let steps = addresses.iter().map(|at| at["steps"].as_array().unwrap());
    steps
        .max_by_key(|steps| steps.len())
        .unwrap()
        .iter()
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_of_an_encoder_is_walked_step_by_step() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "probed").await;
    let (status, report) = probe_edge(deployment, APP, &[]).await;
    assert_eq!(status, Some(0), "{report:#}");
    let words = |report: &Value| -> Vec<String> {
        let steps = steps(report);
        let words = steps
            .iter()
            .map(|step| step["step"].as_str().unwrap().to_owned());
        words.collect()
    };
    assert_eq!(words(&report), ["tcp", "tls", "handshake", "connect"]);

    let subscriber = deployment.subscribe(&key);
    let path = format!("{APP}/{}", key.secret);
    let (status, report) = probe_edge(deployment, &path, &["--media", "3s"]).await;
    assert_eq!(status, Some(0), "{report:#}");
    assert_eq!(
        words(&report),
        ["tcp", "tls", "handshake", "connect", "publish", "media"]
    );
    let media = steps(&report).last().unwrap()["said"].clone();
    println!("probe: {media}");
    assert!(media.as_str().unwrap().contains("bytes sent"), "{media}");
    assert!(!report.to_string().contains(&key.secret));
    let received = subscriber.finish(std::time::Duration::from_secs(30)).await;
    assert!(received.frames.len() > 100, "{}", received.frames.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_in_the_servers_words() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let guess = "hwsk_wrong";
    let path = format!("{APP}/{guess}");
    let (status, report) = probe_edge(deployment, &path, &[]).await;
    assert_eq!(
        (status, &report["failed"]),
        (Some(15), &Value::from("publish")),
        "{report:#}"
    );
    let verdict = report["verdict"].as_str().unwrap();
    assert!(verdict.contains("NetStream.Publish.BadName: "), "{verdict}");
    // The same for people.
    let url = format!("rtmps://localhost:{}/{path}", deployment.rtmps.port());
    let output = probe(&["--ca-file", deployment.ca_file.to_str().unwrap(), &url]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("FAILED at publish: NetStream.Publish.BadName"),
        "{text}"
    );
    assert!(text.contains("RTMP handshake  ok"), "{text}");
    assert!(!text.contains(guess), "{text}");
    // An address is no name of the certificate, and nobody trusts it here.
    let url = format!("rtmps://{}/{APP}", deployment.rtmps);
    let output = probe(&[&url]).await;
    assert_eq!(output.status.code(), Some(12));
    // Where players are served, nobody publishes.
    let url = format!("rtmp://{}/{path}", deployment.rtmp[0]);
    let output = probe(&[&url]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(15), "{text}");
    assert!(text.contains("published to the edges"), "{text}");
}

/// Each is told at the step where it fails: the ports are real ones, for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_port_is_called_so() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    for (url, code, says) in [
        // The edge answers whoever comes without TLS, to say so.
        (
            format!("rtmp://{}/{APP}", deployment.rtmps),
            14,
            "use rtmps:// instead of rtmp://",
        ),
        (
            format!("rtmps://{}/{APP}", deployment.rtmp[0]),
            12,
            "the port speaks RTMP without TLS",
        ),
        (
            format!("{}/{APP}", deployment.http[0].replace("http", "rtmp")),
            13,
            "an HTTP server answers",
        ),
    ] {
        let output = probe(&[&url]).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{url}: {text}");
        assert!(text.contains(says), "{url}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_where_the_edge_requires_one() {
    let _turn = turn().await;
    let files = tempfile::tempdir().unwrap();
    let ours = Encoders::new(files.path(), "ours");
    let theirs = Encoders::new(files.path(), "theirs");
    let ca = ours.directory.join("ca.pem");
    let cluster = Cluster::start(Layout {
        origins: 1,
        edge: vec![(
            "EDGE__CLIENT_CERTIFICATES",
            format!("{{ mode: required, ca: {} }}", ca.display()),
        )],
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let key = bound_key(deployment).await;
    let path = format!("{APP}/{}", key.secret);
    let good = ours.issue(NAME, 7, 2100);
    let another = ours.issue("camera-8.example", 8, 2100);
    // As FFmpeg takes them: an option, the certificate, an option, the key.
    let pairs = [
        (Some(&good), 0, ""),
        (None, 12, "The server wants a client certificate"),
        (
            Some(&ours.issue(NAME, 9, 2021)),
            12,
            "The server wants a client certificate that it trusts",
        ),
        (
            Some(&theirs.issue(NAME, 7, 2100)),
            12,
            "The server wants a client certificate that it trusts",
        ),
        (
            Some(&another),
            15,
            "This stream key belongs to another client certificate",
        ),
    ];
    for (pair, code, says) in pairs {
        let shown = pair.map(|pair| ["--cert", &pair[1], "--cert-key", &pair[3]]);
        let shown = shown.as_ref().map_or(&[][..], |shown| &shown[..]);
        let (status, report) = probe_edge(deployment, &path, shown).await;
        assert_eq!(status, Some(code), "{shown:?}: {report:#}");
        let verdict = report["verdict"].as_str().unwrap();
        assert!(verdict.contains(says), "{shown:?}: {verdict}");
    }
    // A pair that is none, before anything is asked.
    let url = format!("rtmps://{}/{APP}", deployment.rtmps);
    let output = probe(&["--cert", &good[1], "--cert-key", &another[3], &url]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("do not belong together"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_called_so() {
    let server = Server::start(Validity::Expired).await;
    let (status, text) = server.probe("ca.pem").await;
    assert_eq!(status, Some(12), "{text}");
    assert!(text.contains("the certificate has expired"), "{text}");
}

#[tokio::test]
async fn the_certificate_of_an_authority_that_is_not_trusted_is_called_so() {
    let server = Server::start(Validity::Now).await;
    let (status, text) = server.probe("other.pem").await;
    assert_eq!(status, Some(12), "{text}");
    // The two have the same name.
    let says = "the certificate's issuer is not the one that is trusted here";
    assert!(text.contains(says), "{text}");
    // By its own it is, and for another name.
    let (status, text) = server.probe("ca.pem").await;
    assert_eq!(status, Some(12), "{text}");
    assert!(
        text.contains("the certificate is not for 127.0.0.1"),
        "{text}"
    );
}

/// Shows a certificate, and leaves.
struct Server {
    directory: TempDir,
    port: u16,
    _serving: JoinSet<()>,
}

impl Server {
    /// Its authority's certificate is `ca.pem`; `other.pem` is one of another.
    async fn start(validity: Validity) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = bootstrapped_cluster();
        let authority = Authority::another(&identity);
        let leaf = authority.leaf(&identity, Role::Edge, validity);
        leaf.write(directory.path(), Role::Edge);
        let file = |name: &str| directory.path().join(name);
        fs::write(file("ca.pem"), &authority.pem).unwrap();
        fs::write(file("other.pem"), Authority::another(&identity).pem).unwrap();
        let chain = CertificateDer::pem_file_iter(file("edge.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("edge.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A peer that does not trust us leaves.
                acceptor.accept(socket).await.ok();
            }
        });
        Self {
            directory,
            port,
            _serving: serving,
        }
    }

    async fn probe(&self, ca_file: &str) -> (Option<i32>, String) {
        let url = format!("rtmps://127.0.0.1:{}/live", self.port);
        let ca_file = self.directory.path().join(ca_file);
        let output = probe(&["--ca-file", ca_file.to_str().unwrap(), &url]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    }
}
