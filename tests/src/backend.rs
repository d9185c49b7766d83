//! A platform's backend: HTTPS on loopback with a certificate of its own. It keeps what it is sent, and may be down.

use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, sync::Arc};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::tls::{CertificateFiles, ReloadingCertificate, ensure_self_signed};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{free_port, http as client};

/// One request, whole.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Names in lower case.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// What it was answered with.
    pub status: u16,
}

/// Begins where it is down: nobody listens at its port.
pub struct Backend {
    address: SocketAddr,
    acceptor: TlsAcceptor,
    /// What control needs to call it: networks and the authority.
    pub egress: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Answer>,
    serving: Option<JoinHandle<()>>,
}

/// Status and body.
type Answer = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it is signed with this secret, by the Standard Webhooks convention.
    pub fn is_signed(&self, secret: &str) -> bool {
        let header = |name: &str| self.headers.get(name).map_or("", String::as_str);
        let key = secret.trim().strip_prefix("whsec_").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(key.as_bytes()).unwrap());
        let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
        let signed = [format!("{id}.{time}.").as_bytes(), &self.body].concat();
        let tag = BASE64.encode(hmac::sign(&key, &signed).as_ref());
        header("webhook-signature") == format!("v1,{tag}")
    }
}

impl Backend {
    /// Makes its certificate in this directory.
    pub fn new(
        directory: &Path,
        answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let files = CertificateFiles {
            certificate: directory.join("backend.pem"),
            private_key: directory.join("backend.key"),
        };
        ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
        let certificate = ReloadingCertificate::load(&files).unwrap();
        let ca_file = files.certificate.display();
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            egress: format!("{{allow: ['127.0.0.0/8', '::1/128'], ca_file: '{ca_file}'}}"),
            acceptor: TlsAcceptor::from(certificate.server_config().unwrap()),
            asked: Arc::default(),
            answer: Arc::new(answer),
            serving: None,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// Everything so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// Listens from now on.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let acceptor = self.acceptor.clone();
        let (asked, answer) = (self.asked.clone(), self.answer.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, asked, answer) = (acceptor.clone(), asked.clone(), answer.clone());
                connections.spawn(serve(socket, acceptor, asked, answer));
            }
        }));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn serve(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Answer>,
) {
    // Whoever goes before the answer has no need of one.
    let Ok(stream) = acceptor.accept(socket).await else {
        return;
    };
    let service = service_fn(|request| reply(request, asked.clone(), answer.clone()));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    served.await.ok();
}

async fn reply(
    request: Request<Incoming>,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Answer>,
) -> io::Result<Response<String>> {
    let headers = request.headers().iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str().to_owned(), value.into_owned())
    });
    let headers = headers.collect();
    let mut one = Asked {
        headers,
        body: client::collect(request.into_body()).await?,
        status: 0,
    };
    let mut response = Response::new(String::new());
    (one.status, *response.body_mut()) = answer(&one);
    *response.status_mut() = one.status.try_into().unwrap();
    asked.lock().push(one);
    Ok(response)
}
