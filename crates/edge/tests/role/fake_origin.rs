//! An origin as an edge sees it: compares fencing tokens, remembers what it got, and misbehaves on request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edge::StaticOrigin;
use media::Frame;
use parking_lot::Mutex;
use proto::{
    error::status_with,
    frames::{Assembler, Parts},
    internal::v1::{
        FollowRequest, FollowResponse, PublishAccepted, PublishAck, PublishGoodbye, PublishOpen,
        PublishRequest, PublishResponse,
        publish_request::Request as Message,
        publish_response::Response as Answer,
        relay_service_server::{RelayService, RelayServiceServer},
    },
};
use registry::{Origin, OriginName};
use runtime::{grpc, identity::Role, shutdown::Shutdown, tls::InternalTls};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::fake_control::unix_ms;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct FakeOrigin {
    pub(crate) name: OriginName,
    pub(crate) address: String,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

struct Shared {
    mode: watch::Sender<Mode>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Highest token of each stream, and who is told when a higher one comes.
    tokens: BTreeMap<Vec<u8>, watch::Sender<(u64, u32)>>,
    sessions: BTreeMap<String, SessionLog>,
    opens: Vec<PublishOpen>,
    epoch_floor: u64,
    /// How long an open takes.
    open_delay: Duration,
    /// Opens that are under way, and the most that were.
    opening: (usize, usize),
}

/// What came of one session.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionLog {
    pub(crate) first_sequence: u64,
    pub(crate) frames: Vec<Frame>,
    pub(crate) headers: Vec<(u64, Frame)>,
    pub(crate) closed: Option<String>,
    pub(crate) lost: bool,
    /// The edge says so.
    pub(crate) publisher_lost: bool,
}

/// How the origin behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Says goodbye to every session and takes no more of it.
    Goodbye,
    /// Says goodbye, refuses every open, and goes on with what it has.
    Leave,
    /// Refuses every open.
    Refuse,
    /// Takes one batch in this time.
    Slow(Duration),
    /// Says that the session is to go on at an origin of this name, and goes on with what it has.
    SendTo(&'static str),
    /// Reads nothing and acknowledges nothing.
    Stall,
    /// Has the session on standby, and would add this to its timestamps.
    Standby(i64),
    /// As it should.
    Take,
}

