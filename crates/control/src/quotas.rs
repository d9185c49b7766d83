//! How many sessions, and which bitrate, a tenant (or a group of its keys) has live, and whether one more fits.
//!
//! Live leases are counted at most once a [`SNAPSHOT_AGE`], and only for tenants that have such a quota; what was
//! admitted since is added, so that a burst at one control does not get past. Several controls do not hear of each
//! other's admissions before the leases are there: together they may admit too much for about a second.
//!
//! Where the registry does not answer, the last that it told goes on to count, with what was admitted since. Whether
//! anybody publishes without the registry at all is for the edges' `outage_policy` to say, and not for a quota.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use registry::{Lease, RegistryError, StreamId};
use runtime::error::chain;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tonic::Status;

use crate::{
    Shared,
    admission::Refusal,
    config::Quota,
    database::{Database, QuotaByGroup},
    leases::Leases,
    policy::Terms,
    recent::Recent,
};

/// What is live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) sessions: u32,
    pub(crate) bitrate_bps: u64,
}

/// One control process's view.
pub(crate) struct Quotas {
    default: Quota,
    limits: Mutex<Recent<String, Arc<QuotaByGroup>>>,
    live: Mutex<Live>,
    reading: Semaphore,
}

/// What is live, of all tenants.
#[derive(Default)]
struct Live {
    /// When the registry was asked last, whether or not it answered.
    asked: Option<Instant>,
    answers: bool,
    sessions: HashMap<Place, Arc<Session>>,
    totals: Totals,
    /// Admitted here, and perhaps not in the registry yet.
    admitted: HashMap<Place, (Instant, Arc<Session>)>,
}

/// A stream and its slot: there is one session at a time. Who publishes there again takes the place of the one before.
type Place = (StreamId, u32);

/// By tenant, and by the groups of its keys; the empty name is the tenant as a whole.
#[derive(Default)]
struct Totals(HashMap<String, BTreeMap<String, Use>>);

#[derive(Debug)]
struct Session {
    tenant: String,
    group: String,
    bitrate_bps: u64,
    /// It was admitted, and then refused after all.
    withdrawn: AtomicBool,
}

impl Quotas {
    pub(crate) fn new(default: Quota) -> Self {
        Self {
            default,
            limits: Mutex::new(Recent::new(LIMITS_AGE, TENANTS_KNOWN_MAX)),
            live: Mutex::default(),
            reading: Semaphore::new(1),
        }
    }

    pub(crate) fn default_quota(&self) -> Quota {
        self.default
    }

