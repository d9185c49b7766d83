//! What holds for every input: where the stream is cut makes no difference, and nothing panics.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/wire.rs"]
mod wire;

use bytes::BytesMut;
use proptest::prelude::*;
use rtmp::amf0::{Decoder, Value};
use rtmp::{ConnectRequest, PublishPath, message_type};
use wire::{Script, Server, call};

/// What came of a stream of bytes: events and replies as text, and the error if there was one. Acknowledgements are
/// left out: how many there are depends on how much is read at a time.
fn outcome(pieces: impl Iterator<Item = Vec<u8>>) -> (String, Vec<rtmp::Message>, Option<String>) {
    let mut server = Server::new();
    let mut error = None;
    for piece in pieces {
        if let Err(failure) = server.feed(&piece) {
            error = Some(failure.to_string());
            break;
        }
        if server.session.is_closing() {
            break;
        }
    }
    let mut replies = if server.output.is_empty() {
        Vec::new()
    } else {
        server.replies()
    };
    replies.retain(|reply| reply.type_id != message_type::ACKNOWLEDGEMENT);
    (format!("{:?}", server.events), replies, error)
}

fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2)
        .map(|pair| bytes[pair[0]..pair[1]].to_vec())
        .collect()
}

/// What a publisher may do.
#[derive(Clone, Debug)]
enum Step {
    Abort(u8),
    ChunkSize(u32),
    Command,
    Message {
        csid: u32,
        type_id: u8,
        timestamp: u32,
        bytes: usize,
    },
    Ping,
    UnrepeatedTimestamp {
        timestamp: u32,
        bytes: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let timestamp = prop_oneof![
        0_u32..100_000,
        0xFF_FF00_u32..0x100_0100,
        0x7FFF_FF00_u32..0x8000_0100,
        0xFFFF_FF00_u32..=u32::MAX,
    ];
    prop_oneof![
        1 => (2_u8..10).prop_map(Step::Abort),
        1 => (128_u32..5_000).prop_map(Step::ChunkSize),
        1 => Just(Step::Command),
        8 => (
            prop_oneof![3_u32..8, Just(63), Just(64), Just(319), Just(320), Just(65_599)],
            prop_oneof![Just(8_u8), Just(9), Just(15), Just(18), Just(22), Just(99)],
            timestamp.clone(),
            0_usize..2_000,
        )
            .prop_map(|(csid, type_id, timestamp, bytes)| Step::Message {
                csid,
                type_id,
                timestamp,
                bytes,
            }),
        1 => Just(Step::Ping),
        2 => (timestamp, 1_usize..400)
            .prop_map(|(timestamp, bytes)| Step::UnrepeatedTimestamp { timestamp, bytes }),
    ]
}

fn publisher(steps: &[Step]) -> BytesMut {
    let mut script = Script::published();
    let mut chunk_bytes = 128;
    for step in steps {
        match *step {
            Step::Abort(csid) => script.control(message_type::ABORT, &[0, 0, 0, csid]),
            Step::ChunkSize(bytes) => {
                script.chunk_bytes(bytes);
                chunk_bytes = bytes as usize;
            }
            Step::Command => script.command(3, 0, &call("x", 9.0, &[Value::text("y")])),
            Step::Message {
                csid,
                type_id,
                timestamp,
                bytes,
            } => {
                let body: Vec<u8> = (0..bytes).map(|i| (i % 7) as u8).collect();
                script.message(csid, type_id, timestamp, 1, &body);
            }
            Step::Ping => script.control(message_type::USER_CONTROL, &[0, 6, 1, 2, 3, 4]),
            Step::UnrepeatedTimestamp { timestamp, bytes } => {
                script.raw_full_header(9, timestamp, bytes, 9);
                // Payload that begins like the timestamp would.
                let body = timestamp.to_be_bytes()[..3].repeat(bytes);
                for (index, chunk) in body[..bytes].chunks(chunk_bytes).enumerate() {
                    if index > 0 {
                        script.raw(&[0xC9]);
                    }
                    script.raw(chunk);
                }
            }
        }
    }
    script.bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_events_and_replies(
        steps in prop::collection::vec(step(), 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let bytes = publisher(&steps);
        let whole = outcome([bytes.to_vec()].into_iter());
        prop_assert_eq!(&outcome(cut(&bytes, &cuts).into_iter()), &whole);
        prop_assert_eq!(&outcome(bytes.iter().map(|byte| vec![*byte])), &whole);
    }

    #[test]
    fn any_mutation_of_a_stream_is_survived_and_cut_the_same(
        steps in prop::collection::vec(step(), 0..20),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut bytes = publisher(&steps);
        for (at, byte) in mutations {
            let at = 3073 + at.index(bytes.len() - 3073);
            bytes[at] = byte;
        }
        let whole = outcome([bytes.to_vec()].into_iter());
        prop_assert_eq!(outcome(cut(&bytes, &cuts).into_iter()), whole);
    }

    #[test]
    fn garbage_is_survived(
        garbage in prop::collection::vec(any::<u8>(), 0..4_000),
        stage in 0..4,
    ) {
        let mut script = match stage {
            0 => { let mut nothing = Script::new(); drop(nothing.bytes.split()); nothing }
            1 => Script::new(),
            2 => Script::connected(),
            _ => Script::published(),
        };
        script.raw(&garbage);
        outcome([script.bytes.to_vec()].into_iter());
    }

    #[test]
    fn garbage_in_amf0_is_survived(
        garbage in prop::collection::vec(prop_oneof![0_u8..0x12, any::<u8>()], 0..300),
    ) {
        for mut decoder in [Decoder::command(&garbage, 1_000), Decoder::data(&garbage, 1_000)] {
            while !decoder.is_empty() && decoder.value().is_ok() {}
        }
    }

    #[test]
    fn any_name_is_taken_apart_or_refused(app in ".{0,40}", tc_url in ".{0,40}", name in ".{0,40}") {
        let connect = ConnectRequest { app, tc_url, ..ConnectRequest::default() };
        if let Ok(path) = PublishPath::split(&connect, name.as_bytes()) {
            prop_assert!(!path.app.is_empty() && !path.stream_key.expose().is_empty());
            prop_assert!(path.app.split('/').all(|segment| !segment.is_empty() && segment != ".."));
        }
    }
}
