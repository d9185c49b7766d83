use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{self, Poll},
};

use registry::{MemoryRegistry, Registry};
use rtmp::{ClientConfig, ClientSession, StreamKeyText};
use runtime::{
    grpc::{self, Endpoints},
    identity::Role,
    shutdown::Shutdown,
    tls::{CertificateFiles, EncoderTls, EncoderTlsFiles, ensure_self_signed},
};
use tokio::{
    io::{DuplexStream, ReadBuf, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{Config, Dependencies, OriginDialer};

/// A session on one end of a pipe.
struct Fixture {
    peer: DuplexStream,
    session: JoinHandle<()>,
    writes: Arc<AtomicUsize>,
    shutdown: Shutdown,
    started: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self::with_pipe(64 * 1024)
    }

    fn with_pipe(bytes: usize) -> Self {
        let shutdown = Shutdown::default();
        let (ours, peer) = duplex(bytes);
        let writes = Arc::new(AtomicUsize::new(0));
        let socket = CountingWrites {
            pipe: ours,
            writes: writes.clone(),
        };
        let client = Client {
            address: "192.0.2.1:1234".parse().unwrap(),
            server_name: String::new(),
            certificate: None,
            encrypted: true,
        };
        let (_control, control_target) = grpc::in_process(Role::Edge);
        let control = Endpoints::new(vec![grpc::Target::InProcess(control_target)]);
        let context = context(shutdown.clone(), control);
        let session = tokio::spawn(run(socket, client, context));
        Self {
            peer,
            session,
            writes,
            shutdown,
            started: Instant::now(),
        }
    }

    /// When the session ended; what it still had to say is read.
    async fn ended_after(mut self) -> Duration {
        let mut said = Vec::new();
        self.peer.read_to_end(&mut said).await.unwrap();
        let after = self.started.elapsed();
        drop(self.peer);
        self.session.await.unwrap();
        after
    }
}

/// An edge that knows no origin.
pub(crate) fn context(shutdown: Shutdown, control: Endpoints) -> Arc<Context> {
    let directory = tempfile::tempdir().unwrap();
    let files = CertificateFiles {
        certificate: directory.path().join("certificate.pem"),
        private_key: directory.path().join("private.key"),
    };
    ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
    let (_origin, origin_target) = grpc::in_process(Role::Edge);
    let dependencies = Dependencies {
        registry: Registry::Memory(MemoryRegistry::new()),
        metrics: runtime::metrics::Metrics::default(),
        readiness: runtime::admin::Readiness::default(),
        control,
        origins: OriginDialer::InProcess(origin_target),
        tls: EncoderTls::load(EncoderTlsFiles::of(files)).unwrap(),
    };
    let (context, _nobody_sends) = Context::new(Config::default(), dependencies, shutdown);
    Arc::new(context)
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_at_the_handshakes_deadline() {
    let after = Fixture::new().ended_after().await;
    assert_eq!(after.as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_move_the_deadline() {
    let fixture = Fixture::new();
    let (mut read, mut write) = tokio::io::split(fixture.peer);
    let dripping = tokio::spawn(async move {
        write.write_all(&[3]).await.unwrap();
        while write.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let mut said = Vec::new();
    read.read_to_end(&mut said).await.unwrap();
    assert_eq!(fixture.started.elapsed().as_secs(), 10);
    // Lingering ends too.
    fixture.session.await.unwrap();
    assert_eq!(fixture.started.elapsed().as_secs(), 11);
    dripping.abort();
}

#[tokio::test(start_paused = true)]
async fn garbage_is_closed_at_once() {
    let mut fixture = Fixture::new();
    fixture.peer.write_all(&[0xff; 4000]).await.unwrap();
    assert!(fixture.ended_after().await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_closed_at_the_writes_deadline() {
    let mut fixture = Fixture::with_pipe(512);
    let mut c0_c1 = vec![0; 1537];
    c0_c1[0] = 3;
    fixture.peer.write_all(&c0_c1).await.unwrap();
    fixture.session.await.unwrap();
    assert_eq!(fixture.started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_leaves_ends_its_session() {
    let fixture = Fixture::new();
    drop(fixture.peer);
    fixture.session.await.unwrap();
    assert_eq!(fixture.started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_connections_that_do_not_publish() {
    let fixture = Fixture::new();
    fixture.shutdown.drain();
    assert_eq!(fixture.ended_after().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn each_reply_is_one_write() {
    let mut fixture = Fixture::new();
    let config = ClientConfig {
        purpose: rtmp::Purpose::Publish,
        app: "live".to_owned(),
        tc_url: "rtmps://localhost/live".to_owned(),
        name: StreamKeyText::new("name".to_owned()),
        flash_ver: "test".to_owned(),
        chunk_bytes_out: 4096,
        caps_ex: 0,
    };
    let mut client = ClientSession::new(config, &[7; 1528], std_now());
    let mut input = BytesMut::new();
    // C0 C1, then C2 and connect, then createStream and its company: S0 S1 S2, connect's reply, createStream's reply.
    for replies in 1..=3 {
        let mut sent = Vec::new();
        while let Some(transmit) = client.poll_transmit() {
            sent.extend_from_slice(&transmit);
        }
        fixture.peer.write_all(&sent).await.unwrap();
        while client_waits(&mut client, &mut input, &mut fixture.peer).await {}
        assert_eq!(fixture.writes.load(Ordering::Relaxed), replies);
    }
}

/// Reads once; whether the client has still nothing to send.
async fn client_waits(
    client: &mut ClientSession,
    input: &mut BytesMut,
    peer: &mut DuplexStream,
) -> bool {
    // The pipe is larger than any reply: what is there is all of it.
    let read = timeout(Duration::from_millis(100), peer.read_buf(input)).await;
    client.handle_input(input, std_now()).unwrap();
    matches!(read, Ok(Ok(1..)))
}

/// A pipe that counts how often it is written to.
struct CountingWrites {
    pipe: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for CountingWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buffer)
    }
}

impl AsyncWrite for CountingWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.pipe).poll_write(context, bytes);
        if written.is_ready() {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}
