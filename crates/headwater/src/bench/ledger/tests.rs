use bytes::Bytes;

use super::{
    super::payload::{audio_body, video_body},
    *,
};

/// What a stream looks like on its way to a reader.
struct Stream {
    ledger: Ledger,
    sequence: u64,
}

impl Stream {
    fn new() -> Self {
        let mut ledger = Ledger::new(0);
        ledger.header("broadcast", "one", 0, (1, 1));
        Self {
            ledger,
            sequence: 0,
        }
    }

    /// A stamped frame, with the next sequence of its session.
    fn frame(&mut self, stamped: u64) {
        self.frame_of(7, self.sequence, stamped);
    }

    fn frame_of(&mut self, publisher: u32, sequence: u64, stamped: u64) {
        let frame = stamped_frame(publisher, stamped);
        self.ledger.frame(sequence, &frame, 1000 + stamped * 10);
        self.sequence = sequence + 1;
    }

    fn report(&self) -> LedgerReport {
        self.ledger.report()
    }
}

fn stamped_frame(publisher: u32, sequence: u64) -> Frame {
    let stamp = Stamp {
        publisher,
        sequence,
        sent_us: sequence * 10,
    };
    let timestamp_ms = i64::try_from(sequence).unwrap();
    if sequence.is_multiple_of(2) {
        let body = video_body(stamp, false, b"filler");
        Frame::opaque(FrameKind::Video, timestamp_ms, body)
    } else {
        let body = audio_body(stamp, b"filler");
        Frame::opaque(FrameKind::Audio, timestamp_ms, body)
    }
}

#[test]
fn frames_in_order_are_clean_and_measured() {
    let mut stream = Stream::new();
    for number in 100..200 {
        stream.frame(number);
    }
    let report = stream.report();
    assert!(report.is_clean(false), "{report}");
    assert_eq!(
        (report.stamps.received, report.latency_ms.count),
        (100, 100)
    );
    assert_eq!(report.latency_ms.max, 1.0);
    assert_eq!(
        report.publishers[&7],
        Range {
            first: 100,
            next: 200
        }
    );
}

#[test]
fn nothing_at_all_is_not_clean() {
    assert!(!Stream::new().report().is_clean(true));
}

#[test]
fn a_missing_frame_is_lost_and_one_that_comes_late_is_reordered() {
    let mut stream = Stream::new();
    for number in [0, 1, 2, 6, 7] {
        stream.frame_of(7, number, number);
    }
    let lost = stream.report();
    assert_eq!((lost.stamps.lost, lost.session_sequence.lost), (3, 3));
    assert!(!lost.is_clean(true));

    stream.frame_of(7, 4, 4);
    let report = stream.report();
    assert_eq!((report.stamps.lost, report.stamps.reordered), (2, 1));
    assert_eq!(report.stamps.received, 6);
    stream.frame_of(7, 4, 4);
    assert_eq!(stream.report().stamps.duplicated, 1);
}

#[test]
fn a_frame_that_comes_twice_is_duplicated() {
    let mut stream = Stream::new();
    for number in [5, 6, 6, 5, 7] {
        stream.frame_of(7, number, number);
    }
    let report = stream.report();
    assert_eq!(report.stamps.duplicated, 2);
    assert_eq!(report.session_sequence.duplicated, 2);
    assert_eq!(report.stamps.lost, 0);
    assert!(!report.is_clean(true));
}

#[test]
fn a_frame_from_before_the_first_is_no_new_one() {
    let mut stream = Stream::new();
    stream.frame_of(7, 5, 5);
    stream.frame_of(7, 4, 4);
    assert_eq!(stream.report().stamps.duplicated, 1);
}

#[test]
fn an_announced_gap_explains_as_many_frames_as_it_has_and_no_more() {
    let mut stream = Stream::new();
    stream.frame_of(7, 0, 0);
    stream.ledger.gap("one", 1, 11);
    stream.frame_of(7, 11, 11);
    let report = stream.report();
    assert_eq!((report.stamps.skipped, report.stamps.lost), (10, 0));
    assert_eq!(report.session_sequence.skipped, 10);
    assert!(report.is_clean(true));
    assert!(!report.is_clean(false), "a lossless reader takes no gap");

    stream.ledger.gap("one", 12, 14);
    stream.frame_of(7, 14, 20);
    assert_eq!(stream.report().stamps.lost, 6);
}

