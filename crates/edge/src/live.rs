//! The sessions that publish on this edge now: where revocations find them and renewals read them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use registry::{EdgeName, LeaseStats, OriginName, Renewal, SessionId, Slot, StreamId};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::session::MediaFault;

/// All of them. A cheap handle.
#[derive(Clone, Default)]
pub(crate) struct LiveSessions {
    directory: Arc<Mutex<Directory>>,
}

#[derive(Default)]
struct Directory {
    sessions: BTreeMap<SessionId, Arc<LiveSession>>,
    /// A revocation may overtake the answer to the Authorize that it contradicts.
    recent: VecDeque<(Instant, Target)>,
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
    ending: Ending,
    lease: Mutex<LeaseState>,
    renewed: Notify,
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
    last_media: Instant,
    /// Silence is ours, not the encoder's, while we do not read.
    paused: bool,
    renewed: (Instant, u64),
    renewing: bool,
    leaving: bool,
}

/// Why a session is over: said once, heard by everyone who holds a clone.
#[derive(Clone)]
pub(crate) struct Ending {
    end: watch::Sender<Option<End>>,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The encoder said so in band.
    ClientClose,
    /// The connection broke without a word, or a write did not get through.
    Disconnected,
    /// This edge stops.
    Drain,
    /// Another publisher owns the stream.
    Fenced,
    /// A task of ours failed.
    Internal,
    /// The grant's time is over.
    Limit,
    /// The encoder's media is nothing that anybody could play.
    Media(MediaFault),
    /// No origin took the session for too long.
    OriginLost,
    /// The encoder broke the protocol, a limit or a deadline.
    Protocol(&'static str),
    /// Revoked or terminated.
    Revoked,
}

/// How long a revocation may overtake an answer.
const RECENT: Duration = Duration::from_secs(60);
/// Remembered revocations.
const RECENT_MAX: usize = 4096;

impl LiveSessions {
    /// Enters a session whose Authorize began at `asked`. It is ended at once where a revocation came since.
    pub(crate) fn enter(&self, session: Arc<LiveSession>, asked: Instant) -> Registration {
        let mut directory = self.directory.lock();
        let revoked = directory
            .recent
            .iter()
            .any(|(at, target)| *at >= asked && session.is(target));
        directory
            .sessions
            .insert(session.session.clone(), session.clone());
        drop(directory);
        if revoked {
            session.ending.end(End::Revoked);
        }
        Registration {
            directory: self.directory.clone(),
            session,
        }
    }

    /// Ends what the target names. How many sessions that were.
    pub(crate) fn revoke(&self, target: Target) -> usize {
        let now = Instant::now();
        let mut directory = self.directory.lock();
        let hit: Vec<_> = directory
            .sessions
            .values()
            .filter(|session| session.is(&target))
            .cloned()
            .collect();
        directory.recent.push_back((now, target));
        while directory.recent.len() > RECENT_MAX
            || directory
                .recent
                .front()
                .is_some_and(|(at, _)| now - *at > RECENT)
        {
            directory.recent.pop_front();
        }
        drop(directory);
        for session in &hit {
            session.ending.end(End::Revoked);
        }
        hit.len()
    }

    /// Ends one session.
    pub(crate) fn end(&self, session: &SessionId, end: End) {
        let found = self.directory.lock().sessions.get(session).cloned();
        if let Some(session) = found {
            session.ending.end(end);
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
        home_ttl: Duration,
        stats: LeaseStats,
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
            ending,
            lease: Mutex::new(LeaseState {
                epoch: 0,
                attempt: 0,
                origin: None,
                broadcast_id: String::new(),
                stats,
                last_media: now,
                paused: false,
                renewed: (now, 0),
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
        lease.epoch = epoch;
        lease.attempt = attempt;
        lease.origin = Some(origin.clone());
        lease.broadcast_id = broadcast_id.to_owned();
    }

    /// Media came; `note` may complete what the lease says.
    pub(crate) fn media(&self, bytes: usize, note: impl FnOnce(&mut LeaseStats)) {
        let mut lease = self.lease.lock();
        lease.last_media = Instant::now();
        lease.stats.received_bytes = lease
            .stats
            .received_bytes
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        note(&mut lease.stats);
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
        let (last, bytes_before) = lease.renewed;
        let elapsed_ms = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
        let bytes = lease.stats.received_bytes;
        lease.stats.bitrate_bps = (bytes - bytes_before).saturating_mul(8_000) / elapsed_ms.max(1);
        lease.renewed = (now, bytes);
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
            home_ttl: self.home_ttl,
            stats: lease.stats.clone(),
        })
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
            self.ending.end(End::Fenced);
        }
    }

    pub(crate) fn received_bytes(&self) -> u64 {
        self.lease.lock().stats.received_bytes
    }

    fn is(&self, target: &Target) -> bool {
        match target {
            Target::Session(session) => self.session.as_str() == session,
            Target::StreamKey(stream_key_id) => self.stream_key_id == *stream_key_id,
        }
    }
}

impl Ending {
    pub(crate) fn new() -> Self {
        Self {
            end: watch::Sender::new(None),
        }
    }

    /// Ends the session; the first reason stays.
    pub(crate) fn end(&self, end: End) {
        self.end.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(end);
            first
        });
    }

    /// The reason, once there is one.
    pub(crate) async fn ended(&self) -> End {
        let mut ends = self.end.subscribe();
        // The sender is `self`: the channel cannot close here.
        let end = ends.wait_for(Option::is_some).await.ok();
        end.and_then(|end| *end).unwrap_or(End::Internal)
    }

    pub(crate) fn now(&self) -> Option<End> {
        *self.end.borrow()
    }
}

