//! One suite for both homes of the leases, and for every form in which Redis is run.

use std::{pin::Pin, sync::Arc, time::Duration};

use registry::{
    Claim, ClaimOutcome, EPOCH_AHEAD_MS_MAX, Home, LEASE_TTL, Origin, Owner, Policy, Renewal,
    RenewalOutcome, Slot, Standing, StreamId,
};

use crate::commands::{
    a_command_is_numbered_above_what_its_edge_has_heard, a_command_reaches_whoever_waits_for_it,
    about_a_thousand_commands_are_kept, commands_are_forgotten_after_an_hour,
    commands_come_in_their_order_and_once, edges_come_and_go,
};
use crate::forms::Form;
use crate::home::{HOME_TTL, Place, claim, edge, origin, renewal, session, stats, stream};
use crate::program::Program;

macro_rules! in_both {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Place::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Place::redis().await).await;
            })*
        }

        const PROMISES: &[(&str, Promise)] = &[$((stringify!($test), |place| Box::pin($test(place)))),*];
    };
}

type Promise = fn(Place) -> Pin<Box<dyn Future<Output = ()>>>;

with_redis_and_valkey! {
    a_primary_behind_sentinels_keeps_every_promise
    a_cluster_keeps_every_promise
}

#[tokio::test]
async fn the_oldest_redis_keeps_every_promise() {
    keeps_every_promise(Form::one(Program::Redis62).await).await;
}

#[tokio::test]
async fn valkey_keeps_every_promise() {
    keeps_every_promise(Form::one(Program::Valkey).await).await;
}

async fn a_primary_behind_sentinels_keeps_every_promise(program: Program) {
    keeps_every_promise(Form::sentinel(program).await).await;
}

async fn a_cluster_keeps_every_promise(program: Program) {
    keeps_every_promise(Form::cluster(program, 3, false).await).await;
}

/// One after the other, on what was started once.
async fn keeps_every_promise(form: Form) {
    let form = Arc::new(form);
    for (name, promise) in PROMISES {
        println!("{name}");
        form.flush().await;
        promise(Place::of(&form)).await;
    }
}

in_both! {
    a_free_stream_is_granted
    a_repeated_claim_gets_the_same_answer
    the_policy_decides_about_a_live_owner
    an_owner_without_media_is_stale
    a_higher_priority_replaces_a_live_owner
    the_same_address_replaces_a_live_owner
    whoever_comes_is_the_successor_of_an_owner_that_was_asked_to_leave
    a_released_stream_is_free_and_its_epoch_still_grows
    a_release_compares_session_and_epoch
    the_floor_is_exceeded_also_for_the_holder
    an_epoch_in_the_future_is_refused
    a_renewal_writes_what_changes
    a_kicked_session_is_fenced
    a_kick_of_another_session_does_nothing
    an_expired_lease_heals
    an_expired_lease_that_was_taken_does_not_heal
    after_losing_everything_sessions_heal_and_epochs_grow
    the_higher_epoch_wins_the_lease_back
    two_sessions_with_one_epoch_are_not_both_owners
    a_renewal_from_the_future_is_fenced_and_leaves_no_trace
    one_of_many_racing_claims_wins
    racing_takeovers_get_epochs_of_their_own
    a_home_is_kept_behind_the_lease
    a_home_is_given_up_with_its_origin
    a_home_follows_its_session
    slots_have_owners_of_their_own_and_one_home
    many_leases_are_renewed_and_listed
    owners_come_in_order
    origins_come_and_go
    a_use_is_counted_once_a_session_and_no_more_than_there_are
    one_of_many_racing_uses_is_the_last
    edges_come_and_go
    commands_come_in_their_order_and_once
    a_command_reaches_whoever_waits_for_it
    a_command_is_numbered_above_what_its_edge_has_heard
    commands_are_forgotten_after_an_hour
    about_a_thousand_commands_are_kept
}

