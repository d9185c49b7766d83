//! Moves what is stored from old peppers to the newest one, so that an old one can be retired: a stream key when its right
//! secret is shown (nobody else knows it); what can be decrypted here, keys with a password and webhooks above all, one
//! after the other. Admission waits for none of it.

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
    field::now_ms,
    metrics::ControlMetrics,
    pepper::Peppers,
    stream_key::{StreamKey, StreamKeyId},
};

/// Takes keys that were shown. A cheap handle.
#[derive(Clone)]
pub(crate) struct Rehashes(mpsc::Sender<Rehash>);

/// Writes them.
pub(crate) struct Rehasher {
    queue: mpsc::Receiver<Rehash>,
    database: Database,
    peppers: Reloading<Peppers>,
    metrics: ControlMetrics,
    delay: Duration,
    period: Duration,
    /// Of keys with a password, the last that was looked at; `None`: from the first on.
    looked_at: Option<StreamKeyId>,
    /// The newest version, and since when this process has it.
    newest: (u32, Instant),
}

impl Rehashes {
    /// `delay`: how long a new pepper is to be there before anything depends on it. Other replicas may get it later, and
    /// would refuse the key until they have it.
    pub(crate) fn new(
        database: &Database,
        peppers: &Reloading<Peppers>,
        metrics: &ControlMetrics,
        delay: Duration,
    ) -> (Self, Rehasher) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let newest = (peppers.load().current(), Instant::now());
        let rehasher = Rehasher {
            queue,
            database: database.clone(),
            peppers: peppers.clone(),
            metrics: metrics.clone(),
            delay,
            period: PERIOD,
            looked_at: None,
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
        let sealed = adobe.map(|_| peppers.seal(record.id, &password_equivalent(stream_key)[..]));
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
                _ = ticks.tick() => self.look().await,
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
            Ok(true) => {
                self.metrics.pepper_rewritten("stream_key");
                debug!(
                    stream_key_id = %id,
                    pepper_version = rehash.new_version,
                    "the key is stored under the newest pepper"
                );
            }
            Ok(false) => {}
            Err(error) => info!(
                stream_key_id = %id,
                reason = chain(&error),
                "the key stays under its old pepper until it is shown again"
            ),
        }
    }

    async fn look(&mut self) {
        let peppers = self.peppers.load_full();
        let is_due = self.is_due(&peppers);
        if let Err(error) = self.look_with(&peppers, is_due).await {
            info!(
                reason = chain(&error),
                "what is stored stays under its old pepper for now"
            );
        }
    }

    async fn look_with(&mut self, peppers: &Peppers, is_due: bool) -> Result<(), DatabaseError> {
        if !peppers.has_older() {
            self.metrics.pepper_outdated(&Default::default());
            return Ok(());
        }
        if is_due {
            self.reseal_credential_key(peppers).await?;
            self.reseal_webhooks(peppers).await?;
            self.reseal_passwords(peppers).await?;
        }
        let outdated = self.database.outdated(peppers.current(), now_ms()).await?;
        self.metrics.pepper_outdated(&outdated);
        Ok(())
    }

    async fn reseal_credential_key(&self, peppers: &Peppers) -> Result<(), DatabaseError> {
        let stored = self.database.credential_key().await?;
        let Some((version, sealed)) = stored.filter(|(old, _)| *old < peppers.current()) else {
            return Ok(());
        };
        let key = peppers.open_credential_key(version, &sealed);
        // Without random numbers nothing is sealed now.
        let resealed = key.and_then(|key| peppers.seal_credential_key(&key).ok());
        if let Some(resealed) = resealed {
            let newest = peppers.current();
            let database = &self.database;
            let stored = database.store_credential_key(Some(&sealed), newest, &resealed);
            if stored.await? {
                self.metrics.pepper_rewritten("credential_key");
            }
        }
        Ok(())
    }

    /// Some of the keys whose password can be decrypted: with it goes the HMAC of the secret, which nobody may ever show.
    async fn reseal_passwords(&mut self, peppers: &Peppers) -> Result<(), DatabaseError> {
        let newest = peppers.current();
        let after = self.looked_at.take();
        let old = self.database.passwords_before(newest, after, KEYS_MAX);
        for record in old.await? {
            self.looked_at = Some(record.id);
            let opened = record.adobe.as_ref();
            let opened =
                opened.and_then(|sealed| peppers.open(record.pepper_version, record.id, sealed));
            let Some(equivalent) = opened else {
                warn!(
                    stream_key_id = %record.id,
                    pepper_version = record.pepper_version,
                    "what is stored for the password cannot be opened"
                );
                continue;
            };
            let Ok(sealed) = peppers.seal(record.id, &equivalent) else {
                return Ok(());
            };
            let rehash = Rehash {
                id: record.id,
                old_version: record.pepper_version,
                old_mac: record.mac,
                new_version: newest,
                new_mac: peppers.password_mac(record.id, &equivalent),
                adobe: Some(sealed),
            };
            if self.database.rehash_key(&rehash).await? {
                self.metrics.pepper_rewritten("password");
            }
        }
        Ok(())
    }

    async fn reseal_webhooks(&self, peppers: &Peppers) -> Result<(), DatabaseError> {
        let newest = peppers.current();
        let old = self.database.webhooks_before(newest, WEBHOOKS_MAX).await?;
        for (id, version, sealed) in old {
            let opened = peppers.open_webhook(version, &id, &sealed);
            let secret = opened
                .as_deref()
                .and_then(|secret| str::from_utf8(secret).ok());
            let resealed = secret.and_then(|secret| peppers.seal_webhook(&id, secret).ok());
            match resealed {
                Some(sealed) => {
                    let written = self.database.reseal_webhook(&id, version, newest, &sealed);
                    if written.await? {
                        self.metrics.pepper_rewritten("webhook");
                    }
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
/// Between looks at what is stored.
const PERIOD: Duration = Duration::from_secs(60);
/// Webhooks at a time.
const WEBHOOKS_MAX: u32 = 100;
/// Keys with a password at a time: a second or two of writing, for which keys that were shown wait.
const KEYS_MAX: u32 = 500;
