//! What metrics are told, gathered over all connections.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{RedisEvent, config::Address};

/// Told of what metrics count. Must not block.
pub(super) type Observer = Arc<dyn Fn(RedisEvent) + Send + Sync>;

pub(super) struct Watcher {
    observer: Observer,
    /// Whether a server had a replica at any time: then claims are expected to reach one.
    replicas_seen: AtomicBool,
    /// By server: how far its clock is ahead, in seconds.
    skews: Mutex<BTreeMap<Address, f64>>,
}

impl Watcher {
    pub(super) fn new(observer: Observer) -> Self {
        Self {
            observer,
            replicas_seen: AtomicBool::new(false),
            skews: Mutex::default(),
        }
    }

    pub(super) fn tell(&self, event: RedisEvent) {
        (self.observer)(event);
    }

    pub(super) fn replica_seen(&self) {
        self.replicas_seen.store(true, Ordering::Relaxed);
    }

    /// Claims that no replica is known to have.
    pub(super) fn unreplicated(&self, claims: u64) {
        if claims > 0 && self.replicas_seen.load(Ordering::Relaxed) {
            self.tell(RedisEvent::Unreplicated { claims });
        }
    }

    /// One server's clock; told is the one furthest off.
    pub(super) fn skew(&self, server: &Address, seconds: f64) {
        let mut skews = self.skews.lock();
        skews.insert(server.clone(), seconds);
        let furthest = skews
            .values()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        drop(skews);
        if let Some(seconds) = furthest {
            self.tell(RedisEvent::ClockSkew { seconds });
        }
    }

    /// A server without a connection has no clock.
    pub(super) fn forget(&self, server: &Address) {
        self.skews.lock().remove(server);
    }
}
