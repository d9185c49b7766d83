//! What a failover, a reshard and a restart do to sessions: real processes, killed, frozen and cut off while claims and
//! renewals go on. Everywhere: no epoch is granted twice, live sessions come back, and a claim succeeds soon.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use registry::{
    ClaimOutcome, Policy, RedisEvent, Registry, RegistryError, RenewalOutcome, Slot, StreamId,
};
use tokio::task::JoinSet;

use crate::{
    forms::Form,
    home::{claim, renewal, stream},
    program::Program,
    redis::{explain, granted, retried},
    server::{PATIENCE, RedisServer},
};

with_redis_and_valkey! {
    sentinels_replace_a_killed_primary
    a_cluster_replaces_a_killed_node
    a_slot_moves_under_its_sessions
    a_slot_moves_between_nodes_without_hosts
}

async fn sentinels_replace_a_killed_primary(program: Program) {
    let mut form = Form::sentinel(program).await;
    let load = Load::start(&form).await;
    form.servers[0].kill();
    load.recovers("sentinel, primary killed").await;
    load.end().await;
}

#[tokio::test]
async fn sentinels_replace_a_frozen_primary() {
    let form = Form::sentinel(Program::Redis).await;
    let load = Load::start(&form).await;
    form.servers[0].signal("STOP");
    load.recovers("sentinel, primary frozen").await;
    // It thinks that it is the primary, until the sentinels tell it.
    form.thaws(0).await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test]
async fn a_takeover_that_a_failover_lost_is_won_back() {
    let mut form = Form::sentinel(Program::Redis).await;
    let unreplicated = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&unreplicated);
    let registry = form.observed("edge", move |event| {
        if let RedisEvent::Unreplicated { claims } = event {
            counted.fetch_add(claims, Ordering::Relaxed);
        }
    });
    let old = retried(|| async { registry.claim(&claim("old", Policy::Reject)).await }).await;
    let old = epoch(&old);
    form.servers[1].says(&["EXISTS", &own()], "1").await;
    // What is on its way would still arrive: the link is cut, and cannot be made again.
    form.servers[1].signal("STOP");
    form.servers[0]
        .admin(&["CLIENT", "KILL", "TYPE", "replica"])
        .await;
    let new = granted(&registry, "new", Policy::Takeover).await;
    until(
        || unreplicated.load(Ordering::Relaxed) > 0,
        || "the claim is counted as unreplicated".to_owned(),
    )
    .await;
    form.servers[0].kill();
    form.servers[1].signal("CONT");
    let began = Instant::now();
    let outcome = retried(|| async { registry.renew(&[renewal("new", new)]).await }).await;
    println!("won back {:?} after the failover", began.elapsed());
    assert_eq!(outcome, [RenewalOutcome::WonBack]);
    let outcome = registry.renew(&[renewal("old", old)]).await.unwrap();
    assert_eq!(outcome, [RenewalOutcome::Fenced { epoch: new }]);
    assert!(granted(&registry, "third", Policy::Takeover).await > new);
}

async fn a_cluster_replaces_a_killed_node(program: Program) {
    let mut form = Form::cluster(program, 3, true).await;
    let at = form.owner(&own()).await;
    let load = Load::start(&form).await;
    form.servers[at].kill();
    load.recovers("cluster, node killed").await;
    load.end().await;
}

#[tokio::test]
async fn a_cluster_replaces_a_frozen_node() {
    let form = Form::cluster(Program::Redis, 3, true).await;
    let at = form.owner(&own()).await;
    let load = Load::start(&form).await;
    form.servers[at].signal("STOP");
    load.recovers("cluster, node frozen").await;
    form.thaws(at).await;
    load.goes_on().await;
    load.end().await;
}

