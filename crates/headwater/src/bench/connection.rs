//! One publishing connection: socket ⇄ [`rtmp::ClientSession`].

use std::{io, time::Duration};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use rtmp::{
    Awaits, ClientConfig, ClientEvent, ClientSession, MediaMessage, ProtocolError, Purpose,
    StreamKeyText,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{TrustArguments, tls};

/// A write that takes longer than this is a stall.
pub(super) const STALL: Duration = Duration::from_secs(1);
/// A server that takes nothing for this long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// To end in order: the last bytes, and the server's close.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// For the reason that a server gave before it closed.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// As OBS sends.
pub(crate) const CHUNK_BYTES: u32 = 4096;
const INPUT_BYTES: usize = 4096;

/// Where to publish.
pub(super) struct Target {
    app: String,
    tc_url: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// An admitted publisher.
pub(crate) struct Connection {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    session: ClientSession,
    input: BytesMut,
    stalls: Stalls,
    asked_to_leave: bool,
}

/// How often the server did not take what it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stalls {
    pub(crate) count: u64,
    pub(crate) longest: Duration,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("{code}: {description}")]
    Rejected { code: String, description: String },
    #[error("the server took nothing for {} s", WRITE_TIMEOUT.as_secs())]
    Stuck,
    #[error("not admitted within {} s", .0.as_secs())]
    TooSlow(Duration),
}

pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Target {
    /// From `rtmps://host[:port]/app`.
    pub(super) fn parse(url: &str, trust: &TrustArguments) -> anyhow::Result<Self> {
        let (secure, rest) = match url.split_once("://") {
            Some(("rtmps", rest)) => (true, rest),
            Some(("rtmp", rest)) => (false, rest),
            _ => bail!("{url:?} begins with neither rtmps:// nor rtmp://"),
        };
        let (authority, app) = rest
            .split_once('/')
            .filter(|(_, app)| !app.trim_matches('/').is_empty())
            .with_context(|| format!("{url:?} names no application"))?;
        let authority: http::uri::Authority = authority
            .parse()
            .with_context(|| format!("{url:?} has no valid host and port"))?;
        // A port that is no number is silently left out.
        let port = authority.port_u16();
        if port.is_none() && authority.as_str() != authority.host() {
            bail!("{url:?} has no valid host and port");
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let tls = if secure {
            Some((tls::connector(trust, &[])?, tls::server_name(&host)?))
        } else {
            None
        };
        Ok(Self {
            app: app.trim_matches('/').to_owned(),
            tc_url: url.trim_end_matches('/').to_owned(),
            port: port.unwrap_or(if secure { 443 } else { 1935 }),
            host,
            tls,
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((tls, name)) => Box::new(tls.connect(name.clone(), socket).await?),
            None => Box::new(socket),
        })
    }
}

impl Connection {
    /// Connects and publishes, up to NetStream.Publish.Start.
    pub(super) async fn open(
        target: &Target,
        stream_key: &StreamKeyText,
        caps_ex: u32,
        within: Duration,
    ) -> Result<Self, Fault> {
        timeout(within, Self::admitted(target, stream_key, caps_ex))
            .await
            .unwrap_or(Err(Fault::TooSlow(within)))
    }

    async fn admitted(
        target: &Target,
        stream_key: &StreamKeyText,
        caps_ex: u32,
    ) -> Result<Self, Fault> {
        let config = ClientConfig {
            purpose: Purpose::Publish,
            app: target.app.clone(),
            tc_url: target.tc_url.clone(),
            name: stream_key.clone(),
            flash_ver: "FMLE/3.0 (compatible; headwater bench)".to_owned(),
            chunk_bytes_out: CHUNK_BYTES,
            caps_ex,
        };
        let mut connection = Self::over(target.connect().await?, config)?;
        for awaited in [Awaits::Handshake, Awaits::Connect, Awaits::Stream] {
            connection.pass(awaited).await?;
        }
        Ok(connection)
    }

    /// On a socket that is there.
    pub(crate) fn over(socket: Box<dyn Socket>, config: ClientConfig) -> Result<Self, Fault> {
        let (reader, writer) = tokio::io::split(socket);
        let mut random = [0; 1528];
        aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self {
            reader,
            writer,
            session: ClientSession::new(config, &random, std::time::Instant::now()),
            input: BytesMut::with_capacity(INPUT_BYTES),
            stalls: Stalls::default(),
            asked_to_leave: false,
        })
    }

    /// Whether the server wants the client to go on over another connection.
    pub(super) fn asked_to_leave(&self) -> bool {
        self.asked_to_leave
    }

    /// Goes on until the client waits for something else than this.
    pub(crate) async fn pass(&mut self, awaited: Awaits) -> Result<(), Fault> {
        while self.session.awaits() == awaited {
            self.flush().await?;
            // What it waited for may have come meanwhile.
            if self.session.awaits() == awaited {
                self.read().await?;
            }
        }
        Ok(())
    }

    /// How many bytes the server says it has received; 0 before it says so.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.session.acknowledged()
    }

    /// Queues a message for the next [`flush`](Self::flush).
    pub(crate) fn queue(&mut self, message: &MediaMessage) {
        self.session.send(message);
    }

    /// Sends what is queued; reads meanwhile.
    pub(crate) async fn flush(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        let written = timeout(WRITE_TIMEOUT, self.write_all()).await;
        let took = begun.elapsed();
        if took > STALL {
            self.stalls.count += 1;
            self.stalls.longest = self.stalls.longest.max(took);
        }
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(self.last_words(fault).await),
            Err(_) => Err(Fault::Stuck),
        }
    }

    /// Reads and answers until a time.
    pub(crate) async fn wait(&mut self, until: Instant) -> Result<(), Fault> {
        loop {
            match timeout_at(until, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Ok(()),
            }
            self.flush().await?;
        }
    }

    /// Ends the publish in order.
    pub(crate) async fn finish(mut self) {
        self.session.finish();
        let end = async {
            if self.write_all().await.is_ok() && self.writer.shutdown().await.is_ok() {
                while self.read().await.is_ok() {}
            }
        };
        // However it ends, the publish is over.
        timeout(FINISH_TIMEOUT, end).await.ok();
    }

    pub(crate) fn stalls(&self) -> Stalls {
        self.stalls
    }

    /// As long as the client waits for the same: what it says then belongs to the next step of its way.
    async fn write_all(&mut self) -> Result<(), Fault> {
        let awaited = self.session.awaits();
        while self.session.awaits() == awaited
            && let Some(mut bytes) = self.session.poll_transmit()
        {
            self.write(&mut bytes).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &mut Bytes) -> Result<(), Fault> {
        while bytes.has_remaining() {
            tokio::select! {
                written = self.writer.write_buf(bytes) => if written? == 0 {
                    return Err(Fault::Closed);
                },
                read = self.reader.read_buf(&mut self.input) => self.take(read)?,
            }
        }
        loop {
            tokio::select! {
                flushed = self.writer.flush() => return Ok(flushed?),
                read = self.reader.read_buf(&mut self.input) => self.take(read)?,
            }
        }
    }

    async fn read(&mut self) -> Result<(), Fault> {
        let read = self.reader.read_buf(&mut self.input).await;
        self.take(read)
    }

    fn take(&mut self, read: io::Result<usize>) -> Result<(), Fault> {
        if read? == 0 {
            return Err(Fault::Closed);
        }
        self.session
            .handle_input(&mut self.input, std::time::Instant::now())?;
        while let Some(event) = self.session.poll_event() {
            match event {
                ClientEvent::Rejected { code, description } => {
                    return Err(Fault::Rejected { code, description });
                }
                ClientEvent::ReconnectRequested { .. } => self.asked_to_leave = true,
                // It publishes, and then awaits nothing.
                ClientEvent::Media(_)
                | ClientEvent::PlayEnded
                | ClientEvent::PlayStarted
                | ClientEvent::PublishStarted => {}
            }
        }
        Ok(())
    }

    /// A write fails before the reason was read that the server gave.
    async fn last_words(&mut self, fault: Fault) -> Fault {
        let words = async {
            loop {
                if let Err(fault) = self.read().await {
                    return fault;
                }
            }
        };
        match timeout(LAST_WORDS, words).await {
            Ok(rejected @ Fault::Rejected { .. }) => rejected,
            Ok(_) | Err(_) => fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUST: TrustArguments = TrustArguments {
        ca_file: None,
        insecure: true,
    };

    #[test]
    fn urls_name_a_host_a_port_and_an_application() {
        let target = Target::parse("rtmps://[::1]:8443/live/", &TRUST).unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8443));
        assert_eq!(target.app, "live");
        assert_eq!(target.tc_url, "rtmps://[::1]:8443/live");
        assert!(target.tls.is_some());
        let target = Target::parse("rtmp://ingest.example/a/b", &TRUST).unwrap();
        assert_eq!(
            (target.host.as_str(), target.port),
            ("ingest.example", 1935)
        );
        assert_eq!(target.app, "a/b");
        assert!(target.tls.is_none());
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "https://host/live",
            "host/live",
            "rtmps://host",
            "rtmps://host/",
            "rtmps:///live",
            "rtmps://host:port/live",
        ] {
            assert!(Target::parse(url, &TRUST).is_err(), "{url}");
        }
    }
}