async fn a_free_stream_is_granted(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    assert_eq!(grant.previous, None);
    assert_eq!(grant.home, home("origin-0", "broadcast-of-a"));
    let owner = place.owner().await;
    assert_eq!(owner.epoch, grant.epoch);
    assert_eq!(owner.home, Some(grant.home));
    let lease = owner.lease.unwrap();
    assert_eq!(lease.session, session("a"));
    assert_eq!(lease.edge, edge("a"));
    assert_eq!(lease.origin, origin("origin-0"));
    assert_eq!((lease.epoch, lease.attempt), (grant.epoch, 0));
    assert!(lease.since_ms.abs_diff(grant.epoch) < 5_000, "{lease:?}");
    assert!(lease.media_age < Duration::from_secs(5), "{lease:?}");
    assert_eq!(lease.stats, stats("first"));
}

async fn a_repeated_claim_gets_the_same_answer(place: Place) {
    let free = place.grant(&claim("a", Policy::Reject)).await;
    assert_eq!(place.grant(&claim("a", Policy::Reject)).await, free);
    let taken = place.grant(&claim("b", Policy::Takeover)).await;
    assert_eq!(taken.previous, Some((session("a"), edge("a"))));
    assert_eq!(place.grant(&claim("b", Policy::Reject)).await, taken);
}

async fn the_policy_decides_about_a_live_owner(place: Place) {
    let first = place.grant(&claim("a", Policy::Reject)).await;
    let stale = Policy::TakeoverIfStale(Duration::from_secs(10));
    for policy in [Policy::Reject, stale] {
        let outcome = place.edge.claim(&claim("b", policy)).await.unwrap();
        let ClaimOutcome::Refused {
            owner,
            edge: at,
            media_age,
        } = outcome
        else {
            panic!("{policy:?}: {outcome:?}");
        };
        assert_eq!((owner, at), (session("a"), edge("a")));
        assert!(media_age < Duration::from_secs(10), "{media_age:?}");
        assert_eq!(place.owner().await.epoch, first.epoch);
    }
    let second = place.grant(&claim("b", Policy::Takeover)).await;
    assert!(second.epoch > first.epoch);
    assert_eq!(
        place.renew(&renewal("a", first.epoch)).await,
        RenewalOutcome::Fenced {
            epoch: second.epoch
        }
    );
    assert_eq!(place.lease().await.session, session("b"));
}

async fn an_owner_without_media_is_stale(place: Place) {
    let first = place.grant(&claim("a", Policy::Reject)).await;
    let mut silent = renewal("a", first.epoch);
    silent.media_age = Duration::from_secs(11);
    assert_eq!(place.renew(&silent).await, RenewalOutcome::Renewed);
    let stale = |after| Policy::TakeoverIfStale(Duration::from_secs(after));
    let refused = place.edge.claim(&claim("b", stale(60))).await.unwrap();
    assert!(matches!(
        refused,
        ClaimOutcome::Refused { media_age, .. } if media_age >= Duration::from_secs(11)
    ));
    let second = place.grant(&claim("b", stale(10))).await;
    assert_eq!(second.previous, Some((session("a"), edge("a"))));
}

async fn a_higher_priority_replaces_a_live_owner(place: Place) {
    let of = |session: &str, priority| Claim {
        standing: Standing {
            priority,
            ..Standing::default()
        },
        ..claim(session, Policy::Priority(Duration::from_secs(10)))
    };
    place.grant(&of("a", 5)).await;
    for (session, priority) in [("b", 5), ("c", 4)] {
        let outcome = place.edge.claim(&of(session, priority)).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::Refused { .. }),
            "{outcome:?}"
        );
    }
    let taken = place.grant(&of("d", 40)).await;
    assert_eq!(taken.previous, Some((session("a"), edge("a"))));
    // The lease tells it on, also where it was lost in between.
    place.lose_everything().await;
    let renewal = Renewal {
        standing: of("d", 40).standing,
        ..renewal("d", taken.epoch)
    };
    assert_eq!(place.renew(&renewal).await, RenewalOutcome::Healed);
    let outcome = place.edge.claim(&of("e", 9)).await.unwrap();
    assert!(
        matches!(outcome, ClaimOutcome::Refused { .. }),
        "{outcome:?}"
    );
}

