//! Readers and followers that come back to where they were.

use super::*;

#[test]
fn a_cursor_resumes_without_gap_or_duplicate() {
    let mut log = log(usize::MAX);
    for frame in [video_header(1), keyframe(0), inter(40), inter(80)] {
        append(&mut log, frame);
    }
    let start = Start::Resume {
        session_id: "s1",
        next_sequence: 2,
    };
    let mut reader = log.reader(Class::Lossless, start);
    assert_eq!(read_all(&log, &mut reader), ["header s1 [0]", "s1:2 s1:3"]);
}

#[test]
fn a_cursor_ahead_of_a_replay_waits_for_its_next_frame() {
    let mut log = Log::new(LogLimits::default());
    log.begin_session("s1", TOKEN, 0, 470);
    log.seed_header(2, &video_header(1));
    let start = Start::Resume {
        session_id: "s1",
        next_sequence: 473,
    };
    let mut reader = log.reader(Class::Lossless, start);
    append(&mut log, keyframe(0));
    append(&mut log, inter(40));
    assert!(read_all(&log, &mut reader).is_empty());
    append(&mut log, inter(80));
    append(&mut log, inter(120));
    assert_eq!(read_all(&log, &mut reader), ["header s1 [2]", "s1:473"]);
}

#[test]
fn a_cursor_behind_the_window_gets_a_gap() {
    let mut log = Log::new(LogLimits::default());
    log.begin_session("s1", TOKEN, 0, 470);
    append(&mut log, keyframe(0));
    let start = Start::Resume {
        session_id: "s1",
        next_sequence: 401,
    };
    for class in [Class::Live, Class::Lossless] {
        let mut reader = log.reader(class, start);
        assert_eq!(
            read_all(&log, &mut reader),
            ["gap s1 401..470", "header s1 []", "s1:470"]
        );
    }
}

#[test]
fn another_session_continues_behind_its_own_header() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    log.begin_session("s2", TOKEN, 1, 0);
    append(&mut log, video_header(2));
    append(&mut log, keyframe(0));
    assert_eq!(
        read_all(&log, &mut reader),
        ["header s1 []", "s1:0", "header s2 []", "s2:0 s2:1"]
    );
    let at_its_end = Start::Resume {
        session_id: "s1",
        next_sequence: 1,
    };
    let mut reader = log.reader(Class::Live, at_its_end);
    assert_eq!(
        read_all(&log, &mut reader),
        ["header s2 []", "s2:0 s2:1"],
        "nothing was missed"
    );
    let unknown = Start::Resume {
        session_id: "s0",
        next_sequence: 8,
    };
    let mut reader = log.reader(Class::Live, unknown);
    assert_eq!(read_all(&log, &mut reader)[0], "gap s0 8..end");
}

#[test]
fn a_skip_over_a_session_says_what_is_missing_of_both() {
    let mut log = log(1200);
    append(&mut log, keyframe(0));
    let mut reader = log.reader(Class::Live, Start::CurrentGop);
    read_all(&log, &mut reader);
    append(&mut log, inter(40));
    log.begin_session("s2", TOKEN, 41, 0);
    for _ in 0..10 {
        append(&mut log, inter(0));
    }
    append(&mut log, keyframe(40));
    assert_eq!(
        read_all(&log, &mut reader),
        ["gap s1 1..2", "gap s2 0..10", "header s2 []", "s2:10"]
    );
}

#[test]
fn a_session_that_came_and_went_unread_is_a_gap_of_its_own() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    for id in ["s2", "s3"] {
        log.begin_session(id, TOKEN, 0, 0);
        append(&mut log, keyframe(0));
        append(&mut log, inter(40));
    }
    log.shrink(0);
    append(&mut log, keyframe(80));
    log.shrink(0);
    for class in [Class::Live, Class::Lossless] {
        let start = Start::Resume {
            session_id: "s1",
            next_sequence: 1,
        };
        let mut reader = log.reader(class, start);
        assert_eq!(
            read_all(&log, &mut reader),
            ["gap s2 0..2", "gap s3 0..2", "header s3 []", "s3:2"],
            "{class:?}"
        );
    }
}

#[test]
fn a_follower_gets_no_session_from_before_the_one_that_it_has() {
    let mut log = log(usize::MAX);
    append(&mut log, keyframe(0));
    for epoch in [2, 4] {
        let token = Token {
            slot: 0,
            epoch,
            attempt: 1,
        };
        log.begin_session(&format!("s{epoch}"), token, 0, 0);
        append(&mut log, keyframe(0));
    }
    let seen = |epoch| {
        [Token {
            slot: 0,
            epoch,
            attempt: 1,
        }]
    };
    let follow = |seen, session_id| Start::Follow {
        position: Some((session_id, 7)),
        seen,
    };
    let seen_3 = seen(3);
    let mut reader = log.reader(Class::Lossless, follow(&seen_3, "s3"));
    assert_eq!(
        read_all(&log, &mut reader),
        ["gap s3 7..end", "header s4 []", "s4:0"]
    );
    let seen_1 = seen(1);
    let mut reader = log.reader(Class::Lossless, follow(&seen_1, "s1"));
    assert_eq!(
        read_all(&log, &mut reader),
        ["header s2 []", "s2:0", "header s4 []", "s4:0"]
    );
    let seen_5 = seen(5);
    let mut reader = log.reader(Class::Lossless, follow(&seen_5, "s5"));
    assert!(read_all(&log, &mut reader).is_empty());
}

#[test]
fn a_follower_gets_every_frame_and_its_own_readers_seek() {
    let mut owner = log(usize::MAX);
    for time in 0..4 {
        append(&mut owner, keyframe(time * 80));
        append(&mut owner, inter(time * 80 + 40));
    }
    while owner.first < 1 {
        owner.shrink(owner.bytes() - 1);
    }
    let start = Start::Follow {
        position: None,
        seen: &[Token::default()],
    };
    let mut follower = owner.reader(Class::Lossless, start);
    let mut followed = Log::new(LogLimits::default());
    while let Some(event) = owner.read(&mut follower, usize::MAX).unwrap() {
        match event {
            Event::Header(header) => {
                let Header {
                    session_id,
                    token,
                    sequence,
                    ..
                } = header;
                assert!(followed.follow_session(&session_id, token, sequence));
            }
            Event::Frames(frames) => {
                for frame in frames {
                    append(&mut followed, frame.frame);
                }
            }
            Event::Gap(gap) => panic!("{gap:?}"),
        }
    }
    let resume = Start::Resume {
        session_id: "s1",
        next_sequence: 1,
    };
    let read = |start| read_all(&followed, &mut followed.reader(Class::Lossless, start));
    assert_eq!(
        read(resume),
        ["header s1 []", "s1:1 s1:2 s1:3 s1:4 s1:5 s1:6 s1:7"]
    );
    assert_eq!(
        read(Start::Oldest),
        ["header s1 []", "s1:2 s1:3 s1:4 s1:5 s1:6 s1:7"]
    );
    assert_eq!(read(Start::CurrentGop), ["header s1 []", "s1:6 s1:7"]);
}
