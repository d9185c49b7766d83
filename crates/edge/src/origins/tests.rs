use futures_util::future::join_all;
use runtime::grpc::in_process;

use super::*;

fn origin(name: &str, relay_address: &str) -> Origin {
    Origin {
        relay_address: relay_address.to_owned(),
        ..unannounced(&StaticOrigin {
            name: OriginName::new(name).unwrap(),
            relay_address: String::new(),
            zone: String::new(),
        })
    }
}

fn origins(static_origins: Vec<StaticOrigin>) -> Origins {
    let (_listener, target) = in_process(Role::Edge);
    Origins::new(
        OriginDialer::InProcess(target),
        String::new(),
        static_origins,
    )
}

fn stream() -> StreamId {
    StreamId::derive("default", "live", "main")
}

#[tokio::test]
async fn an_announcement_replaces_the_configured_entry() {
    let origins = origins(vec![StaticOrigin {
        name: OriginName::new("a").unwrap(),
        relay_address: "configured:1".to_owned(),
        zone: String::new(),
    }]);
    assert_eq!(
        origins.ranked(stream(), None)[0].relay_address,
        "configured:1"
    );
    origins.announced(vec![origin("a", "announced:1"), origin("b", "b:1")]);
    let addresses: Vec<_> = origins
        .ranked(stream(), None)
        .into_iter()
        .map(|origin| origin.relay_address)
        .collect();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.contains(&"announced:1".to_owned()));
    origins.announced(Vec::new());
    assert_eq!(
        origins.ranked(stream(), None)[0].relay_address,
        "configured:1"
    );
}

#[tokio::test]
async fn a_registry_that_was_flushed_takes_nobodys_name() {
    let origins = origins(Vec::new());
    origins.resolved(addresses(&["10.0.0.1:7444", "10.0.0.2:7444"]));
    origins.announced(vec![origin("a", "10.0.0.1:7444")]);
    origins.announced(Vec::new());
    let names = || ranked(&origins).into_iter().collect::<BTreeSet<_>>();
    let known = |names: [&str; 2]| names.map(str::to_owned).into();
    assert_eq!(names(), known(["a", "10.0.0.2:7444"]));
    origins.told_its_name(&origin("b", "10.0.0.2:7444"));
    assert_eq!(names(), known(["a", "b"]));
    // Another one is there now.
    origins.told_its_name(&origin("c", "10.0.0.1:7444"));
    assert_eq!(names(), known(["c", "b"]));
    origins.told_its_name(&origin("c", "10.0.0.2:7444"));
    assert_eq!(names(), known(["10.0.0.1:7444", "c"]));
    // Whoever comes to an address that was nobody's is not who was there.
    origins.resolved(addresses(&["10.0.0.1:7444"]));
    origins.resolved(addresses(&["10.0.0.1:7444", "10.0.0.2:7444"]));
    assert_eq!(names(), known(["10.0.0.1:7444", "10.0.0.2:7444"]));
}

#[tokio::test]
async fn an_origin_that_has_moved_while_the_registry_is_down_is_one() {
    let origins = origins(Vec::new());
    origins.announced(vec![origin("a", "10.0.0.1:7444")]);
    origins.learn(|sources| sources.told = false);
    origins.resolved(addresses(&["10.0.0.2:7444"]));
    assert_eq!(ranked(&origins), ["a", "10.0.0.2:7444"]);
    origins.told_its_name(&origin("a", "10.0.0.2:7444"));
    let found = origins.ranked(stream(), None);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].relay_address, "10.0.0.2:7444");
}

#[tokio::test]
async fn an_origin_is_the_same_by_its_address_and_by_its_name() {
    let origins = origins(Vec::new());
    let addressed = ["10.0.0.1:7444", "10.0.0.2:7444"];
    origins.resolved(addresses(&addressed));
    let best = origins.ranked(stream(), None)[0].clone();
    origins.avoid(&origins.connect(&best));
    let named = |address| origin(&format!("at-{address}"), address);
    origins.announced(addressed.map(named).into());
    let last = |avoid: Option<&Origin>| origins.ranked(stream(), avoid)[1].clone();
    assert_eq!(last(None).relay_address, best.relay_address, "out of reach");
    let others = addressed.into_iter().find(|at| *at != best.relay_address);
    let other = at(others.unwrap().parse().unwrap(), &BTreeMap::new()).unwrap();
    assert_eq!(last(Some(&other)).relay_address, other.relay_address);
    // It has another address by now.
    let moved = origin(&format!("at-{}", other.relay_address), "10.0.0.3:7444");
    assert_eq!(last(Some(&moved)).relay_address, other.relay_address);
}

