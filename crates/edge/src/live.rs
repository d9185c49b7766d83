//! The sessions that publish on this edge now: where revocations find them and renewals read them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use media::{Frame, FrameKind, Part, PartType, Tracks};
use parking_lot::Mutex;
use proto::{
    internal::v1::KeyChange,
    v1::{MediaLimits, SessionEvent},
};
use registry::{EdgeName, LeaseStats, OriginName, Renewal, SessionId, Slot, Standing, StreamId};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::{
    end::{End, Ending},
    limits::{LimitFault, Limits},
};

/// All of them. A cheap handle.
#[derive(Clone, Default)]
pub(crate) struct LiveSessions {
    directory: Arc<Mutex<Directory>>,
}

#[derive(Default)]
struct Directory {
    sessions: BTreeMap<SessionId, Arc<LiveSession>>,
    /// What control said may overtake the answer to the Authorize that it contradicts.
    recent: VecDeque<(Instant, Order)>,
    /// When the last one was said that found no room any more.
    forgotten: Option<Instant>,
}

/// What control says of sessions that it has granted.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// They go on under other terms.
    Change(Arc<KeyChange>),
    /// They end.
    Revoke(Target),
}

/// Whom a revocation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Session(String),
    StreamKey(String),
}

/// One session from its grant to its released lease.
pub(crate) struct LiveSession {
    pub(crate) stream: StreamId,
    pub(crate) slot: Slot,
    pub(crate) session: SessionId,
    pub(crate) edge: EdgeName,
    pub(crate) stream_key_id: String,
    pub(crate) home_ttl: Duration,
    /// When control granted it, in milliseconds since the Unix epoch.
    granted_ms: u64,
    /// When it is to end, likewise; `None`: no such time.
    until_ms: watch::Sender<Option<u64>>,
    /// Whether its encoder said that it follows a request to connect elsewhere.
    pub(crate) reconnects: bool,
    farewell: watch::Sender<Farewell>,
    ending: Ending,
    lease: Mutex<LeaseState>,
    renewed: Notify,
}

/// What an edge that gets empty wants of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Farewell {
    /// Nothing.
    Stay,
    /// Its encoder is asked to connect elsewhere.
    Ask,
    /// It ends at its next keyframe.
    Close,
}

/// What a grant says of a session's media and time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) limits: MediaLimits,
    /// Milliseconds since the Unix epoch, as the next.
    pub(crate) granted_ms: u64,
    /// `None`: no end.
    pub(crate) until_ms: Option<u64>,
}

/// Takes the session out of the directory, and ends it where nothing else did.
pub(crate) struct Registration {
    directory: Arc<Mutex<Directory>>,
    session: Arc<LiveSession>,
}

/// What a lease says that changes while it is held.
pub(crate) struct LeaseState {
    pub(crate) epoch: u64,
    pub(crate) attempt: u32,
    pub(crate) origin: Option<OriginName>,
    pub(crate) broadcast_id: String,
    pub(crate) stats: LeaseStats,
    standing: Standing,
    limits: Limits,
    /// Of video track 0.
    frames: u64,
    last_media: Instant,
    /// Silence is ours, not the encoder's, while we do not read.
    paused: bool,
    renewed: Renewed,
    renewing: bool,
    leaving: bool,
}

/// What had come by the last renewal.
#[derive(Clone, Copy)]
struct Renewed {
    at: Instant,
    bytes: u64,
    frames: u64,
}

/// How long a revocation may overtake an answer.
const RECENT: Duration = Duration::from_secs(60);
/// Remembered revocations.
const RECENT_MAX: usize = 4096;

