//! A consumer over gRPC that follows a stream from origin to origin with its cursor and writes down all it gets.

use std::{path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::v1::{
    DeliveryClass, Frame, FrameKind, SubscribeEvent, SubscribeRequest,
    subscribe_event::{Event, Gap, Header},
};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::{
    api,
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
}

impl Follower {
    async fn run(mut self) {
        let Playback {
            origins,
            ca_file,
            token,
        } = self.playback.clone();
        // Without a cursor nobody knows where the stream will be: ask each in turn, and wait at none.
        self.request.wait_for_stream = origins.len() == 1;
        for origin in origins.iter().cycle() {
            let mut client = api::playback(origin, &ca_file, &token);
            let result = match client.subscribe(self.request.clone()).await {
                Ok(response) => self.follow(response.into_inner()).await,
                Err(status) => Err(status),
            };
            if self.received.lock().ended.is_some() {
                return;
            }
            if let Err(status) = result
                && status.code() != Code::NotFound
            {
                self.received
                    .lock()
                    .errors
                    .push(format!("{origin}: {status}"));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&mut self, mut events: tonic::Streaming<SubscribeEvent>) -> Result<(), Status> {
        let mut joiner = Joiner::default();
        let (mut session_id, mut epoch, mut attempt) = (String::new(), 0, 0);
        while let Some(event) = events.message().await? {
            let mut received = self.received.lock();
            match event.event {
                Some(Event::Header(header)) => {
                    session_id.clone_from(&header.session_id);
                    (epoch, attempt) = (header.epoch, header.attempt);
                    received.headers.push(header);
                }
                Some(Event::Batch(batch)) => {
                    self.request.cursor = batch.cursor;
                    for frame in batch.frames.unwrap_or_default().frames {
                        if let Some((sequence, tag)) = joiner.push(frame) {
                            received.frames.push(ReceivedFrame {
                                session_id: session_id.clone(),
                                epoch,
                                attempt,
                                sequence,
                                tag,
                            });
                        }
                    }
                }
                Some(Event::Gap(gap)) => received.gaps.push(gap),
                Some(Event::Moved(_)) => {
                    received.moved += 1;
                    return Ok(());
                }
                Some(Event::End(end)) => received.ended = Some(end.reason),
                None => panic!("an event that this contract does not know"),
            }
        }
        Ok(())
    }
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