    /// Whether what these terms start fits; from then on it counts, for as long as it is admitted.
    pub(crate) async fn admit(
        &self,
        shared: &Shared,
        terms: &Terms,
    ) -> Result<Result<Admitted<'_>, Refusal>, Status> {
        let by_group = self.limits(&shared.database, &terms.tenant).await;
        let by_group =
            by_group.inspect_err(|_status| shared.metrics.key_check("undecided", "database"))?;
        let group = terms.policy.quota_group.as_str();
        let of_tenant = by_group.get("").copied().unwrap_or(self.default);
        let of_group = (!group.is_empty()).then(|| by_group.get(group).copied());
        let of_group = of_group.flatten().unwrap_or_default();
        if [of_tenant, of_group]
            .iter()
            .all(|quota| quota.max_sessions == 0 && quota.max_bitrate_bps == 0)
        {
            return Ok(Ok(Admitted(None)));
        }
        self.read(&shared.leases).await;
        let stream = StreamId::derive(&terms.tenant, &terms.app, &terms.stream);
        let session = Session {
            tenant: terms.tenant.clone(),
            group: group.to_owned(),
            // Until the registry tells what it is, it counts as what it may be.
            bitrate_bps: terms.policy.limits.max_bitrate_bps,
            withdrawn: AtomicBool::new(false),
        };
        let place = (stream, terms.policy.role.slot());
        let session = Arc::new(session);
        let mut live = self.live.lock();
        let before = live.before(&place);
        let limits = [of_tenant, of_group];
        let admitted = live.admit(place, session.clone(), limits, Instant::now());
        Ok(admitted.map(|()| Admitted(Some((self, place, session, before)))))
    }

    /// What is live of a tenant as a whole, and of each of its groups that have sessions; `None`: nobody knows.
    pub(crate) async fn used(
        &self,
        leases: &Leases,
        tenant: &str,
    ) -> Option<BTreeMap<String, Use>> {
        if !self.read(leases).await {
            return None;
        }
        let live = self.live.lock();
        Some(live.totals.0.get(tenant).cloned().unwrap_or_default())
    }

    /// A quota was set: the next decision asks the database.
    pub(crate) fn forget_limits(&self, tenant: &str) {
        self.limits.lock().remove(&tenant.to_owned());
    }

    async fn limits(&self, database: &Database, tenant: &str) -> Result<Arc<QuotaByGroup>, Status> {
        let tenant = tenant.to_owned();
        if let Some(by_group) = self.limits.lock().get(&tenant) {
            return Ok(by_group.clone());
        }
        let by_group = Arc::new(database.quotas(&tenant).await?);
        let mut limits = self.limits.lock();
        limits.insert(tenant, by_group.clone(), Instant::now());
        Ok(by_group)
    }

    /// Has [`Live`] as fresh as [`SNAPSHOT_AGE`], also where the registry does not answer; whether it does. Callers
    /// meanwhile wait for the same answer.
    async fn read(&self, leases: &Leases) -> bool {
        // An error says that the semaphore was closed: nobody does.
        let _alone = self.reading.acquire().await.ok();
        {
            let mut live = self.live.lock();
            if live
                .asked
                .is_some_and(|asked| asked.elapsed() < SNAPSHOT_AGE)
            {
                return live.answers;
            }
            live.asked = Some(Instant::now());
        }
        let leases = match timeout(READ_TIMEOUT, leases.at_most(Duration::ZERO)).await {
            Ok(leases) => leases,
            Err(elapsed) => Err(Arc::new(RegistryError::Unavailable(elapsed.into()))),
        };
        let mut live = self.live.lock();
        match leases {
            Ok(leases) => {
                live.replace(&leases, Instant::now());
                live.answers = true;
            }
            Err(error) if live.answers => {
                tracing::warn!(
                    reason = chain(&error),
                    "quotas count what the registry told last"
                );
                live.answers = false;
            }
            Err(_again) => {}
        }
        live.answers
    }
}

/// A session that counts. Dropped before it is kept, it does not: it was refused after all.
#[must_use]
pub(crate) struct Admitted<'a>(Option<(&'a Quotas, Place, Arc<Session>, Before)>);

/// Who had the place, and what was admitted to it.
type Before = (Option<Arc<Session>>, Option<(Instant, Arc<Session>)>);

impl Admitted<'_> {
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some((quotas, place, session, before)) = self.0.take() {
            quotas.live.lock().withdraw(place, &session, before);
        }
    }
}

impl Live {
    fn before(&self, place: &Place) -> Before {
        let session = self.sessions.get(place).cloned();
        (session, self.admitted.get(place).cloned())
    }

    /// As it was before a session was admitted, as far as it is still the one that counts.
    fn withdraw(&mut self, place: Place, session: &Arc<Session>, (before, admitted): Before) {
        session.withdrawn.store(true, Ordering::Relaxed);
        let counts = |session: &Arc<Session>| !session.withdrawn.load(Ordering::Relaxed);
        let is_it = |held: &Arc<Session>| Arc::ptr_eq(held, session);
        if self
            .admitted
            .get(&place)
            .is_some_and(|(_at, held)| is_it(held))
        {
            self.admitted.remove(&place);
            if let Some((at, held)) = admitted.filter(|(_at, held)| counts(held)) {
                self.admitted.insert(place, (at, held));
            }
        }
        if self.sessions.get(&place).is_some_and(is_it) {
            self.sessions.remove(&place);
            self.totals.leave(session);
            if let Some(before) = before.filter(counts) {
                self.totals.enter(&before);
                self.sessions.insert(place, before);
            }
        }
    }