#[tokio::test(start_paused = true)]
async fn an_origin_out_of_reach_comes_last_for_a_while() {
    let origins = origins(Vec::new());
    origins.announced(vec![
        origin("a", "a:1"),
        origin("b", "b:1"),
        origin("c", "c:1"),
    ]);
    let best = origins.ranked(stream(), None)[0].clone();
    let connection = origins.connect(&best);
    origins.avoid(&connection);
    assert_eq!(origins.ranked(stream(), None)[2], best);
    assert!(
        !Arc::ptr_eq(&connection, &origins.connect(&best)),
        "a new connection"
    );
    tokio::time::advance(AVOID + Duration::from_millis(1)).await;
    assert_eq!(origins.ranked(stream(), None)[0], best);
    assert_eq!(origins.ranked(stream(), Some(&best))[2], best);
}

#[tokio::test(start_paused = true)]
async fn who_wants_an_origin_that_is_not_known_asks_once_for_all_and_not_all_the_time() {
    const PERIOD: Duration = Duration::from_secs(60);
    let origins = origins(Vec::new());
    let registry = Registry::Memory(registry::MemoryRegistry::new());
    let polls = async {
        for _ in 0..5 {
            origins.due(PERIOD).await;
            origins.refresh(&registry).await.unwrap();
        }
    };
    let wants = async {
        for _ in 0..5 {
            join_all((0..100).map(|_| origins.refreshed())).await;
        }
    };
    let began = Instant::now();
    let both = async { tokio::join!(polls, wants) };
    timeout(PERIOD, both).await.expect("one poll for a hundred");
    let took = began.elapsed();
    assert!(took >= EAGER_PERIOD * 5, "{took:?}");
}

fn ranked(origins: &Origins) -> Vec<String> {
    let ranked = origins.ranked(stream(), None);
    ranked
        .iter()
        .map(|origin| origin.name.to_string())
        .collect()
}

fn addresses(addresses: &[&str]) -> BTreeSet<SocketAddr> {
    let parse = |address: &&str| address.parse().unwrap();
    addresses.iter().map(parse).collect()
}

#[tokio::test]
async fn addresses_are_candidates_while_the_registry_tells_nothing() {
    let origins = origins(Vec::new());
    assert!(!origins.any_known());
    origins.resolved(addresses(&["10.0.0.1:7444", "[fd00::1]:7444"]));
    assert!(origins.any_known());
    let mut found: Vec<_> = origins
        .ranked(stream(), None)
        .into_iter()
        .map(|origin| (origin.name.to_string(), origin.relay_address))
        .collect();
    found.sort();
    let pair = |name: &str, address: &str| (name.to_owned(), address.to_owned());
    assert_eq!(
        found,
        [
            pair("10.0.0.1:7444", "10.0.0.1:7444"),
            pair("fd00::1:7444", "[fd00::1]:7444"),
        ]
    );

    origins.announced(vec![origin("a", "10.0.0.1:7444")]);
    assert_eq!(
        ranked(&origins),
        ["a"],
        "who is not announced may be leaving"
    );
    origins.announced(Vec::new());
    assert_eq!(ranked(&origins).len(), 2, "an empty registry tells nothing");
}

#[tokio::test]
async fn an_announced_origin_replaces_its_address_and_comes_before_others() {
    let origins = origins(Vec::new());
    origins.resolved(addresses(&["10.0.0.1:7444", "10.0.0.2:7444"]));
    origins.announced(vec![origin("a", "10.0.0.1:7444")]);
    origins.learn(|sources| sources.told = false);
    assert_eq!(ranked(&origins), ["a", "10.0.0.2:7444"]);
}

#[tokio::test(start_paused = true)]
async fn an_announced_origin_out_of_reach_comes_behind_an_address() {
    let origins = origins(Vec::new());
    origins.announced(vec![origin("a", "10.0.0.1:7444")]);
    origins.resolved(addresses(&["10.0.0.2:7444"]));
    origins.learn(|sources| sources.told = false);
    let connection = origins.connect(&origins.ranked(stream(), None)[0]);
    origins.avoid(&connection);
    assert_eq!(ranked(&origins), ["10.0.0.2:7444", "a"]);
}