async fn the_same_address_replaces_a_live_owner(place: Place) {
    let of = |session: &str, address: &str| Claim {
        standing: Standing {
            address: address.to_owned(),
            ..Standing::default()
        },
        ..claim(session, Policy::SameAddress(Duration::from_secs(10)))
    };
    let here = Standing::address(stream(), "192.0.2.7".parse().unwrap());
    let mapped = Standing::address(stream(), "::ffff:192.0.2.7".parse().unwrap());
    let there = Standing::address(stream(), "192.0.2.8".parse().unwrap());
    assert_eq!(here, mapped);
    place.grant(&of("a", &here)).await;
    for other in ["", &there] {
        let outcome = place.edge.claim(&of("b", other)).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::Refused { .. }),
            "{outcome:?}"
        );
    }
    let taken = place.grant(&of("c", &here)).await;
    assert_eq!(taken.previous, Some((session("a"), edge("a"))));
}

async fn whoever_comes_is_the_successor_of_an_owner_that_was_asked_to_leave(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    let leaving = Renewal {
        standing: Standing {
            leaving: true,
            ..Standing::default()
        },
        ..renewal("a", grant.epoch)
    };
    assert_eq!(place.renew(&leaving).await, RenewalOutcome::Renewed);
    // Its last frames may be on their way.
    let patient = claim("b", Policy::Reject);
    let outcome = place.edge.claim(&patient).await.unwrap();
    assert_eq!(outcome, ClaimOutcome::Leaving);
    assert_eq!(place.lease().await.session, session("a"));
    let hasty = Claim {
        patient: false,
        ..patient
    };
    let taken = place.grant(&hasty).await;
    assert_eq!(taken.previous, Some((session("a"), edge("a"))));
    assert_eq!(taken.home, grant.home);
    // The successor was not asked.
    let outcome = place.edge.claim(&claim("c", Policy::Reject)).await.unwrap();
    assert!(
        matches!(outcome, ClaimOutcome::Refused { .. }),
        "{outcome:?}"
    );
}

async fn a_released_stream_is_free_and_its_epoch_still_grows(place: Place) {
    let mut last = 0;
    for name in ["a", "b", "c"] {
        let grant = place.grant(&claim(name, Policy::Reject)).await;
        assert!(grant.epoch > last, "{} after {last}", grant.epoch);
        assert_eq!(grant.previous, None);
        last = grant.epoch;
        let released = release(&place, name, grant.epoch).await;
        assert!(released);
        let owner = place.owner().await;
        assert_eq!((owner.lease, owner.epoch), (None, last));
        assert_eq!(place.control.leases().await.unwrap(), []);
    }
}

async fn a_release_compares_session_and_epoch(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    assert!(!release(&place, "b", grant.epoch).await);
    assert!(!release(&place, "a", grant.epoch - 1).await);
    assert_eq!(place.lease().await.session, session("a"));
    assert!(release(&place, "a", grant.epoch).await);
    assert!(!release(&place, "a", grant.epoch).await);
}

async fn the_floor_is_exceeded_also_for_the_holder(place: Place) {
    let first = place.grant(&claim("a", Policy::Reject)).await;
    let mut again = claim("a", Policy::Reject);
    again.floor = first.epoch - 1;
    assert_eq!(place.grant(&again).await, first, "seen already");
    again.floor = first.epoch + 30_000;
    let second = place.grant(&again).await;
    assert_eq!(second.epoch, first.epoch + 30_001);
    assert_eq!(second.previous, None, "a session does not replace itself");
    assert_eq!(place.lease().await.epoch, second.epoch);
    assert_eq!(
        place.renew(&renewal("a", first.epoch)).await,
        RenewalOutcome::Fenced {
            epoch: second.epoch
        }
    );
}

async fn an_epoch_in_the_future_is_refused(place: Place) {
    let first = place.grant(&claim("a", Policy::Reject)).await;
    for floor in [
        first.epoch + EPOCH_AHEAD_MS_MAX + 10_000,
        (1 << 53) + 1,
        u64::MAX,
    ] {
        for name in ["a", "b"] {
            let mut ahead = claim(name, Policy::Takeover);
            ahead.floor = floor;
            let outcome = place.edge.claim(&ahead).await.unwrap();
            assert_eq!(outcome, ClaimOutcome::EpochInFuture, "{floor}");
        }
    }
    let lease = place.lease().await;
    assert_eq!(lease.session, session("a"), "nothing changed");
    assert_eq!(lease.epoch, first.epoch);
}