    fn admit(
        &mut self,
        place: Place,
        session: Arc<Session>,
        [of_tenant, of_group]: [Quota; 2],
        now: Instant,
    ) -> Result<(), Refusal> {
        let before = self.sessions.get(&place).cloned();
        let before_there = before.is_some();
        if let Some(before) = &before {
            self.totals.leave(before);
        }
        let fits = self
            .totals
            .fits(&session, "", of_tenant)
            .and_then(|()| self.totals.fits(&session, &session.group, of_group));
        let there = if fits.is_ok() {
            if self.admitted.len() >= ADMITTED_MAX {
                self.admitted
                    .retain(|_place, (at, _session)| now.duration_since(*at) < ADMITTED_AGE);
            }
            // What is more than that is found in the registry alone.
            if self.admitted.len() < ADMITTED_MAX {
                self.admitted.insert(place, (now, session.clone()));
            }
            Some(session)
        } else {
            before
        };
        // While the registry does not answer, nothing takes out what is put in here.
        let known = before_there || self.sessions.len() < SESSIONS_MAX;
        if let Some(session) = there.filter(|_| known) {
            self.totals.enter(&session);
            self.sessions.insert(place, session);
        }
        fits
    }

    /// What the registry tells, and what it cannot tell yet. A session that is as it was stays as it is.
    fn replace(&mut self, leases: &[Lease], now: Instant) {
        let before = std::mem::take(&mut self.sessions);
        self.admitted
            .retain(|_place, (at, _session)| now.duration_since(*at) < ADMITTED_AGE);
        self.sessions = leases
            .iter()
            .map(|lease| {
                let place = (lease.stream, lease.slot.number().into());
                let admitted = self.admitted.get(&place);
                let admitted_bps = admitted.map_or(0, |(_at, admitted)| admitted.bitrate_bps);
                let bitrate_bps = lease.stats.bitrate_bps.max(admitted_bps);
                let same = before
                    .get(&place)
                    .filter(|before| before.is(lease, bitrate_bps));
                let session = same.cloned().unwrap_or_else(|| {
                    Arc::new(Session {
                        tenant: lease.stats.tenant.clone(),
                        group: lease.stats.quota_group.clone(),
                        bitrate_bps,
                        withdrawn: AtomicBool::new(false),
                    })
                });
                (place, session)
            })
            .collect();
        for (place, (_at, admitted)) in &self.admitted {
            let there = self.sessions.entry(*place);
            there.or_insert_with(|| admitted.clone());
        }
        self.totals = Totals::default();
        for session in self.sessions.values() {
            self.totals.enter(session);
        }
    }
}

impl Session {
    fn is(&self, lease: &Lease, bitrate_bps: u64) -> bool {
        self.tenant == lease.stats.tenant
            && self.group == lease.stats.quota_group
            && self.bitrate_bps == bitrate_bps
    }
}

impl Totals {
    fn fits(&self, session: &Session, group: &str, quota: Quota) -> Result<(), Refusal> {
        let used = self.0.get(&session.tenant).and_then(|of| of.get(group));
        let used = used.copied().unwrap_or_default();
        let bitrate_bps = used.bitrate_bps.saturating_add(session.bitrate_bps);
        if quota.max_sessions > 0 && used.sessions >= quota.max_sessions {
            Err(Refusal::QuotaOfSessions)
        } else if quota.max_bitrate_bps > 0
            && (bitrate_bps > quota.max_bitrate_bps || used.bitrate_bps >= quota.max_bitrate_bps)
        {
            Err(Refusal::QuotaOfBitrate)
        } else {
            Ok(())
        }
    }

    fn enter(&mut self, session: &Session) {
        self.each(session, |used| {
            used.sessions = used.sessions.saturating_add(1);
            used.bitrate_bps = used.bitrate_bps.saturating_add(session.bitrate_bps);
        });
    }

    fn leave(&mut self, session: &Session) {
        self.each(session, |used| {
            used.sessions = used.sessions.saturating_sub(1);
            used.bitrate_bps = used.bitrate_bps.saturating_sub(session.bitrate_bps);
        });
    }

    /// The tenant's as a whole, and the group's.
    fn each(&mut self, session: &Session, change: impl Fn(&mut Use)) {
        let of_tenant = match self.0.get_mut(&session.tenant) {
            Some(of_tenant) => of_tenant,
            None => self.0.entry(session.tenant.clone()).or_default(),
        };
        change(of_tenant.entry(String::new()).or_default());
        if session.group.is_empty() {
            return;
        }
        match of_tenant.get_mut(&session.group) {
            Some(of_group) => change(of_group),
            None => change(of_tenant.entry(session.group.clone()).or_default()),
        }
    }
}

