//! What Redis alone can do: lose writes, be written to by others, and go away.

use std::{
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use registry::{
    ClaimOutcome, Policy, RedisCertificate, RedisConfig, RedisEvent, RedisRegistry, RedisServers,
    Registry, RegistryError, RenewalOutcome, Slot, StreamId,
};

use crate::{
    home::{claim, edge, origin, renewal, session, stream},
    server::{PATIENCE, RedisServer},
};

#[tokio::test]
async fn a_lease_that_a_failover_brought_back_is_won_back() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    let old = granted(&registry, "old", Policy::Reject).await;
    for key in [own(stream()), epoch(stream())] {
        server
            .admin(&["COPY", &key, &format!("replica:{key}")])
            .await;
    }
    let new = granted(&registry, "new", Policy::Takeover).await;
    for key in [own(stream()), epoch(stream())] {
        let replica = format!("replica:{key}");
        server.admin(&["COPY", &replica, &key, "REPLACE"]).await;
    }
    let renewals = [
        renewal("new", new),
        renewal("old", old),
        renewal("new", new),
    ];
    assert_eq!(
        registry.renew(&renewals).await.unwrap(),
        [
            RenewalOutcome::WonBack,
            RenewalOutcome::Fenced { epoch: new },
            RenewalOutcome::Renewed
        ]
    );
}

#[tokio::test]
async fn a_lost_epoch_is_known_from_the_lease() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    let mut ahead = claim("a", Policy::Reject);
    ahead.floor = granted(&registry, "a", Policy::Reject).await + 30_000;
    registry.claim(&ahead).await.unwrap();
    server.admin(&["DEL", &epoch(stream())]).await;
    let at = [(stream(), Slot::PRIMARY)];
    let owner = server
        .registry("origin")
        .owners(&at)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(owner.epoch, ahead.floor + 1);
    let next = granted(&registry, "b", Policy::Takeover).await;
    assert_eq!(next, ahead.floor + 2);
}

