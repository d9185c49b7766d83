//! `headwater probe` against peers that are wrong in one way each: what it says, its exit code, and that it tells no
//! secret.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "how a test's helper fails"
)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use runtime::tls::{CertificateFiles, ensure_self_signed};
use serde_json::Value;

const KEY: &str = "hwsk_secret-of-the-test";

/// Runs it, and reads its JSON; the whole of both outputs is looked through for the key.
fn probe(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = run(arguments, "");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), report)
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["probe", "--json", "--timeout", "2s"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may not read it.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains("secret-of-the-test"), "{text}");
    }
    output
}

/// A server that does the same to every connection.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            serve(connection);
        }
    });
    address
}

/// A server with a certificate for these names, that says one thing in TLS and closes.
fn tls_server(directory: &Path, name: &str, says: &'static [u8]) -> (SocketAddr, PathBuf) {
    let files = CertificateFiles {
        certificate: directory.join(format!("{name}.pem")),
        private_key: directory.join(format!("{name}.key")),
    };
    ensure_self_signed(&files, &[name.to_owned()]).unwrap();
    let certificate = files.certificate.clone();
    let config = {
        use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&files.private_key).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key);
        std::sync::Arc::new(config.unwrap())
    };
    let address = server(move |socket| {
        let session = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, socket);
        // A peer that does not trust us leaves.
        if stream.read(&mut [0; 2048]).is_ok() {
            stream.write_all(says).ok();
            stream.conn.send_close_notify();
            stream.flush().ok();
        }
    });
    (address, certificate)
}

/// The step that failed, of the only address, and what was said of it.
fn failure(report: &Value) -> (String, String) {
    let step = report["failed"].as_str().unwrap_or("-").to_owned();
    (step, report["verdict"].as_str().unwrap().to_owned())
}

fn assert_fails(arguments: &[&str], code: i32, step: &str, says: &[&str]) -> Value {
    let (status, report) = probe(arguments);
    let (failed, verdict) = failure(&report);
    assert_eq!((status, failed.as_str()), (Some(code), step), "{report:#}");
    for part in says {
        assert!(verdict.contains(part), "{part}: {verdict}");
    }
    report
}

#[test]
fn a_name_and_a_port_that_are_not_there() {
    let url = format!("rtmps://nowhere.invalid/live/{KEY}");
    assert_fails(&[&url], 10, "dns", &["cannot be resolved"]);
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let url = format!("rtmps://{address}/live/{KEY}");
    assert_fails(&[&url], 11, "tcp", &["nothing listens on this port"]);
}

#[test]
fn a_port_that_says_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("rtmps://{address}/live/{KEY}");
    assert_fails(&[&url], 12, "tls", &["no TLS handshake within 2s"]);
    let url = format!("rtmp://{address}/live/{KEY}");
    assert_fails(&[&url], 13, "handshake", &["does not answer RTMP"]);
}

#[test]
fn rtmps_at_an_rtmp_port_and_rtmp_at_an_rtmps_port() {
    let plain = server(|mut socket| {
        let mut first = [0];
        if socket.read_exact(&mut first).is_ok() && first == [3] {
            socket.write_all(&[3]).ok();
        }
    });
    let url = format!("rtmps://{plain}/live/{KEY}");
    assert_fails(&[&url], 12, "tls", &["speaks RTMP without TLS"]);
    let directory = tempfile::tempdir().unwrap();
    let (secure, _) = tls_server(directory.path(), "localhost", b"");
    let url = format!("rtmp://{secure}/live/{KEY}");
    assert_fails(&[&url], 13, "handshake", &["use rtmps://"]);
}

#[test]
fn web_servers_with_tls_and_without() {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let plain = server(|mut socket| {
        socket.read_exact(&mut [0; 16]).ok();
        socket.write_all(ANSWER).ok();
        // Not all was read: a close would be a reset that takes the answer along.
        socket.read_to_end(&mut Vec::new()).ok();
    });
    let url = format!("rtmp://{plain}/live/{KEY}");
    assert_fails(&[&url], 13, "handshake", &["an HTTP server answers"]);
    let directory = tempfile::tempdir().unwrap();
    let (secure, ca_file) = tls_server(directory.path(), "localhost", ANSWER);
    let url = format!("rtmps://localhost:{}/live/{KEY}", secure.port());
    let trust = ["--ca-file", ca_file.to_str().unwrap()];
    let arguments = [&[url.as_str()], &trust[..]].concat();
    let report = assert_fails(&arguments, 13, "handshake", &["an HTTP server answers"]);
    let tried = report["addresses"].as_array().unwrap();
    let steps = tried.iter().flat_map(|at| at["steps"].as_array().unwrap());
    let tls: Vec<_> = steps.filter(|step| step["step"] == "tls").collect();
    assert_eq!(tls[0]["detail"]["version"], "TLS 1.3");
    assert_eq!(tls[0]["detail"]["trusted"], true);
    assert_eq!(tls[0]["detail"]["server_name"], "localhost");
    assert_eq!(tls[0]["detail"]["chain"][0]["names"][0], "localhost");
    assert!(tls[0]["ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn certificates_that_are_not_to_be_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let (other, ca_file) = tls_server(directory.path(), "other.example", b"");
    let url = format!("rtmps://localhost:{}/live/{KEY}", other.port());
    assert_fails(&[&url], 12, "tls", &["self-signed", "--ca-file"]);
    let trust = ["--ca-file", ca_file.to_str().unwrap()];
    let arguments = [&[url.as_str()], &trust[..]].concat();
    let says = ["not for localhost", "It is for other.example"];
    assert_fails(&arguments, 12, "tls", &says);
    // Whoever insists gets further: to what is no RTMP server.
    let (status, _) = probe(&[&url, "--insecure"]);
    assert_eq!(status, Some(13));
}

#[test]
fn the_command_line_has_to_make_sense() {
    for arguments in [
        &["rtmps://localhost"][..],
        &["https://localhost/live"],
        &["rtmps://localhost/live", "--media", "1s"],
        &["rtmps://localhost/live", "--cert", "cert.pem"],
        &["rtmps://localhost/live", "--key-file", "-"],
    ] {
        assert_eq!(
            run(arguments, "\n").status.code(),
            Some(64),
            "{arguments:?}"
        );
    }
    let missing = ["rtmps://localhost/live", "--key-file", "nowhere"];
    assert_eq!(run(&missing, "").status.code(), Some(1));
}

#[test]
fn a_key_comes_by_file_or_by_standard_input() {
    let address = server(drop);
    let url = format!("rtmp://{address}/live");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    fs::write(&file, format!("{KEY}\n")).unwrap();
    for (file, input) in [(file.to_str().unwrap(), ""), ("-", KEY)] {
        let output = run(&[&url, "--key-file", file], input);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["url"], format!("{url}/[key]"));
        assert_eq!(output.status.code(), Some(13), "{report}");
    }
}
