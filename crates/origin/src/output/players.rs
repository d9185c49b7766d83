//! What every way out to players has in common: whom it lets in, and to which stream.

use std::{sync::Arc, time::Duration};

use media::log::{Class, Start};
use registry::StreamId;
use runtime::{bearer::BearerCredentials, shutdown::Shutdown};

use super::valid_name;
use crate::{
    config::Config,
    follow::Follower,
    metrics::OutputLabels,
    stream::{Streams, Subscription, SubscriptionStart},
};

/// What a port for players needs. A cheap handle.
#[derive(Clone)]
pub(crate) struct Players {
    pub(crate) config: Arc<Config>,
    pub(crate) credentials: BearerCredentials,
    pub(crate) follower: Follower,
    pub(crate) shutdown: Shutdown,
    pub(crate) streams: Streams,
}

/// Why a player gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    /// There are too many.
    Full,
    /// The origin ends.
    Leaving,
    /// Nobody publishes it.
    NotLive,
    /// Application and stream are no names.
    Unnamed,
}

impl Players {
    /// The stream, as soon as it is there. One that has begun comes from its current GOP on, one that was waited for from
    /// its beginning.
    pub(super) async fn attach(
        &self,
        app: &str,
        name: &str,
        wait: Duration,
        labels: OutputLabels,
    ) -> Result<Subscription, Unavailable> {
        if !valid_name(app) || !valid_name(name) {
            return Err(Unavailable::Unnamed);
        }
        let admitted = self.streams.admit_subscriber().ok_or(Unavailable::Full)?;
        let stream_id = StreamId::derive(&self.config.tenant, app, name);
        let wait = wait.min(self.config.timing.wait_for_stream_max);
        let (stream, waited) = tokio::select! {
            biased;
            found = self.follower.find(stream_id, wait) => found.ok_or(Unavailable::NotLive)?,
            () = self.shutdown.draining() => return Err(Unavailable::Leaving),
        };
        Ok(stream.subscribe(SubscriptionStart {
            admitted,
            class: Class::Live,
            start: if waited {
                Start::Oldest
            } else {
                Start::CurrentGop
            },
            labels,
        }))
    }
}
