//! Who is let in, and what he may do there.

use std::{fs, time::Duration};

use registry::{
    Command, Policy, RedisCertificate, RedisConfig, RedisRegistry, Registry, RegistryError, Slot,
};

use crate::{
    home::{claim, session, stream},
    program::Program,
    redis::{epoch, explain, granted, own, retried},
    server::{Certificates, RedisServer, password, run},
};

#[tokio::test]
async fn nobody_comes_in_without_a_user_or_without_tls() {
    let server = RedisServer::start().await;
    let mut config = server.config("edge");
    (config.access.username, config.access.password_file) = (None, None);
    let registry = Registry::Redis(RedisRegistry::open(&config).unwrap());
    let message = explain(&registry.origins().await.unwrap_err());
    assert!(message.contains("NOAUTH"), "{message}");

    let mut config = server.config("edge");
    config.access.tls = false;
    let registry = Registry::Redis(RedisRegistry::open(&config).unwrap());
    let outcome = registry.origins().await;
    assert!(
        matches!(outcome, Err(RegistryError::Unavailable(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_said_and_read_again() {
    let server = RedisServer::start().await;
    let file = server.path("edge");
    fs::write(&file, "wrong").unwrap();
    let registry = server.registry("edge");
    let message = explain(&registry.origins().await.unwrap_err());
    assert!(
        message.contains("refused the user or the password"),
        "{message}"
    );
    assert!(!message.contains("wrong"), "{message}");
    fs::write(&file, password("edge")).unwrap();
    retried(|| async { registry.origins().await }).await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let server = RedisServer::start().await;
    let other = tempfile::tempdir().unwrap();
    Certificates::new().write(other.path());
    let mut config = server.config("edge");
    config.access.ca_file = Some(other.path().join("ca.crt"));
    let registry = Registry::Redis(RedisRegistry::open(&config).unwrap());
    let message = explain(&registry.origins().await.unwrap_err());
    assert!(message.contains("certificate"), "{message}");
}

with_redis_and_valkey! {
    a_server_that_asks_for_a_certificate_is_shown_one
}

async fn a_server_that_asks_for_a_certificate_is_shown_one(program: Program) {
    let asks = ["--tls-auth-clients", "yes", "--tls-ca-cert-file", "ca.crt"];
    let server = RedisServer::start_with(program, &Certificates::new(), &asks).await;
    let mut config = server.config("edge");
    let open = |config: &RedisConfig| Registry::Redis(RedisRegistry::open(config).unwrap());
    let refused = async |registry: &Registry| {
        let outcome = registry.origins().await;
        assert!(
            matches!(outcome, Err(RegistryError::Unavailable(_))),
            "{outcome:?}"
        );
    };
    refused(&open(&config)).await;
    config.access.certificate = Some(server.certificate());
    granted(&open(&config), "a", Policy::Reject).await;

    // The files are read again at each attempt: one of another authority is replaced.
    let files = tempfile::tempdir().unwrap();
    Certificates::new().write(files.path());
    let shown = server.certificate();
    config.access.certificate = Some(RedisCertificate {
        certificate: files.path().join("tls.crt"),
        private_key: files.path().join("tls.key"),
    });
    let registry = open(&config);
    refused(&registry).await;
    fs::copy(shown.certificate, files.path().join("tls.crt")).unwrap();
    fs::copy(shown.private_key, files.path().join("tls.key")).unwrap();
    retried(|| async { registry.origins().await }).await;
}

#[tokio::test]
async fn users_may_do_what_their_role_needs_and_no_more() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    granted(&registry, "a", Policy::Reject).await;
    let home = format!("hw:{{s:{}}}:home", stream());
    let (own, epoch) = (own(stream()), epoch(stream()));
    let [nobody, edge, control, origin] = denied(&own, &epoch, &home);
    for (user, denied) in [("edge", edge), ("control", control), ("origin", origin)] {
        let mut connection = server.connect(user).await.unwrap();
        run(&mut connection, &["PING"]).await.unwrap();
        for command in nobody.iter().chain(&denied) {
            let outcome = run(&mut connection, command).await;
            let error = outcome.expect_err(&format!("{user}: {command:?}"));
            assert_eq!(error.code(), Some("NOPERM"), "{user}: {command:?}: {error}");
        }
    }

    // And through the scripts, which are the same for everybody.
    let (control, origin) = (server.registry("control"), server.registry("origin"));
    let edge_name = crate::home::edge("a");
    for outcome in [
        control.claim(&claim("b", Policy::Takeover)).await.map(drop),
        origin.claim(&claim("b", Policy::Takeover)).await.map(drop),
        origin.kick(stream(), Slot::PRIMARY, None).await.map(drop),
        origin.leases().await.map(drop),
        registry.leases().await.map(drop),
        count_use(&registry).await,
        count_use(&origin).await,
        control.withdraw(&crate::home::origin("origin-0")).await,
        control.withdraw_edge(&edge_name).await,
        registry.edges().await.map(drop),
        origin.edges().await.map(drop),
        registry
            .command(&edge_name, &Command::Undrain)
            .await
            .map(drop),
        origin
            .command(&edge_name, &Command::Undrain)
            .await
            .map(drop),
    ] {
        let message = explain(&outcome.unwrap_err());
        assert!(message.contains("NoPerm"), "{message}");
    }
    let at = [(stream(), Slot::PRIMARY)];
    let owner = origin.owners(&at).await.unwrap().remove(0);
    assert_eq!(owner.lease.unwrap().session, session("a"), "untouched");
}

/// What nobody may do, what an edge, what control, and what an origin may not.
fn denied<'a>(own: &'a str, epoch: &'a str, home: &'a str) -> [Vec<Vec<&'a str>>; 4] {
    let nobody: Vec<Vec<&str>> = vec![
        vec!["KEYS", "*"],
        vec!["SCAN", "0"],
        vec!["FLUSHALL"],
        vec!["CONFIG", "GET", "*"],
        vec!["ACL", "LIST"],
        vec!["CLIENT", "LIST"],
        vec!["MONITOR"],
        vec!["EVAL", "return redis.call('GET', 'secret')", "0"],
        vec!["PUBLISH", "channel", "x"],
        vec!["GET", "secret"],
        vec!["HMGET", "other:{s:0}:0:own", "sess"],
        vec!["SET", "hw:{o}:all", "x"],
        vec!["RENAME", own, epoch],
    ];
    let commands = "hw:{e:edge-of-a}:cmd";
    let edge: Vec<Vec<&str>> = vec![
        vec!["XADD", commands, "*", "kind", "undrain"],
        vec!["DEL", commands],
        vec!["HMGET", "hw:{e}:at:edge-of-b", "host"],
        vec!["ZRANGE", "hw:{e}:all", "0", "-1"],
        vec!["ZRANGE", "hw:{e:edge-of-a}:sess", "0", "-1"],
        vec!["HSET", "hw:{o}:at:origin-0", "relay", "evil:1"],
        vec!["ZADD", "hw:{o}:all", "9", "evil"],
        vec!["DEL", "hw:{o}:all"],
        vec!["DEL", "hw:{u:0}"],
    ];
    let control: Vec<Vec<&str>> = vec![
        vec!["XREAD", "STREAMS", commands, "0"],
        vec!["DEL", "hw:{e}:at:edge-of-a"],
        vec!["HSET", own, "sess", "x"],
        vec!["SET", home, "x"],
        vec!["DEL", "hw:{o}:all"],
        vec!["ZADD", "hw:{e}:all", "9", "evil"],
    ];
    let origin: Vec<Vec<&str>> = vec![
        vec!["XADD", commands, "*", "kind", "undrain"],
        vec!["XREAD", "STREAMS", commands, "0"],
        vec!["DEL", "hw:{u:0}"],
        vec!["HSET", own, "sess", "x"],
        vec!["DEL", own],
        vec!["DEL", epoch],
        vec!["DEL", home],
        vec!["ZRANGE", "hw:{e}:all", "0", "-1"],
    ];
    [nobody, edge, control, origin]
}

async fn count_use(registry: &Registry) -> Result<(), RegistryError> {
    let (session, time) = (session("a"), Duration::from_secs(1));
    let counted = registry.count_use([0; 16], &session, 1, time);
    counted.await.map(drop)
}
