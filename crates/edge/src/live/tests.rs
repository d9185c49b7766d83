use bytes::Bytes;
use media::flv;

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
        (Duration::ZERO, Standing::default()),
        (stats, Terms::default()),
        false,
        Ending::new(),
    ))
}

fn revoke(live: &LiveSessions, target: Target) -> usize {
    live.obey(Order::Revoke(target))
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
    assert_eq!(revoke(&live, Target::StreamKey("k1".to_owned())), 2);
    let ends: Vec<_> = sessions
        .iter()
        .map(|session| session.ending().now())
        .collect();
    assert_eq!(ends, [Some(End::Revoked), None, Some(End::Revoked)]);
    assert_eq!(revoke(&live, Target::Session("b".to_owned())), 1);
    drop(registrations);
    assert_eq!(live.count(), 0);
    assert_eq!(sessions[1].ending().ended().await, End::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_overtakes_the_grant_counts() {
    let live = LiveSessions::default();
    let asked = Instant::now();
    tokio::time::advance(Duration::from_millis(10)).await;
    revoke(&live, Target::StreamKey("k1".to_owned()));
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

#[tokio::test(start_paused = true)]
async fn a_session_of_which_too_much_was_said_meanwhile_does_not_start() {
    let live = LiveSessions::default();
    let asked = Instant::now();
    for number in 0..=RECENT_MAX {
        revoke(&live, Target::StreamKey(format!("k{number}")));
    }
    let (forgotten, other) = (session("a", "k0"), session("b", "other"));
    for session in [&forgotten, &other] {
        let _registration = live.enter(session.clone(), asked);
        assert_eq!(session.ending().now(), Some(End::Internal));
    }
    tokio::time::advance(Duration::from_millis(1)).await;
    let later = session("c", "other");
    let _registration = live.enter(later.clone(), Instant::now());
    assert_eq!(later.ending().now(), None);
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
    assert_eq!(session.dropped(125_000), Ok(()));
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

#[tokio::test(start_paused = true)]
async fn a_renewal_tells_the_frame_rate_since_the_last_one() {
    let session = session("a", "k1");
    attach(&session);
    let frame = flv::parse(FrameKind::Video, 0, Bytes::from_static(&[0x17, 1, 0, 0, 0]));
    let frame = frame.unwrap();
    for _ in 0..2 {
        for _ in 0..30 {
            let taken = session.media(&frame, (&Tracks::default(), false), |_| {});
            assert_eq!(taken, Ok(()));
        }
        tokio::time::advance(Duration::from_millis(1_001)).await;
        let renewal = session.renewal().unwrap();
        assert_eq!(renewal.stats.frame_rate_millihertz, 29_970);
        session.renewal_done();
    }
}

fn change(stream_key_id: &str, expire_ms: u64, max_session_seconds: u32) -> Order {
    Order::Change(Arc::new(KeyChange {
        stream_key_id: stream_key_id.to_owned(),
        limits: Some(MediaLimits {
            max_bitrate_bps: 8,
            ..MediaLimits::default()
        }),
        expire_ms,
        max_session_seconds,
    }))
}

#[tokio::test]
async fn other_terms_hold_for_the_sessions_of_that_key_from_now_on() {
    let live = LiveSessions::default();
    let (changed, other) = (session("a", "k1"), session("b", "k2"));
    let _registered = [&changed, &other].map(|one| live.enter(one.clone(), Instant::now()));
    let until_ms = changed.until_ms();
    for (expire_ms, longest, until) in [
        (70_000, 0, Some(70_000)),
        (70_000, 60, Some(60_000)),
        (50_000, 60, Some(50_000)),
        (0, 60, Some(60_000)),
        (0, 0, None),
    ] {
        assert_eq!(live.obey(change("k1", expire_ms, longest)), 1);
        assert_eq!(*until_ms.borrow(), until, "{expire_ms} {longest}");
    }
    assert_eq!(
        changed.dropped(1_000),
        Err(LimitFault::Bitrate { max_bps: 8 })
    );
    assert_eq!(other.dropped(1_000), Ok(()));
    assert_eq!(changed.ending().now(), None);
}

#[tokio::test(start_paused = true)]
async fn other_terms_that_overtake_the_grant_count_and_the_last_of_them_holds() {
    let live = LiveSessions::default();
    let asked = Instant::now();
    live.obey(change("k1", 1_000, 0));
    live.obey(change("k1", 2_000, 0));
    let overtaken = session("a", "k1");
    let _registration = live.enter(overtaken.clone(), asked);
    assert_eq!(*overtaken.until_ms().borrow(), Some(2_000));
    tokio::time::advance(Duration::from_millis(10)).await;
    let later = session("b", "k1");
    let _registration = live.enter(later.clone(), Instant::now());
    assert_eq!(*later.until_ms().borrow(), None, "control decided later");
}

#[tokio::test]
async fn a_session_that_was_asked_to_leave_has_moved_when_it_ends_by_itself() {
    let stays = session("a", "k1");
    assert_eq!(stays.end_for(End::ClientClose), End::ClientClose);
    let leaves = session("b", "k1");
    attach(&leaves);
    leaves.note_leaving();
    assert!(leaves.renewal().unwrap().standing.leaving);
    for end in [End::ClientClose, End::Disconnected, End::Fenced] {
        assert_eq!(leaves.end_for(end), End::Moved);
    }
    for end in [End::Revoked, End::Drain, End::OriginLost] {
        assert_eq!(leaves.end_for(end), end);
    }
}

#[tokio::test]
async fn nobody_is_asked_to_leave_whose_lease_does_not_say_so() {
    let session = session("a", "k1");
    attach(&session);
    assert!(!session.ask_to_leave() && session.stays());
    session.note_leaving();
    assert!(session.ask_to_leave() && !session.stays());
    // It may be elsewhere at any time.
    assert!(!session.note_staying() && session.standing().leaving);
    session.bid(Farewell::Stay);
    assert!(session.note_staying() && !session.standing().leaving);
    assert!(!session.note_staying(), "that is no news");
    assert!(!session.ask_to_leave());
}
