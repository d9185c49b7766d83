//! Moves what is stored from old peppers to the newest one, so that an old one can be retired: a stream key when its right
//! secret is shown (nobody else knows it), webhooks one after the other. Admission waits for none of it.

use std::time::Duration;

use runtime::{error::chain, reload::Reloading};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use crate::{
    adobe::password_equivalent,
    database::{Database, DatabaseError, KeyRecord, Rehash},
    pepper::Peppers,
    stream_key::StreamKey,
};

/// Takes keys that were shown. A cheap handle.
#[derive(Clone)]
pub(crate) struct Rehashes(mpsc::Sender<Rehash>);

/// Writes them.
pub(crate) struct Rehasher {
    queue: mpsc::Receiver<Rehash>,
    database: Database,
    peppers: Reloading<Peppers>,
    delay: Duration,
    period: Duration,
    /// The newest version, and since when this process has it.
    newest: (u32, Instant),
}

impl Rehashes {
    /// `delay`: how long a new pepper is to be there before anything depends on it. Other replicas may get it later, and
    /// would refuse the key until they have it.
    pub(crate) fn new(
        database: Database,
        peppers: Reloading<Peppers>,
        delay: Duration,
    ) -> (Self, Rehasher) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let newest = (peppers.load().current(), Instant::now());
        let rehasher = Rehasher {
            queue,
            database,
            peppers,
            delay,
            period: PERIOD,
            newest,
        };
        (Self(sender), rehasher)
    }

    /// Queues a key whose right secret was shown, where its HMAC is not the newest pepper's. Where there is no room it is
    /// left for the next time.
    pub(crate) fn tell(&self, peppers: &Peppers, record: &KeyRecord, stream_key: &StreamKey) {
        let old_version = record.pepper_version;
        // The secret before a rotation is right too, for a while: it is left to its end.
        if old_version >= peppers.current() || !peppers.verify(old_version, stream_key, &record.mac)
        {
            return;
        }
        let adobe = record.adobe.as_ref();
        let sealed = adobe.map(|_| peppers.seal(record.id, &password_equivalent(stream_key)));
        // Without random numbers nothing is sealed now.
        let Ok(adobe) = sealed.transpose() else {
            return;
        };
        let rehash = Rehash {
            id: record.id,
            old_version,
            old_mac: record.mac,
            new_version: peppers.current(),
            new_mac: peppers.mac(stream_key),
            adobe,
        };
        self.0.try_send(rehash).ok();
    }
}

impl Rehasher {
    /// With the pace of a test.
    #[cfg(test)]
    pub(crate) fn paced(&mut self, delay: Duration, period: Duration) {
        (self.delay, self.period) = (delay, period);
    }

    /// Until no key can be shown any more.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                rehash = self.queue.recv() => match rehash {
                    Some(rehash) => self.rehash(&rehash).await,
                    None => return,
                },
                _ = ticks.tick() => self.reseal_webhooks().await,
            }
        }
    }

    async fn rehash(&mut self, rehash: &Rehash) {
        let peppers = self.peppers.load_full();
        if !self.is_due(&peppers) || rehash.new_version != peppers.current() {
            return;
        }
        let id = rehash.id;
        match self.database.rehash_key(rehash).await {
            Ok(true) => debug!(
                stream_key_id = %id,
                pepper_version = rehash.new_version,
                "the key is stored under the newest pepper"
            ),
            Ok(false) => {}
            Err(error) => info!(
                stream_key_id = %id,
                reason = chain(&error),
                "the key stays under its old pepper until it is shown again"
            ),
        }
    }

    async fn reseal_webhooks(&mut self) {
        let peppers = self.peppers.load_full();
        if !self.is_due(&peppers) {
            return;
        }
        if let Err(error) = self.reseal_some(&peppers).await {
            info!(
                reason = chain(&error),
                "webhooks stay under their old pepper for now"
            );
        }
    }

    async fn reseal_some(&self, peppers: &Peppers) -> Result<(), DatabaseError> {
        let newest = peppers.current();
        let old = self.database.webhooks_before(newest, BATCH_MAX).await?;
        for (id, version, sealed) in old {
            let opened = peppers.open_webhook(version, &id, &sealed);
            let secret = opened
                .as_deref()
                .and_then(|secret| str::from_utf8(secret).ok());
            let resealed = secret.and_then(|secret| peppers.seal_webhook(&id, secret).ok());
            match resealed {
                Some(sealed) => {
                    let written = self.database.reseal_webhook(&id, version, newest, &sealed);
                    written.await?;
                }
                None => warn!(
                    webhook_id = id,
                    pepper_version = version,
                    "the webhook's secret cannot be read: the pepper file lacks its version"
                ),
            }
        }
        Ok(())
    }

    /// Whether the newest pepper has been there for long enough.
    fn is_due(&mut self, peppers: &Peppers) -> bool {
        if self.newest.0 != peppers.current() {
            self.newest = (peppers.current(), Instant::now());
        }
        self.newest.1.elapsed() >= self.delay
    }
}

/// Keys that wait to be written.
const QUEUE_MAX: usize = 256;
/// Between looks for webhooks.
const PERIOD: Duration = Duration::from_secs(60);
/// Webhooks at a time.
const BATCH_MAX: u32 = 100;
