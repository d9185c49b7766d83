//! The role as its peers meet it: a whole origin behind an in-process transport.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it wants"
)]

mod backup;
mod following;
mod lost_owners;
mod outputs;
mod ownership;
mod players;
mod publishing;
mod reconnect;
mod simulation;
mod subscribing;
mod tracing;
mod tracks;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use media::{Frame, FrameKind, flv};
use parking_lot::Mutex;
use proto::{
    frames::{Assembler, Parts, batches},
    grant::{GrantSigner, GrantVerifier},
    internal::v1::{
        Grant, PublishAccepted, PublishClose, PublishOpen, PublishRequest, PublishResponse,
        publish_request, publish_response, relay_service_client::RelayServiceClient,
    },
    v1::{
        DeliveryClass, SubscribeEvent, SubscribeRequest,
        playback_service_client::PlaybackServiceClient, subscribe_event,
    },
};
use registry::{MemoryRegistry, OriginName, Registry, StreamId};
use runtime::{
    admin::Readiness,
    bearer::BearerCredentials,
    grpc::{self, InProcessTarget, Target},
    identity::Role,
    metrics::Metrics,
    reload::Reloading,
    shutdown::Shutdown,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{Config, Dependencies, Dialer, Listeners, Origin, OriginError, RtmpListener};

const CREDENTIAL: &str = "let-me-in";
/// Whatever is waited for comes within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running origin and what is needed to talk to it.
struct Running {
    relay: RelayServiceClient<Channel>,
    playback: PlaybackServiceClient<Channel>,
    http: SocketAddr,
    rtmp: SocketAddr,
    signer: GrantSigner,
    registry: Registry,
    metrics: Metrics,
    shutdown: Shutdown,
    ended: JoinHandle<Result<(), OriginError>>,
}

fn config() -> Config {
    let mut config = Config::new(OriginName::new("origin-0").unwrap());
    config.relay_address = "origin-0.test:7444".to_owned();
    config.timing.publisher_lost_grace = Duration::from_secs(2);
    config.timing.recheck_period = Duration::from_millis(50);
    config
}

async fn start(config: Config) -> Running {
    start_with(config, Registry::Memory(MemoryRegistry::new())).await
}

async fn start_with(config: Config, registry: Registry) -> Running {
    start_in(config, registry, None).await
}

/// Among others, where they are to be reached.
async fn start_in(config: Config, registry: Registry, network: Option<&Network>) -> Running {
    let name = config.name.clone();
    let signer = GrantSigner::from_pkcs8(&GrantSigner::generate_pkcs8().unwrap()).unwrap();
    let metrics = Metrics::default();
    let origin = Origin::new(
        config,
        Dependencies {
            registry: registry.clone(),
            dialer: network.map(Network::dialer),
            metrics: metrics.clone(),
            readiness: Readiness::default(),
            grants: Reloading::fixed(GrantVerifier::new([signer.public_key()])),
            playback: BearerCredentials::new([CREDENTIAL]),
        },
    );
    let (relay, relay_target) = grpc::in_process(Role::Edge);
    if let Some(network) = network {
        let target = relay_target.as_role(Role::Origin);
        network.relays.lock().insert(name, target);
    }
    let (playback, playback_target) = grpc::in_process(Role::Edge);
    let http = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = http.local_addr().unwrap();
    let rtmp = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let rtmp_address = rtmp.local_addr().unwrap();
    let listeners = Listeners {
        relay: grpc::Listener::InProcess(relay),
        playback: grpc::Listener::InProcess(playback),
        http,
        rtmp: Some(RtmpListener {
            certificate: None,
            listener: rtmp,
        }),
    };
    let shutdown = Shutdown::default();
    let ended = tokio::spawn(origin.run(listeners, shutdown.clone()));
    Running {
        relay: RelayServiceClient::new(grpc::channel(&Target::InProcess(relay_target))),
        playback: PlaybackServiceClient::new(grpc::channel(&Target::InProcess(playback_target))),
        http: address,
        rtmp: rtmp_address,
        signer,
        registry,
        metrics,
        shutdown,
        ended,
    }
}

/// Origins that reach each other.
#[derive(Clone, Default)]
struct Network {
    relays: Arc<Mutex<BTreeMap<OriginName, InProcessTarget>>>,
}

impl Network {
    fn dialer(&self) -> Dialer {
        let relays = Arc::clone(&self.relays);
        Arc::new(move |origin| {
            let nowhere = || grpc::in_process(Role::Origin).1;
            let target = relays.lock().get(&origin.name).cloned();
            Target::InProcess(target.unwrap_or_else(nowhere))
        })
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn stream_id(stream: &str) -> StreamId {
    StreamId::derive("default", "live", stream)
}

/// A grant for `default/live/<stream>` to one session.
fn grant(stream: &str, session_id: &str) -> Grant {
    Grant {
        tenant: "default".to_owned(),
        app: "live".to_owned(),
        stream: stream.to_owned(),
        stream_id: stream_id(stream).as_bytes().to_vec(),
        session_id: session_id.to_owned(),
        issued_ms: now_ms(),
        expires_ms: now_ms() + 60_000,
        ..Grant::default()
    }
}

impl Running {
    fn open_request(&self, grant: &Grant, epoch: u64, attempt: u32) -> PublishOpen {
        PublishOpen {
            signed_grant: self.signer.sign(grant),
            stream_id: grant.stream_id.clone(),
            slot: grant.slot,
            session_id: grant.session_id.clone(),
            epoch,
            attempt,
            broadcast_id: "b1".to_owned(),
            ..PublishOpen::default()
        }
    }

    /// Opens session `session_id` of stream `stream`.
    async fn publish(
        &self,
        stream: &str,
        session_id: &str,
        epoch: u64,
        attempt: u32,
    ) -> Result<Publisher, Status> {
        let grant = grant(stream, session_id);
        self.open(self.open_request(&grant, epoch, attempt)).await
    }

    async fn open(&self, open: PublishOpen) -> Result<Publisher, Status> {
        let first_sequence = open.first_sequence;
        let (requests, receiver) = mpsc::channel(64);
        send(&requests, publish_request::Request::Open(open)).await;
        let mut relay = self.relay.clone();
        let opened = relay.publish(ReceiverStream::new(receiver));
        let mut answers = tokio::time::timeout(PATIENCE, opened)
            .await
            .expect("an answer to the open")?
            .into_inner();
        let accepted = match next_answer(&mut answers).await? {
            Some(publish_response::Response::Accepted(accepted)) => accepted,
            other => panic!("accepted comes first, not {other:?}"),
        };
        Ok(Publisher {
            requests,
            answers,
            accepted,
            next_sequence: first_sequence,
        })
    }

    /// Whether this many readers wait for a stream to start.
    fn waiting(&self, readers: usize) -> bool {
        let waiting = format!("headwater_origin_subscribers_waiting {readers}\n");
        self.metrics.encode().contains(&waiting)
    }

    async fn subscribe(&self, stream: &str, change: impl FnOnce(&mut SubscribeRequest)) -> Player {
        self.try_subscribe(stream, change).await.unwrap()
    }

    async fn try_subscribe(
        &self,
        stream: &str,
        change: impl FnOnce(&mut SubscribeRequest),
    ) -> Result<Player, Status> {
        let mut request = SubscribeRequest {
            app: "live".to_owned(),
            stream: stream.to_owned(),
            ..SubscribeRequest::default()
        };
        change(&mut request);
        let mut request = tonic::Request::new(request);
        let value = format!("Bearer {CREDENTIAL}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let mut playback = self.playback.clone();
        let subscribed = playback.subscribe(request);
        let events = tokio::time::timeout(PATIENCE, subscribed)
            .await
            .expect("an answer to the subscription")?
            .into_inner();
        Ok(Player {
            events,
            assembler: Assembler::new(Parts::Included),
            cursor: Vec::new(),
        })
    }
}

/// The edge's side of one Publish RPC.
struct Publisher {
    requests: mpsc::Sender<PublishRequest>,
    answers: Streaming<PublishResponse>,
    accepted: PublishAccepted,
    next_sequence: u64,
}

async fn send(requests: &mpsc::Sender<PublishRequest>, request: publish_request::Request) {
    let request = PublishRequest {
        request: Some(request),
    };
    let sent = tokio::time::timeout(PATIENCE, requests.send(request)).await;
    // An error says that the origin has ended the RPC; the test asks the answers.
    sent.expect("the origin drains the RPC").ok();
}

async fn next_answer(
    answers: &mut Streaming<PublishResponse>,
) -> Result<Option<publish_response::Response>, Status> {
    let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
    Ok(answer.expect("an answer")?.and_then(|a| a.response))
}

impl Publisher {
    async fn send(&mut self, frames: &[Frame]) {
        let numbered = (self.next_sequence..).zip(frames);
        for batch in batches(numbered, Parts::Omitted) {
            send(&self.requests, publish_request::Request::Batch(batch)).await;
        }
        self.next_sequence += frames.len() as u64;
    }

    /// Waits until the origin has everything.
    async fn acknowledged(&mut self) {
        loop {
            match next_answer(&mut self.answers).await.unwrap() {
                Some(publish_response::Response::Ack(ack)) => {
                    assert!(ack.next_sequence <= self.next_sequence);
                    if ack.next_sequence == self.next_sequence {
                        return;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn publish(&mut self, frames: &[Frame]) {
        self.send(frames).await;
        self.acknowledged().await;
    }

    /// Ends the session; the origin ends the RPC.
    async fn close(mut self, reason: &str) {
        let reason = reason.to_owned();
        let close = publish_request::Request::Close(PublishClose { reason });
        send(&self.requests, close).await;
        while next_answer(&mut self.answers).await.unwrap().is_some() {}
    }

    /// How the origin ends this RPC.
    async fn refusal(mut self) -> Status {
        loop {
            match next_answer(&mut self.answers).await {
                Err(refusal) => return refusal,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the RPC ended without a reason"),
            }
        }
    }
}

/// A subscriber.
struct Player {
    events: Streaming<SubscribeEvent>,
    assembler: Assembler,
    cursor: Vec<u8>,
}

impl Player {
    async fn next(&mut self) -> Result<subscribe_event::Event, Status> {
        let event = tokio::time::timeout(PATIENCE, self.events.message()).await;
        let event = event.expect("an event")?.expect("not over");
        Ok(event.event.expect("an event of this contract"))
    }

    async fn header(&mut self) -> (String, Vec<(u64, Frame)>) {
        match self.next().await.unwrap() {
            subscribe_event::Event::Header(header) => {
                let frames = header.headers.unwrap_or_default();
                let frames = Assembler::new(Parts::Included).push(frames).unwrap();
                (header.session_id, frames)
            }
            other => panic!("a header comes, not {other:?}"),
        }
    }

    /// The frames of the next batches, `count` of them.
    async fn frames(&mut self, count: usize) -> Vec<(u64, Frame)> {
        let mut frames = Vec::new();
        while frames.len() < count {
            match self.next().await.unwrap() {
                subscribe_event::Event::Batch(batch) => {
                    self.cursor = batch.cursor;
                    let batch = batch.frames.unwrap();
                    frames.extend(self.assembler.push(batch).unwrap());
                }
                other => panic!("frames come, not {other:?}"),
            }
        }
        assert_eq!(frames.len(), count);
        frames
    }

    async fn sequences(&mut self, count: usize) -> Vec<u64> {
        let frames = self.frames(count).await;
        frames.into_iter().map(|(sequence, _)| sequence).collect()
    }
}

fn metadata() -> Frame {
    let body = b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09";
    flv::parse(FrameKind::Script, 0, Bytes::from_static(body)).unwrap()
}

fn video_header() -> Frame {
    flv::parse(FrameKind::Video, 0, vec![0x17, 0, 0, 0, 0, 1].into()).unwrap()
}

fn video(first: u8, timestamp_ms: i64, body_bytes: usize) -> Frame {
    let mut body = vec![first, 1, 0, 0, 0];
    let seed = timestamp_ms.to_le_bytes();
    body.extend(seed.iter().cycle().take(body_bytes.saturating_sub(5)));
    flv::parse(FrameKind::Video, timestamp_ms, body.into()).unwrap()
}

fn keyframe(timestamp_ms: i64) -> Frame {
    video(0x17, timestamp_ms, 50)
}

fn inter(timestamp_ms: i64) -> Frame {
    video(0x27, timestamp_ms, 20)
}

fn audio(timestamp_ms: i64) -> Frame {
    flv::parse(FrameKind::Audio, timestamp_ms, vec![0xaf, 1, 3].into()).unwrap()
}

/// Metadata, header, and `gops` times a keyframe and nine inter frames, 40 ms apart.
fn recording(gops: i64) -> Vec<Frame> {
    let mut frames = vec![metadata(), video_header()];
    for time in 0..gops * 10 {
        frames.push(if time % 10 == 0 {
            keyframe(time * 40)
        } else {
            inter(time * 40)
        });
    }
    frames
}

#[track_caller]
fn assert_refused(refusal: &Status, code: Code, reason: &str) {
    assert_eq!(refusal.code(), code, "{refusal:?}");
    assert_eq!(proto::error::reason(refusal).as_deref(), Some(reason));
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn lossless(request: &mut SubscribeRequest) {
    request.set_delivery_class(DeliveryClass::Lossless);
}

/// A lossless reader that comes back.
fn behind(cursor: Vec<u8>) -> impl FnOnce(&mut SubscribeRequest) {
    |request| {
        lossless(request);
        request.cursor = cursor;
    }
}
