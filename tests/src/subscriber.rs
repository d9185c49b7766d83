//! A consumer over gRPC that follows a stream from origin to origin with its cursor and writes down all it gets.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::v1::{
    DeliveryClass, Frame, FrameKind, SubscribeEvent, SubscribeRequest,
    playback_service_client::PlaybackServiceClient,
    subscribe_event::{Event, Gap, Header},
};
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Status, Streaming};

use crate::{
    api::{self, BearerChannel},
    flv::{Kind, Tag},
    wait::wait_for,
};

/// Between two tries to subscribe, while no origin has the stream.
const RETRY: Duration = Duration::from_millis(50);

/// Where and how to subscribe.
#[derive(Clone, Debug)]
pub struct Playback {
    /// gRPC URLs of the origins, tried in turn.
    pub origins: Vec<String>,
    pub ca_file: PathBuf,
    pub token: String,
}

/// One frame as received, fragments joined.
#[derive(Clone, Debug)]
pub struct ReceivedFrame {
    pub session_id: String,
    pub epoch: u64,
    pub attempt: u32,
    pub sequence: u64,
    pub tag: Tag,
}

/// Everything that came.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub headers: Vec<Header>,
    pub frames: Vec<ReceivedFrame>,
    pub gaps: Vec<Gap>,
    /// How often an origin said that another has the stream now.
    pub moved: usize,
    pub errors: Vec<String>,
    pub ended: Option<String>,
}

/// A subscription in the background.
pub struct Subscriber {
    received: Arc<Mutex<Received>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Follows the stream until its end, from wherever it is.
    pub fn start(playback: &Playback, app: &str, stream: &str) -> Self {
        Self::start_with(playback, app, stream, DeliveryClass::Lossless)
    }

    pub fn start_with(playback: &Playback, app: &str, stream: &str, class: DeliveryClass) -> Self {
        Self::follow(playback, app, stream, class, true)
    }

    /// Begins at the first of the origins.
    pub fn start_at_first(playback: &Playback, app: &str, stream: &str) -> Self {
        Self::follow(playback, app, stream, DeliveryClass::Lossless, false)
    }

