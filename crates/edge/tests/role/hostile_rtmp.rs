//! Hostile publishers beside a good one, which loses nothing: its frames are counted at the origin. Numbers are those of
//! the list of hostile inputs; `crates/rtmp/tests/hostile` has the ones that need no process.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;
use rtmp::{
    MediaKind, MediaMessage,
    amf0::{Value, encode},
    chunk::{ChunkWriter, MessageHeader},
    handshake, message_type,
};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::{
    encoder::{Encoder, Said, connect_tls, media, trusting_everyone},
    fake_control::DENIED,
    harness::{Harness, in_time, logged, until},
    neighbour::Neighbour,
};

/// A full header (fmt 0) on a csid below 64.
fn header(csid: u8, length: usize, type_id: u8) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
    vec![csid, 0, 0, 0, high, middle, low, type_id, 1, 0, 0, 0]
}

/// Sends these bytes as a publisher, and is ended for this reason.
async fn is_ended(harness: &Harness, key: &str, bytes: &[u8], expected: &str) {
    let mut bad = Encoder::publish(harness.address, "live", key).await;
    // It may be ended before it has said everything.
    bad.try_send_raw(bytes).await.ok();
    match in_time("end", bad.said()).await {
        Said::Rejected(description) => assert!(description.contains(expected), "{description}"),
        // What we said was overtaken by a reset.
        Said::Closed => {}
        said @ (Said::AskedToReconnect | Said::Started) => panic!("{said:?}"),
    }
    until("the log line", || logged().contains(expected)).await;
}

async fn connect(harness: &Harness) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let tls = connect_tls(socket, "localhost", trusting_everyone().into()).await;
    tls.unwrap()
}

/// All that an encoder says up to a video message of so many bytes, in one piece.
fn everything_at_once(key: &str, video_bytes: usize) -> Vec<u8> {
    let mut output = BytesMut::from(&handshake::client_opening(&[7; 1528])[..]);
    output.extend_from_slice(&[0; handshake::PACKET_BYTES]);
    let mut writer = ChunkWriter::new();
    let mut message = |type_id, message_stream_id, body: &[u8]| {
        let header = MessageHeader {
            type_id,
            timestamp: 0,
            message_stream_id,
        };
        writer.write(3, header, body, &mut output);
    };
    let command = message_type::COMMAND_AMF0;
    let object = Value::object([("app", Value::text("live"))]);
    let number = Value::Number;
    message(
        command,
        0,
        &encode(&[Value::text("connect"), number(1.0), object]),
    );
    message(
        command,
        0,
        &encode(&[Value::text("createStream"), number(2.0), Value::Null]),
    );
    let publish = [
        Value::text("publish"),
        number(3.0),
        Value::Null,
        Value::text(key),
    ];
    message(command, 1, &encode(&publish));
    for media in media(0..1, video_bytes) {
        let type_id = match media.kind {
            MediaKind::Audio => message_type::AUDIO,
            MediaKind::Script => message_type::DATA_AMF0,
            MediaKind::Video => message_type::VIDEO,
        };
        message(type_id, 1, &media.body);
    }
    output.to_vec()
}