#[test]
fn a_gap_excuses_only_the_next_frame() {
    let mut stream = Stream::new();
    stream.frame_of(7, 0, 0);
    // Frames that had no stamp.
    stream.ledger.gap("one", 1, 3);
    stream.frame_of(7, 3, 1);
    stream.frame_of(7, 4, 3);
    assert_eq!(stream.report().stamps.lost, 1);
}

#[test]
fn a_gap_that_leaves_frames_before_it_out_is_not_excused_for_them() {
    let mut stream = Stream::new();
    stream.frame_of(7, 0, 0);
    stream.ledger.gap("one", 3, 5);
    stream.frame_of(7, 5, 5);
    let report = stream.report();
    assert_eq!(report.session_sequence.lost, 2);
    assert_eq!(report.stamps.lost, 2);
}

#[test]
fn what_was_under_way_when_the_publisher_broke_is_not_the_clusters_loss() {
    let mut stream = Stream::new();
    stream.frame_of(7, 0, 0);
    stream.ledger.header("broadcast", "two", 0, (2, 1));
    stream.frame_of(7, 0, 4);
    let report = stream.report();
    assert_eq!(report.stamps.lost, 0);
    assert_eq!(report.counts.lost_between_sessions, 3);
    assert!(report.is_clean(false), "{report}");
    // The excuse is used up.
    stream.frame_of(7, 1, 6);
    assert_eq!(stream.report().stamps.lost, 1);
}

#[test]
fn a_session_that_goes_on_must_come_from_its_beginning() {
    let mut stream = Stream::new();
    stream.frame_of(7, 5, 0);
    stream.ledger.header("broadcast", "two", 0, (2, 1));
    stream.frame_of(7, 3, 4);
    assert_eq!(stream.report().session_sequence.lost, 3);
}

#[test]
fn a_damaged_frame_is_corrupted_and_its_number_is_lost() {
    let mut stream = Stream::new();
    stream.frame(0);
    let mut frame = stamped_frame(7, 1);
    let mut body = frame.body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    frame.body = Bytes::from(body);
    stream.ledger.frame(1, &frame, 0);
    stream.frame_of(7, 2, 2);
    let report = stream.report();
    assert_eq!((report.counts.corrupted, report.stamps.lost), (1, 1));
    assert_eq!(report.session_sequence.lost, 0);
    assert!(!report.is_clean(true));
}

#[test]
fn media_without_a_stamp_is_corrupted_where_the_stream_has_stamps() {
    let foreign = Frame::opaque(
        FrameKind::Video,
        0,
        Bytes::from_static(&[0x27, 1, 0, 0, 0, 1, 2, 3]),
    );
    let mut stream = Stream::new();
    stream.ledger.frame(0, &foreign, 0);
    let report = stream.report();
    assert_eq!((report.counts.unnumbered, report.counts.corrupted), (1, 0));
    assert!(
        report.is_clean(false),
        "another encoder's stream is judged by its sequence"
    );
    stream.frame_of(7, 1, 0);
    stream.ledger.frame(2, &foreign, 0);
    assert_eq!(stream.report().counts.corrupted, 1);
}

#[test]
fn time_must_not_go_back_within_a_track() {
    let mut stream = Stream::new();
    let mut frame = |kind, timestamp_ms| {
        let frame = Frame::opaque(kind, timestamp_ms, Bytes::from_static(&[0xaf]));
        stream.ledger.frame(stream.sequence, &frame, 0);
        stream.sequence += 1;
    };
    frame(FrameKind::Video, 100);
    frame(FrameKind::Audio, 90);
    frame(FrameKind::Audio, 90);
    frame(FrameKind::Video, 99);
    frame(FrameKind::Video, 99);
    assert_eq!(stream.report().counts.timestamp_regressions, 2);
}