async fn a_renewal_writes_what_changes(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    let since_ms = place.lease().await.since_ms;
    let mut moved = renewal("a", grant.epoch);
    moved.attempt = 3;
    moved.origin = origin("origin-1");
    moved.media_age = Duration::from_secs(4);
    assert_eq!(place.renew(&moved).await, RenewalOutcome::Renewed);
    let lease = place.lease().await;
    assert_eq!((lease.epoch, lease.attempt), (grant.epoch, 3));
    assert_eq!(lease.origin, origin("origin-1"));
    assert_eq!(lease.since_ms, since_ms);
    assert!(lease.media_age >= Duration::from_secs(4), "{lease:?}");
    assert!(lease.media_age < Duration::from_secs(9), "{lease:?}");
    assert_eq!(lease.stats, stats("later"));

    // Renewed each time, it outlives its time to live.
    for _period in 0..3 {
        place.pass(LEASE_TTL - Duration::from_secs(5)).await;
        assert_eq!(place.renew(&moved).await, RenewalOutcome::Renewed);
    }
}

async fn a_kicked_session_is_fenced(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    let kicked = place.control.kick(stream(), Slot::PRIMARY, None).await;
    assert_eq!(kicked.unwrap(), Some(edge("a")));
    let owner = place.owner().await;
    assert_eq!(owner.lease, None);
    assert!(owner.epoch > grant.epoch);
    assert_eq!(
        place.renew(&renewal("a", grant.epoch)).await,
        RenewalOutcome::Fenced { epoch: owner.epoch }
    );
    assert_eq!(place.owner().await.lease, None, "not healed back in");
    let next = place.grant(&claim("b", Policy::Reject)).await;
    assert!(next.epoch > owner.epoch);
}

async fn a_kick_of_another_session_does_nothing(place: Place) {
    let kick = async |name| {
        let kicked = place
            .control
            .kick(stream(), Slot::PRIMARY, Some(&session(name)))
            .await;
        kicked.unwrap()
    };
    assert_eq!(kick("a").await, None, "nobody is there");
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    assert_eq!(kick("b").await, None);
    let renewed = place.renew(&renewal("a", grant.epoch)).await;
    assert_eq!(renewed, RenewalOutcome::Renewed);
    assert_eq!(kick("a").await, Some(edge("a")));
}

async fn an_expired_lease_heals(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    place.pass(LEASE_TTL + Duration::from_secs(1)).await;
    assert_eq!(place.owner().await.lease, None);
    assert_eq!(place.control.leases().await.unwrap(), []);
    let mut silent = renewal("a", grant.epoch);
    silent.media_age = Duration::from_secs(7);
    assert_eq!(place.renew(&silent).await, RenewalOutcome::Healed);
    let lease = place.lease().await;
    assert!(lease.media_age >= Duration::from_secs(7), "{lease:?}");
    assert_eq!(lease.since_ms, grant.epoch, "the session is not younger");
    assert_eq!(place.renew(&silent).await, RenewalOutcome::Renewed);
}

async fn an_expired_lease_that_was_taken_does_not_heal(place: Place) {
    let first = place.grant(&claim("a", Policy::Reject)).await;
    place.pass(LEASE_TTL + Duration::from_secs(1)).await;
    let second = place.grant(&claim("b", Policy::Reject)).await;
    assert_eq!(second.previous, None);
    let fenced = RenewalOutcome::Fenced {
        epoch: second.epoch,
    };
    assert_eq!(place.renew(&renewal("a", first.epoch)).await, fenced);
    place.pass(LEASE_TTL + Duration::from_secs(1)).await;
    assert_eq!(place.renew(&renewal("a", first.epoch)).await, fenced);
}