impl End {
    /// A stable word for metrics, logs and the origin.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::Disconnected => "disconnected",
            Self::Drain => "drain",
            Self::Fenced => "fenced",
            Self::Internal => "internal",
            Self::Limit => "limit",
            Self::Media(_) => "media_error",
            Self::OriginLost => "origin_lost",
            Self::Protocol("deadline") => "idle",
            Self::Protocol(_) => "protocol_error",
            Self::Revoked => "kicked",
        }
    }

    /// What the encoder is told; `None` where it knows or cannot be told.
    pub(crate) fn description(self) -> Option<&'static str> {
        match self {
            Self::ClientClose | Self::Disconnected => None,
            Self::Drain => Some("The server is restarting, please reconnect"),
            Self::Fenced => Some("Another publisher took over this stream"),
            Self::Internal | Self::OriginLost => {
                Some("The service is not available right now, please try again")
            }
            Self::Limit => Some("This stream's time is over"),
            Self::Media(fault) => Some(fault.description()),
            Self::Protocol(_) => {
                Some("The connection broke the protocol or was silent for too long")
            }
            Self::Revoked => Some("This stream was ended by its owner"),
        }
    }

    /// Whether the stream ends with the session. Where the publisher was merely lost it may come back.
    pub(crate) fn closes_stream(self) -> bool {
        match self {
            Self::ClientClose | Self::Limit | Self::Revoked => true,
            Self::Disconnected
            | Self::Drain
            | Self::Fenced
            | Self::Internal
            | Self::Media(_)
            | Self::OriginLost
            | Self::Protocol(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str, stream_key_id: &str) -> Arc<LiveSession> {
        let stats = LeaseStats {
            stream_key_id: stream_key_id.to_owned(),
            ..LeaseStats::default()
        };
        Arc::new(LiveSession::new(
            (StreamId::derive("default", "live", name), Slot::PRIMARY),
            (
                SessionId::new(name).unwrap(),
                EdgeName::new("edge").unwrap(),
            ),
            Duration::ZERO,
            stats,
            Ending::new(),
        ))
    }

    fn attach(session: &LiveSession) {
        session.attached(7, 1, &OriginName::new("origin").unwrap(), "broadcast");
    }

    #[tokio::test]
    async fn a_revoked_key_ends_its_sessions_alone() {
        let live = LiveSessions::default();
        let sessions = [session("a", "k1"), session("b", "k2"), session("c", "k1")];
        let registrations: Vec<_> = sessions
            .iter()
            .map(|session| live.enter(session.clone(), Instant::now()))
            .collect();
        assert_eq!(live.revoke(Target::StreamKey("k1".to_owned())), 2);
        let ends: Vec<_> = sessions
            .iter()
            .map(|session| session.ending().now())
            .collect();
        assert_eq!(ends, [Some(End::Revoked), None, Some(End::Revoked)]);
        assert_eq!(live.revoke(Target::Session("b".to_owned())), 1);
        drop(registrations);
        assert_eq!(live.count(), 0);
        assert_eq!(sessions[1].ending().ended().await, End::Revoked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_revocation_that_overtakes_the_grant_counts() {
        let live = LiveSessions::default();
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        live.revoke(Target::StreamKey("k1".to_owned()));
        tokio::time::advance(Duration::from_millis(10)).await;
        let overtaken = session("a", "k1");
        let _registration = live.enter(overtaken.clone(), asked);
        assert_eq!(overtaken.ending().now(), Some(End::Revoked));

        let later = session("b", "k1");
        let _registration = live.enter(later.clone(), Instant::now());
        assert_eq!(
            later.ending().now(),
            None,
            "control decided after the revocation"
        );
    }

    #[tokio::test]
    async fn the_first_reason_stays_and_a_lost_task_is_an_end_too() {
        let live = LiveSessions::default();
        let session = session("a", "k1");
        let registration = live.enter(session.clone(), Instant::now());
        assert_eq!(session.ending().now(), None);
        drop(registration);
        assert_eq!(session.ending().now(), Some(End::Internal));
        session.ending().end(End::Drain);
        assert_eq!(session.ending().ended().await, End::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_tells_bitrate_and_the_age_of_the_media() {
        let session = session("a", "k1");
        assert!(session.renewal().is_none(), "no origin has it yet");
        attach(&session);
        session.media(125_000, |_| {});
        tokio::time::advance(Duration::from_secs(1)).await;
        let renewal = session.renewal().unwrap();
        assert_eq!(renewal.stats.bitrate_bps, 1_000_000);
        assert_eq!(renewal.media_age, Duration::from_secs(1));
        assert!(session.renewal().is_none(), "one at a time");
        session.renewal_done();
        session.pause(true);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(session.renewal().unwrap().media_age, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_renews_behind_a_release() {
        let session = session("a", "k1");
        attach(&session);
        assert!(session.renewal().is_some());
        let leaving = tokio::spawn({
            let session = session.clone();
            async move { session.leave().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!leaving.is_finished(), "a renewal is under way");
        session.renewal_done();
        assert_eq!(leaving.await.unwrap(), 7);
        assert!(session.renewal().is_none());
    }
}
