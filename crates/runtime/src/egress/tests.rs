use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::{CertificateFiles, ReloadingCertificate, ensure_self_signed};

const NAME: &str = "backend.test";

/// A server with a certificate for [`NAME`], and how many connections it took. Answers every request with the same
/// bytes; with none, not at all.
struct Backend {
    port: u16,
    connections: Arc<AtomicUsize>,
    last_request: Arc<parking_lot::Mutex<String>>,
    _serving: AbortOnDropHandle<()>,
}

impl Backend {
    async fn start(directory: &Path, address: &str, answer: impl Into<Vec<u8>>) -> Self {
        let files = certificate(directory);
        ensure_self_signed(&files, &[NAME.to_owned()]).unwrap();
        let config = ReloadingCertificate::load(&files).unwrap();
        let acceptor = TlsAcceptor::from(config.server_config().unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let last_request = Arc::new(parking_lot::Mutex::new(String::new()));
        let (counted, seen) = (connections.clone(), last_request.clone());
        let answer: Arc<[u8]> = answer.into().into();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer, seen) = (acceptor.clone(), answer.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut request = vec![0; 4096];
                    let read = stream.read(&mut request).await.unwrap();
                    *seen.lock() = String::from_utf8_lossy(&request[..read]).into_owned();
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    // A client that has read enough breaks off.
                    stream.write_all(&answer).await.ok();
                    stream.shutdown().await.ok();
                });
            }
        });
        Self {
            port,
            connections,
            last_request,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    fn taken(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn certificate(directory: &Path) -> CertificateFiles {
    CertificateFiles {
        certificate: directory.join("backend.pem"),
        private_key: directory.join("backend.key"),
    }
}

/// Trusts the backends' certificate; `answers` are what the name resolves to, one for each look-up.
fn egress(directory: &Path, allow: &[&str], answers: &[&[&str]]) -> (Egress, Arc<AtomicUsize>) {
    let config = EgressConfig {
        allow: allow
            .iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        roots: Vec::new(),
        ca_files: vec![certificate(directory).certificate],
    };
    let answers: Vec<Vec<IpAddr>> = answers
        .iter()
        .map(|answer| answer.iter().map(|text| text.parse().unwrap()).collect())
        .collect();
    let looked_up = Arc::new(AtomicUsize::new(0));
    let count = looked_up.clone();
    let resolver: Resolver = Arc::new(move |_host| {
        let answer = answers.get(count.fetch_add(1, Ordering::SeqCst)).cloned();
        Box::pin(async move { answer.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    });
    (
        Egress::new(config).unwrap().with_resolver(resolver),
        looked_up,
    )
}

fn url(port: u16) -> HttpsUrl {
    format!("https://{NAME}:{port}/keys?a=b").parse().unwrap()
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test]
async fn a_request_carries_the_name_and_an_answer_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let ok = answer("200 OK\r\nX-Kind: test", "hello");
    let backend = Backend::start(directory.path(), "127.0.0.1:0", ok).await;
    let (egress, _) = egress(
        directory.path(),
        &["127.0.0.0/8"],
        &[&["127.0.0.1"], &["127.0.0.1"]],
    );
    let response = egress
        .get(&url(backend.port), HeaderMap::new())
        .await
        .unwrap();
    assert_eq!(
        (response.status, &response.body[..]),
        (StatusCode::OK, &b"hello"[..])
    );
    assert_eq!(response.headers["x-kind"], "test");
    let request = backend.last_request.lock().to_ascii_lowercase();
    assert!(request.starts_with("get /keys?a=b http/1.1\r\n"));
    assert!(request.contains(&format!("host: {NAME}:{}\r\n", backend.port)));
    let headers = HeaderMap::from_iter([(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )]);
    let body = Bytes::from_static(b"{}");
    egress
        .post(&url(backend.port), headers, body)
        .await
        .unwrap();
    let request = backend.last_request.lock().to_ascii_lowercase();
    assert!(request.starts_with("post ") && request.contains("content-length: 2\r\n"));
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_dialled_where_it_was_checked() {
    let directory = tempfile::tempdir().unwrap();
    // 127.0.0.1 stands for the public internet, 127.0.0.2 for the cluster's own network.
    let public = Backend::start(directory.path(), "127.0.0.1:0", answer("200 OK", "public")).await;
    let private_address = format!("127.0.0.2:{}", public.port);
    let private = Backend::start(
        directory.path(),
        &private_address,
        answer("200 OK", "secret"),
    )
    .await;
    let (egress, looked_up) = egress(
        directory.path(),
        &["127.0.0.1/32"],
        &[&["127.0.0.1"], &["127.0.0.2"]],
    );
    let first = egress
        .get(&url(public.port), HeaderMap::new())
        .await
        .unwrap();
    assert_eq!(&first.body[..], b"public");
    assert_eq!(
        looked_up.load(Ordering::SeqCst),
        1,
        "one look-up for check and dial"
    );
    let second = egress.get(&url(public.port), HeaderMap::new()).await;
    assert!(
        matches!(second, Err(EgressError::Forbidden { .. })),
        "{second:?}"
    );
    assert_eq!((public.taken(), private.taken()), (1, 0));
}

#[tokio::test]
async fn of_several_addresses_only_those_that_may_be_are_dialled() {
    let directory = tempfile::tempdir().unwrap();
    let public = Backend::start(directory.path(), "127.0.0.1:0", answer("200 OK", "public")).await;
    let private_address = format!("127.0.0.2:{}", public.port);
    let private = Backend::start(
        directory.path(),
        &private_address,
        answer("200 OK", "secret"),
    )
    .await;
    // Nobody listens at 127.0.0.3: the next one is tried.
    let mixed: &[&str] = &["127.0.0.2", "127.0.0.3", "127.0.0.1"];
    let (egress, _) = egress(
        directory.path(),
        &["127.0.0.1/32", "127.0.0.3/32"],
        &[mixed],
    );
    let response = egress.get(&url(public.port), HeaderMap::new()).await;
    assert_eq!(&response.unwrap().body[..], b"public");
    assert_eq!(private.taken(), 0);
}

#[tokio::test]
async fn an_address_in_the_url_is_checked_as_well() {
    let egress = Egress::new(EgressConfig::default()).unwrap();
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
    ] {
        let url: HttpsUrl = format!("https://{host}/").parse().unwrap();
        let refused = egress.get(&url, HeaderMap::new()).await;
        assert!(
            matches!(refused, Err(EgressError::Forbidden { .. })),
            "{host}: {refused:?}"
        );
    }
    // The system's resolver takes these for addresses; whatever it makes of them is checked.
    for host in ["localhost", "0x7f.1", "2130706433"] {
        let Ok(url) = format!("https://{host}/").parse::<HttpsUrl>() else {
            continue;
        };
        let refused = egress.get(&url, HeaderMap::new()).await;
        assert!(
            matches!(
                refused,
                Err(EgressError::Forbidden { .. } | EgressError::Resolve { .. })
            ),
            "{host}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let redirect = answer("302 Found\r\nLocation: https://127.0.0.2/", "");
    let backend = Backend::start(directory.path(), "127.0.0.1:0", redirect).await;
    let (egress, _) = egress(directory.path(), &["127.0.0.0/8"], &[&["127.0.0.1"]]);
    let response = egress.get(&url(backend.port), HeaderMap::new()).await;
    assert_eq!(response.unwrap().status, StatusCode::FOUND);
    assert_eq!(backend.taken(), 1);
}

#[tokio::test]
async fn a_long_answer_and_another_certificate_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let fits = answer("200 OK", &"a".repeat(BODY_BYTES_MAX));
    let backend = Backend::start(directory.path(), "127.0.0.1:0", fits).await;
    let loopback: &[&str] = &["127.0.0.1"];
    let (client, _) = egress(directory.path(), &["127.0.0.0/8"], &[loopback, loopback]);
    let response = client.get(&url(backend.port), HeaderMap::new()).await;
    assert_eq!(response.unwrap().body.len(), BODY_BYTES_MAX);
    let other: HttpsUrl = format!("https://other.test:{}/", backend.port)
        .parse()
        .unwrap();
    let refused = client.get(&other, HeaderMap::new()).await;
    assert!(matches!(refused, Err(EgressError::Tls { .. })));
    let endless = [
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        vec![b'a'; BODY_BYTES_MAX + 1],
    ]
    .concat();
    let backend = Backend::start(directory.path(), "127.0.0.1:0", endless).await;
    let (client, _) = egress(directory.path(), &["127.0.0.0/8"], &[loopback]);
    let refused = client.get(&url(backend.port), HeaderMap::new()).await;
    assert!(
        matches!(refused, Err(EgressError::BodyTooLong { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let backend = Backend::start(directory.path(), "127.0.0.1:0", Vec::new()).await;
    let (egress, _) = egress(directory.path(), &["127.0.0.0/8"], &[&["127.0.0.1"]]);
    let started = Instant::now();
    let refused = egress.get(&url(backend.port), HeaderMap::new()).await;
    assert!(
        matches!(refused, Err(EgressError::Deadline { .. })),
        "{refused:?}"
    );
    assert!(started.elapsed() >= DEADLINE && started.elapsed() < DEADLINE * 5);
    println!("given up after {:?}", started.elapsed());
}