async fn after_losing_everything_sessions_heal_and_epochs_grow(place: Place) {
    let lost = place.grant(&claim("a", Policy::Reject)).await;
    place.lose_everything().await;
    assert_eq!(place.owner().await, Owner::default());
    let healed = place.renew(&renewal("a", lost.epoch)).await;
    assert_eq!(healed, RenewalOutcome::Healed);
    let owner = place.owner().await;
    assert_eq!(owner.epoch, lost.epoch);
    assert_eq!(owner.home, Some(lost.home));
    place.lose_everything().await;
    let next = place.grant(&claim("b", Policy::Reject)).await;
    assert!(next.epoch > lost.epoch, "time is a floor");
}

async fn the_higher_epoch_wins_the_lease_back(place: Place) {
    let older = place.grant(&claim("old", Policy::Reject)).await;
    let newer = older.epoch + 1;
    let won = place.renew(&renewal("new", newer)).await;
    assert_eq!(won, RenewalOutcome::WonBack);
    assert_eq!(place.lease().await.session, session("new"));
    assert_eq!(
        place.renew(&renewal("old", older.epoch)).await,
        RenewalOutcome::Fenced { epoch: newer }
    );
    let renewed = place.renew(&renewal("new", newer)).await;
    assert_eq!(renewed, RenewalOutcome::Renewed);
}

async fn two_sessions_with_one_epoch_are_not_both_owners(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    assert_eq!(
        place.renew(&renewal("b", grant.epoch)).await,
        RenewalOutcome::Fenced { epoch: grant.epoch }
    );
    assert_eq!(place.lease().await.session, session("a"));
}

async fn a_renewal_from_the_future_is_fenced_and_leaves_no_trace(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    for ahead in [
        grant.epoch + EPOCH_AHEAD_MS_MAX + 10_000,
        (1 << 53) + 1,
        u64::MAX,
    ] {
        assert_eq!(
            place.renew(&renewal("b", ahead)).await,
            RenewalOutcome::Fenced { epoch: grant.epoch }
        );
    }
    assert!(release(&place, "a", grant.epoch).await);
    let fenced = place.renew(&renewal("b", u64::MAX)).await;
    assert_eq!(fenced, RenewalOutcome::Fenced { epoch: grant.epoch });
    place.grant(&claim("c", Policy::Reject)).await;
}

async fn one_of_many_racing_claims_wins(place: Place) {
    let outcomes = race(&place, Policy::Reject).await;
    let lease = place.lease().await;
    let mut granted = 0;
    for outcome in outcomes {
        match outcome {
            ClaimOutcome::Granted { epoch, .. } => {
                granted += 1;
                assert_eq!(epoch, lease.epoch);
            }
            ClaimOutcome::Refused { owner, .. } => assert_eq!(owner, lease.session),
            ClaimOutcome::EpochInFuture | ClaimOutcome::Leaving => panic!("{outcome:?}"),
        }
    }
    assert_eq!(granted, 1);
}

async fn racing_takeovers_get_epochs_of_their_own(place: Place) {
    let outcomes = race(&place, Policy::Takeover).await;
    let mut epochs: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            ClaimOutcome::Granted { epoch, .. } => epoch,
            ClaimOutcome::Refused { .. } | ClaimOutcome::Leaving | ClaimOutcome::EpochInFuture => {
                panic!("{outcome:?}")
            }
        })
        .collect();
    epochs.sort_unstable();
    assert_eq!(epochs.last().copied(), Some(place.lease().await.epoch));
    epochs.dedup();
    assert_eq!(epochs.len(), RACERS);
}

async fn a_home_is_kept_behind_the_lease(place: Place) {
    let first = place.grant(&claim("a", Policy::Reject)).await;
    let mut next = claim("b", Policy::Reject);
    next.candidate = origin("origin-1");
    place
        .pass(LEASE_TTL + HOME_TTL - Duration::from_secs(5))
        .await;
    assert_eq!(place.grant(&next).await.home, first.home);
    place
        .pass(LEASE_TTL + HOME_TTL + Duration::from_secs(1))
        .await;
    assert_eq!(place.owner().await.home, None);
    assert_eq!(
        place.grant(&next).await.home,
        home("origin-1", "broadcast-of-b")
    );
}

