//! PlaybackService: what readers get, whatever happens to publishers.

use super::*;

#[tokio::test]
async fn a_late_joiner_gets_headers_and_an_exact_suffix_from_a_keyframe() {
    let origin = start(config()).await;
    let frames = recording(3);
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&frames[..25]).await;
    let mut player = origin.subscribe("main", |_| {}).await;
    publisher.publish(&frames[25..]).await;
    publisher.close("finished").await;

    let (session_id, headers) = player.header().await;
    assert_eq!(session_id, "s1");
    assert_eq!(headers, [(0, metadata()), (1, video_header())]);
    let suffix = player.frames(frames.len() - 22).await;
    assert!(suffix[0].1.keyframe());
    assert!(suffix.into_iter().eq((22..).zip(frames[22..].to_vec())));
    match player.next().await.unwrap() {
        subscribe_event::Event::End(end) => assert_eq!(end.reason, "finished"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_reader_attached_before_the_publish_gets_every_frame() {
    let origin = start(config()).await;
    let (mut player, mut publisher) = tokio::join!(
        origin.subscribe("main", |request| request.wait_for_stream = true),
        async {
            eventually("the reader waits", async || origin.waiting(1)).await;
            origin.publish("main", "s1", 1, 1).await.unwrap()
        }
    );
    let frames = recording(2);
    publisher.publish(&frames).await;
    assert_eq!(player.header().await, ("s1".to_owned(), vec![]));
    let got = player.frames(frames.len()).await;
    assert!(got.into_iter().eq((0..).zip(frames)));
}

#[tokio::test]
async fn a_twelve_mebibyte_keyframe_arrives_in_messages_that_any_client_reads() {
    let origin = start(config()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    let large = video(0x17, 0, 12 * 1024 * 1024);
    publisher.publish(&[large.clone(), inter(40)]).await;
    player.header().await;
    assert_eq!(player.frames(2).await, [(0, large), (1, inter(40))]);
}

/// Bytes that do not fit between an origin and a reader that does not read, with a log this small.
fn small_log() -> Config {
    let mut config = config();
    config.log.bytes_max = 2 * 1024 * 1024;
    config
}

/// Publishes 32 MiB: keyframes now and then.
async fn overwhelm(publisher: &mut Publisher) {
    let frames: Vec<_> = (0..320)
        .map(|time| {
            let first = if time % 10 == 0 { 0x17 } else { 0x27 };
            video(first, time * 40, 100_000)
        })
        .collect();
    publisher.publish(&frames).await;
}

#[tokio::test]
async fn a_slow_live_reader_skips_to_a_keyframe_behind_a_gap() {
    let origin = start(small_log()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", |_| {}).await;
    publisher.publish(&[keyframe(0)]).await;
    player.header().await;
    assert_eq!(player.sequences(1).await, [0]);
    overwhelm(&mut publisher).await;
    publisher.close("done").await;

    let (mut expected, mut gaps, mut after_gap) = (1, 0, false);
    loop {
        match player.next().await.unwrap() {
            subscribe_event::Event::Batch(batch) => {
                let batch = batch.frames.unwrap();
                for (sequence, frame) in player.assembler.push(batch).unwrap() {
                    assert_eq!(sequence, expected);
                    assert!(!after_gap || frame.keyframe());
                    (expected, after_gap) = (sequence + 1, false);
                }
            }
            subscribe_event::Event::Gap(gap) => {
                assert_eq!(gap.from_sequence, expected);
                (expected, after_gap) = (gap.to_sequence, true);
                gaps += 1;
            }
            subscribe_event::Event::Header(header) => assert_eq!(header.session_id, "s1"),
            subscribe_event::Event::End(_) => break,
            subscribe_event::Event::Moved(moved) => panic!("{moved:?}"),
        }
    }
    assert_eq!(expected, 321);
    assert!(gaps > 0, "32 MiB fit nowhere");
}

#[tokio::test]
async fn a_slow_lossless_reader_gets_contiguous_frames_and_then_an_error() {
    let origin = start(small_log()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    publisher.publish(&[keyframe(0)]).await;
    player.header().await;
    player.sequences(1).await;
    overwhelm(&mut publisher).await;
    let mut expected = 1;
    let refusal = loop {
        match player.next().await {
            Ok(subscribe_event::Event::Batch(batch)) => {
                player.cursor = batch.cursor;
                let batch = batch.frames.unwrap();
                for (sequence, _) in player.assembler.push(batch).unwrap() {
                    assert_eq!(sequence, expected);
                    expected += 1;
                }
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => break refusal,
        }
    };
    assert_refused(&refusal, Code::ResourceExhausted, "LAG_BUDGET_EXCEEDED");

    let cursor = player.cursor;
    let mut player = origin.subscribe("main", behind(cursor)).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Gap(gap) => assert_eq!(gap.from_sequence, expected),
        other => panic!("a cursor behind the log gets a gap, not {other:?}"),
    }
    player.header().await;
}

#[tokio::test]
async fn a_cursor_follows_the_session_to_another_origin() {
    let (one, other) = tokio::join!(start(config()), start(config()));
    let frames = recording(4);
    let mut publisher = one.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = one.subscribe("main", lossless).await;
    publisher.publish(&frames[..30]).await;
    player.header().await;
    player.sequences(30).await;
    let cursor = player.cursor;

    // The reader is there first: it waits. The publisher replays its ring from a keyframe on.
    let replayed_from = 22;
    let (mut player, mut publisher) =
        tokio::join!(other.subscribe("main", behind(cursor)), async {
            let mut open = other.open_request(&grant("main", "s1"), 1, 2);
            open.timeline_offset_ms = Some(publisher.accepted.timeline_offset_ms);
            open.first_sequence = replayed_from;
            let publisher = other.open(open).await.unwrap();
            let headers = [(0, &frames[0]), (1, &frames[1])];
            let headers = batches(headers, Parts::Omitted).remove(0);
            send(
                &publisher.requests,
                publish_request::Request::Headers(headers),
            )
            .await;
            publisher
        });
    assert_eq!(publisher.accepted.broadcast_id, "b1");
    publisher.publish(&frames[22..]).await;
    let (session_id, headers) = player.header().await;
    assert_eq!(session_id, "s1");
    assert_eq!(headers, [(0, metadata()), (1, video_header())]);
    let got = player.frames(frames.len() - 30).await;
    assert!(got.into_iter().eq((30..).zip(frames[30..].to_vec())));
}

#[tokio::test]
async fn a_takeover_continues_the_stream_with_a_new_header() {
    let origin = start(config()).await;
    let mut first = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    first.publish(&recording(1)).await;
    let mut second = origin.publish("main", "s2", 2, 1).await.unwrap();
    second.publish(&recording(1)).await;
    player.header().await;
    let before = player.frames(12).await;
    let (session_id, headers) = player.header().await;
    assert_eq!((session_id.as_str(), headers), ("s2", vec![]));
    let after = player.frames(12).await;
    assert_eq!(after[0].0, 0);
    let last_ms = before.last().unwrap().1.timestamp_ms;
    assert!(after.iter().all(|(_, frame)| frame.timestamp_ms > last_ms));
}

#[tokio::test]
async fn a_lost_publisher_may_come_back_and_the_stream_ends_when_it_does_not() {
    let origin = start(config()).await;
    let mut first = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    first.publish(&recording(1)).await;
    player.header().await;
    player.frames(12).await;
    drop(first);
    let mut open = origin.open_request(&grant("main", "s1"), 1, 2);
    (open.timeline_offset_ms, open.first_sequence) = (Some(0), 12);
    let mut second = origin.open(open).await.unwrap();
    second.publish(&[keyframe(400)]).await;
    assert_eq!(player.header().await.0, "s1", "another token");
    assert_eq!(player.sequences(1).await, [12]);

    drop(second);
    match player.next().await.unwrap() {
        subscribe_event::Event::End(end) => assert_eq!(end.reason, "publisher lost"),
        other => panic!("{other:?}"),
    }
    let refusal = origin.try_subscribe("main", |_| {}).await.err().unwrap();
    assert_refused(&refusal, Code::NotFound, "STREAM_NOT_FOUND");
}

#[tokio::test]
async fn who_may_not_play_is_told_why() {
    let origin = start(config()).await;
    let _publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    for (header, reason) in [
        (None, "TOKEN_MISSING"),
        (Some("Bearer wrong"), "TOKEN_INVALID"),
    ] {
        let mut request = tonic::Request::new(SubscribeRequest::default());
        if let Some(header) = header {
            let value = header.parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let refusal = origin
            .playback
            .clone()
            .subscribe(request)
            .await
            .unwrap_err();
        assert_refused(&refusal, Code::Unauthenticated, reason);
    }
    let refused = async |change: fn(&mut SubscribeRequest)| {
        origin.try_subscribe("main", change).await.err().unwrap()
    };
    let refusal = refused(|request| request.app = String::new()).await;
    assert_refused(&refusal, Code::InvalidArgument, "STREAM_NAME_INVALID");
    let refusal = refused(|request| request.cursor = vec![9; 9]).await;
    assert_refused(&refusal, Code::InvalidArgument, "CURSOR_INVALID");
    let refusal = refused(|request| request.stream = "other".to_owned()).await;
    assert_refused(&refusal, Code::NotFound, "STREAM_NOT_FOUND");
}

#[tokio::test]
async fn another_tenants_stream_is_not_found() {
    let mut config = config();
    config.tenant = "somebody".to_owned();
    let origin = start(config).await;
    let _publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let refusal = origin.try_subscribe("main", |_| {}).await.err().unwrap();
    assert_refused(&refusal, Code::NotFound, "STREAM_NOT_FOUND");
}

#[tokio::test]
async fn subscribers_have_a_limit_and_leave_room_behind() {
    let mut config = config();
    config.limits.subscribers_max = 1;
    let origin = start(config).await;
    let _publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let player = origin.subscribe("main", |_| {}).await;
    let refusal = origin.try_subscribe("main", |_| {}).await.err().unwrap();
    assert_refused(&refusal, Code::ResourceExhausted, "SUBSCRIBERS_EXCEEDED");
    drop(player);
    eventually("room for another", async || {
        origin.try_subscribe("main", |_| {}).await.is_ok()
    })
    .await;
}
