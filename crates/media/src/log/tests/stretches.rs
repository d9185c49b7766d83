//! Sessions that others come in between of.

use super::*;

const BACKUP: Token = Token {
    slot: 1,
    epoch: 9,
    attempt: 1,
};

/// Session s1 with two frames, then b1 with two, then s1 again from its sixth frame on.
fn switched() -> Log {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    append(&mut log, inter(40));
    log.begin_session("b1", BACKUP, 80, 10);
    append(&mut log, keyframe(0));
    append(&mut log, inter(40));
    log.begin_session("s1", TOKEN, 0, 5);
    append(&mut log, keyframe(200));
    log
}

#[test]
fn a_cursor_is_a_place_in_the_stretch_of_its_session_that_it_was_given_in() {
    let log = switched();
    for (next_sequence, expected) in [
        (
            1,
            &[
                "header s1 []",
                "s1:1",
                "header b1 []",
                "b1:10 b1:11",
                "header s1 []",
                "s1:5",
            ][..],
        ),
        (2, &["header b1 []", "b1:10 b1:11", "header s1 []", "s1:5"]),
        (5, &["header s1 []", "s1:5"]),
        (6, &[]),
    ] {
        let start = Start::Resume {
            session_id: "s1",
            next_sequence,
        };
        let mut reader = log.reader(Class::Lossless, start);
        assert_eq!(read_all(&log, &mut reader), expected, "{next_sequence}");
    }
    assert_eq!(log.next_sequence_of("s1"), Some(6));
}

#[test]
fn the_tokens_of_two_slots_say_nothing_of_each_other() {
    let log = switched();
    let follow = |seen: &[Token]| {
        let start = Start::Follow {
            position: None,
            seen,
        };
        read_all(&log, &mut log.reader(Class::Lossless, start)).join(" ")
    };
    assert!(follow(&[TOKEN, BACKUP]).starts_with("header s1 [] s1:0"));
    let higher = Token {
        attempt: 2,
        ..BACKUP
    };
    assert_eq!(follow(&[TOKEN, higher]), "header s1 [] s1:5");
}

/// What a follower was told by an owner that died: session s1, a keyframe and three frames, then b1.
fn told() -> Log {
    let mut log = Log::new(LogLimits::default());
    assert!(log.follow_session("s1", TOKEN, 0));
    for frame in [keyframe(0), inter(40), video_header(1), inter(80)] {
        append(&mut log, frame);
    }
    assert!(log.follow_session("b1", BACKUP, 10));
    append(&mut log, keyframe(120));
    log
}

/// Frames of the current session from there on, as the next owner has them; how many of them are new.
fn take(log: &mut Log, first_sequence: u64, frames: Vec<Frame>) -> usize {
    let appended = (first_sequence..)
        .zip(frames)
        .map(|(sequence, frame)| log.append(sequence, frame, clock()).unwrap());
    appended.filter(|it| *it == Appended::Stored).count()
}

#[test]
fn a_session_that_the_next_owner_begins_earlier_goes_on_where_readers_were() {
    let mut log = told();
    let oldest = |log: &Log, class| log.reader(class, Start::Oldest);
    let mut live = oldest(&log, Class::Live);
    let mut lossless = oldest(&log, Class::Lossless);
    let before = [
        "header s1 []",
        "s1:0 s1:1 s1:2 s1:3",
        "header b1 []",
        "b1:10",
    ];
    for reader in [&mut live, &mut lossless] {
        assert_eq!(read_all(&log, reader), before);
    }
    // It does not know b1, and has s1 from its second frame on.
    assert!(!log.follow_gap("b1", 11, u64::MAX));
    assert_eq!(log.session(), Some(("b1", 11, 0)), "where to ask behind");
    assert!(log.follow_session("s1", TOKEN, 1));
    let frames = vec![
        inter(40),
        video_header(1),
        inter(80),
        inter(160),
        keyframe(200),
    ];
    assert_eq!(take(&mut log, 1, frames), 2);
    assert_eq!(
        read_all(&log, &mut lossless),
        ["gap b1 11..end", "header s1 [2]", "s1:4 s1:5"]
    );
    assert_eq!(
        read_all(&log, &mut live),
        ["gap b1 11..end", "gap s1 4..5", "header s1 [2]", "s1:5"],
        "no decoder goes on inside of a group of pictures"
    );
}

#[test]
fn a_gap_over_what_readers_had_begins_behind_it() {
    let mut log = told();
    let mut reader = log.reader(Class::Lossless, Start::Oldest);
    read_all(&log, &mut reader);
    assert!(log.follow_gap("s1", 1, 6));
    assert!(!log.follow_session("s1", TOKEN, 6));
    append(&mut log, keyframe(240));
    assert_eq!(
        read_all(&log, &mut reader),
        ["gap s1 4..6", "header s1 []", "s1:6"]
    );
}

#[test]
fn a_session_that_one_owner_did_not_know_goes_on_at_the_next() {
    let mut log = told();
    let mut reader = log.reader(Class::Lossless, Start::Oldest);
    read_all(&log, &mut reader);
    // The owner froze before it told of another session.
    assert!(!log.follow_gap("b1", 11, u64::MAX));
    assert!(!log.follow_session("b1", BACKUP, 10));
    assert_eq!(take(&mut log, 10, vec![keyframe(120), inter(160)]), 1);
    assert_eq!(read_all(&log, &mut reader), ["b1:11"]);
}

#[test]
fn a_live_reader_waits_for_a_keyframe_wherever_a_stretch_begins_inside_of_a_session() {
    let mut log = told();
    let mut live = log.reader(Class::Live, Start::Oldest);
    read_all(&log, &mut live);
    // The next owner followed the first one too, and tells where it goes on itself; then it dies, and another one does that.
    for (attempt, next) in [(1, 4), (2, 5)] {
        let token = Token { attempt, ..TOKEN };
        assert!(log.follow_session("s1", token, next));
        assert_eq!(take(&mut log, next, vec![inter(160)]), 1);
        assert!(read_all(&log, &mut live).is_empty(), "no decoder goes on");
        assert!(log.follow_session("b1", BACKUP, 11));
    }
    assert!(log.follow_session("s1", TOKEN, 6));
    append(&mut log, keyframe(240));
    assert_eq!(
        read_all(&log, &mut live),
        ["gap s1 4..5", "gap s1 5..6", "header s1 []", "s1:6"]
    );
}
