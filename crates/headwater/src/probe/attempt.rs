//! One address: TCP, TLS, and RTMP as far as it goes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rtmp::{Awaits, ClientConfig, Purpose, StreamKeyText};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    Probe, Step, cause,
    certificate::Shown,
    report::{Outcome, StepReport},
};
use crate::bench::{
    connection::{CHUNK_BYTES, Connection, Fault, Socket},
    source::{Media, Source},
    synthetic::Profile,
    tls::server_name,
};

/// Of the media that are sent.
const BITS_PER_SECOND: u64 = 4_000_000;
const FRAMES_PER_SECOND: u32 = 30;
const GOP: Duration = Duration::from_secs(2);
/// What is due within this time goes out together.
const GATHER: Duration = Duration::from_millis(25);
/// To find out what a port speaks that does not speak what was expected.
const SECOND_OPINION: Duration = Duration::from_secs(3);

/// What comes of one address.
pub(super) struct Attempt<'a> {
    address: SocketAddr,
    probe: &'a Probe,
    steps: Vec<StepReport>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(probe: &'a Probe, address: SocketAddr) -> Self {
        Self {
            address,
            probe,
            steps: Vec::new(),
        }
    }

    /// Step by step, until one fails.
    pub(super) async fn run(mut self, publishes: bool) -> Vec<StepReport> {
        // What ends early is in the steps.
        self.try_all(publishes).await;
        self.steps
    }

    async fn try_all(&mut self, publishes: bool) -> Option<()> {
        let socket = self.tcp().await?;
        let socket: Box<dyn Socket> = if self.probe.target.secure {
            self.tls(socket).await?
        } else {
            Box::new(socket)
        };
        let mut connection = self.open(socket)?;
        self.rtmp(&mut connection, Step::Handshake, Awaits::Handshake)
            .await?;
        self.rtmp(&mut connection, Step::Connect, Awaits::Connect)
            .await?;
        if publishes {
            self.rtmp(&mut connection, Step::Publish, Awaits::Stream)
                .await?;
            if let Some(length) = self.probe.media {
                self.media(&mut connection, length).await?;
            }
            connection.finish().await;
        }
        Some(())
    }

    async fn tcp(&mut self) -> Option<TcpStream> {
        let begun = Instant::now();
        let connected = timeout(self.probe.timeout, TcpStream::connect(self.address)).await;
        let (outcome, socket) = match connected {
            Ok(Ok(socket)) => {
                socket.set_nodelay(true).ok();
                let local = socket.local_addr().map(|local| format!("from {local}"));
                (Outcome::Passed(local.unwrap_or_default()), Some(socket))
            }
            Ok(Err(error)) => (cause::tcp(&error), None),
            Err(_elapsed) => (cause::silence(self.probe.timeout), None),
        };
        self.note(Step::Tcp, begun, outcome);
        socket
    }

    async fn tls(&mut self, socket: TcpStream) -> Option<Box<dyn Socket>> {
        let trust = self.probe.trust.as_ref()?;
        let host = &self.probe.target.host;
        let begun = Instant::now();
        let prepared = trust.connector().and_then(|(connector, seen)| {
            let name = server_name(host)?;
            Ok((connector, seen, name))
        });
        let (connector, seen, name) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.note(Step::Tls, begun, cause::own(&error));
                return None;
            }
        };
        let connected = timeout(self.probe.timeout, connector.connect(name, socket)).await;
        let took = begun.elapsed();
        let (outcome, stream) = match connected {
            Ok(Ok(stream)) => {
                let shown = Shown::new(stream.get_ref().1, host, &seen);
                let outcome = shown.outcome(trust);
                let passed = matches!(outcome, Outcome::Passed(_));
                let report = StepReport::new(Step::Tls, took, outcome).with(shown.detail());
                self.steps.push(report);
                return passed.then(|| Box::new(stream) as Box<dyn Socket>);
            }
            Ok(Err(error)) => {
                let plain = speaks_rtmp(self.address).await;
                (cause::tls(&error, plain), None)
            }
            Err(_elapsed) => (cause::tls_silence(self.probe.timeout), None),
        };
        self.steps.push(StepReport::new(Step::Tls, took, outcome));
        stream
    }

    fn open(&mut self, socket: Box<dyn Socket>) -> Option<Connection> {
        let target = &self.probe.target;
        let config = ClientConfig {
            purpose: Purpose::Publish,
            app: target.app.clone(),
            tc_url: target.tc_url(),
            name: target
                .key
                .clone()
                .unwrap_or_else(|| StreamKeyText::new(String::new())),
            flash_ver: "FMLE/3.0 (compatible; headwater probe)".to_owned(),
            chunk_bytes_out: CHUNK_BYTES,
            caps_ex: 0,
        };
        match Connection::over(socket, config) {
            Ok(connection) => Some(connection),
            Err(fault) => {
                let outcome = cause::rtmp(Step::Handshake, &fault);
                self.note(Step::Handshake, Instant::now(), outcome);
                None
            }
        }
    }

    /// One step of the conversation.
    async fn rtmp(
        &mut self,
        connection: &mut Connection,
        step: Step,
        awaits: Awaits,
    ) -> Option<()> {
        let begun = Instant::now();
        let passed = timeout(self.probe.timeout, connection.pass(awaits)).await;
        let took = begun.elapsed();
        let outcome = match passed {
            Ok(Ok(())) => Outcome::Passed(String::new()),
            // TLS 1.3 tells what is wrong with a client's certificate, or with its absence, afterwards.
            Ok(Err(Fault::Io(error))) if cause::is_tls_alert(&error) => {
                self.steps.retain(|report| report.step != Step::Tls);
                let outcome = cause::tls(&error, false);
                self.steps.push(StepReport::new(Step::Tls, took, outcome));
                return None;
            }
            Ok(Err(fault)) => {
                let secure = self.probe.target.secure;
                if step == Step::Handshake && !secure && self.speaks_tls().await {
                    cause::tls_on_plain()
                } else {
                    cause::rtmp(step, &fault)
                }
            }
            Err(_elapsed) => cause::rtmp_silence(step, self.probe.timeout),
        };
        let passed = matches!(outcome, Outcome::Passed(_));
        self.steps.push(StepReport::new(step, took, outcome));
        passed.then_some(())
    }

    async fn media(&mut self, connection: &mut Connection, length: Duration) -> Option<()> {
        let begun = Instant::now();
        let mut sent = 0;
        let outcome = match send(connection, length, &mut sent).await {
            Ok(()) => {
                let stalls = connection.stalls();
                let stalled = match stalls.count {
                    0 => String::new(),
                    _ => format!(
                        "; stalled for {} ms at the longest",
                        stalls.longest.as_millis()
                    ),
                };
                Outcome::Passed(format!(
                    "{sent} bytes sent, the server has acknowledged {}{stalled}",
                    connection.acknowledged()
                ))
            }
            Err(fault) => cause::rtmp(Step::Media, &fault),
        };
        let passed = matches!(outcome, Outcome::Passed(_));
        self.note(Step::Media, begun, outcome);
        passed.then_some(())
    }

    async fn speaks_tls(&self) -> bool {
        let asked = async {
            let mut socket = TcpStream::connect(self.address).await.ok()?;
            socket.write_all(CLIENT_HELLO).await.ok()?;
            // A handshake record or an alert: whatever it says, it says it in TLS.
            socket.read_u8().await.ok()
        };
        let answer = timeout(SECOND_OPINION, asked).await;
        matches!(answer, Ok(Some(0x15 | 0x16)))
    }

    fn note(&mut self, step: Step, begun: Instant, outcome: Outcome) {
        self.steps
            .push(StepReport::new(step, begun.elapsed(), outcome));
    }
}

