//! Hop 2 of a frame's life: socket ⇄ [`rtmp::ServerSession`]. Nothing else here knows both a socket and the protocol.

mod bitrate;
mod farewell;
mod frames;
mod intake;

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use bytes::BytesMut;
use media::timestamp::Unwrapper;
use rtmp::{
    AdobeChallenge, ProtocolError, Rejection, ServerConfig, ServerEvent, ServerSession,
    limits::Limits,
};
use runtime::tls::ClientCertificate;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep_until, timeout},
};
use tracing::{debug, info};

use self::bitrate::Bitrate;
use self::intake::Intake;
pub(crate) use self::intake::MediaFault;
use crate::{
    Context,
    admission::Refusal,
    challenge::{self, Challenging},
    end::End,
    live::{Farewell, LiveSession},
    publish::{self, Publishing},
};

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The encoder's, or the load balancer's where that has nothing to tell.
    pub(crate) address: SocketAddr,
    /// TLS server name; empty where none was sent.
    pub(crate) server_name: String,
    /// What it proved in the TLS handshake.
    pub(crate) certificate: Option<ClientCertificate>,
    /// Whether it came over TLS.
    pub(crate) encrypted: bool,
}

/// One connection whose bytes are RTMP.
struct Session<S> {
    context: Arc<Context>,
    client: Client,
    socket: S,
    rtmp: ServerSession,
    input: BytesMut,
    /// Whether `input` holds something that `rtmp` has not been offered.
    fresh: bool,
    state: State,
    intake: Intake,
    timestamps: Unwrapper,
    discontinuities: u64,
    bitrate: Bitrate,
    /// Wakes at `rtmp`'s next deadline or before; deadlines move with every read, this does not.
    timer: Pin<Box<Sleep>>,
    /// When to ping a publisher.
    pings: Interval,
    /// Ends when the process stops: waited for once, not once per read.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

enum State {
    /// No publish yet.
    Await,
    /// It wants to be asked for a password.
    Challenging(Challenging),
    /// A publish is being decided on.
    Deciding(Publishing),
    Publishing {
        publishing: Publishing,
        live: Arc<LiveSession>,
        /// What an edge that gets empty wants of it.
        farewell: watch::Receiver<Farewell>,
        /// The socket is not read until the origin catches up.
        paused: bool,
    },
    /// The encoder was told no.
    Refused,
}

/// What the driver waits for.
enum Wake {
    Challenged(Result<AdobeChallenge, Refusal>),
    Decided(Result<Arc<LiveSession>, Refusal>),
    Ended(End),
    Farewell(Farewell),
    Ping,
    Read(io::Result<usize>),
    Room,
    Timeout,
}

/// One read at most, in bytes.
const READ_BYTES: usize = 32 * 1024;
/// What an encoder may send while its publish is decided on, in bytes.
const UNDECIDED_INPUT_BYTES: usize = 64 * 1024;

/// Refusing RTMP without TLS: for each of handshake and `connect`.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);
/// What a person who forgot the S reads.
const PLAIN_REFUSED: &str = "This server takes RTMPS only: use rtmps:// instead of rtmp://";

/// Drives one connection to its end.
pub(crate) async fn run<S>(socket: S, client: Client, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = context.config.rtmp.clone();
    drive(socket, client, context, limits, None).await;
}

/// Lets the encoder come as far as `connect`, so that it can be told what to do instead.
pub(crate) async fn refuse_plain<S>(socket: S, client: Client, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut limits = context.config.rtmp.clone();
    limits.handshake_deadline = limits.handshake_deadline.min(REFUSAL_DEADLINE);
    limits.connect_deadline = limits.connect_deadline.min(REFUSAL_DEADLINE);
    let refusal = Rejection {
        description: PLAIN_REFUSED.to_owned(),
    };
    drive(socket, client, context, limits, Some(refusal)).await;
}

async fn drive<S>(
    socket: S,
    client: Client,
    context: Arc<Context>,
    limits: Limits,
    refusal: Option<Rejection>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut random = [0; 1528];
    // Nobody checks that these bytes are random (RTMP 1.0 §5.2.3).
    rand::fill(&mut random).ok();
    let connections = &context.config.connections;
    let config = ServerConfig {
        chunk_bytes_out: connections.chunk_bytes_out,
        window_bytes: connections.window_bytes,
        offers_adobe: client.encrypted,
        limits,
        refusal,
    };
    let mut pings = interval_at(
        Instant::now() + connections.ping_period,
        connections.ping_period,
    );
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let bitrate = Bitrate::new(
        connections.bytes_per_second_max,
        connections.bitrate_patience,
    );
    let shutdown = context.shutdown.clone();
    let mut session = Session {
        rtmp: ServerSession::new(config, &random, std_now()),
        context,
        client,
        socket,
        input: BytesMut::new(),
        fresh: false,
        state: State::Await,
        intake: Intake::default(),
        timestamps: Unwrapper::new(),
        discontinuities: 0,
        bitrate,
        timer: Box::pin(sleep_until(far_future())),
        pings,
        stopping: Box::pin(async move { shutdown.stopping().await }),
    };
    let end = session.drive().await.unwrap_or_else(|end| end);
    session.close(end).await;
}

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    async fn drive(&mut self) -> Result<End, End> {
        loop {
            if self.fresh && self.takes_input() {
                self.fresh = false;
                let handled = self.rtmp.handle_input(&mut self.input, std_now());
                // What came before the fault counts.
                self.transmit().await?;
                if let Some(end) = self.handle_events() {
                    return Ok(end);
                }
                handled.map_err(|error| self.misbehaved(&error))?;
            }
            self.transmit().await?;
            if let Some(told) = self.rtmp.closing() {
                if !matches!(self.state, State::Refused) {
                    info!(client_address = %self.client.address, told = ?told.description, "closing the connection");
                }
                return Ok(End::Protocol("refused"));
            }
            self.apply_backpressure();
            match self.wait().await {
                Wake::Challenged(challenge) => self.handle_challenge(challenge),
                Wake::Decided(decision) => self.handle_decision(decision),
                Wake::Ended(end) => return Ok(end),
                Wake::Farewell(Farewell::Ask) => self.ask_to_reconnect(),
                // A close waits for a keyframe.
                Wake::Farewell(Farewell::Stay | Farewell::Close) => {}
                Wake::Ping => self.rtmp.ping(std_now()),
                Wake::Read(Ok(0)) => return Ok(End::Disconnected),
                Wake::Read(Err(error)) => {
                    // A reset, a timeout, or what TLS does not put up with.
                    let client_address = self.client.address;
                    debug!(%client_address, %error, "the connection broke");
                    return Ok(End::Disconnected);
                }
                Wake::Read(Ok(bytes)) => {
                    self.fresh = true;
                    let bytes = u64::try_from(bytes).unwrap_or_default();
                    self.context.metrics.received_bytes.inc_by(bytes);
                    self.apply_ceiling(bytes);
                }
                Wake::Room => {}
                Wake::Timeout => {
                    let handled = self.rtmp.handle_timeout(std_now());
                    handled.map_err(|error| self.misbehaved(&error))?;
                    self.timer.as_mut().reset(far_future());
                }
            }
        }
    }

