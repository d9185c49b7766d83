//! A good publisher beside whatever a test does: it must not lose a frame.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use registry::StreamId;
use rtmp::MediaMessage;
use tokio::task::JoinHandle;

use crate::{
    encoder::{Encoder, media},
    harness::{Harness, assert_same, in_time, until},
};

/// Publishes until it is asked for its ledger.
pub(crate) struct Neighbour {
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<Vec<MediaMessage>>,
    name: String,
}

/// Between two frames of one that is alone.
const FRAME_PERIOD: Duration = Duration::from_millis(10);

impl Neighbour {
    /// Begins to publish `name`, over a connection that is allowed to.
    pub(crate) async fn start(harness: &Harness, name: &str) -> Self {
        let encoder = Encoder::publish(harness.address, "live", &format!("good-{name}")).await;
        Self::with(encoder, name, FRAME_PERIOD)
    }

    /// The same with an encoder that publishes already.
    pub(crate) fn with(mut encoder: Encoder, name: &str, frame_period: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let publishing = tokio::spawn(async move {
            let mut sent = Vec::new();
            for number in 0.. {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                let messages = media(number..number + 1, 500);
                encoder.send_all(&messages).await;
                sent.extend(messages);
                tokio::time::sleep(frame_period).await;
            }
            encoder.finish().await;
            sent
        });
        Self {
            stop,
            publishing,
            name: name.to_owned(),
        }
    }

    /// Ends, and compares what the origin has with what was sent: how many messages that were.
    pub(crate) async fn lost_nothing(self, harness: &Harness) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let sent = in_time("the neighbour's end", self.publishing)
            .await
            .unwrap();
        let origin = &harness.origins[0];
        let opens = origin.opens();
        let stream = StreamId::derive("default", "live", &self.name);
        let mut opened = opens
            .iter()
            .filter(|open| open.stream_id == stream.as_bytes());
        let session = &opened.next().unwrap().session_id;
        assert!(opened.next().is_none(), "one session from first to last");
        until("the close", || origin.session(session).closed.is_some()).await;
        let log = origin.session(session);
        assert_same(&log.frames, 0, &sent);
        assert_eq!(log.closed.as_deref(), Some("client_close"));
        sent.len()
    }
}