#[tokio::test]
async fn hostile_08_everything_in_one_burst_is_fine_and_is_not_buffered_before_the_decision() {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside-08").await;
    let mut socket = connect(&harness).await;
    let burst = everything_at_once("good-burst", 1 << 20);
    in_time("burst", socket.write_all(&burst)).await.unwrap();
    socket.flush().await.unwrap();
    let origin = &harness.origins[0];
    until("the frame", || {
        origin.opens().iter().any(|open| {
            let frames = origin.session(&open.session_id).frames;
            frames.iter().any(|frame| frame.body.len() >= 1 << 20)
        })
    })
    .await;

    // Control never answers: what comes stays in the sockets' buffers, until the encoder cannot send any more.
    let mut undecided = connect(&harness).await;
    let burst = everything_at_once("hang-on", 16_000_000);
    let before = harness.metric("headwater_received_bytes_total");
    let sending = async {
        for _ in 0..8 {
            undecided.write_all(&burst).await?;
        }
        undecided.flush().await
    };
    assert!(timeout(Duration::from_secs(1), sending).await.is_err());
    let read = harness.metric("headwater_received_bytes_total") - before;
    // The neighbour sends a little in a second.
    assert!(read < 600_000, "{read} bytes were read before the decision");
    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_10_12_unfinished_messages_end_their_own_connection_alone() {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside-10").await;

    let mut streams = Vec::new();
    for id in 0..u16::MAX - 64 {
        streams.extend([1]);
        streams.extend(id.to_le_bytes());
        streams.extend(&header(0, 1, 9)[1..]);
        streams.push(0xAA);
    }
    is_ended(&harness, "good-ten", &streams, "more than 32 chunk streams").await;

    // Two messages of almost 16 MiB in chunks of 15 MiB, of which one comes of each.
    let mut parallel = vec![2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0xF0, 0, 0];
    for csid in 10..12 {
        parallel.extend(header(csid, 0xFF_FFFF, 9));
        parallel.extend(vec![0; 15 << 20]);
    }
    let unfinished = "too much data in unfinished messages";
    is_ended(&harness, "good-twelve", &parallel, unfinished).await;

    // One chunk of each, of the size that this encoder announces.
    let mut partials = Vec::new();
    for csid in 10..20 {
        partials.extend(header(csid, 10_000, 9));
        partials.extend([0; 4096]);
    }
    is_ended(&harness, "good-partials", &partials, unfinished).await;

    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_11_a_drip_ends_its_own_connection_alone() {
    let harness = Harness::start_with(1, |config| {
        config.rtmp.slow_drip_deadline = Duration::from_millis(300);
    })
    .await;
    let neighbour = Neighbour::start(&harness, "beside-11").await;
    let mut drip = Encoder::publish(harness.address, "live", "good-eleven").await;
    drip.send_all(&media(0..1, 10)).await;
    drip.send_raw(&header(20, 0xFF_FFFF, 9)).await;
    let ended = async {
        while drip.try_send_raw(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("the drip's end", ended).await;
    until("the log line", || {
        logged().contains("a complete message took too long")
    })
    .await;
    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_38_of_two_that_race_for_one_key_one_publishes() {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside-38").await;
    for round in 0..5 {
        let key = format!("reject-race{round}");
        let (mut first, mut second) = tokio::join!(
            Encoder::connect(harness.address, "live", &key),
            Encoder::connect(harness.address, "live", &key),
        );
        let (one, other) = tokio::join!(first.said(), second.said());
        let refused = Said::Rejected("This stream is already being published".to_owned());
        let (winner, loser) = match (one, other) {
            (Said::Started, other) => (first, other),
            (one, Said::Started) => (second, one),
            both => panic!("{both:?}"),
        };
        assert_eq!(loser, refused);
        winner.finish().await;
    }
    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_41_guessing_keys_is_slowed_down_and_then_takes_turns() {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside-41").await;
    let started = Instant::now();
    let mut said = Vec::new();
    while !said
        .iter()
        .any(|said| *said != Said::Rejected(DENIED.to_owned()))
    {
        assert!(said.len() < 400, "nobody is ever stopped");
        let mut guesses = tokio::task::JoinSet::new();
        for number in 0..20 {
            let address = harness.address;
            guesses.spawn(async move {
                let key = format!("guess-{number}");
                Encoder::connect(address, "live", &key).await.said().await
            });
        }
        said.extend(in_time("answers", guesses.join_all()).await);
    }
    let told = "Too many attempts from this address were refused, please try again in a minute";
    for said in said {
        let Said::Rejected(said) = said else {
            panic!("{said:?}");
        };
        assert!(said == told || said == DENIED, "{said}");
    }
    let asked = harness.control.requests().len() - 1;
    let forgotten = usize::try_from(started.elapsed().as_secs()).unwrap();
    println!("{asked} guesses in {:?} reached control", started.elapsed());
    assert!((60..=60 + 20 + forgotten + 1).contains(&asked), "{asked}");
    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_41_a_key_gets_in_from_an_address_that_never_stops_guessing() {
    const GUESSERS: usize = 4;
    const GOAL: Duration = Duration::from_secs(5);
    let harness = Harness::start(1).await;
    let address = harness.address;
    let guess = async move || {
        let mut encoder = Encoder::connect(address, "live", "guess").await;
        encoder.said().await
    };
    // Well past what is asked before turns are taken.
    let many = (0..100).map(|_| guess());
    in_time("answers", join_all(many)).await;
    let mut guessers = tokio::task::JoinSet::new();
    for _ in 0..GUESSERS {
        guessers.spawn(async move {
            loop {
                guess().await;
            }
        });
    }
    let asked = || harness.control.requests().len();
    let burst = asked();
    until("guessers that wait", || asked() > burst).await;
    let (before, started) = (asked(), Instant::now());
    let mut encoder = Encoder::connect(harness.address, "live", "good-behind").await;
    assert_eq!(in_time("turn", encoder.said()).await, Said::Started);
    let elapsed = started.elapsed();
    println!(
        "beside {GUESSERS} guessers of the same address: live after {elapsed:?} (goal {GOAL:?})"
    );
    assert!(elapsed < GOAL * 5, "{elapsed:?}");
    let meanwhile = asked() - before;
    // Where one is forgotten just then, all who wait may be let through at once.
    let most = usize::try_from(elapsed.as_secs()).unwrap() + 2 + GUESSERS;
    assert!(meanwhile <= most, "{meanwhile} were asked in {elapsed:?}");
    encoder.finish().await;
}

#[tokio::test]
async fn hostile_51_a_flood_of_messages_ends_its_own_connection_alone() {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside-51").await;
    // One full header, then fmt 3 alone: two bytes a message.
    let mut flood = header(4, 1, 8);
    flood.push(0xAF);
    flood.extend([0xC4, 0xAF].repeat(100_000));
    is_ended(&harness, "good-flood", &flood, "too many messages").await;
    // And messages of no length at all: one byte each.
    let mut empty = header(4, 0, 8);
    empty.extend([0xC4].repeat(100_000));
    is_ended(&harness, "good-empty", &empty, "too many messages").await;
    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_52_a_bitrate_above_the_ceiling_is_held_back_and_then_ended() {
    let harness = Harness::start_with(1, |config| {
        config.connections.bytes_per_second_max = 400_000;
        config.connections.bitrate_patience = Duration::from_secs(1);
    })
    .await;
    let neighbour = Neighbour::start(&harness, "beside-52").await;
    let before = harness.metric("headwater_received_bytes_total");
    let mut bad = Encoder::publish(harness.address, "live", "good-torrent").await;
    let started = Instant::now();
    let torrent = MediaMessage {
        kind: MediaKind::Video,
        timestamp: 0,
        body: vec![0x27; 12 << 20].into(),
    };
    // What it is sending when it is ended does not go out.
    timeout(Duration::from_secs(20), bad.send(&torrent))
        .await
        .ok();
    let told = "The stream's bitrate is above what is allowed here";
    until("the end", || logged().contains(told)).await;
    let read = harness.metric("headwater_received_bytes_total") - before;
    let seconds = started.elapsed().as_secs_f64();
    println!("{read} bytes were read in {seconds:.1} s at a ceiling of 400 kB/s");
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let allowed = read as f64 <= 400_000.0 * (seconds + 2.0);
    assert!(allowed, "{read} bytes in {seconds} s");
    drop(bad);
    neighbour.lost_nothing(&harness).await;
}

#[tokio::test]
async fn hostile_55_a_reset_between_the_start_and_the_first_media_leaves_nothing() {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside-55").await;
    for resets in [true, false] {
        let socket = TcpStream::connect(harness.address).await.unwrap();
        if resets {
            let linger = Some(Duration::ZERO);
            SockRef::from(&socket).set_linger(linger).unwrap();
        }
        let mut gone = Encoder::over(socket, "live", "reject-gone").await;
        assert_eq!(gone.said().await, Said::Started);
        drop(gone);
        only_the_neighbour_is_left(&harness).await;
    }
    // And one that leaves while it is decided on.
    let mut undecided = Encoder::connect(harness.address, "live", "hang-on").await;
    let asked = harness.control.requests().len();
    tokio::select! {
        said = undecided.said() => panic!("no answer yet: {said:?}"),
        () = until("the question", || harness.control.requests().len() > asked) => {}
    }
    drop(undecided);
    let aborted =
        "headwater_publish_attempts_total{app=\"\",outcome=\"refused\",reason=\"aborted\"}";
    until("the abort", || harness.metric(aborted) == 1).await;
    only_the_neighbour_is_left(&harness).await;
    neighbour.lost_nothing(&harness).await;
}

async fn only_the_neighbour_is_left(harness: &Harness) {
    let only = async {
        while harness.leases().await.len() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("released leases", only).await;
    until("one connection", || {
        harness.metric("headwater_connections_active") == 1
    })
    .await;
}