async fn a_home_is_given_up_with_its_origin(place: Place) {
    place.grant(&claim("a", Policy::Reject)).await;
    let mut next = claim("b", Policy::Takeover);
    next.candidate = origin("origin-1");
    next.announced = vec![origin("origin-1"), origin("origin-2")];
    let given = place.grant(&next).await;
    // Its readers at other origins read on.
    assert_eq!(given.home, home("origin-1", "broadcast-of-a"));
    assert_eq!(place.lease().await.origin, origin("origin-1"));

    // Also where the holder asks again.
    next.candidate = origin("origin-2");
    next.announced = Vec::new();
    let again = place.grant(&next).await;
    assert_eq!(again.epoch, given.epoch);
    assert_eq!(again.home.origin, origin("origin-2"));
    assert_eq!(place.lease().await.origin, origin("origin-2"));
}

async fn a_home_follows_its_session(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    let mut moved = renewal("a", grant.epoch);
    moved.origin = origin("origin-1");
    assert_eq!(place.renew(&moved).await, RenewalOutcome::Renewed);
    let second = place.grant(&claim("b", Policy::Takeover)).await;
    assert_eq!(second.home, home("origin-1", "broadcast-of-a"));

    // A fenced session moves nothing.
    moved.origin = origin("origin-0");
    let fenced = place.renew(&moved).await;
    assert!(
        matches!(fenced, RenewalOutcome::Fenced { .. }),
        "{fenced:?}"
    );
    assert_eq!(place.owner().await.home, Some(second.home));
}

async fn slots_have_owners_of_their_own_and_one_home(place: Place) {
    let primary = place.grant(&claim("a", Policy::Reject)).await;
    let mut backup = claim("b", Policy::Reject);
    backup.slot = Slot::BACKUP;
    backup.candidate = origin("origin-1");
    let backup = place.grant(&backup).await;
    assert_eq!((&backup.previous, &backup.home), (&None, &primary.home));

    let mut moved = renewal("b", backup.epoch);
    moved.slot = Slot::BACKUP;
    moved.origin = origin("origin-1");
    assert_eq!(place.renew(&moved).await, RenewalOutcome::Renewed);
    assert_eq!(place.owner().await.home, Some(primary.home));
    let leases = place.control.leases().await.unwrap();
    let slots: Vec<_> = leases.iter().map(|lease| lease.slot).collect();
    assert_eq!(slots, [Slot::PRIMARY, Slot::BACKUP]);

    assert!(release(&place, "a", primary.epoch).await);
    assert_eq!(place.renew(&moved).await, RenewalOutcome::Renewed);
    let alone = place.owner().await.home;
    assert_eq!(alone, Some(home("origin-1", "broadcast-of-b")));
}

async fn many_leases_are_renewed_and_listed(place: Place) {
    let renewals: Vec<_> = (0..600)
        .map(|number| {
            let mut renewal = renewal(&format!("session-{number}"), 1_700_000_000_000);
            renewal.stream = StreamId::derive("default", "live", &number.to_string());
            renewal.edge = edge(&(number % 3).to_string());
            renewal
        })
        .collect();
    for expected in [RenewalOutcome::Healed, RenewalOutcome::Renewed] {
        let outcomes = place.edge.renew(&renewals).await.unwrap();
        assert_eq!(outcomes, vec![expected; renewals.len()]);
    }
    assert_eq!(place.edge.renew(&[]).await.unwrap(), []);

    let mut expected: Vec<_> = renewals
        .iter()
        .map(|renewal| (renewal.stream, renewal.session.clone()))
        .collect();
    expected.sort_unstable();
    let listed = place.control.leases().await.unwrap();
    let listed: Vec<_> = listed
        .into_iter()
        .map(|lease| (lease.stream, lease.session))
        .collect();
    assert_eq!(listed, expected);

    let streams: Vec<_> = renewals
        .iter()
        .map(|renewal| (renewal.stream, renewal.slot))
        .collect();
    let owners = place.origin.owners(&streams).await.unwrap();
    for (owner, renewal) in owners.iter().zip(&renewals) {
        assert_eq!(owner.lease.as_ref().unwrap().session, renewal.session);
    }
    assert_eq!(owners.len(), renewals.len());
}

