//! Streams with two publishers: one on air, one on standby.

use registry::Slot;

use super::{following::*, *};

const P: u32 = 0;
const B: u32 = 1;
const SWITCHES: &str = "headwater_origin_switches_total";
const BACKED_UP: &str = "headwater_origin_backed_up_streams_active";

/// Waits that a test can sit out.
fn quick() -> Config {
    let mut config = config();
    config.backup.starve_after = Duration::from_millis(700);
    config.backup.clear_time = Duration::from_secs(3);
    config
}

impl Running {
    /// Session `session_id` of a slot.
    async fn publish_slot(&self, slot: u32, session_id: &str, epoch: u64) -> Publisher {
        let open = self.slot_request(slot, session_id, epoch, 1);
        self.open(open).await.unwrap()
    }

    fn slot_request(&self, slot: u32, session_id: &str, epoch: u64, attempt: u32) -> PublishOpen {
        let grant = Grant {
            slot,
            ..grant("main", session_id)
        };
        self.open_request(&grant, epoch, attempt)
    }
}

/// A publisher in real time: metadata and header, then a frame each 20 ms, a keyframe each 200 ms.
struct Encoder {
    publisher: Publisher,
    began: std::time::Instant,
    frames: i64,
    first_ms: i64,
    /// Of three groups of pictures it sends one.
    leaves_out: bool,
}

impl Encoder {
    /// Its timestamps begin anywhere.
    async fn new(mut publisher: Publisher, first_ms: i64) -> Self {
        publisher.publish(&[metadata(), video_header()]).await;
        Self {
            publisher,
            began: std::time::Instant::now(),
            frames: 0,
            first_ms,
            leaves_out: false,
        }
    }

    /// What is due.
    async fn frames(&mut self) {
        let elapsed_ms = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        while self.frames * 20 <= elapsed_ms {
            let number = self.frames;
            self.frames += 1;
            let time = self.first_ms + number * 20;
            if self.leaves_out && number % 30 >= 10 {
                continue;
            }
            let frame = if number % 10 == 0 {
                keyframe(time)
            } else {
                inter(time)
            };
            self.publisher.send(&[frame]).await;
        }
    }
}

