//! RTMP players on real sockets.

use std::collections::VecDeque;

use bytes::BytesMut;
use rtmp::{
    ClientConfig, ClientEvent, ClientSession, MediaKind, MediaMessage, Purpose, StreamKeyText,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::*;

/// A player of ours.
pub(super) struct RtmpPlayer {
    socket: TcpStream,
    session: ClientSession,
    input: BytesMut,
    events: VecDeque<ClientEvent>,
}

impl RtmpPlayer {
    pub(super) async fn connect(address: SocketAddr, app: &str, name: &str) -> Self {
        Self::with(TcpStream::connect(address).await.unwrap(), app, name)
    }

    fn with(socket: TcpStream, app: &str, name: &str) -> Self {
        let config = ClientConfig {
            purpose: Purpose::Play,
            app: app.to_owned(),
            tc_url: format!("rtmp://origin/{app}"),
            name: StreamKeyText::new(name.to_owned()),
            flash_ver: "LNX 9,0,124,2".to_owned(),
            chunk_bytes_out: 128,
            caps_ex: 0,
        };
        let now = std::time::Instant::now();
        Self {
            socket,
            session: ClientSession::new(config, &[1; 1528], now),
            input: BytesMut::new(),
            events: VecDeque::new(),
        }
    }

    /// What comes next; `None` once the origin has closed.
    async fn next(&mut self) -> Option<ClientEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            while let Some(bytes) = self.session.poll_transmit() {
                self.socket.write_all(&bytes).await.ok()?;
            }
            let read = self.socket.read_buf(&mut self.input);
            let read = tokio::time::timeout(PATIENCE, read).await;
            if read.expect("something comes").ok()? == 0 {
                return None;
            }
            let now = std::time::Instant::now();
            self.session.handle_input(&mut self.input, now).unwrap();
            self.events
                .extend(std::iter::from_fn(|| self.session.poll_event()));
        }
    }

    pub(super) async fn started(mut self) -> Self {
        assert_eq!(self.next().await, Some(ClientEvent::PlayStarted));
        let Some(ClientEvent::Media(access)) = self.next().await else {
            panic!("|RtmpSampleAccess comes first");
        };
        assert_eq!(access.kind, MediaKind::Script);
        self
    }

    async fn media(&mut self) -> MediaMessage {
        match self.next().await {
            Some(ClientEvent::Media(media)) => media,
            other => panic!("media come, not {other:?}"),
        }
    }

    /// All that comes to the stream's end.
    pub(super) async fn until_the_end(mut self) -> Vec<MediaMessage> {
        let mut media = Vec::new();
        loop {
            match self.next().await {
                Some(ClientEvent::Media(message)) => media.push(message),
                Some(ClientEvent::PlayEnded) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.next().await, None, "the origin closes");
        let last = media.pop().unwrap();
        assert_eq!(last.kind, MediaKind::Script, "|RtmpSampleAccess comes last");
        media
    }

    /// What the origin says instead of playing.
    async fn refusal(mut self) -> (String, String) {
        let Some(ClientEvent::Rejected { code, description }) = self.next().await else {
            panic!("a refusal comes");
        };
        assert_eq!(self.next().await, None, "the origin closes");
        (code, description)
    }
}

fn message(frame: &Frame) -> MediaMessage {
    MediaMessage {
        kind: match frame.kind {
            FrameKind::Audio => MediaKind::Audio,
            FrameKind::Script => MediaKind::Script,
            FrameKind::Video => MediaKind::Video,
        },
        timestamp: u32::try_from(frame.timestamp_ms).unwrap(),
        body: flv::player_body(frame),
    }
}

fn with_token(name: &str) -> String {
    format!("{name}?token={CREDENTIAL}")
}

/// HEVC, Opus, and a second track of each: bodies that a player without Enhanced RTMP does not know.
fn enhanced(timestamp_ms: i64) -> Vec<Frame> {
    let bodies: [(FrameKind, &[u8]); 8] = [
        (FrameKind::Video, b"\x90hvc1\x01\x01\x60\0\0\0"),
        (FrameKind::Video, b"\xd4hvc1\x02\0\x09colorInfo\x05"),
        (
            FrameKind::Audio,
            b"\x90OpusOpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0",
        ),
        (FrameKind::Audio, b"\x94Opus\x01\x02\0\0\0\x03"),
        (FrameKind::Video, b"\x91hvc1\0\0\x43\0\0\0\x02\x26\x01"),
        (FrameKind::Video, b"\x96\x01avc1\x01\0\0\0\0\0\0\x01\x65"),
        (FrameKind::Audio, b"\x95\x01Opus\x01\xfc\xff\xfe"),
        (FrameKind::Audio, b"\x91Opus\xfc\xff\xfe"),
    ];
    bodies
        .iter()
        .map(|(kind, body)| flv::parse_or_opaque(*kind, timestamp_ms, Bytes::from_static(body)))
        .collect()
}

