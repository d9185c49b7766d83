//! A port in front of a server that speaks TLS: an encoder connects here, without TLS or with another server's, and what
//! it sends is kept as it came.

use std::{io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    deployment::Deployment,
    tls::{self, Connection},
};

/// A running recorder.
pub struct Recorder {
    pub address: SocketAddr,
    scheme: &'static str,
    recordings: Recordings,
    _task: JoinSet<()>,
}

/// What each connection sent, in the order in which they came.
type Recordings = Arc<Mutex<Vec<Vec<u8>>>>;

impl Recorder {
    /// In front of a deployment's RTMPS port, without TLS.
    pub async fn start(deployment: &Deployment) -> Self {
        Self::start_as("rtmp", deployment, None).await
    }

    /// The same with TLS of another kind than the deployment's.
    pub async fn with_tls(deployment: &Deployment, config: ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start_as("rtmps", deployment, Some(acceptor)).await
    }

    async fn start_as(
        scheme: &'static str,
        deployment: &Deployment,
        acceptor: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recordings = Recordings::default();
        let mut task = JoinSet::new();
        let address = listener.local_addr().unwrap();
        task.spawn(serve(
            listener,
            acceptor,
            deployment.clone(),
            recordings.clone(),
        ));
        Self {
            address,
            scheme,
            recordings,
            _task: task,
        }
    }

    /// What an encoder is told.
    pub fn server(&self, app: &str) -> String {
        format!("{}://localhost:{}/{app}", self.scheme, self.address.port())
    }

    /// What each connection has sent so far.
    pub fn recordings(&self) -> Vec<Vec<u8>> {
        self.recordings.lock().clone()
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    deployment: Deployment,
    recordings: Recordings,
) {
    let mut connections = JoinSet::new();
    while let Ok((encoder, _)) = listener.accept().await {
        encoder.set_nodelay(true).unwrap();
        let index = {
            let mut recordings = recordings.lock();
            recordings.push(Vec::new());
            recordings.len() - 1
        };
        let config = tls::trusting(&deployment.ca_file, &[]);
        let server = tls::connect(deployment.rtmps, config).await.unwrap();
        let (acceptor, recordings) = (acceptor.clone(), recordings.clone());
        connections.spawn(async move {
            let encoder = accept(encoder, acceptor).await?;
            relay(encoder, server, index, recordings).await;
            io::Result::Ok(())
        });
    }
}

async fn accept(
    encoder: TcpStream,
    acceptor: Option<TlsAcceptor>,
) -> io::Result<Box<dyn Connection>> {
    Ok(match acceptor {
        Some(acceptor) => Box::new(acceptor.accept(encoder).await?),
        None => Box::new(encoder),
    })
}

/// Until both sides are silent, or one of them is gone.
async fn relay(
    encoder: Box<dyn Connection>,
    server: Box<dyn Connection>,
    index: usize,
    recordings: Recordings,
) {
    let (mut from_encoder, mut to_encoder) = tokio::io::split(encoder);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let forth = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let bytes = from_encoder.read(&mut buffer).await?;
            if bytes == 0 {
                return to_server.shutdown().await;
            }
            recordings.lock()[index].extend_from_slice(&buffer[..bytes]);
            to_server.write_all(&buffer[..bytes]).await?;
            to_server.flush().await?;
        }
    };
    let back = async {
        tokio::io::copy(&mut from_server, &mut to_encoder).await?;
        to_encoder.shutdown().await
    };
    // A connection that breaks is what some tests are about.
    tokio::try_join!(forth, back).ok();
}