#[tokio::test]
async fn one_frozen_node_keeps_no_other_node_from_renewing() {
    let form = Form::cluster(Program::Redis, 3, true).await;
    let registry = form.observed("edge", |_event| {});
    let mut renewals = Vec::new();
    for number in 0..48 {
        let name = format!("held-{number}");
        let mut claim = claim(&name, Policy::Reject);
        claim.stream = held(number);
        let granted = retried(|| async { registry.claim(&claim).await }).await;
        let mut renewal = renewal(&name, epoch(&granted));
        renewal.stream = claim.stream;
        renewals.push(renewal);
    }
    let renewed = |outcomes: &[RenewalOutcome]| {
        let count = |outcome| outcomes.iter().filter(|of| **of == outcome).count();
        (
            count(RenewalOutcome::Renewed),
            count(RenewalOutcome::Unavailable),
        )
    };
    let all = retried(|| async { registry.renew(&renewals).await }).await;
    assert_eq!(renewed(&all), (48, 0));
    let places: Vec<_> = renewals.iter().map(|of| (of.stream, of.slot)).collect();
    let origin = form.observed("origin", |_event| {});
    retried(|| async { origin.owners(&places).await }).await;
    form.servers[0].signal("STOP");
    // And from telling who owns a stream.
    let mut asked = JoinSet::new();
    for place in places {
        let origin = origin.clone();
        asked.spawn(async move { origin.owners(&[place]).await });
    }
    let some = registry.renew(&renewals).await.unwrap();
    let (held, unknown) = renewed(&some);
    println!("one of three nodes frozen: {held} of 48 leases renewed, {unknown} unknown");
    assert_eq!(held + unknown, 48, "{some:?}");
    assert!(held > 0 && unknown > 0, "{some:?}");
    let told = asked.join_all().await;
    let told = told.iter().filter(|owners| owners.is_ok()).count();
    println!("{told} of 48 asked about, each alone, are told of");
    assert!(told > 0);
    form.thaws(0).await;
    let mut outcomes = Vec::new();
    while renewed(&outcomes).1 > 0 || outcomes.is_empty() {
        outcomes = retried(|| async { registry.renew(&renewals).await }).await;
    }
    // And all are listed.
    let control = form.registry("control");
    let leases = retried(|| async { control.leases().await }).await;
    assert_eq!(leases.len(), 48);
}

async fn a_slot_moves_under_its_sessions(program: Program) {
    slot_moves(Form::cluster(program, 3, false).await).await;
}

async fn a_slot_moves_between_nodes_without_hosts(program: Program) {
    slot_moves(Form::cluster_without_hosts(program).await).await;
}

async fn slot_moves(form: Form) {
    // Nobody dies: what waits for the keys is answered.
    let load = Load::start_with(form.registry("edge")).await;
    let moving = form.begin_move(&own()).await;
    load.goes_on().await;
    assert!(moving.move_keys().await >= 3, "lease, epoch and home");
    // All are there, and the slot is still on its way: ASK.
    load.goes_on().await;
    let to = moving.to;
    moving.end().await;
    load.goes_on().await;
    assert_eq!(load.failures(), Vec::<String>::new());
    to.says(&["EXISTS", &own()], "1").await;
    load.end().await;
}