/// Real time, as an encoder sends.
async fn send(
    connection: &mut Connection,
    length: Duration,
    sent: &mut usize,
) -> Result<(), Fault> {
    let profile = Arc::new(Profile::new(BITS_PER_SECOND, FRAMES_PER_SECOND, GOP));
    let mut source = Source::new(Media::Stamped(profile), 0);
    let start = Instant::now();
    let mut planned = start;
    while start.elapsed() < length {
        planned = (start + source.due()).max(planned + GATHER);
        connection.wait(planned).await?;
        while source.due() <= start.elapsed() {
            let message = source.next();
            *sent += message.body.len();
            connection.queue(&message);
        }
        connection.flush().await?;
    }
    Ok(())
}

/// Whether C0 and C1 are answered by S0.
async fn speaks_rtmp(address: SocketAddr) -> bool {
    let asked = async {
        let mut socket = TcpStream::connect(address).await.ok()?;
        let opening = rtmp::handshake::client_opening(&[0x5a; 1528]);
        socket.write_all(&opening).await.ok()?;
        socket.read_u8().await.ok()
    };
    let answer = timeout(SECOND_OPINION, asked).await;
    matches!(answer, Ok(Some(rtmp::handshake::VERSION)))
}

/// A TLS 1.2 ClientHello with one cipher suite and no extension (RFC 5246 §7.4.1.2): a server answers it, if with an alert.
const CLIENT_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x2d, 0x01, 0x00, 0x00, 0x29, 0x03, 0x03, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a,
    0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a,
    0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x00, 0x00, 0x02, 0xc0, 0x2f,
    0x01, 0x00,
];