    fn follow(
        playback: &Playback,
        app: &str,
        stream: &str,
        class: DeliveryClass,
        begins_anywhere: bool,
    ) -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let follower = Follower {
            playback: playback.clone(),
            request: SubscribeRequest {
                app: app.to_owned(),
                stream: stream.to_owned(),
                cursor: Vec::new(),
                delivery_class: class.into(),
                wait_for_stream: true,
            },
            received: received.clone(),
            begins_anywhere,
        };
        Self {
            received,
            task: tokio::spawn(follower.run()),
        }
    }

    pub fn received(&self) -> Received {
        self.received.lock().clone()
    }

    pub fn frame_count(&self) -> usize {
        self.received.lock().frames.len()
    }

    /// Waits until this many frames came.
    pub async fn frames(&self, count: usize, deadline: Duration) {
        let what = format!("{count} frames at the subscriber");
        wait_for(&what, deadline, async || {
            let received = self.received.lock();
            assert!(
                received.frames.len() >= count || received.ended.is_none(),
                "the stream ended with {} frames",
                received.frames.len()
            );
            (received.frames.len() >= count).then_some(())
        })
        .await;
    }

    /// Waits for the stream's end; everything that came.
    pub async fn finish(&self, deadline: Duration) -> Received {
        wait_for(
            "the stream to end at the subscriber",
            deadline,
            async || {
                let received = self.received.lock();
                received.ended.is_some().then(|| received.clone())
            },
        )
        .await
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Received {
    /// The sessions that frames are of, one after the other.
    pub fn sessions(&self) -> Vec<&str> {
        let mut sessions: Vec<_> = self
            .frames
            .iter()
            .map(|frame| frame.session_id.as_str())
            .collect();
        sessions.dedup();
        sessions
    }

    pub fn tags(&self) -> Vec<Tag> {
        self.frames.iter().map(|frame| frame.tag.clone()).collect()
    }

    /// The frames that came in Header events, as tags.
    pub fn header_tags(&self) -> Vec<Tag> {
        let mut joiner = Joiner::default();
        self.headers
            .iter()
            .filter_map(|header| header.headers.as_ref())
            .flat_map(|batch| batch.frames.clone())
            .filter_map(|frame| joiner.push(frame))
            .map(|(_, tag)| tag)
            .collect()
    }

    /// Fails unless the frames of each session follow each other without a hole, a repetition or a step back.
    pub fn assert_contiguous(&self) {
        for pair in self.frames.windows(2) {
            let [before, after] = pair else {
                unreachable!("windows of two");
            };
            if before.session_id == after.session_id {
                assert_eq!(
                    after.sequence,
                    before.sequence + 1,
                    "behind {before:?}; gaps: {:?}",
                    self.gaps
                );
            }
            assert!(
                (before.epoch, before.attempt) <= (after.epoch, after.attempt),
                "the fencing token went back: {before:?}, {after:?}"
            );
        }
        assert!(self.gaps.is_empty(), "{:?}", self.gaps);
    }

    /// Fails where a timestamp of a track goes back.
    pub fn assert_monotonic(&self) {
        for kind in [Kind::Audio, Kind::Video] {
            let times = self
                .frames
                .iter()
                .filter(|frame| frame.tag.kind == kind)
                .map(|frame| frame.tag.timestamp_ms);
            assert!(times.is_sorted(), "{kind:?} timestamps go back");
        }
    }
}

struct Follower {
    playback: Playback,
    request: SubscribeRequest,
    received: Arc<Mutex<Received>>,
    /// Without a cursor nobody knows where the stream will be: waits at every origin.
    begins_anywhere: bool,
}

impl Follower {
    /// With a cursor it asks each origin in turn.
    async fn run(mut self) {
        let Playback {
            origins,
            ca_file,
            token,
        } = self.playback.clone();
        let mut waiting = JoinSet::new();
        for origin in origins.iter().filter(|_| self.begins_anywhere) {
            let client = api::playback(origin, &ca_file, &token);
            waiting.spawn(attach(client, self.request.clone()));
        }
        while let Some(attached) = waiting.join_next().await {
            match attached.unwrap() {
                Ok((first, events)) => {
                    waiting.abort_all();
                    self.take(first, events).await;
                    break;
                }
                Err(status) => self.received.lock().errors.push(status.to_string()),
            }
        }
        for origin in origins.iter().cycle() {
            if self.received.lock().ended.is_some() {
                return;
            }
            let client = api::playback(origin, &ca_file, &token);
            match attach(client, self.request.clone()).await {
                Ok((first, events)) => self.take(first, events).await,
                Err(status) => self
                    .received
                    .lock()
                    .errors
                    .push(format!("{origin}: {status}")),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn take(&mut self, first: SubscribeEvent, events: Streaming<SubscribeEvent>) {
        if let Err(status) = self.follow(first, events).await {
            self.received.lock().errors.push(status.to_string());
        }
    }

    async fn follow(
        &mut self,
        first: SubscribeEvent,
        mut events: Streaming<SubscribeEvent>,
    ) -> Result<(), Status> {
        let mut reading = Reading::default();
        let mut next = Some(first);
        while let Some(event) = next {
            let event = event.event.expect("an event that this contract knows");
            if !self.write_down(event, &mut reading) {
                return Ok(());
            }
            next = events.message().await?;
        }
        Ok(())
    }

    /// False where the subscription goes on elsewhere.
    fn write_down(&mut self, event: Event, reading: &mut Reading) -> bool {
        let mut received = self.received.lock();
        match event {
            Event::Header(header) => {
                reading.session_id.clone_from(&header.session_id);
                reading.token = (header.epoch, header.attempt);
                received.headers.push(header);
            }
            Event::Batch(batch) => {
                self.request.cursor = batch.cursor;
                for frame in batch.frames.unwrap_or_default().frames {
                    if let Some((sequence, tag)) = reading.joiner.push(frame) {
                        received.frames.push(ReceivedFrame {
                            session_id: reading.session_id.clone(),
                            epoch: reading.token.0,
                            attempt: reading.token.1,
                            sequence,
                            tag,
                        });
                    }
                }
            }
            Event::Gap(gap) => received.gaps.push(gap),
            Event::Moved(_) => {
                received.moved += 1;
                return false;
            }
            Event::End(end) => received.ended = Some(end.reason),
        }
        true
    }
}

/// Whose frames come at the moment.
#[derive(Default)]
struct Reading {
    session_id: String,
    token: (u64, u32),
    joiner: Joiner,
}

/// A subscription and its first event.
async fn attach(
    mut client: PlaybackServiceClient<BearerChannel>,
    request: SubscribeRequest,
) -> Result<(SubscribeEvent, Streaming<SubscribeEvent>), Status> {
    let mut events = client.subscribe(request).await?.into_inner();
    let first = events.message().await?;
    let first = first.ok_or_else(|| Status::unavailable("ended without an event"))?;
    Ok((first, events))
}

/// Joins fragments of a frame's body.
#[derive(Default)]
struct Joiner {
    body: Vec<u8>,
}

impl Joiner {
    /// The frame's sequence and tag, where this fragment completes it.
    fn push(&mut self, frame: Frame) -> Option<(u64, Tag)> {
        self.body.extend_from_slice(&frame.body);
        if !frame.last_fragment {
            return None;
        }
        let kind = match frame.kind() {
            FrameKind::Audio => Kind::Audio,
            FrameKind::Video => Kind::Video,
            FrameKind::Script => Kind::Script,
            FrameKind::Unspecified => panic!("a frame of no kind"),
        };
        let tag = Tag {
            kind,
            timestamp_ms: frame.timestamp_ms,
            body: std::mem::take(&mut self.body),
        };
        Some((frame.sequence, tag))
    }
}
