//! What real encoders sent, as `make test-encoders ARGS=--record` recorded it (crates/rtmp/tests/transcripts): read by
//! the product as by the tests' own reader, which wrote the texts beside the recordings; in any pieces the same.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use bytes::{Bytes, BytesMut};
use media::{FrameKind, PartType, Tracks, codec, flv};
use rtmp::{EndCause, MediaKind, MediaMessage, ServerConfig, ServerEvent, ServerSession};

struct Recording {
    name: String,
    sent: Vec<u8>,
    described: String,
}

fn recordings() -> Vec<Recording> {
    let directory =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crates/rtmp/tests/transcripts");
    let mut recordings = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "rtmp")
        {
            recordings.push(Recording {
                name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                sent: fs::read(&path).unwrap(),
                described: fs::read_to_string(path.with_extension("txt")).unwrap(),
            });
        }
    }
    assert!(recordings.len() >= 10, "every encoder has one");
    recordings
}

#[test]
fn every_encoder_is_understood_in_any_pieces() {
    for Recording {
        name,
        sent,
        described,
    } in recordings()
    {
        for piece in [sent.len(), 4096, 1000, 127, 3, 1] {
            let (text, _) = read(&sent, piece);
            let first = text
                .lines()
                .zip(described.lines())
                .find(|(got, expected)| got != expected);
            assert_eq!(first, None, "{name} in pieces of {piece} bytes");
            assert_eq!(text, described, "{name} in pieces of {piece} bytes");
        }
    }
}

#[test]
fn every_frame_of_every_encoder_is_known_down_to_its_codec() {
    for Recording { name, sent, .. } in recordings() {
        let (mut codecs, mut tracks) = (BTreeMap::new(), Tracks::default());
        for message in read(&sent, sent.len()).1 {
            let kind = match message.kind {
                MediaKind::Audio => FrameKind::Audio,
                MediaKind::Script => FrameKind::Script,
                MediaKind::Video => FrameKind::Video,
            };
            let timestamp_ms = message.timestamp.into();
            let mut frame = flv::parse(kind, timestamp_ms, message.body).unwrap();
            // Their flags and their pictures agree.
            assert_eq!(tracks.correct(&mut frame), [], "{name}: {frame:?}");
            assert_eq!(flv::without_adts(&frame), None, "{name}: {frame:?}");
            tracks.update(&frame);
            assert!(
                kind == FrameKind::Script || !frame.parts.is_empty(),
                "{name}: {frame:?}"
            );
            for part in &frame.parts {
                if part.part_type == PartType::SequenceHeader {
                    let header = part.payload(&frame.body);
                    let configuration = codec::parse(part.codec, header).unwrap();
                    codecs.insert((kind, part.track), configuration.codec_string);
                }
            }
        }
        println!("{name}: {codecs:?}");
        let first = |kind| {
            codecs
                .get(&(kind, 0))
                .map(String::as_str)
                .unwrap_or_default()
        };
        let video = if name.contains("hevc") {
            "hvc1."
        } else {
            "avc1."
        };
        let audio = if name.contains("opus") {
            "opus"
        } else {
            "mp4a.40.2"
        };
        assert!(
            first(FrameKind::Video).starts_with(video),
            "{name}: {codecs:?}"
        );
        assert!(
            first(FrameKind::Audio).eq_ignore_ascii_case(audio),
            "{name}: {codecs:?}"
        );
        assert_eq!(
            codecs.len(),
            if name.contains("multitrack") { 4 } else { 2 }
        );
    }
}

/// What a server makes of it, a line for each event, and the media.
fn read(sent: &[u8], piece: usize) -> (String, Vec<MediaMessage>) {
    let now = Instant::now();
    let mut session = ServerSession::new(ServerConfig::default(), &[0x51; 1528], now);
    let (mut input, mut lines, mut media) = (BytesMut::new(), Vec::new(), Vec::new());
    for piece in sent.chunks(piece) {
        input.extend_from_slice(piece);
        session.handle_input(&mut input, now).unwrap();
        while let Some(event) = session.poll_event() {
            if let ServerEvent::PublishRequested(_) = event {
                session.accept_publish(now);
                session.handle_input(&mut input, now).unwrap();
            }
            lines.extend(line(&event));
            if let ServerEvent::Media(message) = event {
                media.push(message);
            }
        }
        while session.poll_transmit().is_some() {}
    }
    (lines.concat(), media)
}

fn line(event: &ServerEvent) -> Option<String> {
    Some(match event {
        ServerEvent::Media(MediaMessage {
            kind,
            timestamp,
            body,
        }) => {
            let checksum = crc32fast::hash(&Bytes::clone(body));
            format!("{kind:?} {timestamp} {} {checksum:08x}\n", body.len())
        }
        ServerEvent::PublishEnded(EndCause::FcUnpublish) => "end FCUnpublish\n".to_owned(),
        ServerEvent::PublishEnded(EndCause::DeleteStream) => "end deleteStream\n".to_owned(),
        ServerEvent::PublishRequested(request) => {
            let query = request.query.iter();
            let query: Vec<String> = query
                .map(|(name, value)| format!("{name}={}", value.expose()))
                .collect();
            let name = format!("{}?{}", request.stream_key.expose(), query.join("&"));
            format!(
                "connect {} {}\npublish {name}\n",
                request.app, request.encoder
            )
        }
        other @ (ServerEvent::AdobeChallengeRequested { .. }
        | ServerEvent::Ponged(_)
        | ServerEvent::PublishEnded(_)) => panic!("{other:?}"),
    })
}