/// How old what is known of live sessions may be.
const SNAPSHOT_AGE: Duration = Duration::from_secs(1);
/// For the registry's answer. An edge waits 2.5 s for a decision.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// For how long a session that was admitted counts without a lease: a claim follows at once, and the bitrate with the first
/// renewal, 2 s later.
const ADMITTED_AGE: Duration = Duration::from_secs(10);
const ADMITTED_MAX: usize = 65_536;
/// Beyond these a session is admitted and not counted until the registry tells of it: some 50 MB.
const SESSIONS_MAX: usize = 262_144;
/// How old what is known of a tenant's quotas may be.
const LIMITS_AGE: Duration = Duration::from_secs(1);
const TENANTS_KNOWN_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stream: &str) -> Place {
        (StreamId::derive("default", "live", stream), 0)
    }

    fn session(group: &str, bitrate_bps: u64) -> Arc<Session> {
        Arc::new(Session {
            tenant: "default".to_owned(),
            group: group.to_owned(),
            bitrate_bps,
            withdrawn: AtomicBool::new(false),
        })
    }

    #[test]
    fn what_was_admitted_counts_before_the_registry_tells_of_it_and_not_for_ever() {
        let mut live = Live::default();
        let now = Instant::now();
        let two = Quota {
            max_sessions: 2,
            ..Quota::default()
        };
        let admit = |live: &mut Live, stream| {
            live.admit(place(stream), session("", 0), [two, Quota::default()], now)
        };
        assert_eq!(admit(&mut live, "a"), Ok(()));
        assert_eq!(admit(&mut live, "b"), Ok(()));
        // The same place again is no third.
        assert_eq!(admit(&mut live, "b"), Ok(()));
        assert_eq!(admit(&mut live, "c"), Err(Refusal::QuotaOfSessions));
        live.replace(&[], now + ADMITTED_AGE / 2);
        assert_eq!(admit(&mut live, "c"), Err(Refusal::QuotaOfSessions));
        live.replace(&[], now + ADMITTED_AGE);
        assert_eq!(admit(&mut live, "c"), Ok(()));
    }

    #[test]
    fn what_was_refused_after_all_does_not_count() {
        let quotas = Quotas::new(Quota::default());
        let one = Quota {
            max_sessions: 1,
            ..Quota::default()
        };
        let admit = |stream| {
            let mut live = quotas.live.lock();
            let place = place(stream);
            let before = live.before(&place);
            let limits = [one, Quota::default()];
            let session = session("g", 5);
            let admitted = live.admit(place, session.clone(), limits, Instant::now());
            admitted.map(|()| Admitted(Some((&quotas, place, session, before))))
        };
        drop(admit("a").ok().unwrap());
        assert!(quotas.live.lock().admitted.is_empty());
        let kept = admit("b");
        assert_eq!(admit("a").err(), Some(Refusal::QuotaOfSessions));
        kept.ok().unwrap().keep();
        // Who was there is there again.
        drop(admit("b").ok().unwrap());
        assert_eq!(admit("a").err(), Some(Refusal::QuotaOfSessions));
        let of_group = || quotas.live.lock().totals.0["default"]["g"].bitrate_bps;
        assert_eq!(of_group(), 5);
        // Two at once, and the one that was admitted first goes first: it does not come back with the other.
        let (first, second) = (admit("b").ok().unwrap(), admit("b").ok().unwrap());
        drop(first);
        assert_eq!(of_group(), 5);
        drop(second);
        // The registry tells of the one before them.
        assert!(quotas.live.lock().sessions.is_empty());
    }

    #[test]
    fn a_bitrate_is_what_it_may_become_until_it_is_known() {
        let mut live = Live::default();
        let now = Instant::now();
        let ten = Quota {
            max_bitrate_bps: 10,
            ..Quota::default()
        };
        let of_group = [Quota::default(), ten];
        let mut admit =
            |stream, group, bps| live.admit(place(stream), session(group, bps), of_group, now);
        assert_eq!(admit("a", "g", 6), Ok(()));
        assert_eq!(admit("b", "g", 6), Err(Refusal::QuotaOfBitrate));
        assert_eq!(admit("b", "g", 4), Ok(()));
        assert_eq!(admit("c", "g", 0), Err(Refusal::QuotaOfBitrate));
        // In its place with less: there is room again.
        assert_eq!(admit("a", "g", 5), Ok(()));
        assert_eq!(admit("c", "g", 0), Ok(()));
    }
}