    /// Whether `rtmp` may be offered what was read.
    fn takes_input(&self) -> bool {
        let paused = matches!(self.state, State::Publishing { paused: true, .. });
        !paused && self.rtmp.wants_input()
    }

    async fn wait(&mut self) -> Wake {
        let Self {
            context,
            socket,
            rtmp,
            input,
            state,
            timer,
            pings,
            stopping,
            bitrate,
            ..
        } = self;
        // A publish that is decided on is read beside, so that an encoder that leaves is noticed.
        let read = match state {
            State::Await | State::Publishing { paused: false, .. } => rtmp.wants_input(),
            State::Challenging(_) | State::Deciding(_) => input.len() < UNDECIDED_INPUT_BYTES,
            State::Publishing { paused: true, .. } | State::Refused => false,
        };
        let idle = matches!(state, State::Await);
        let live = matches!(state, State::Publishing { .. });
        let read_at = bitrate.read_at();
        let held = read && read_at > Instant::now();
        if let Some(wake_at) = rtmp.poll_timeout().map(Instant::from_std)
            && wake_at < timer.deadline()
        {
            timer.as_mut().reset(wake_at);
        }
        if read && !held {
            input.reserve(READ_BYTES);
        }
        tokio::select! {
            read = socket.read_buf(input), if read && !held => Wake::Read(read),
            // Made where it is waited for: most reads are not held back.
            () = async { sleep_until(read_at).await }, if held => Wake::Room,
            wake = state_wake(state) => wake,
            () = timer.as_mut() => Wake::Timeout,
            _ = pings.tick(), if live => Wake::Ping,
            () = context.shutdown.draining(), if idle => Wake::Ended(End::Drain),
            () = stopping.as_mut() => Wake::Ended(End::Drain),
        }
    }