/// Frames of these until a reader has what it waits for.
async fn until<T>(encoders: &mut [&mut Encoder], reads: impl Future<Output = T>) -> T {
    let mut reads = std::pin::pin!(reads);
    loop {
        for encoder in &mut *encoders {
            encoder.frames().await;
        }
        tokio::select! {
            read = &mut reads => return read,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// What a reader saw, which never ends.
#[derive(Default)]
struct Seen {
    session_id: String,
    slot: u32,
    headers: usize,
    last_ms: Option<i64>,
    next_sequence: u64,
    /// The frame after the last header.
    first: Option<(u64, Frame)>,
}

impl Seen {
    /// Reads on until frames of this session come.
    async fn on_air(&mut self, player: &mut Player, session_id: &str) {
        loop {
            match player.next().await.unwrap() {
                subscribe_event::Event::Header(header) => {
                    self.session_id = header.session_id;
                    self.slot = header.slot;
                    let headers = header.headers.unwrap_or_default();
                    let headers = Assembler::new(Parts::Included).push(headers).unwrap();
                    self.headers = headers.len();
                    self.first = None;
                }
                subscribe_event::Event::Batch(batch) => {
                    player.cursor = batch.cursor;
                    let frames = player.assembler.push(batch.frames.unwrap()).unwrap();
                    for (sequence, frame) in frames {
                        self.frame(sequence, frame);
                    }
                    if self.session_id == session_id {
                        return;
                    }
                }
                other => panic!("readers see neither a gap nor an end: {other:?}"),
            }
        }
    }

    fn frame(&mut self, sequence: u64, frame: Frame) {
        let coded = frame.kind == FrameKind::Video && frame.coded();
        if coded {
            let last_ms = self.last_ms.replace(frame.timestamp_ms);
            assert!(last_ms.is_none_or(|last| last < frame.timestamp_ms));
        }
        if let Some((_, first)) = &self.first {
            assert_eq!(sequence, self.next_sequence, "behind {first:?}");
        } else {
            self.first = Some((sequence, frame));
        }
        self.next_sequence = sequence + 1;
    }
}

/// Both publish, and a reader has the primary.
async fn both(origin: &Running) -> (Encoder, Encoder, Player, Seen) {
    let primary = origin.publish_slot(P, "p1", 1).await;
    let mut primary = Encoder::new(primary, 0).await;
    let backup = origin.publish_slot(B, "b1", 5).await;
    assert!(backup.accepted.standby && !primary.publisher.accepted.standby);
    let mut backup = Encoder::new(backup, 7000).await;
    let mut player = origin.subscribe("main", lossless).await;
    let mut seen = Seen::default();
    let encoders = &mut [&mut primary, &mut backup];
    until(encoders, seen.on_air(&mut player, "p1")).await;
    for _ in 0..15 {
        let encoders = &mut [&mut primary, &mut backup];
        until(encoders, seen.on_air(&mut player, "p1")).await;
    }
    assert_eq!(seen.slot, P);
    metric_is(origin, BACKED_UP, 1.0).await;
    assert!(metric(origin, SWITCHES) == 0.0);
    (primary, backup, player, seen)
}

#[tokio::test]
async fn readers_go_on_with_the_backup_where_the_primary_is_lost() {
    let origin = start(quick()).await;
    let (primary, mut backup, mut player, mut seen) = both(&origin).await;
    let last_ms = seen.last_ms.unwrap();
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    assert_eq!((seen.slot, seen.headers), (B, 2));
    let (_, first) = seen.first.clone().unwrap();
    assert!(first.keyframe());
    // About as much later as it was.
    assert!((last_ms + 1..last_ms + 3000).contains(&first.timestamp_ms));
    metric_is(
        &origin,
        "headwater_origin_switches_total{reason=\"lost\"}",
        1.0,
    )
    .await;
    metric_is(&origin, BACKED_UP, 0.0).await;
    // Behind a cursor of before the switch, here as well.
    backup.publisher.close("finished").await;
    eventually("the primary's window is over", async || {
        origin.try_subscribe("main", |_| {}).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn readers_go_on_with_the_backup_where_the_primary_starves_or_finishes() {
    for finishes in [false, true] {
        let origin = start(quick()).await;
        let (primary, mut backup, mut player, mut seen) = both(&origin).await;
        let stopped = std::time::Instant::now();
        let kept = if finishes {
            primary.publisher.close("finished").await;
            None
        } else {
            Some(primary)
        };
        until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
        println!("on backup after {:?}", stopped.elapsed());
        assert!(seen.first.as_ref().unwrap().1.keyframe());
        let reason = if finishes { "lost" } else { "starved" };
        metric_is(&origin, &format!("{SWITCHES}{{reason=\"{reason}\"}}"), 1.0).await;
        drop(kept);
    }
}

#[tokio::test]
async fn the_primary_returns_after_the_clear_time_and_a_flapping_one_does_not() {
    let mut config = quick();
    // Nobody is silent for as long as that, on any machine.
    config.backup.starve_after = Duration::from_secs(5);
    let origin = start(config).await;
    let (primary, mut backup, mut player, mut seen) = both(&origin).await;
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    for flap in 0..4 {
        let primary = origin
            .publish_slot(P, &format!("p{}", flap + 2), flap + 2)
            .await;
        assert!(primary.accepted.standby);
        let mut primary = Encoder::new(primary, 0).await;
        for _ in 0..10 {
            let encoders = &mut [&mut primary, &mut backup];
            until(encoders, seen.on_air(&mut player, "b1")).await;
        }
    }
    assert!(metric(&origin, SWITCHES) == 1.0);
    let primary = origin.publish_slot(P, "p9", 9).await;
    let mut primary = Encoder::new(primary, 0).await;
    let encoders = &mut [&mut primary, &mut backup];
    until(encoders, seen.on_air(&mut player, "p9")).await;
    assert!(seen.first.as_ref().unwrap().1.keyframe() && seen.headers == 2);
    metric_is(
        &origin,
        "headwater_origin_switches_total{reason=\"preferred\"}",
        1.0,
    )
    .await;
    // And the backup is there for the next time, in the same session.
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
}

#[tokio::test]
async fn a_primary_that_leaves_frames_out_is_left_and_one_that_flaps_once_per_clear_time() {
    const WORSE: &str = "headwater_origin_switches_total{reason=\"worse\"}";
    let mut config = quick();
    // It is never silent for as long as that, on any machine.
    config.backup.starve_after = Duration::from_secs(5);
    config.backup.clear_time = Duration::from_secs(2);
    let clear_time = config.backup.clear_time;
    let origin = start(config).await;
    let (mut primary, mut backup, mut player, mut seen) = both(&origin).await;
    primary.leaves_out = true;
    let since = std::time::Instant::now();
    let encoders = &mut [&mut primary, &mut backup];
    until(encoders, seen.on_air(&mut player, "b1")).await;
    println!("a third of the media, left after {:?}", since.elapsed());
    assert!(seen.first.as_ref().unwrap().1.keyframe());
    assert_eq!((seen.slot, seen.headers), (B, 2));
    metric_is(&origin, WORSE, 1.0).await;

    primary.leaves_out = false;
    let encoders = &mut [&mut primary, &mut backup];
    until(encoders, seen.on_air(&mut player, "p1")).await;
    assert!(seen.first.as_ref().unwrap().1.keyframe());
    let before = metric(&origin, SWITCHES);
    assert!((before - 2.0).abs() < f64::EPSILON, "{before}");

    let since = std::time::Instant::now();
    for flap in 0..6 {
        primary.leaves_out = flap % 2 == 0;
        let second = Duration::from_secs(1);
        let watched = tokio::time::timeout(second, seen.on_air(&mut player, "nobody"));
        let encoders = &mut [&mut primary, &mut backup];
        assert!(until(encoders, watched).await.is_err());
    }
    let switches = metric(&origin, SWITCHES) - before;
    let clear_times = since.elapsed().div_duration_f64(clear_time);
    println!("{switches} switches in {clear_times:.1} clear times");
    assert!(switches <= clear_times + 1.0, "{switches} in {clear_times}");
    let needed = ["lost", "starved"].map(|reason| format!("{SWITCHES}{{reason=\"{reason}\"}}"));
    assert!(needed.iter().all(|name| metric(&origin, name) == 0.0));
}

/// Whom both edges ask to leave, and nobody else takes.
#[tokio::test]
async fn the_backup_comes_on_air_at_an_origin_that_drains_once_the_primary_is_silent_there() {
    let held_for = Duration::from_secs(10);
    let origin = start(quick()).await;
    let (mut primary, mut backup, mut player, mut seen) = both(&origin).await;
    asked_to_leave(&origin, [&mut primary, &mut backup]).await;
    let encoders = &mut [&mut primary, &mut backup];
    until(encoders, seen.on_air(&mut player, "p1")).await;
    let since = std::time::Instant::now();
    let last = inter(primary.first_ms + primary.frames * 20);
    primary.publisher.send(&[last]).await;
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    println!("held for {:?}", since.elapsed());
    assert!(since.elapsed() >= held_for);
    assert!(seen.first.as_ref().unwrap().1.keyframe());
}

async fn asked_to_leave(origin: &Running, encoders: [&mut Encoder; 2]) {
    origin.shutdown.drain();
    for encoder in encoders {
        loop {
            match next_answer(&mut encoder.publisher.answers).await.unwrap() {
                Some(publish_response::Response::Goodbye(_)) => break,
                Some(publish_response::Response::Ack(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_backup_comes_on_air_at_an_origin_that_drains_as_soon_as_the_primary_has_finished() {
    let origin = start(quick()).await;
    let (mut primary, mut backup, mut player, mut seen) = both(&origin).await;
    asked_to_leave(&origin, [&mut primary, &mut backup]).await;
    let since = std::time::Instant::now();
    primary.publisher.close("the programme is over").await;
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    println!("on air after {:?}", since.elapsed());
    // It would be held for ten seconds.
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_publisher_learns_whether_it_is_on_air() {
    let origin = start(quick()).await;
    let (primary, mut backup, mut player, mut seen) = both(&origin).await;
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    let offset_ms = loop {
        backup
            .publisher
            .send(&[inter(backup.first_ms + backup.frames * 20)])
            .await;
        match next_answer(&mut backup.publisher.answers).await.unwrap() {
            Some(publish_response::Response::Ack(ack)) if !ack.standby => {
                break ack.timeline_offset_ms.unwrap();
            }
            Some(publish_response::Response::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(offset_ms < 0, "its timestamps begin at 7000");
}

#[tokio::test]
async fn a_publisher_that_is_silent_learns_that_it_is_left() {
    let origin = start(quick()).await;
    let (mut primary, mut backup, mut player, mut seen) = both(&origin).await;
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    loop {
        match next_answer(&mut primary.publisher.answers).await.unwrap() {
            Some(publish_response::Response::Ack(ack)) if ack.standby => {
                assert_eq!(ack.timeline_offset_ms, None);
                assert_eq!(ack.next_sequence, primary.publisher.next_sequence);
                break;
            }
            Some(publish_response::Response::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_cursor_of_before_a_switch_goes_on_at_it() {
    let origin = start(quick()).await;
    let (primary, mut backup, mut player, mut seen) = both(&origin).await;
    let cursor = player.cursor.clone();
    let next = seen.next_sequence;
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    let began = seen.first.clone().unwrap().0;
    let mut player = origin.subscribe("main", behind(cursor)).await;
    let mut again = Seen::default();
    until(&mut [&mut backup], again.on_air(&mut player, "b1")).await;
    assert_eq!(again.first.unwrap().0, began);
    assert!(next > 2);
}

#[tokio::test]
async fn whom_readers_had_is_waited_for_at_the_next_origin() {
    let origin = start(config()).await;
    let frames = recording(3);
    // The backup is there first, and says that it was on standby.
    let mut open = origin.slot_request(B, "b1", 5, 2);
    (open.standby, open.timeline_offset_ms) = (true, Some(0));
    let mut backup = origin.open(open).await.unwrap();
    assert!(backup.accepted.standby);
    backup.publish(&recording(1)).await;
    let refusal = origin.try_subscribe("main", |_| {}).await.err().unwrap();
    assert_refused(&refusal, Code::NotFound, "STREAM_NOT_FOUND");
    let waits = origin.subscribe("main", |request| request.wait_for_stream = true);
    let opens = async {
        metric_is(&origin, "headwater_origin_subscribers_waiting", 1.0).await;
        let mut open = origin.slot_request(P, "p1", 1, 2);
        (open.timeline_offset_ms, open.first_sequence) = (Some(0), 2);
        let mut primary = origin.open(open).await.unwrap();
        assert!(!primary.accepted.standby);
        primary.publish(&frames[2..]).await;
        primary
    };
    // Who waits is told as soon as there is something to read.
    let (mut waited, _primary) = tokio::join!(waits, opens);
    assert_eq!(waited.header().await.0, "p1");
    let mut player = origin.subscribe("main", lossless).await;
    assert_eq!(player.header().await.0, "p1");
    assert_eq!(player.sequences(10).await[0], 22);
}

#[tokio::test]
async fn a_backup_alone_is_read_and_gets_frames_on_air_when_nobody_else_comes() {
    let origin = start(quick()).await;
    let mut open = origin.slot_request(B, "b1", 5, 2);
    (open.standby, open.timeline_offset_ms) = (true, Some(0));
    let mut backup = Encoder::new(origin.open(open).await.unwrap(), 0).await;
    let subscribed = origin.subscribe("main", |request| request.wait_for_stream = true);
    let mut player = until(&mut [&mut backup], subscribed).await;
    let mut seen = Seen::default();
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    assert_eq!(seen.slot, B);
    backup.publisher.close("finished").await;
    loop {
        match player.next().await.unwrap() {
            subscribe_event::Event::End(end) => {
                assert_eq!(end.reason, "finished");
                break;
            }
            subscribe_event::Event::Batch(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn each_slot_has_its_own_tokens() {
    let origin = start(config()).await;
    let mut primary = origin.publish_slot(P, "p1", 9).await;
    let mut backup = origin.publish_slot(B, "b1", 3).await;
    primary.publish(&recording(1)).await;
    backup.publish(&recording(1)).await;
    let lower = origin.open(origin.slot_request(B, "b2", 2, 1)).await;
    let refusal = lower.err().unwrap();
    assert_refused(&refusal, Code::FailedPrecondition, "FENCED");
    assert_eq!(proto::error::metadata(&refusal, "epoch").unwrap(), "3");
    let mut taken_over = origin.publish_slot(B, "b3", 4).await;
    assert_refused(&backup.refusal().await, Code::FailedPrecondition, "FENCED");
    taken_over.publish(&recording(1)).await;
    primary.publish(&[keyframe(400)]).await;
}

#[tokio::test]
async fn followers_get_the_programme() {
    let cluster = cluster(|config| config.backup = quick().backup).await;
    let epoch = ownership::claim(&cluster.registry, "main", "p1", NAMES[0]).await;
    let origin = &cluster.origins[0];
    let primary = origin.publish_slot(P, "p1", epoch).await;
    let mut primary = Encoder::new(primary, 0).await;
    let mut backup = Encoder::new(origin.publish_slot(B, "b1", 5).await, 7000).await;
    let encoders = &mut [&mut primary, &mut backup];
    let mut player = until(encoders, cluster.origins[1].subscribe("main", lossless)).await;
    let mut seen = Seen::default();
    until(encoders, seen.on_air(&mut player, "p1")).await;
    for _ in 0..15 {
        until(
            &mut [&mut primary, &mut backup],
            seen.on_air(&mut player, "p1"),
        )
        .await;
    }
    drop(primary);
    until(&mut [&mut backup], seen.on_air(&mut player, "b1")).await;
    assert_eq!((seen.slot, seen.headers), (B, 2));
    // Somebody who comes now gets the same.
    let late = cluster.origins[2].subscribe("main", lossless);
    let mut late = until(&mut [&mut backup], late).await;
    let mut seen = Seen::default();
    until(&mut [&mut backup], seen.on_air(&mut late, "b1")).await;
}

#[tokio::test]
async fn a_backup_at_another_origin_than_its_primary_is_sent_there() {
    let cluster = cluster(|_| {}).await;
    let _epoch = ownership::claim(&cluster.registry, "main", "p1", NAMES[1]).await;
    let mut backup = cluster.origins[0].publish_slot(B, "b1", 5).await;
    backup.publish(&recording(1)).await;
    loop {
        match next_answer(&mut backup.answers).await.unwrap() {
            Some(publish_response::Response::Goodbye(goodbye)) => {
                assert_eq!(goodbye.origin, NAMES[1]);
                break;
            }
            Some(publish_response::Response::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Slot::new(B).unwrap(), Slot::BACKUP);
}
