//! A second publisher takes a stream over, and a failover loses its claim: it stays, and the first one has been told.
//! Who decides is the origin, which has seen its token.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proto::v1::TakeoverPolicy;
use tokio::{
    select,
    task::JoinHandle,
    time::{interval, timeout},
};

use super::{field::Field, load};
use crate::{
    api::IssuedKey,
    deployment::{APP, Deployment},
    encoder::Encoder,
    subscriber::Subscriber,
    synthetic::{self, FRAME_MS},
    wait::wait_for,
};

/// For what was sent to come out, and for what was said to be heard.
const DELIVERY: Duration = Duration::from_secs(20);
/// Frames from one keyframe to the next.
const GOP: u32 = 25;
/// What the first one is told.
const FENCED: &str = "Another publisher took over this stream";

/// The first publisher, with a reader at every origin.
pub struct Incumbent {
    key: IssuedKey,
    readers: Vec<Subscriber>,
    publishing: Publishing,
}

/// The second one, with the same readers.
pub struct Successor {
    pub session: String,
    key: IssuedKey,
    readers: Vec<Subscriber>,
    publishing: Publishing,
}

/// In real time, until it is stopped or the server says something.
struct Publishing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Published, String>>,
}

struct Published {
    encoder: Encoder,
    frames: u32,
}

impl Incumbent {
    pub async fn start(field: &Field) -> Self {
        let deployment = &field.deployment;
        let stream = format!("takeover-{:.0}", load::now());
        let policy = TakeoverPolicy::Takeover;
        let key = deployment.api.create_key_with(APP, &stream, policy).await;
        let publishing = Publishing::start(field, 0, &key).await;
        let readers = deployment.subscribe_everywhere(&key);
        for reader in &readers {
            reader.frames(1, DELIVERY).await;
        }
        Self {
            key,
            readers,
            publishing,
        }
    }

    /// Another one comes, at another edge. Returns once the first one is told and every reader has the second.
    pub async fn loses_to_another(mut self, field: &Field) -> Successor {
        let publishing = Publishing::start(field, 1, &self.key).await;
        let told = timeout(DELIVERY, &mut self.publishing.task).await;
        let told = told.expect("the older publisher ends").unwrap().err();
        assert_eq!(
            told.as_deref(),
            Some(FENCED),
            "what the older publisher was told"
        );
        let mut session = String::new();
        for reader in &self.readers {
            session = wait_for(
                "a reader to have the newer publisher",
                DELIVERY,
                async || {
                    let received = reader.received();
                    received
                        .sessions()
                        .get(1)
                        .map(|&session| session.to_owned())
                },
            )
            .await;
        }
        Successor {
            session,
            key: self.key,
            readers: self.readers,
            publishing,
        }
    }
}

impl Successor {
    /// The registry names it, whatever it has lost, and all that it has published came out at every origin, behind what
    /// came of the first one.
    pub async fn finish(self, field: &Field) {
        wait_for(
            "the newer publisher in the registry",
            DELIVERY,
            async || {
                let sessions = field.sessions().await?;
                let mut of_stream = sessions.iter().filter(|s| s.stream == self.key.stream);
                of_stream.any(|s| s.id == self.session).then_some(())
            },
        )
        .await;
        let frames = self.publishing.finish(&self.key).await;
        for reader in &self.readers {
            let received = reader.finish(DELIVERY).await;
            received.assert_contiguous();
            received.assert_monotonic();
            let sessions = received.sessions();
            assert_eq!(sessions.len(), 2, "one behind the other: {sessions:?}");
            let of_newer = received
                .frames
                .iter()
                .filter(|frame| frame.session_id == self.session && frame.tag.packet().is_some());
            assert_eq!(of_newer.count(), frames, "frames of the newer publisher");
        }
    }
}

impl Publishing {
    async fn start(field: &Field, edge: usize, key: &IssuedKey) -> Self {
        let deployment = Deployment {
            rtmps: field.edges[edge].node.rtmps(),
            ..field.deployment.clone()
        };
        let mut encoder = deployment.publish(key).await;
        encoder.send(&synthetic::video_header()).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(publish(encoder, stop.clone()));
        Self { stop, task }
    }

    /// Ends the stream; how many frames were sent.
    async fn finish(mut self, key: &IssuedKey) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let Published { encoder, frames } = match (&mut self.task).await.unwrap() {
            Ok(published) => published,
            Err(told) => panic!("the newer publisher did not stay: {told}"),
        };
        encoder.finish(&key.secret).await.unwrap();
        usize::try_from(frames).unwrap()
    }
}

impl Drop for Publishing {
    /// Nobody goes on into the next round, whatever became of this one.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn publish(mut encoder: Encoder, stop: Arc<AtomicBool>) -> Result<Published, String> {
    let mut clock = interval(Duration::from_millis(FRAME_MS.unsigned_abs()));
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        select! {
            _ = clock.tick() => {
                let tag = synthetic::video(frames, frames % GOP == 0, 400);
                encoder.send(&tag).await.map_err(|error| error.to_string())?;
                frames += 1;
            }
            said = encoder.status() => {
                return Err(said.map_or_else(|error| error.to_string(), |said| said.description));
            }
        }
    }
    Ok(Published { encoder, frames })
}
