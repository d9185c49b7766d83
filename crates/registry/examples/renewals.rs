//! What the renewals of a fleet of edges cost Redis and the edges, printed: sessions over edges, each edge renewing a tenth
//! of its own ten times a period, as edges do.
//!
//! Usage: renewals redis://127.0.0.1:6379 [SESSIONS] [EDGES] [SECONDS]

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the figures are what it is for"
)]

use std::time::{Duration, Instant};

use redis::{Client, cmd, from_redis_value};
use registry::{
    EdgeName, LeaseStats, OriginName, RENEW_PERIOD, RedisConfig, RedisRegistry, Registry, Renewal,
    SessionId, Slot, Standing, StreamId,
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let mut number = |default: usize| {
        let given = arguments.next();
        given.map_or(default, |given| given.parse().unwrap())
    };
    let (sessions, edges, seconds) = (number(10_000), number(10), number(30));
    let mut redis = Client::open(&*url).unwrap().get_connection().unwrap();
    let mut info = move |field: &str| -> f64 {
        let info: String = from_redis_value(cmd("INFO").query(&mut redis).unwrap()).unwrap();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().parse().unwrap()
    };
    let mut used = move || {
        let commands = info("total_commands_processed");
        (
            commands,
            info("used_cpu_user") + info("used_cpu_sys"),
            own_cpu(),
        )
    };

    let mut fleet = JoinSet::new();
    // The first period claims and connects.
    let end = Instant::now() + RENEW_PERIOD + Duration::from_secs(u64::try_from(seconds).unwrap());
    for edge in 0..edges {
        fleet.spawn(renew(url.clone(), edge, sessions / edges, end));
    }
    tokio::time::sleep(RENEW_PERIOD).await;
    let (began, before) = (Instant::now(), used());
    tokio::time::sleep_until(end.into()).await;
    let (took, after) = (began.elapsed().as_secs_f64(), used());
    let mut times: Vec<Duration> = fleet.join_all().await.concat();
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len().saturating_sub(1) * share / 100)
            .unwrap()
    };
    println!(
        "{sessions} sessions, {edges} edges, {took:.0} s, {} pipelines",
        times.len()
    );
    println!(
        "commands per second at Redis, those of scripts with them: {:.0}",
        (after.0 - before.0) / took
    );
    println!(
        "CPU of Redis: {:.1} % of a core",
        (after.1 - before.1) / took * 100.0
    );
    println!(
        "CPU of all edges' registries: {:.1} % of a core",
        (after.2 - before.2) / took * 100.0
    );
    println!(
        "a pipeline: p50 {:?}, p99 {:?}, most {:?}",
        at(50),
        at(99),
        at(100)
    );
}

/// One edge; how long each of its pipelines took.
async fn renew(url: String, edge: usize, sessions: usize, end: Instant) -> Vec<Duration> {
    let registry = RedisRegistry::open(&RedisConfig::from_url(&url).unwrap()).unwrap();
    let registry = Registry::Redis(registry);
    let renewals: Vec<_> = (0..sessions)
        .map(|session| renewal(edge, session))
        .collect();
    let mut times = Vec::new();
    let mut tick = interval_at(tokio::time::Instant::now(), RENEW_PERIOD / SLICES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        for slice in renewals.chunks(sessions.div_ceil(SLICES as usize)) {
            tick.tick().await;
            let began = Instant::now();
            registry.renew(slice).await.unwrap();
            times.push(began.elapsed());
        }
    }
    times
}

fn renewal(edge: usize, session: usize) -> Renewal {
    let name = format!("{edge}-{session}");
    Renewal {
        stream: StreamId::derive("bench", "live", &name),
        slot: Slot::PRIMARY,
        session: SessionId::new(&name).unwrap(),
        edge: EdgeName::new(&format!("edge-{edge}")).unwrap(),
        epoch: 1_700_000_000_000,
        attempt: 1,
        origin: OriginName::new("origin").unwrap(),
        broadcast_id: "0123456789abcdef0123456789abcdef".to_owned(),
        media_age: Duration::ZERO,
        standing: Standing::default(),
        home_ttl: RENEW_PERIOD,
        stats: LeaseStats {
            tenant: "bench".to_owned(),
            app: "live".to_owned(),
            name,
            client_address: "192.0.2.1:50000".to_owned(),
            encoder: "obs-output module (libobs version 32.0.1)".to_owned(),
            video_codec: "avc1".to_owned(),
            audio_codec: "mp4a".to_owned(),
            width: 1920,
            height: 1080,
            ..LeaseStats::default()
        },
    }
}

/// Seconds of this process, from the kernel's clock ticks.
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// Parts of a period, as at an edge.
const SLICES: u32 = 10;