impl FakeOrigin {
    /// Serves on loopback with mutual TLS.
    pub(crate) async fn start(name: &str, tls: InternalTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            name: OriginName::new(name).unwrap(),
            address: listener.local_addr().unwrap().to_string(),
            shared: Arc::new(Shared {
                mode: watch::Sender::new(Mode::Take),
                state: Mutex::default(),
            }),
            shutdown: Shutdown::default(),
        };
        let router = grpc::server().add_service(RelayServiceServer::new(this.clone()));
        let listener = grpc::Listener::Internal(listener, tls, vec![Role::Edge]);
        tokio::spawn(grpc::serve(router, listener, this.shutdown.clone()));
        this
    }

    pub(crate) fn announcement(&self) -> Origin {
        Origin {
            name: self.name.clone(),
            relay_address: self.address.clone(),
            zone: String::new(),
            draining: false,
            streams: 0,
            budget_percent: 0,
        }
    }

    pub(crate) fn configured(&self) -> StaticOrigin {
        StaticOrigin {
            name: self.name.clone(),
            relay_address: self.address.clone(),
            zone: String::new(),
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// As a killed process: connections break, and no new one is taken.
    pub(crate) fn kill(&self) {
        self.shutdown.stop();
    }

    /// A publisher with this epoch was there before.
    pub(crate) fn has_seen_epoch(&self, epoch: u64) {
        self.shared.state.lock().epoch_floor = epoch;
    }

    /// A publisher with a higher token is there: whoever publishes the stream now is told.
    pub(crate) fn fence(&self, stream_id: &[u8]) {
        let state = self.shared.state.lock();
        let highest = state.tokens.get(stream_id).expect("nobody publishes this");
        highest.send_replace((u64::MAX, 0));
    }

    /// Each open takes this long.
    pub(crate) fn opens_slowly(&self, delay: Duration) {
        self.shared.state.lock().open_delay = delay;
    }

    /// The most opens that were under way at a time.
    pub(crate) fn opening_most(&self) -> usize {
        self.shared.state.lock().opening.1
    }

    /// At an address that leads to this one.
    pub(crate) fn announcement_at(&self, address: String) -> Origin {
        Origin {
            relay_address: address,
            ..self.announcement()
        }
    }

    async fn take_time_to_open(&self) {
        let delay = {
            let mut state = self.shared.state.lock();
            let State { opening, .. } = &mut *state;
            opening.0 += 1;
            opening.1 = opening.1.max(opening.0);
            state.open_delay
        };
        tokio::time::sleep(delay).await;
        self.shared.state.lock().opening.0 -= 1;
    }

    pub(crate) fn opens(&self) -> Vec<PublishOpen> {
        self.shared.state.lock().opens.clone()
    }

    pub(crate) fn session(&self, session_id: &str) -> SessionLog {
        let state = self.shared.state.lock();
        state.sessions.get(session_id).cloned().unwrap_or_default()
    }

    /// Checks the token, and lets the publisher before know.
    fn admit(&self, open: &PublishOpen) -> Result<(u64, watch::Receiver<(u64, u32)>), Status> {
        let mut state = self.shared.state.lock();
        state.opens.push(open.clone());
        let floor = (state.epoch_floor, 0);
        let highest = state
            .tokens
            .entry(open.stream_id.clone())
            .or_insert_with(|| watch::Sender::new(floor));
        let seen = *highest.borrow();
        let epoch = if open.epoch == 0 {
            unix_ms().max(seen.0 + 1)
        } else {
            open.epoch
        };
        if (epoch, open.attempt) <= seen {
            return Err(fenced(seen));
        }
        let receiver = highest.subscribe();
        highest.send_replace((epoch, open.attempt));
        Ok((epoch, receiver))
    }

    fn with_session<T>(&self, session_id: &str, change: impl FnOnce(&mut SessionLog) -> T) -> T {
        let mut state = self.shared.state.lock();
        change(state.sessions.entry(session_id.to_owned()).or_default())
    }

    async fn mode_is(&self, wanted: impl FnMut(&Mode) -> bool) -> Mode {
        *self.shared.mode.subscribe().wait_for(wanted).await.unwrap()
    }

    async fn session_task(
        self,
        open: PublishOpen,
        mut requests: Streaming<PublishRequest>,
        mut token: watch::Receiver<(u64, u32)>,
        answers: mpsc::Sender<Result<PublishResponse, Status>>,
    ) {
        let mine = *token.borrow_and_update();
        let mut assembler = Assembler::new(Parts::Omitted);
        let mut said_goodbye = false;
        loop {
            let mode = self.mode_is(|mode| *mode != Mode::Stall).await;
            if let Some(goodbye) = goodbye(mode)
                && !said_goodbye
            {
                said_goodbye = true;
                answers.send(Ok(answer(goodbye))).await.ok();
            }
            match mode {
                Mode::Goodbye => {
                    self.mode_is(|mode| *mode != Mode::Goodbye).await;
                    said_goodbye = false;
                    continue;
                }
                Mode::Slow(pause) => tokio::time::sleep(pause).await,
                Mode::Leave
                | Mode::Refuse
                | Mode::SendTo(_)
                | Mode::Stall
                | Mode::Standby(_)
                | Mode::Take => {}
            }
            let message = tokio::select! {
                message = requests.message() => message,
                highest = async { *token.wait_for(|highest| *highest > mine).await.unwrap() } => {
                    answers.send(Err(fenced(highest))).await.ok();
                    return;
                }
                _ = self.mode_is(|now| *now != mode) => continue,
            };
            let message = match message {
                Ok(Some(PublishRequest {
                    request: Some(message),
                })) => message,
                Ok(Some(_)) => panic!("an empty request"),
                Ok(None) | Err(_) => {
                    return self.with_session(&open.session_id, |log| log.lost = true);
                }
            };
            match message {
                Message::Batch(batch) => {
                    let frames = assembler.push(batch).unwrap();
                    let next_sequence =
                        self.with_session(&open.session_id, |log| log.append(frames));
                    let ack = acknowledgement(mode, next_sequence);
                    answers.send(Ok(answer(ack))).await.ok();
                }
                Message::Headers(headers) => {
                    let headers = Assembler::new(Parts::Omitted).push(headers).unwrap();
                    self.with_session(&open.session_id, |log| log.headers.extend(headers));
                }
                Message::Close(close) => {
                    return self
                        .with_session(&open.session_id, |log| log.closed = Some(close.reason));
                }
                Message::Lost(_) => {
                    return self.with_session(&open.session_id, |log| {
                        (log.lost, log.publisher_lost) = (true, true);
                    });
                }
                Message::Open(_) => panic!("a second open"),
            }
        }
    }
}

impl SessionLog {
    pub(crate) fn next_sequence(&self) -> u64 {
        self.first_sequence + self.frames.len() as u64
    }

    fn append(&mut self, frames: Vec<(u64, Frame)>) -> u64 {
        for (sequence, frame) in frames {
            let next = self.next_sequence();
            assert!(sequence <= next, "a jump from {next} to {sequence}");
            if sequence == next {
                self.frames.push(frame);
            }
        }
        self.next_sequence()
    }
}

#[tonic::async_trait]
impl RelayService for FakeOrigin {
    type FollowStream = ReceiverStream<Result<FollowResponse, Status>>;
    type PublishStream = ReceiverStream<Result<PublishResponse, Status>>;

    async fn follow(
        &self,
        _request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("no edge follows a stream"))
    }

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let mut requests = request.into_inner();
        let Some(PublishRequest {
            request: Some(Message::Open(open)),
        }) = requests.message().await?
        else {
            return Err(Status::invalid_argument("no open"));
        };
        if matches!(*self.shared.mode.borrow(), Mode::Leave | Mode::Refuse) {
            self.shared.state.lock().opens.push(open);
            return Err(proto::error::status(
                Code::ResourceExhausted,
                "PROCESS_BUDGET",
                "full",
            ));
        }
        self.mode_is(|mode| *mode != Mode::Stall).await;
        self.take_time_to_open().await;
        let (epoch, token) = self.admit(&open)?;
        let next_sequence = self.with_session(&open.session_id, |log| {
            if log.frames.is_empty() {
                log.first_sequence = open.first_sequence;
            }
            log.lost = false;
            log.next_sequence()
        });
        let (answers, receiver) = mpsc::channel(8);
        let accepted = PublishAccepted {
            broadcast_id: open.broadcast_id.clone(),
            timeline_offset_ms: open.timeline_offset_ms.unwrap_or(1000),
            next_sequence,
            epoch,
            standby: matches!(*self.shared.mode.borrow(), Mode::Standby(_)),
            origin: self.name.to_string(),
        };
        answers
            .send(Ok(answer(Answer::Accepted(accepted))))
            .await
            .unwrap();
        tokio::spawn(self.clone().session_task(open, requests, token, answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn answer(response: Answer) -> PublishResponse {
    PublishResponse {
        response: Some(response),
    }
}

fn fenced((epoch, attempt): (u64, u32)) -> Status {
    status_with(
        Code::FailedPrecondition,
        "FENCED",
        "a higher fencing token was seen",
        [
            ("epoch", epoch.to_string()),
            ("attempt", attempt.to_string()),
        ],
    )
}

/// How a session is asked to leave, where it is.
fn goodbye(mode: Mode) -> Option<Answer> {
    let (reason, origin) = match mode {
        Mode::Goodbye => ("test", ""),
        Mode::Leave => ("draining", ""),
        Mode::SendTo(origin) => ("elsewhere", origin),
        Mode::Refuse | Mode::Slow(_) | Mode::Stall | Mode::Standby(_) | Mode::Take => return None,
    };
    Some(Answer::Goodbye(PublishGoodbye {
        reason: reason.to_owned(),
        origin: origin.to_owned(),
    }))
}

fn acknowledgement(mode: Mode, next_sequence: u64) -> Answer {
    let offset_ms = if let Mode::Standby(offset_ms) = mode {
        Some(offset_ms)
    } else {
        None
    };
    Answer::Ack(PublishAck {
        next_sequence,
        standby: offset_ms.is_some(),
        timeline_offset_ms: offset_ms,
    })
}