impl LiveSessions {
    /// Enters a session whose Authorize began at `asked`. What control said of it since holds at once.
    pub(crate) fn enter(&self, session: Arc<LiveSession>, asked: Instant) -> Registration {
        let mut directory = self.directory.lock();
        // Under the lock: what is said after this comes after these.
        for (_, order) in directory.recent.iter().filter(|(at, _)| *at >= asked) {
            session.obey(order);
        }
        if directory.forgotten.is_some_and(|at| at >= asked) {
            // Nobody knows what was said of it.
            session.ending.end(End::Internal);
        }
        directory
            .sessions
            .insert(session.session.clone(), session.clone());
        drop(directory);
        Registration {
            directory: self.directory.clone(),
            session,
        }
    }

    /// Does what control says. How many sessions that hit.
    pub(crate) fn obey(&self, order: Order) -> usize {
        let now = Instant::now();
        let mut directory = self.directory.lock();
        let mut sessions: Vec<_> = directory.sessions.values().cloned().collect();
        directory.recent.push_back((now, order.clone()));
        while let Some((at, _)) = directory.recent.front() {
            let (at, is_full) = (*at, directory.recent.len() > RECENT_MAX);
            if !is_full && now - at <= RECENT {
                break;
            }
            directory.forgotten = Some(at);
            directory.recent.pop_front();
        }
        drop(directory);
        sessions.retain(|session| session.obey(&order));
        sessions.len()
    }

    /// Ends what control ended, beside its log: nothing is remembered here. How many sessions that hit.
    pub(crate) fn end_revoked(&self, target: Target) -> usize {
        let order = Order::Revoke(target);
        let mut sessions = self.all();
        sessions.retain(|session| session.obey(&order));
        sessions.len()
    }