#[tokio::test]
async fn a_paused_redis_delays_and_then_refuses() {
    let server = RedisServer::start().await;
    let mut config = server.config("edge");
    config.timeout = Duration::from_secs(2);
    let registry = Registry::Redis(registry::RedisRegistry::open(&config).unwrap());
    let first = granted(&registry, "a", Policy::Reject).await;
    server.admin(&["CLIENT", "PAUSE", "700", "ALL"]).await;
    assert_eq!(
        granted(&server.registry("edge"), "a", Policy::Reject).await,
        first,
        "late, and the same"
    );
    server.admin(&["CLIENT", "PAUSE", "12000", "ALL"]).await;
    let began = Instant::now();
    let refused = registry.claim(&claim("b", Policy::Takeover)).await;
    assert!(
        matches!(refused, Err(RegistryError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(
        began.elapsed() < 5 * config.timeout,
        "{:?}",
        began.elapsed()
    );
    let again = retried(|| async { registry.claim(&claim("b", Policy::Takeover)).await }).await;
    assert!(epoch(&again) > first);
    assert_eq!(granted(&registry, "b", Policy::Reject).await, epoch(&again));
}

#[tokio::test]
async fn a_redis_that_loads_is_unavailable_until_it_has() {
    let debug = ["--enable-debug-command", "local"];
    let certificates = crate::server::Certificates::new();
    let mut server = RedisServer::start_with(Program::Redis, &certificates, &debug).await;
    let registry = server.registry("edge");
    let held = granted(&registry, "a", Policy::Reject).await;
    server.admin(&["DEBUG", "POPULATE", "10000"]).await;
    server.admin(&["SAVE"]).await;
    server.kill();
    let slow = [
        "--key-load-delay",
        "300",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    server.restart_with(&slow).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let renewed = registry.renew(&[renewal("a", held)]).await;
        match renewed {
            Ok(outcome) => panic!("it was not loading: {outcome:?}"),
            Err(error) if explain(&error).contains("BusyLoading") => break,
            Err(error) => assert!(Instant::now() < deadline, "{}", explain(&error)),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let outcome = retried(|| async { registry.renew(&[renewal("a", held)]).await }).await;
    assert_eq!(outcome, [RenewalOutcome::Renewed]);
}

#[tokio::test]
async fn a_flush_under_way_loses_nobody() {
    let form = Form::one(Program::Redis).await;
    let load = Load::start(&form).await;
    for _flush in 0..5 {
        form.flush().await;
        load.goes_on().await;
    }
    load.end().await;
}

#[tokio::test]
async fn the_clock_of_redis_is_compared_and_replicas_are_seen() {
    let form = Form::sentinel(Program::Redis).await;
    let skew = Arc::new(Mutex::new(None));
    let unreplicated = Arc::new(AtomicU64::new(0));
    let probes = Arc::new(AtomicU64::new(0));
    let (seen, counted) = (Arc::clone(&skew), Arc::clone(&unreplicated));
    let probed = Arc::clone(&probes);
    let registry = form.observed("edge", move |event| match event {
        RedisEvent::ClockSkew { seconds } => {
            *seen.lock() = Some(seconds);
            probed.fetch_add(1, Ordering::Relaxed);
        }
        RedisEvent::Unreplicated { claims } => {
            counted.fetch_add(claims, Ordering::Relaxed);
        }
        RedisEvent::Command { .. } | RedisEvent::Reconnect { .. } => {}
    });
    retried(|| async { registry.claim(&claim("a", Policy::Reject)).await }).await;
    let seconds = || *skew.lock();
    until(|| seconds().is_some(), || "the clock is known".to_owned()).await;
    // One clock, and a busy machine between two readings.
    let seconds = seconds().unwrap();
    println!("Redis's clock is {seconds} s ahead");
    assert!(seconds.abs() < 5.0, "{seconds}");
    // The replica has the claim by the next probe, unless one of the two stood still meanwhile.
    let mut attempts = 0;
    loop {
        let before = unreplicated.load(Ordering::Relaxed);
        retried(|| async { registry.claim(&claim("a", Policy::Reject)).await }).await;
        let known = probes.load(Ordering::Relaxed) + 2;
        until(
            || probes.load(Ordering::Relaxed) >= known,
            || "it is asked again".to_owned(),
        )
        .await;
        if unreplicated.load(Ordering::Relaxed) == before {
            break;
        }
        attempts += 1;
        assert!(attempts < 5, "the replica has no claim");
    }
}

/// Sessions that renew, and one stream that is claimed by one session after the other.
struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Of the stream that changes hands: which session got which epoch.
    epochs: Mutex<BTreeMap<u64, String>>,
    /// When claims were sent that were granted.
    grants: Mutex<Vec<Instant>>,
    /// How often each of the others was renewed.
    renewed: Mutex<BTreeMap<String, Vec<Instant>>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// With the timeout that processes have.
    async fn start(form: &Form) -> Self {
        Self::start_with(form.observed("edge", |_event| {})).await
    }

    async fn start_with(registry: Registry) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for number in 0..HELD {
            let name = format!("held-{number}");
            let mut claim = claim(&name, Policy::Reject);
            claim.stream = held(number);
            let outcome = retried(|| async { registry.claim(&claim).await }).await;
            tasks.spawn(hold(
                Arc::clone(&shared),
                registry.clone(),
                number,
                epoch(&outcome),
            ));
        }
        tasks.spawn(contend(Arc::clone(&shared), registry));
        let load = Self { shared, tasks };
        load.goes_on().await;
        load
    }

    /// Asked right behind the failure.
    async fn recovers(&self, what: &str) {
        let failed = Instant::now();
        self.goes_on().await;
        let grants = self.shared.grants.lock();
        let first = grants.iter().find(|at| **at > failed).unwrap();
        let took = first.duration_since(failed);
        drop(grants);
        println!("{what}: a claim succeeds after {took:?}");
        assert!(took < 5 * FAILOVER_GOAL, "{took:?}");
    }

    /// From now on each session is renewed, and the stream is claimed twice.
    async fn goes_on(&self) {
        let now = Instant::now();
        let later = |times: &[Instant]| times.iter().filter(|at| **at > now).count();
        let went_on = || {
            let renewed = self.shared.renewed.lock();
            renewed.len() == HELD
                && renewed.values().all(|times| later(times) >= 1)
                && later(&self.shared.grants.lock()) >= 2
        };
        let failures = || self.shared.failures.lock().last().cloned();
        until(went_on, || {
            format!("claims and renewals go on: {:?}", failures())
        })
        .await;
    }

    /// What a session saw that it should not fails here.
    async fn end(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        println!("{} epochs granted", self.shared.epochs.lock().len());
    }

    fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().clone()
    }
}

async fn hold(shared: Arc<Shared>, registry: Registry, number: usize, epoch: u64) {
    let name = format!("held-{number}");
    let mut renewal = renewal(&name, epoch);
    renewal.stream = held(number);
    while !shared.stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        match registry.renew(std::slice::from_ref(&renewal)).await {
            Ok(outcomes) => {
                let fenced = matches!(outcomes[0], RenewalOutcome::Fenced { .. });
                assert!(!fenced, "{name} was fenced by nobody: {outcomes:?}");
                let mut renewed = shared.renewed.lock();
                renewed.entry(name.clone()).or_default().push(sent);
            }
            Err(error) => shared.failures.lock().push(explain(&error)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn contend(shared: Arc<Shared>, registry: Registry) {
    for number in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("contender-{number}");
        let sent = Instant::now();
        match registry.claim(&claim(&name, Policy::Takeover)).await {
            Ok(outcome) => {
                let epoch = epoch(&outcome);
                let twice = shared.epochs.lock().insert(epoch, name.clone());
                assert_eq!(twice, None, "{epoch} was granted twice, now to {name}");
                shared.grants.lock().push(sent);
            }
            Err(error) => shared.failures.lock().push(explain(&error)),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn held(number: usize) -> StreamId {
    StreamId::derive("default", "live", &format!("held-{number}"))
}

fn epoch(outcome: &ClaimOutcome) -> u64 {
    match outcome {
        ClaimOutcome::Granted { epoch, .. } => *epoch,
        ClaimOutcome::EpochInFuture | ClaimOutcome::Leaving | ClaimOutcome::Refused { .. } => {
            panic!("not granted: {outcome:?}")
        }
    }
}

fn own() -> String {
    format!("hw:{{s:{}}}:{}:own", stream(), Slot::PRIMARY.number())
}

async fn until(so: impl Fn() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {}", what());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sessions that renew.
const HELD: usize = 20;

/// From the failure to a claim that succeeds: servers are believed to be dead after a second.
const FAILOVER_GOAL: Duration = Duration::from_secs(4);