#[tokio::test]
async fn a_player_that_waits_for_the_stream_gets_every_body_as_published() {
    let origin = start(config()).await;
    let player = RtmpPlayer::connect(origin.rtmp, "live", &(with_token("main") + "&wait=20")).await;
    let player = tokio::spawn(async { player.started().await.until_the_end().await });
    eventually("the player waits", async || origin.waiting(1)).await;
    let mut frames = recording(2);
    // More than a chunk, and more than what is gathered.
    frames.push(video(0x17, 800, 200_000));
    frames.push(video(0x27, 840, 20_000));
    frames.push(audio(790));
    frames.extend(enhanced(840));
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&frames).await;
    publisher.close("done").await;
    let expected: Vec<_> = frames.iter().map(message).collect();
    let played = player.await.unwrap();
    for (played, expected) in played.iter().zip(&expected) {
        assert_eq!(played, expected);
    }
    assert_eq!(played.len(), expected.len());
}

#[tokio::test]
async fn a_late_player_gets_headers_and_the_current_gop_near_zero() {
    let origin = start(config()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut frames = recording(2);
    frames[12..]
        .iter_mut()
        .for_each(|f| f.timestamp_ms += 90_000_000_000);
    publisher.publish(&frames).await;
    // The token in the app, where OBS-like clients put a query.
    let app = with_token("live");
    let player = RtmpPlayer::connect(origin.rtmp, &app, "main").await;
    let player = player.started().await;
    let text = origin.metrics.encode();
    assert!(text.contains("headwater_origin_subscribers_active{output=\"rtmp\"} 1\n"));
    publisher.close("done").await;
    let base_ms = frames[12].timestamp_ms - 500;
    let mut expected = vec![metadata(), video_header()];
    expected.iter_mut().for_each(|f| f.timestamp_ms = 500);
    expected.extend(frames[12..].iter().cloned().map(|mut frame| {
        frame.timestamp_ms -= base_ms;
        frame
    }));
    let expected: Vec<_> = expected.iter().map(message).collect();
    assert!(player.until_the_end().await == expected);
}

#[tokio::test]
async fn refusals_are_readable_and_do_not_tell_a_wrong_token_from_none() {
    let origin = start(config()).await;
    let token = "A valid token is required: rtmp://host/application/stream?token=TOKEN";
    let failed = "NetStream.Play.Failed";
    let not_found = "NetStream.Play.StreamNotFound";
    for (app, name, code, description) in [
        ("live", "main", failed, token),
        ("live", "main?token=", failed, token),
        ("live", "main?token=no", failed, token),
        (
            "live",
            "?token=let-me-in",
            not_found,
            "A stream is at rtmp://host/application/stream.",
        ),
        (
            "live",
            "main?token=let-me-in",
            not_found,
            "No such stream is live.",
        ),
        (
            "live",
            "main?token=let-me-in&wait=1",
            not_found,
            "No such stream is live.",
        ),
    ] {
        let player = RtmpPlayer::connect(origin.rtmp, app, name).await;
        let refusal = player.refusal().await;
        assert_eq!(
            refusal,
            (code.to_owned(), description.to_owned()),
            "{app} {name}"
        );
    }
    origin.shutdown.drain();
}

#[tokio::test]
async fn a_full_origin_says_so() {
    let mut config = config();
    config.limits.subscribers_max = 0;
    let origin = start(config).await;
    let player = RtmpPlayer::connect(origin.rtmp, "live", &with_token("main")).await;
    let (_, description) = player.refusal().await;
    assert_eq!(description, "This origin takes no more players.");
}

#[tokio::test]
async fn who_waits_is_told_of_a_drain_and_who_leaves_waits_no_longer() {
    let origin = start(config()).await;
    let name = with_token("main") + "&wait=60";
    let player = RtmpPlayer::connect(origin.rtmp, "live", &name).await;
    let leaving = RtmpPlayer::connect(origin.rtmp, "live", &name).await;
    let player = tokio::spawn(player.refusal());
    let leaving = tokio::spawn(leaving.refusal());
    eventually("both wait", async || origin.waiting(2)).await;
    leaving.abort();
    eventually("one has left", async || origin.waiting(1)).await;
    origin.shutdown.drain();
    let (_, description) = player.await.unwrap();
    assert_eq!(description, "This origin is leaving.");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let mut config = config();
    config.timing.rtmp_handshake_timeout = Duration::from_millis(50);
    let origin = start(config).await;
    for said in [
        &b""[..],
        b"\x03",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(origin.rtmp).await.unwrap();
        socket.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        // An error is a reset, since not all was read.
        tokio::time::timeout(PATIENCE, read).await.unwrap().ok();
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn a_slow_player_goes_on_at_a_keyframe() {
    let mut config = config();
    config.log.bytes_max = 2_000_000;
    config.timing.rtmp_write_timeout = PATIENCE;
    let origin = start(config).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&[metadata(), video_header()]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let socket = socket.connect(origin.rtmp).await.unwrap();
    let player = RtmpPlayer::with(socket, "live", &with_token("main"));
    let mut player = player.started().await;
    // Far more than what the sockets and the log hold.
    let frames: Vec<_> = (0..400)
        .map(|n| video(if n % 10 == 0 { 0x17 } else { 0x27 }, n * 40, 50_000))
        .collect();
    for frames in frames.chunks(10) {
        publisher.publish(frames).await;
    }
    let gaps = "headwater_origin_gaps_total{output=\"rtmp\"}";
    assert!(
        !origin.metrics.encode().contains(gaps),
        "nothing was missed yet"
    );
    publisher.close("done").await;
    let mut media = Vec::new();
    for _ in 0..2 {
        media.push(player.media().await);
    }
    media.extend(player.until_the_end().await);
    assert!(
        origin.metrics.encode().contains(gaps),
        "something was missed"
    );
    let published: Vec<_> = frames.iter().map(message).collect();
    let mut last = None;
    for message in media.iter().filter(|message| message.body[1] == 1) {
        let at = published.iter().position(|published| published == message);
        let at = at.expect("each body and time is one that was published");
        let follows = last.is_none_or(|last| at == last + 1);
        assert!(
            follows || message.body[0] == 0x17,
            "behind a gap comes a keyframe"
        );
        last = Some(at);
    }
    assert_eq!(last, Some(399), "the last frame is there");
}

#[tokio::test]
async fn hostile_53_players_that_never_read_cost_little_and_are_given_up() {
    const DEAF: usize = 300;
    let mut config = config();
    config.timing.rtmp_write_timeout = Duration::from_secs(2);
    let origin = start(config).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher
        .publish(&[metadata(), video_header(), keyframe(0)])
        .await;
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let socket = socket.connect(origin.rtmp).await.unwrap();
        let player = RtmpPlayer::with(socket, "live", &with_token("main"));
        deaf.push(player.started().await);
    }
    let good = RtmpPlayer::connect(origin.rtmp, "live", &with_token("main")).await;
    let good = tokio::spawn(good.started().await.until_the_end());
    let players = |count: usize| {
        let line = format!("headwater_origin_subscribers_active{{output=\"rtmp\"}} {count}\n");
        origin.metrics.encode().contains(&line)
    };
    assert!(players(DEAF + 1));
    let before = resident_bytes();
    let mut frames = vec![metadata(), video_header(), keyframe(0)];
    let mut most = before;
    // 12 MB, more than a socket holds: what a player does not take must be nowhere.
    for n in 1..=240 {
        let frame = video(if n % 10 == 0 { 0x17 } else { 0x27 }, n * 40, 50_000);
        publisher.publish(std::slice::from_ref(&frame)).await;
        frames.push(frame);
        most = most.max(resident_bytes());
    }
    let grown = most.saturating_sub(before);
    println!(
        "hostile_53: {DEAF} players that never read: {} KiB more",
        grown / 1024
    );
    // A copy of the stream for each would be 3.6 GB. Other tests of this process take memory too.
    assert!(grown < 360 * 1024 * 1024, "{grown} bytes");
    let begun = std::time::Instant::now();
    eventually("the deaf are given up", async || players(1)).await;
    println!(
        "hostile_53: given up {:?} after the last frame",
        begun.elapsed()
    );
    publisher.close("done").await;
    let expected: Vec<_> = frames.iter().map(message).collect();
    assert!(
        good.await.unwrap() == expected,
        "the good player misses nothing"
    );
    drop(deaf);
}

/// Of this process.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = pages.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * 4096
}