    /// Ends one session.
    pub(crate) fn end(&self, session: &SessionId, end: End) {
        let found = self.directory.lock().sessions.get(session).cloned();
        if let Some(session) = found {
            session.ending.end(session.end_for(end));
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<LiveSession>> {
        self.directory.lock().sessions.values().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.directory.lock().sessions.len()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.directory.lock().sessions.remove(&self.session.session);
        self.session.ending.end(End::Internal);
    }
}

impl LiveSession {
    pub(crate) fn new(
        (stream, slot): (StreamId, Slot),
        (session, edge): (SessionId, EdgeName),
        (home_ttl, standing): (Duration, Standing),
        (stats, terms): (LeaseStats, Terms),
        reconnects: bool,
        ending: Ending,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            slot,
            session,
            edge,
            stream_key_id: stats.stream_key_id.clone(),
            home_ttl,
            granted_ms: terms.granted_ms,
            until_ms: watch::Sender::new(terms.until_ms),
            reconnects,
            farewell: watch::Sender::new(Farewell::Stay),
            ending,
            lease: Mutex::new(LeaseState {
                epoch: 0,
                attempt: 0,
                origin: None,
                broadcast_id: String::new(),
                stats,
                standing,
                limits: Limits::new(terms.limits),
                frames: 0,
                last_media: now,
                paused: false,
                renewed: Renewed {
                    at: now,
                    bytes: 0,
                    frames: 0,
                },
                renewing: false,
                leaving: false,
            }),
            renewed: Notify::new(),
        }
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The session publishes at this origin with this token now.
    pub(crate) fn attached(
        &self,
        epoch: u64,
        attempt: u32,
        origin: &OriginName,
        broadcast_id: &str,
    ) {
        let mut lease = self.lease.lock();
        lease.epoch = lease.epoch.max(epoch);
        lease.attempt = attempt;
        lease.origin = Some(origin.clone());
        lease.broadcast_id = broadcast_id.to_owned();
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.lease.lock().epoch
    }

    /// The session's epoch is this one from now on, where it is a higher one.
    pub(crate) fn raise_epoch(&self, epoch: u64) {
        let mut lease = self.lease.lock();
        lease.epoch = lease.epoch.max(epoch);
    }

    /// A message came that goes no further. The limit that it breaks.
    pub(crate) fn dropped(&self, bytes: usize) -> Result<(), LimitFault> {
        let now = Instant::now();
        let mut lease = self.lease.lock();
        lease.count(bytes, now);
        lease.limits.dropped(bytes, now)
    }

    /// A frame came; where `changed`, a track began, changed or ended with it, and `note` completes what the lease says.
    /// The limit that it breaks.
    pub(crate) fn media(
        &self,
        frame: &Frame,
        (tracks, changed): (&Tracks, bool),
        note: impl FnOnce(&mut LeaseStats),
    ) -> Result<(), LimitFault> {
        let now = Instant::now();
        let mut lease = self.lease.lock();
        lease.count(frame.body.len(), now);
        let coded = |part: &Part| part.track == 0 && part.part_type == PartType::Coded;
        if frame.kind == FrameKind::Video && frame.parts.iter().any(coded) {
            lease.frames = lease.frames.saturating_add(1);
        }
        if changed {
            note(&mut lease.stats);
        }
        lease.limits.take(frame, (tracks, changed), now)
    }

    pub(crate) fn pause(&self, paused: bool) {
        let mut lease = self.lease.lock();
        lease.paused = paused;
        lease.last_media = Instant::now();
    }

    /// What to renew; `None` before the session has an origin and once it leaves. To be followed by
    /// [`renewal_done`](Self::renewal_done).
    pub(crate) fn renewal(&self) -> Option<Renewal> {
        let now = Instant::now();
        let mut lease = self.lease.lock();
        if lease.leaving || lease.renewing {
            return None;
        }
        let origin = lease.origin.clone()?;
        lease.renewing = true;
        let Renewed { at, bytes, frames } = lease.renewed;
        let elapsed_ms = u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX);
        let per_second = |count: u64, thousands: u64| {
            count.saturating_mul(thousands.saturating_mul(1_000)) / elapsed_ms.max(1)
        };
        let received = lease.stats.received_bytes;
        lease.stats.bitrate_bps = per_second(received.saturating_sub(bytes), 8);
        let millihertz = per_second(lease.frames.saturating_sub(frames), 1_000);
        lease.stats.frame_rate_millihertz = u32::try_from(millihertz).unwrap_or(u32::MAX);
        lease.renewed = Renewed {
            at: now,
            bytes: received,
            frames: lease.frames,
        };
        Some(Renewal {
            stream: self.stream,
            slot: self.slot,
            session: self.session.clone(),
            edge: self.edge.clone(),
            epoch: lease.epoch,
            attempt: lease.attempt,
            origin,
            broadcast_id: lease.broadcast_id.clone(),
            media_age: if lease.paused {
                Duration::ZERO
            } else {
                now - lease.last_media
            },
            standing: lease.standing.clone(),
            home_ttl: self.home_ttl,
            stats: lease.stats.clone(),
        })
    }

    /// As [`renewal`](Self::renewal), as soon as one that is under way is done.
    pub(crate) async fn renewal_behind_others(&self) -> Option<Renewal> {
        loop {
            let renewed = self.renewed.notified();
            if let Some(renewal) = self.renewal() {
                return Some(renewal);
            }
            if !self.lease.lock().renewing {
                return None;
            }
            renewed.await;
        }
    }

    /// Whoever claims the stream from its next renewal on is the session's successor.
    pub(crate) fn note_leaving(&self) {
        self.lease.lock().standing.leaving = true;
    }

    /// Asks its encoder to connect elsewhere, if its lease says so still: whether it does.
    pub(crate) fn ask_to_leave(&self) -> bool {
        let lease = self.lease.lock();
        if lease.standing.leaving {
            self.bid(Farewell::Ask);
        }
        lease.standing.leaving
    }

    /// Nobody is its successor any more, unless it is asked to leave: whether that is news for its lease.
    pub(crate) fn note_staying(&self) -> bool {
        let mut lease = self.lease.lock();
        let stays = *self.farewell.borrow() == Farewell::Stay;
        stays && std::mem::take(&mut lease.standing.leaving)
    }

    /// What claims of others are measured against.
    pub(crate) fn standing(&self) -> Standing {
        self.lease.lock().standing.clone()
    }

    /// Tells the session's connection what is wanted of it.
    pub(crate) fn bid(&self, farewell: Farewell) {
        self.farewell.send_replace(farewell);
    }

    /// What is wanted of it, as that changes.
    pub(crate) fn farewell(&self) -> watch::Receiver<Farewell> {
        let mut farewell = self.farewell.subscribe();
        // What was said before somebody listened counts as well.
        farewell.mark_changed();
        farewell
    }

    /// Whether it has an origin, and is not asked to leave yet.
    pub(crate) fn stays(&self) -> bool {
        // The one lock is not held while the other is waited for.
        let stays = *self.farewell.borrow() == Farewell::Stay;
        stays && self.lease.lock().origin.is_some()
    }

    /// How the session ends for this reason, now.
    pub(crate) fn end_for(&self, end: End) -> End {
        if self.lease.lock().standing.leaving {
            end.once_asked_to_leave()
        } else {
            end
        }
    }

    pub(crate) fn renewal_done(&self) {
        self.lease.lock().renewing = false;
        self.renewed.notify_waiters();
    }

    /// Stops renewals: behind this no renewal can bring a released lease back. The epoch to release.
    pub(crate) async fn leave(&self) -> u64 {
        loop {
            let renewed = self.renewed.notified();
            {
                let mut lease = self.lease.lock();
                lease.leaving = true;
                if !lease.renewing {
                    return lease.epoch;
                }
            }
            renewed.await;
        }
    }

    /// Another publisher owns the stream: ends the session, unless a revocation that explains this comes within
    /// `grace`. Who ends a session tells the log and the registry, and the registry may be faster.
    pub(crate) async fn fenced(&self, grace: Duration) {
        if timeout(grace, self.ending.ended()).await.is_err() {
            self.ending.end(self.end_for(End::Fenced));
        }
    }

    pub(crate) fn received_bytes(&self) -> u64 {
        self.lease.lock().stats.received_bytes
    }

    /// When it is to end, as that changes.
    pub(crate) fn until_ms(&self) -> watch::Receiver<Option<u64>> {
        self.until_ms.subscribe()
    }

    /// What is told of it: who it is, and what came.
    pub(crate) fn event(&self) -> SessionEvent {
        let stats = self.lease.lock().stats.clone();
        SessionEvent {
            session_id: self.session.to_string(),
            tenant: stats.tenant,
            app: stats.app,
            stream: stats.name,
            stream_key_id: stats.stream_key_id,
            edge: self.edge.to_string(),
            client_address: stats.client_address,
            encoder: stats.encoder,
            received_bytes: stats.received_bytes,
            slot: Some(self.slot.number().into()),
            ..SessionEvent::default()
        }
    }

    /// Whether the order was meant for this session.
    fn obey(&self, order: &Order) -> bool {
        match order {
            Order::Change(change) if self.stream_key_id == change.stream_key_id => {
                self.change(change);
            }
            Order::Revoke(target) if self.is(target) => self.ending.end(End::Revoked),
            Order::Change(_) | Order::Revoke(_) => return false,
        }
        true
    }

    fn change(&self, change: &KeyChange) {
        let limits = change.limits.clone().unwrap_or_default();
        self.lease.lock().limits.change(limits);
        let longest_ms = u64::from(change.max_session_seconds).saturating_mul(1_000);
        let ends = [
            (change.expire_ms > 0).then_some(change.expire_ms),
            (longest_ms > 0).then(|| self.granted_ms.saturating_add(longest_ms)),
        ];
        self.until_ms.send_replace(ends.into_iter().flatten().min());
    }

    fn is(&self, target: &Target) -> bool {
        match target {
            Target::Session(session) => self.session.as_str() == session,
            Target::StreamKey(stream_key_id) => self.stream_key_id == *stream_key_id,
        }
    }
}

impl LeaseState {
    fn count(&mut self, bytes: usize, now: Instant) {
        self.last_media = now;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.stats.received_bytes = self.stats.received_bytes.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests;
