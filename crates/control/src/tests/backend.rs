//! A platform's backend: HTTPS with a certificate of its own, on loopback.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use runtime::{
    egress::{EgressConfig, HttpsUrl},
    tls::{CertificateFiles, ReloadingCertificate, ensure_self_signed},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpListener,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// What it was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// What it does.
pub(super) enum Reply {
    Answer(u16, String),
    Hang,
}

/// Answers as it is told; ends with the value.
pub(super) struct Backend {
    pub(super) egress: EgressConfig,
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    hanging: watch::Receiver<usize>,
    _serving: AbortOnDropHandle<()>,
}

/// One request under way that is never answered.
struct Hanging(Arc<AtomicUsize>, watch::Sender<usize>);

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Backend {
    pub(super) async fn start(
        directory: &std::path::Path,
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let files = CertificateFiles {
            certificate: directory.join("backend.pem"),
            private_key: directory.join("backend.key"),
        };
        ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
        let certificate = ReloadingCertificate::load(&files).unwrap();
        let acceptor = TlsAcceptor::from(certificate.server_config().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (sender, hanging) = watch::channel(0);
        let (seen, count, reply) = (asked.clone(), Arc::default(), Arc::new(reply));
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, seen, reply) = (acceptor.clone(), seen.clone(), reply.clone());
                let hang = (Arc::clone(&count), sender.clone());
                tokio::spawn(async move {
                    let stream = BufStream::new(acceptor.accept(stream).await?);
                    serve(stream, &seen, &*reply, hang).await
                });
            }
        });
        Self {
            egress: EgressConfig {
                allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                roots: Vec::new(),
                ca_files: vec![files.certificate],
            },
            port,
            asked,
            hanging,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    pub(super) fn url(&self, path: &str) -> HttpsUrl {
        format!("https://localhost:{}{path}", self.port)
            .parse()
            .unwrap()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// How many requests hang now.
    pub(super) fn hanging(&self) -> usize {
        *self.hanging.borrow()
    }

    /// Until so many requests hang at once.
    pub(super) async fn hangs(&self, requests: usize) {
        let mut hanging = self.hanging.clone();
        let enough = hanging.wait_for(|hanging| *hanging >= requests);
        timeout(PATIENCE, enough).await.unwrap().unwrap();
    }
}

async fn serve(
    mut stream: BufStream<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
    seen: &Mutex<Vec<Asked>>,
    reply: &(impl Fn(&Asked) -> Reply + Sync),
    (count, sender): (Arc<AtomicUsize>, watch::Sender<usize>),
) -> std::io::Result<()> {
    let mut asked = Asked::default();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ") {
            let header = (name.to_ascii_lowercase(), value.to_owned());
            asked.headers.push(header);
        }
    }
    let mut body = vec![0; asked.header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    asked.body = String::from_utf8(body).unwrap();
    seen.lock().push(asked.clone());
    match reply(&asked) {
        Reply::Answer(status, body) => {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
            stream.flush().await
        }
        Reply::Hang => {
            let _hanging = Hanging::new(count, sender);
            // Until the client goes.
            stream.read_u8().await.map(drop)
        }
    }
}

impl Hanging {
    fn new(count: Arc<AtomicUsize>, sender: watch::Sender<usize>) -> Self {
        sender.send_replace(count.fetch_add(1, Ordering::SeqCst) + 1);
        Self(count, sender)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.1
            .send_replace(self.0.fetch_sub(1, Ordering::SeqCst) - 1);
    }
}

/// Well above a handshake.
const PATIENCE: Duration = Duration::from_secs(20);