    /// Sends everything that is to be sent, in one write.
    async fn transmit(&mut self) -> Result<(), End> {
        let Some(mut transmit) = self.rtmp.poll_transmit() else {
            return Ok(());
        };
        if let Some(next) = self.rtmp.poll_transmit() {
            let mut together = BytesMut::from(transmit);
            together.extend_from_slice(&next);
            while let Some(next) = self.rtmp.poll_transmit() {
                together.extend_from_slice(&next);
            }
            transmit = together.freeze();
        }
        let write = async {
            self.socket.write_all(&transmit).await?;
            self.socket.flush().await
        };
        match timeout(self.context.config.connections.write_timeout, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Disconnected),
            Err(_elapsed) => {
                info!(client_address = %self.client.address, "the encoder does not read");
                Err(End::Disconnected)
            }
        }
    }

    fn handle_events(&mut self) -> Option<End> {
        while let Some(event) = self.rtmp.poll_event() {
            match event {
                ServerEvent::AdobeChallengeRequested { user } => {
                    let challenging = challenge::begin(&self.context, user, self.client.clone());
                    self.state = State::Challenging(challenging);
                }
                ServerEvent::Media(message) => {
                    if let Some(end) = self.handle_media(message) {
                        return Some(end);
                    }
                }
                ServerEvent::Ponged(round_trip) => {
                    let metrics = &self.context.metrics;
                    metrics.round_trip_seconds.observe(round_trip.as_secs_f64());
                }
                ServerEvent::PublishEnded(cause) => {
                    debug!(client_address = %self.client.address, ?cause, "the encoder ended its publish");
                    return Some(End::ClientClose);
                }
                ServerEvent::PublishRequested(request) => {
                    let publishing = publish::begin(&self.context, *request, self.client.clone());
                    self.state = State::Deciding(publishing);
                }
            }
        }
        None
    }

    /// Either way the connection ends; the encoder comes back with an answer, if it has one.
    fn handle_challenge(&mut self, challenge: Result<AdobeChallenge, Refusal>) {
        self.state = State::Refused;
        match challenge {
            Ok(challenge) => self.rtmp.challenge(&challenge),
            Err(Refusal { description, .. }) => self.rtmp.reject(Rejection { description }),
        }
    }

    fn handle_decision(&mut self, decision: Result<Arc<LiveSession>, Refusal>) {
        let deciding = std::mem::replace(&mut self.state, State::Refused);
        match (deciding, decision) {
            (State::Deciding(publishing), Ok(live)) => {
                self.rtmp.accept_publish(std_now());
                // What came while it was decided.
                self.fresh = true;
                self.state = State::Publishing {
                    publishing,
                    farewell: live.farewell(),
                    live,
                    paused: false,
                };
            }
            (_, Err(Refusal { description, .. })) => self.rtmp.reject(Rejection { description }),
            (
                State::Await | State::Challenging(_) | State::Publishing { .. } | State::Refused,
                Ok(_),
            ) => {}
        }
    }

    /// A full ring stops the reading; TCP slows the encoder.
    fn apply_backpressure(&mut self) {
        let State::Publishing {
            publishing,
            live,
            paused,
            ..
        } = &mut self.state
        else {
            return;
        };
        let full = !publishing.feed.has_room();
        if full == *paused {
            return;
        }
        *paused = full;
        live.pause(full);
        if full {
            self.rtmp.pause();
        } else {
            self.rtmp.resume(std_now());
        }
    }

    /// Ends a publisher that sends too fast for too long.
    fn apply_ceiling(&mut self, bytes: u64) {
        self.bitrate.received(bytes);
        if self.bitrate.is_exceeded() {
            self.rtmp.close(Rejection {
                description: "The stream's bitrate is above what is allowed here".to_owned(),
            });
        }
    }

    fn misbehaved(&self, error: &ProtocolError) -> End {
        info!(client_address = %self.client.address, reason = error.reason(), %error, "closing the connection");
        End::Protocol(error.reason())
    }
}

/// What a state waits for beside the socket.
async fn state_wake(state: &mut State) -> Wake {
    match state {
        State::Await | State::Refused => std::future::pending().await,
        // A lost decision is a failure of ours.
        State::Challenging(challenging) => Wake::Challenged(
            (&mut challenging.decided)
                .await
                .unwrap_or_else(|_lost| Err(Refusal::not_available("internal"))),
        ),
        State::Deciding(publishing) => Wake::Decided(
            (&mut publishing.decided)
                .await
                .unwrap_or_else(|_lost| Err(Refusal::not_available("internal"))),
        ),
        State::Publishing {
            publishing,
            paused,
            farewell,
            ..
        } => {
            tokio::select! {
                end = publishing.ending.ended() => Wake::Ended(end),
                Ok(()) = farewell.changed() => Wake::Farewell(*farewell.borrow_and_update()),
                () = publishing.feed.room(), if *paused => Wake::Room,
            }
        }
    }
}

/// Tokio's clock, which tests move by hand.
fn std_now() -> std::time::Instant {
    Instant::now().into_std()
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(24 * 3600)
}

#[cfg(test)]
pub(crate) mod tests;
