//! Where a test's leases live, and the requests that tests make.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use registry::{
    Claim, ClaimOutcome, EdgeName, Home, Lease, LeaseStats, LeaseTrack, MemoryRegistry, OriginName,
    Owner, Policy, Registry, Renewal, RenewalOutcome, SessionId, Slot, Standing, StreamId,
};

use crate::{forms::Form, program::Program};

/// The registry as each role reaches it.
pub(crate) struct Place {
    pub(crate) edge: Registry,
    pub(crate) control: Registry,
    pub(crate) origin: Registry,
    backing: Backing,
}

enum Backing {
    Memory(Arc<AtomicU64>),
    Redis(Arc<Form>),
}

impl Place {
    pub(crate) fn memory() -> Self {
        let now_ms = Arc::new(AtomicU64::new(1_800_000_000_000));
        let clock = Arc::clone(&now_ms);
        let registry = MemoryRegistry::with_clock(move || clock.load(Ordering::Relaxed));
        let registry = Registry::Memory(registry);
        Self {
            edge: registry.clone(),
            control: registry.clone(),
            origin: registry,
            backing: Backing::Memory(now_ms),
        }
    }

    pub(crate) async fn redis() -> Self {
        Self::of(&Arc::new(Form::one(Program::Redis).await))
    }

    pub(crate) fn of(form: &Arc<Form>) -> Self {
        Self {
            edge: form.registry("edge"),
            control: form.registry("control"),
            origin: form.registry("origin"),
            backing: Backing::Redis(Arc::clone(form)),
        }
    }

    /// Lets time pass for everything that expires.
    pub(crate) async fn pass(&self, time: Duration) {
        match &self.backing {
            Backing::Memory(now_ms) => {
                let time_ms = u64::try_from(time.as_millis()).unwrap();
                now_ms.fetch_add(time_ms, Ordering::Relaxed);
            }
            Backing::Redis(form) => form.age(time).await,
        }
    }

    /// All is lost: a flush, or a failover to an empty replica.
    pub(crate) async fn lose_everything(&self) {
        match &self.backing {
            Backing::Memory(_) => self.pass(Duration::from_secs(8 * 24 * 60 * 60)).await,
            Backing::Redis(form) => form.flush().await,
        }
    }

    pub(crate) async fn owner(&self) -> Owner {
        let owners = self.origin.owners(&[(stream(), Slot::PRIMARY)]).await;
        owners.unwrap().remove(0)
    }

    pub(crate) async fn lease(&self) -> Lease {
        self.owner().await.lease.expect("a live lease")
    }

    pub(crate) async fn grant(&self, claim: &Claim) -> Grant {
        match self.edge.claim(claim).await.unwrap() {
            ClaimOutcome::Granted {
                epoch,
                home,
                previous,
            } => Grant {
                epoch,
                home,
                previous,
            },
            outcome @ (ClaimOutcome::EpochInFuture
            | ClaimOutcome::Leaving
            | ClaimOutcome::Refused { .. }) => {
                panic!("not granted: {outcome:?}")
            }
        }
    }

    pub(crate) async fn renew(&self, renewal: &Renewal) -> RenewalOutcome {
        let outcomes = self.edge.renew(std::slice::from_ref(renewal)).await;
        outcomes.unwrap()[0]
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) epoch: u64,
    pub(crate) home: Home,
    pub(crate) previous: Option<(SessionId, EdgeName)>,
}

pub(crate) fn stream() -> StreamId {
    StreamId::derive("default", "live", "main")
}

/// A claim of [`stream`] by a session, on the edge and with the candidate and broadcast that its name implies.
pub(crate) fn claim(session: &str, policy: Policy) -> Claim {
    Claim {
        stream: stream(),
        slot: Slot::PRIMARY,
        session: SessionId::new(session).unwrap(),
        edge: edge(session),
        candidate: origin("origin-0"),
        announced: vec![origin("origin-0"), origin("origin-1")],
        broadcast_id: format!("broadcast-of-{session}"),
        policy,
        standing: Standing::default(),
        patient: true,
        floor: 0,
        home_ttl: HOME_TTL,
        stats: stats("first"),
    }
}

pub(crate) fn renewal(session: &str, epoch: u64) -> Renewal {
    Renewal {
        stream: stream(),
        slot: Slot::PRIMARY,
        session: SessionId::new(session).unwrap(),
        edge: edge(session),
        epoch,
        attempt: 1,
        origin: origin("origin-0"),
        broadcast_id: format!("broadcast-of-{session}"),
        media_age: Duration::ZERO,
        standing: Standing::default(),
        home_ttl: HOME_TTL,
        stats: stats("later"),
    }
}

pub(crate) fn edge(session: &str) -> EdgeName {
    EdgeName::new(&format!("edge-of-{session}")).unwrap()
}

pub(crate) fn origin(name: &str) -> OriginName {
    OriginName::new(name).unwrap()
}

pub(crate) fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

pub(crate) fn stats(encoder: &str) -> LeaseStats {
    LeaseStats {
        tenant: "default".to_owned(),
        app: "live".to_owned(),
        name: "main".to_owned(),
        stream_key_id: "0123456789abcdef".to_owned(),
        quota_group: "group".to_owned(),
        client_address: "[2001:db8::1]:50000".to_owned(),
        encoder: format!("{encoder} \"quoted\" \u{1F3A5}"),
        bitrate_bps: u64::MAX,
        received_bytes: (1 << 53) + 1,
        video_codec: "avc1".to_owned(),
        audio_codec: String::new(),
        frame_rate_millihertz: 29_970,
        width: 1280,
        height: 720,
        tracks: vec![LeaseTrack {
            video: true,
            codec: "avc1".to_owned(),
            codec_string: "avc1.64001F".to_owned(),
            width: 1280,
            frame_rate: (30_000, 1001),
            ..LeaseTrack::default()
        }],
    }
}

pub(crate) const HOME_TTL: Duration = Duration::from_secs(60);