#[test]
fn another_broadcast_has_a_clock_of_its_own_and_another_session_has_not() {
    let mut stream = Stream::new();
    stream.frame_of(7, 0, 50);
    stream.ledger.header("other broadcast", "two", 0, (2, 1));
    stream.frame_of(8, 0, 0);
    assert_eq!(stream.report().counts.timestamp_regressions, 0);
    stream.frame_of(8, 1, 2);
    stream.ledger.header("other broadcast", "three", 0, (3, 1));
    stream.frame_of(9, 0, 0);
    assert_eq!(stream.report().counts.timestamp_regressions, 1);
}

#[test]
fn a_lower_fencing_token_is_noticed() {
    let mut stream = Stream::new();
    stream.ledger.header("broadcast", "two", 0, (2, 3));
    stream.ledger.header("broadcast", "two", 0, (2, 4));
    assert_eq!(stream.report().counts.token_regressions, 0);
    stream.ledger.header("broadcast", "one", 0, (1, 9));
    stream.ledger.header("broadcast", "two", 0, (2, 4));
    assert_eq!(stream.report().counts.token_regressions, 1);
}

#[test]
fn a_session_that_comes_back_behind_another_one_is_noticed_under_a_higher_token_too() {
    let mut stream = Stream::new();
    stream.ledger.header("broadcast", "two", 0, (2, 1));
    stream.ledger.header("broadcast", "two", 0, (2, 2));
    assert_eq!(stream.report().counts.session_regressions, 0);
    stream.ledger.header("broadcast", "one", 0, (3, 1));
    let counts = stream.report().counts;
    assert_eq!(
        (counts.session_regressions, counts.token_regressions),
        (1, 0)
    );
    stream.frame(0);
    assert!(!stream.report().is_clean(true));
}

#[test]
fn a_token_is_of_one_session() {
    let mut stream = Stream::new();
    stream.ledger.header("broadcast", "two", 0, (1, 1));
    assert_eq!(stream.report().counts.session_regressions, 1);
}

#[test]
fn primary_and_backup_take_turns() {
    let mut stream = Stream::new();
    stream.ledger.header("broadcast", "backup", 1, (9, 1));
    stream.ledger.header("broadcast", "one", 0, (1, 1));
    stream.ledger.header("broadcast", "backup", 1, (9, 1));
    let counts = stream.report().counts;
    assert_eq!(
        (counts.session_regressions, counts.token_regressions),
        (0, 0)
    );
}

#[test]
fn what_was_sent_before_the_reader_came_is_not_measured() {
    let mut ledger = Ledger::new(500);
    ledger.header("broadcast", "one", 0, (1, 1));
    ledger.frame(0, &stamped_frame(7, 49), 10_000);
    ledger.frame(1, &stamped_frame(7, 50), 10_000);
    assert_eq!(ledger.report().latency_ms.count, 1);
}

#[test]
fn the_account_of_a_hostile_stream_stays_small() {
    let mut stream = Stream::new();
    for number in 0..20_000 {
        let publisher = u32::try_from(number).unwrap();
        stream.frame_of(publisher, number * 2, 0);
    }
    assert_eq!(stream.ledger.publishers.len(), RUNS_LIMIT);
    assert_eq!(stream.report().session_sequence.lost, 19_999);
}

#[test]
fn streams_add_up() {
    let (mut one, mut two) = (Stream::new(), Stream::new());
    one.frame(0);
    two.frame_of(7, 0, 0);
    two.frame_of(7, 2, 2);
    let mut total = one.report();
    total.add(&two.report());
    assert_eq!((total.stamps.received, total.stamps.lost), (3, 1));
}

#[test]
fn a_gap_without_a_known_end_lasts_until_the_next_number() {
    let mut stream = Stream::new();
    stream.frame(0);
    stream.ledger.gap("one", 1, u64::MAX);
    stream.frame_of(7, 5, 5);
    stream.frame_of(7, 7, 7);
    stream.ledger.gap("one", 8, u64::MAX);
    stream.ledger.header("broadcast", "two", 0, (2, 1));
    stream.ledger.gap("two", 0, u64::MAX);
    let report = stream.report();
    let own = &report.session_sequence;
    assert_eq!((own.received, own.skipped, own.lost), (3, 4, 1));
    assert_eq!((report.stamps.skipped, report.stamps.lost), (4, 1));
}