async fn owners_come_in_order(place: Place) {
    let grant = place.grant(&claim("a", Policy::Reject)).await;
    let unknown = StreamId::derive("default", "live", "unknown");
    let owners = place
        .origin
        .owners(&[
            (unknown, Slot::PRIMARY),
            (stream(), Slot::PRIMARY),
            (stream(), Slot::BACKUP),
        ])
        .await
        .unwrap();
    let epochs: Vec<_> = owners.iter().map(|owner| owner.epoch).collect();
    assert_eq!(epochs, [0, grant.epoch, 0]);
    assert_eq!(owners[0], Owner::default());
    assert_eq!(owners[2].lease, None);
    assert_eq!(place.origin.owners(&[]).await.unwrap(), []);
}

async fn origins_come_and_go(place: Place) {
    let announced = |name: &str, draining| Origin {
        name: origin(name),
        relay_address: format!("{name}.example:7444"),
        zone: if draining {
            String::new()
        } else {
            "eu-1a".to_owned()
        },
        draining,
        streams: 7,
        budget_percent: 100,
    };
    let origins = async || place.edge.origins().await.unwrap();
    assert_eq!(origins().await, []);
    let (second, first) = (announced("origin-1", false), announced("all", true));
    place.origin.announce(&second).await.unwrap();
    place.origin.announce(&first).await.unwrap();
    assert_eq!(origins().await, [first.clone(), second.clone()]);

    let drained = announced("origin-1", true);
    place.origin.announce(&drained).await.unwrap();
    assert_eq!(origins().await, [first.clone(), drained.clone()]);

    place.origin.withdraw(&first.name).await.unwrap();
    assert_eq!(origins().await, [drained]);
    place.pass(LEASE_TTL + Duration::from_secs(1)).await;
    assert_eq!(origins().await, []);
}

/// Many sessions claim the stream at once.
async fn a_use_is_counted_once_a_session_and_no_more_than_there_are(place: Place) {
    let count = |what: u8, name: &str, max: u32| {
        let (registry, session) = (place.control.clone(), session(name));
        async move {
            let counted = registry.count_use([what; 16], &session, max, LEASE_TTL);
            counted.await.unwrap()
        }
    };
    assert!(count(1, "a", 2).await);
    assert!(count(1, "a", 2).await, "a retry is not another use");
    assert!(count(1, "b", 2).await);
    assert!(!count(1, "c", 2).await);
    assert!(count(1, "a", 2).await, "a retry of one that was counted");
    assert!(count(2, "c", 1).await, "something else");
    place.pass(LEASE_TTL).await;
    assert!(count(1, "c", 1).await, "forgotten with what it counted");
}

async fn one_of_many_racing_uses_is_the_last(place: Place) {
    let mut racing = tokio::task::JoinSet::new();
    for racer in 0..32 {
        let registry = place.control.clone();
        racing.spawn(async move {
            let session = session(&format!("racer-{racer}"));
            let counted = registry.count_use([7; 16], &session, 1, LEASE_TTL);
            counted.await.unwrap()
        });
    }
    let counted = racing.join_all().await;
    assert_eq!(counted.into_iter().filter(|counted| *counted).count(), 1);
}

async fn race(place: &Place, policy: Policy) -> Vec<ClaimOutcome> {
    let mut claims = tokio::task::JoinSet::new();
    for number in 0..RACERS {
        let registry = place.edge.clone();
        let claim = claim(&format!("session-{number}"), policy);
        claims.spawn(async move { registry.claim(&claim).await.unwrap() });
    }
    claims.join_all().await
}

async fn release(place: &Place, name: &str, epoch: u64) -> bool {
    let released = place
        .edge
        .release(stream(), Slot::PRIMARY, &session(name), epoch)
        .await;
    released.unwrap()
}

fn home(name: &str, broadcast_id: &str) -> Home {
    Home {
        origin: origin(name),
        broadcast_id: broadcast_id.to_owned(),
    }
}

const RACERS: usize = 64;
