//! A live session that must not notice what happens beside it: it publishes all the time, and is read all the time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time};

use crate::{
    api::IssuedKey,
    deployment::Deployment,
    encoder::Encoder,
    subscriber::{Received, Subscriber},
    synthetic::{self, FRAME_MS},
    wait::wait_for,
};

/// Frames from one keyframe to the next.
const GOP: u32 = 25;
/// For what was sent to come out.
const DELIVERY: Duration = Duration::from_secs(15);

/// The session. Nothing but [`finish`](Witness::finish) proves that it lived well.
pub struct Witness {
    pub key: IssuedKey,
    pub subscriber: Subscriber,
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<io::Result<Published>>,
}

struct Published {
    encoder: Encoder,
    frames: u32,
}

impl Witness {
    /// Starts to publish and to read; returns once media comes through.
    pub async fn start(deployment: &Deployment, key: IssuedKey) -> Self {
        let subscriber = deployment.subscribe(&key);
        let mut encoder = deployment.publish(&key).await;
        encoder.send(&synthetic::video_header()).await.unwrap();
        encoder.send(&synthetic::video(0, true, 400)).await.unwrap();
        // The reader is there before anything can be too old for it.
        subscriber.frames(1, DELIVERY).await;
        let stop = Arc::new(AtomicBool::new(false));
        let publishing = tokio::spawn(publish(encoder, stop.clone()));
        Self {
            key,
            subscriber,
            stop,
            publishing,
        }
    }

    /// Whether the server still takes what it publishes.
    pub fn is_publishing(&self) -> bool {
        !self.publishing.is_finished()
    }

    /// Waits until more comes out: the session is alive now.
    pub async fn is_alive(&self) {
        let before = self.subscriber.frame_count();
        self.subscriber.frames(before + 5, DELIVERY).await;
    }

    /// Ends the session and fails unless all that was published came out, once and in order, as one session.
    pub async fn finish(self) -> Received {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.publishing.await.unwrap();
        let Published { encoder, frames } = published.expect("the server takes media");
        encoder.finish(&self.key.secret).await.unwrap();
        let received = self.subscriber.finish(DELIVERY).await;
        received.assert_contiguous();
        received.assert_monotonic();
        let got = received
            .tags()
            .iter()
            .filter_map(|tag| tag.packet())
            .count();
        assert_eq!(
            got,
            usize::try_from(frames).unwrap(),
            "frames that came out"
        );
        let first = &received.frames[0].session_id;
        let one_session = received
            .frames
            .iter()
            .all(|frame| frame.session_id == *first);
        assert!(one_session, "the session was not replaced");
        received
    }
}

/// Real time, 25 frames a second, until told to stop.
async fn publish(mut encoder: Encoder, stop: Arc<AtomicBool>) -> io::Result<Published> {
    let mut clock = time::interval(Duration::from_millis(FRAME_MS.unsigned_abs()));
    let mut frames = 1;
    while !stop.load(Ordering::Relaxed) {
        clock.tick().await;
        let tag = synthetic::video(frames, frames % GOP == 0, 400);
        encoder.send(&tag).await?;
        frames += 1;
    }
    Ok(Published { encoder, frames })
}

/// Tries to publish until it is accepted.
pub async fn publish_when_free(
    deployment: &Deployment,
    key: &IssuedKey,
    deadline: Duration,
) -> Encoder {
    wait_for("the stream to be free", deadline, async || {
        let mut encoder = deployment.encoder().await;
        let status = encoder.publish(&key.app, &key.secret).await.ok()?;
        (status.code == "NetStream.Publish.Start").then_some(encoder)
    })
    .await
}