#[tokio::test]
async fn integers_that_a_double_would_round_stay_exact() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    let odd = (1_u64 << 53) + 1;
    granted(&registry, "a", Policy::Reject).await;
    let (own, epoch) = (own(stream()), epoch(stream()));
    server
        .admin(&["HSET", &own, "epoch", &odd.to_string()])
        .await;
    server
        .admin(&["SET", &epoch, &odd.to_string(), "KEEPTTL"])
        .await;

    let renewals = [
        renewal("a", odd),
        renewal("a", odd - 1),
        renewal("a", odd + 1),
    ];
    let outcomes = registry.renew(&renewals).await.unwrap();
    let fenced = RenewalOutcome::Fenced { epoch: odd };
    assert_eq!(outcomes, [RenewalOutcome::Renewed, fenced, fenced]);
    let at = [(stream(), Slot::PRIMARY)];
    let owner = server
        .registry("origin")
        .owners(&at)
        .await
        .unwrap()
        .remove(0);
    assert_eq!((owner.epoch, owner.lease.unwrap().epoch), (odd, odd));
    let outcome = registry.claim(&claim("b", Policy::Takeover)).await.unwrap();
    assert_eq!(outcome, ClaimOutcome::EpochInFuture);
    let holder = session("a");
    let released = registry.release(stream(), Slot::PRIMARY, &holder, odd - 1);
    assert!(!released.await.unwrap());

    // It can still be kicked, and then does not come back.
    let control = server.registry("control");
    let kicked = control.kick(stream(), Slot::PRIMARY, None).await.unwrap();
    assert_eq!(kicked, Some(edge("a")));
    let outcomes = registry.renew(&[renewal("a", odd)]).await.unwrap();
    assert!(
        matches!(outcomes[0], RenewalOutcome::Fenced { .. }),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_malformed_lease_does_not_hide_the_others() {
    let server = RedisServer::start().await;
    let edge = server.registry("edge");
    let spoilt: [&[&str]; 9] = [
        &["HSET", "epoch", "18446744073709551616"],
        &["HSET", "epoch", "-1"],
        &["HSET", "attempt", "many"],
        &["HSET", "sess", "a b{c}"],
        &["HSET", "origin", ""],
        &["HSET", "hb", "1e3"],
        &["HSET", "stats", "{\"tenant\":1}"],
        &["HSET", "stats", "\u{0}"],
        &["HDEL", "since"],
    ];
    let streams: Vec<_> = (0..=spoilt.len())
        .map(|number| StreamId::derive("default", "live", &number.to_string()))
        .collect();
    let renewals: Vec<_> = streams
        .iter()
        .map(|stream| {
            let mut renewal = renewal("a", 1_700_000_000_000);
            renewal.stream = *stream;
            renewal
        })
        .collect();
    edge.renew(&renewals).await.unwrap();
    for (stream, spoil) in streams.iter().zip(spoilt) {
        let mut command = vec![spoil[0], "key"];
        command.extend(&spoil[1..]);
        let key = own(*stream);
        command[1] = &key;
        server.admin(&command).await;
    }
    let sound = *streams.last().unwrap();
    for member in [
        "nonsense",
        "00:0",
        &format!("{sound}:2"),
        &format!("{sound}:+0"),
    ] {
        server
            .admin(&["ZADD", "hw:{e:edge-of-a}:sess", "1", member])
            .await;
    }
    server.admin(&["ZADD", "hw:{e}:all", "1", "no{edge}"]).await;
    server
        .admin(&["ZADD", "hw:{e}:all", "1", "wrong-type"])
        .await;
    server.admin(&["SET", "hw:{e:wrong-type}:sess", "x"]).await;

    let control = server.registry("control");
    let listed: Vec<_> = control.leases().await.unwrap();
    assert_eq!(
        listed.iter().map(|lease| lease.stream).collect::<Vec<_>>(),
        [sound]
    );

    let at: Vec<_> = streams
        .iter()
        .map(|stream| (*stream, Slot::PRIMARY))
        .collect();
    let owners = control.owners(&at).await.unwrap();
    let known: Vec<_> = owners.iter().map(|owner| owner.lease.is_some()).collect();
    assert_eq!(known.iter().filter(|known| **known).count(), 1);
    for at in &at[..spoilt.len()] {
        let alone = control.owners(&[*at]).await;
        assert!(
            matches!(alone, Err(RegistryError::Malformed { .. })),
            "{alone:?}"
        );
    }

    // The rightful holders write over what was spoilt.
    edge.renew(&renewals).await.unwrap();
    assert_eq!(control.leases().await.unwrap().len(), streams.len());
}

#[tokio::test]
async fn keys_of_a_wrong_type_are_malformed_until_the_holder_renews() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    let held = granted(&registry, "a", Policy::Reject).await;
    for key in [own(stream()), epoch(stream())] {
        server.admin(&["DEL", &key]).await;
        server.admin(&["RPUSH", &key, "x"]).await;
    }
    let refused = registry.claim(&claim("b", Policy::Takeover)).await;
    assert!(
        matches!(refused, Err(RegistryError::Malformed { .. })),
        "{refused:?}"
    );
    let at = [(stream(), Slot::PRIMARY)];
    let unknown = server.registry("origin").owners(&at).await;
    assert!(
        matches!(unknown, Err(RegistryError::Malformed { .. })),
        "{unknown:?}"
    );
    let outcomes = registry.renew(&[renewal("a", held)]).await.unwrap();
    assert_eq!(outcomes, [RenewalOutcome::Healed]);
    granted(&registry, "b", Policy::Takeover).await;
}

#[tokio::test]
async fn a_malformed_origin_does_not_hide_the_others() {
    let server = RedisServer::start().await;
    let registry = server.registry("origin");
    let spoilt = [
        ("budget", "101"),
        ("draining", "yes"),
        ("relay", "a b:1"),
        ("streams", "-1"),
        ("zone", "\n"),
    ];
    for name in ["sound", "budget", "draining", "relay", "streams", "zone"] {
        let announced = registry::Origin {
            name: origin(name),
            relay_address: "127.0.0.1:7444".to_owned(),
            zone: String::new(),
            draining: false,
            streams: 0,
            budget_percent: 0,
        };
        registry.announce(&announced).await.unwrap();
    }
    for (field, value) in spoilt {
        server
            .admin(&["HSET", &format!("hw:{{o}}:at:{field}"), field, value])
            .await;
    }
    server
        .admin(&["ZADD", "hw:{o}:all", "1", "no{origin}"])
        .await;
    let origins = server.registry("edge").origins().await.unwrap();
    assert_eq!(
        origins
            .iter()
            .map(|origin| origin.name.as_str())
            .collect::<Vec<_>>(),
        ["sound"]
    );
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    let held = granted(&registry, "a", Policy::Reject).await;
    server.admin(&["SCRIPT", "FLUSH"]).await;
    let outcomes = registry.renew(&vec![renewal("a", held); 3]).await.unwrap();
    assert_eq!(outcomes, [RenewalOutcome::Renewed; 3]);
}

#[tokio::test]
async fn a_registry_outlives_its_redis() {
    let mut server = RedisServer::start().await;
    let (registry, events) = observed(&server);
    let held = granted(&registry, "a", Policy::Reject).await;
    server.kill();
    for _command in 0..5 {
        let began = Instant::now();
        let outcome = registry.renew(&[renewal("a", held)]).await;
        let took = began.elapsed();
        assert!(
            matches!(outcome, Err(RegistryError::Unavailable(_))),
            "{outcome:?}"
        );
        println!("unavailable after {took:?}");
        assert!(took < 5 * TIMEOUT, "{took:?}");
    }
    server.restart().await;
    let began = Instant::now();
    let outcome = retried(|| async { registry.renew(&[renewal("a", held)]).await }).await;
    println!("back after {:?}", began.elapsed());
    assert_eq!(outcome, [RenewalOutcome::Healed]);
    assert!(reconnects(&events).contains(&"closed"));
}

#[tokio::test]
async fn a_redis_that_starts_later_is_found() {
    let mut server = RedisServer::start().await;
    server.kill();
    let registry = server.registry("edge");
    let outcome = registry.claim(&claim("a", Policy::Reject)).await;
    let message = explain(&outcome.unwrap_err());
    assert!(message.contains("Connection refused"), "{message}");
    server.restart().await;
    retried(|| async { registry.claim(&claim("a", Policy::Reject)).await }).await;
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_given_up() {
    let server = RedisServer::start().await;
    let (registry, events) = observed(&server);
    let held = granted(&registry, "a", Policy::Reject).await;
    server.signal("STOP");
    let began = Instant::now();
    let mut commands = tokio::task::JoinSet::new();
    for _command in 0..20 {
        let registry = registry.clone();
        commands.spawn(async move { registry.renew(&[renewal("a", held)]).await });
    }
    for outcome in commands.join_all().await {
        assert!(
            matches!(outcome, Err(RegistryError::Unavailable(_))),
            "{outcome:?}"
        );
    }
    let took = began.elapsed();
    println!("20 commands timed out after {took:?}");
    assert!(took < 5 * TIMEOUT, "{took:?}");
    server.signal("CONT");
    let outcome = retried(|| async { registry.renew(&[renewal("a", held)]).await }).await;
    assert!(matches!(
        outcome[0],
        RenewalOutcome::Renewed | RenewalOutcome::Healed
    ));
    assert!(reconnects(&events).contains(&"timeouts"));
}

#[tokio::test]
async fn a_demoted_primary_is_dropped() {
    let server = RedisServer::start().await;
    let (registry, events) = observed(&server);
    let held = granted(&registry, "a", Policy::Reject).await;
    // A port where nobody is: the replica stays as it is, and refuses writes.
    server.admin(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let outcome = registry.renew(&[renewal("a", held)]).await;
    let message = explain(&outcome.unwrap_err());
    assert!(message.contains("is no primary but a slave"), "{message}");
    server.admin(&["REPLICAOF", "NO", "ONE"]).await;
    let outcome = retried(|| async { registry.renew(&[renewal("a", held)]).await }).await;
    assert_eq!(outcome, [RenewalOutcome::Renewed]);
    assert!(reconnects(&events).contains(&"not_primary"));
}

#[tokio::test]
async fn mistakes_in_the_configuration_show_at_the_start() {
    let server = RedisServer::start().await;
    let refusal = |change: fn(&mut RedisConfig, &Path)| {
        let mut config = server.config("edge");
        change(&mut config, &server.path(""));
        let opened = RedisRegistry::open(&config);
        let error = opened.err().expect("refused");
        assert!(
            matches!(error, RegistryError::InvalidConfig(_)),
            "{error:?}"
        );
        explain(&error)
    };
    let missing = refusal(|config, at| config.access.password_file = Some(at.join("missing")));
    assert!(
        missing.contains("missing") && missing.contains("No such file"),
        "{missing}"
    );
    let no_certificate = refusal(|config, at| config.access.ca_file = Some(at.join("edge")));
    assert!(
        no_certificate.contains("no PEM certificate"),
        "{no_certificate}"
    );
    let no_key = refusal(|config, at| {
        config.access.certificate = Some(RedisCertificate {
            certificate: at.join("tls.crt"),
            private_key: at.join("edge"),
        });
    });
    assert!(no_key.contains("no PEM private key"), "{no_key}");
    let nowhere = |at: &str| RedisServers::One(at.to_owned());
    for address in ["localhost", "edge:s3cr3t@localhost:6379"] {
        let message = explain(&open_error(&server, nowhere(address)));
        assert!(message.contains("not host:port"), "{message}");
        assert!(!message.contains("s3cr3t"), "{message}");
    }
    for servers in [
        RedisServers::Cluster(vec![]),
        RedisServers::Cluster(vec!["a:1".to_owned(); 33]),
    ] {
        let message = explain(&open_error(&server, servers));
        assert!(
            message.contains("no address of a server, or too many"),
            "{message}"
        );
    }
    let url = |url: &str| explain(&RedisConfig::from_url(url).unwrap_err());
    assert!(url("localhost").contains("not a redis URL"));
    let secret = url("rediss://edge:s3cr3t@localhost");
    assert!(
        secret.contains("password file") && !secret.contains("s3cr3t"),
        "{secret}"
    );
    let prefix = refusal(|config, _at| config.prefix = "a{b}".to_owned());
    assert!(prefix.contains("prefix"), "{prefix}");
}

fn open_error(server: &RedisServer, servers: RedisServers) -> RegistryError {
    let mut config = server.config("edge");
    config.servers = servers;
    RedisRegistry::open(&config).err().expect("refused")
}

pub(crate) async fn granted(registry: &Registry, name: &str, policy: Policy) -> u64 {
    match registry.claim(&claim(name, policy)).await.unwrap() {
        ClaimOutcome::Granted { epoch, .. } => epoch,
        outcome @ (ClaimOutcome::EpochInFuture
        | ClaimOutcome::Leaving
        | ClaimOutcome::Refused { .. }) => {
            panic!("not granted: {outcome:?}")
        }
    }
}

/// Until it is available again, or for too long.
pub(crate) async fn retried<T: std::fmt::Debug, F: Future<Output = Result<T, RegistryError>>>(
    attempt: impl Fn() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > deadline => panic!("{}", explain(&error)),
            Err(_unavailable) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub(crate) fn observed(server: &RedisServer) -> (Registry, mpsc::Receiver<RedisEvent>) {
    let (sender, events) = mpsc::channel();
    let observe = move |event| {
        sender.send(event).ok();
    };
    let mut config = server.config("edge");
    config.timeout = TIMEOUT;
    let registry = RedisRegistry::open_observed(&config, observe).unwrap();
    (Registry::Redis(registry), events)
}

pub(crate) fn reconnects(events: &mpsc::Receiver<RedisEvent>) -> Vec<&'static str> {
    let causes = events.try_iter().filter_map(|event| match event {
        RedisEvent::ClockSkew { .. }
        | RedisEvent::Command { .. }
        | RedisEvent::Unreplicated { .. } => None,
        RedisEvent::Reconnect { cause } => Some(cause),
    });
    causes.collect()
}

/// The error with its causes.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

pub(crate) fn own(stream: StreamId) -> String {
    format!("hw:{{s:{stream}}}:0:own")
}

pub(crate) fn epoch(stream: StreamId) -> String {
    format!("hw:{{s:{stream}}}:0:epoch")
}

/// Per command, where Redis goes away.
const TIMEOUT: Duration = Duration::from_secs(2);
