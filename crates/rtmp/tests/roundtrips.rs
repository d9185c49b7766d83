//! What is written is what is read: AMF0, AMF3, chunks in any legal order, and a whole session over a bad network.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/amf3.rs"]
mod amf3_encoder;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/wire.rs"]
mod wire;

use amf3_encoder::Tree;
use bytes::BytesMut;
use pair::Pair;
use proptest::prelude::*;
use rtmp::amf0::{self, encode};
use rtmp::chunk::{Bounds, ChunkReader, ChunkWriter, MessageHeader};
use rtmp::limits::Limits;
use rtmp::{MediaKind, MediaMessage, Message, ServerEvent, amf3};

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        Just(Tree::Undefined),
        any::<bool>().prop_map(Tree::Boolean),
        (-300_000_000_i32..300_000_000).prop_map(|number| Tree::Number(number.into())),
        any::<f64>()
            .prop_filter("comparable", |number| !number.is_nan())
            .prop_map(Tree::Number),
        "[a-c]{0,3}|.{0,20}".prop_map(Tree::Text),
        any::<f64>()
            .prop_filter("comparable", |number| !number.is_nan())
            .prop_map(Tree::Date),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Tree::Xml),
    ];
    // Keys and classes come again, so that AMF3 refers to them.
    leaf.prop_recursive(5, 60, 6, |inner| {
        let members = prop::collection::vec(("[a-d]{1,2}", inner.clone()), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Tree::Array),
            ("(|A|B)", members).prop_map(|(class, members)| Tree::Object { class, members }),
        ]
    })
}

/// A timestamp, often near an edge: where the extended field begins, where the sign is, where it wraps.
fn timestamp() -> impl Strategy<Value = u32> {
    prop_oneof![
        0_u32..100_000,
        0xFF_FFF0_u32..0x100_0010,
        0x7FFF_FFF0_u32..0x8000_0010,
        0xFFFF_FFF0_u32..=u32::MAX,
        any::<u32>(),
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    chunk_stream_id: u32,
    header: MessageHeader,
    body: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let id = prop_oneof![
        2_u32..8,
        Just(63),
        Just(64),
        Just(319),
        Just(320),
        Just(65_599)
    ];
    let body = prop::collection::vec(any::<u8>(), 0..600);
    (id, any::<u8>(), timestamp(), 0_u32..3, body).prop_map(
        |(chunk_stream_id, type_id, timestamp, message_stream_id, body)| Sent {
            chunk_stream_id,
            header: MessageHeader {
                type_id,
                timestamp,
                message_stream_id,
            },
            body,
        },
    )
}

fn reader(chunk_bytes: u32) -> ChunkReader {
    let mut reader = ChunkReader::new(Bounds::publishing(&Limits::default()));
    reader.set_chunk_bytes(chunk_bytes);
    reader
}

fn read_all(reader: &mut ChunkReader, mut bytes: BytesMut) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(message) = reader.read(&mut bytes).unwrap() {
        messages.push(message);
    }
    assert!(bytes.is_empty());
    messages
}

fn is_same(message: &Message, sent: &Sent) -> bool {
    let header = sent.header;
    message.type_id == header.type_id
        && message.timestamp == header.timestamp
        && message.message_stream_id == header.message_stream_id
        && message.body == sent.body
}

/// The chunks of a message with a full header: what an encoder may do that never compresses headers.
fn chunks(id: u8, timestamp: u32, body: &[u8], chunk_bytes: usize, repeats: bool) -> Vec<Vec<u8>> {
    let extended = (timestamp >= 0xFF_FFFF).then_some(timestamp.to_be_bytes());
    let mut header = vec![id];
    header.extend(&timestamp.min(0xFF_FFFF).to_be_bytes()[1..]);
    header.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    header.extend([9, 1, 0, 0, 0]);
    header.extend(extended.iter().flatten());
    let mut pieces = body.chunks(chunk_bytes);
    header.extend(pieces.next().unwrap_or_default());
    let mut chunks = vec![header];
    for piece in pieces {
        let mut chunk = vec![0xC0 | id];
        chunk.extend(extended.iter().filter(|_| repeats).flatten());
        chunk.extend(piece);
        chunks.push(chunk);
    }
    chunks
}

fn media() -> impl Strategy<Value = MediaMessage> {
    let kind = prop_oneof![Just(MediaKind::Audio), Just(MediaKind::Video)];
    (kind, timestamp(), 0_usize..9_000).prop_map(|(kind, timestamp, bytes)| MediaMessage {
        kind,
        timestamp,
        body: (0..bytes)
            .map(|i| (i % 253) as u8)
            .collect::<Vec<_>>()
            .into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn amf0_is_read_as_it_was_written(trees in prop::collection::vec(tree(), 1..4)) {
        let values: Vec<_> = trees.iter().map(Tree::value).collect();
        let bytes = encode(&values);
        let mut decoder = amf0::Decoder::command(&bytes, 4_096);
        for value in &values {
            prop_assert_eq!(&decoder.value().unwrap(), value);
        }
        prop_assert!(decoder.is_empty() && !decoder.holds_amf3());
    }

    #[test]
    fn amf3_is_read_as_it_was_written_alone_and_behind_the_switch(
        trees in prop::collection::vec(tree(), 1..4),
    ) {
        let mut encoder = amf3_encoder::Encoder::default();
        let mut alone = Vec::new();
        let mut switched = Vec::new();
        for tree in &trees {
            let bytes = encoder.encode(tree);
            switched.push(0x11);
            switched.extend(&bytes);
            alone.extend(&bytes);
        }
        let mut decoder = amf3::Decoder::new(&alone, 4_096);
        let mut behind = amf0::Decoder::command(&switched, 4_096);
        for tree in &trees {
            prop_assert_eq!(decoder.value().unwrap(), tree.value());
            prop_assert_eq!(behind.value().unwrap(), tree.value());
        }
        prop_assert!(decoder.is_empty() && behind.is_empty());
        // And once more, as what a player of FLV gets.
        let values: Vec<_> = trees.iter().map(Tree::value).collect();
        let translated = encode(&values);
        let mut decoder = amf0::Decoder::data(&translated, 4_096);
        for value in &values {
            prop_assert_eq!(&decoder.value().unwrap(), value);
        }
    }

    #[test]
    fn garbage_in_amf3_is_survived(
        garbage in prop::collection::vec(prop_oneof![0_u8..0x13, any::<u8>()], 0..300),
    ) {
        let mut decoder = amf3::Decoder::new(&garbage, 1_000);
        while !decoder.is_empty() && decoder.value().is_ok() {}
    }

    #[test]
    fn chunks_are_read_as_they_were_written(
        sent in prop::collection::vec(sent(), 0..20),
        chunk_bytes in prop_oneof![1_u32..300, Just(0x7FFF_FFFF)],
    ) {
        let mut writer = ChunkWriter::new();
        writer.set_chunk_bytes(chunk_bytes);
        let mut bytes = BytesMut::new();
        for message in &sent {
            writer.write(message.chunk_stream_id, message.header, &message.body, &mut bytes);
        }
        let came = read_all(&mut reader(chunk_bytes), bytes);
        prop_assert_eq!(came.len(), sent.len());
        for (message, sent) in came.iter().zip(&sent) {
            prop_assert!(is_same(message, sent), "{:?} is not {:?}", message, sent.header);
        }
    }

    #[test]
    fn chunk_streams_may_be_interleaved_in_any_way(
        streams in prop::collection::vec(
            prop::collection::vec((timestamp(), prop::collection::vec(any::<u8>(), 1..900)), 1..4),
            1..8,
        ),
        order in prop::collection::vec(any::<prop::sample::Index>(), 300),
        repeats in any::<bool>(),
    ) {
        let mut queues: Vec<std::collections::VecDeque<Vec<u8>>> = Vec::new();
        for (number, messages) in streams.iter().enumerate() {
            let id = u8::try_from(number).unwrap() + 3;
            let cut = messages.iter();
            let cut = cut.flat_map(|(timestamp, body)| chunks(id, *timestamp, body, 128, repeats));
            queues.push(cut.collect());
        }
        let mut bytes = BytesMut::new();
        for pick in &order {
            let left: Vec<usize> = (0..queues.len()).filter(|i| !queues[*i].is_empty()).collect();
            if left.is_empty() {
                break;
            }
            bytes.extend_from_slice(&queues[left[pick.index(left.len())]].pop_front().unwrap());
        }
        prop_assert!(queues.iter().all(std::collections::VecDeque::is_empty), "enough picks");
        let mut expected: Vec<_> = streams.concat();
        let mut came: Vec<(u32, Vec<u8>)> = read_all(&mut reader(128), bytes)
            .into_iter()
            .map(|message| (message.timestamp, message.body.to_vec()))
            .collect();
        // Whatever ends first comes first: the order between chunk streams is nobody's.
        expected.sort();
        came.sort();
        prop_assert_eq!(came, expected);
    }

    #[test]
    fn a_session_over_any_network_gives_the_same_frames(
        sent in prop::collection::vec(media(), 0..20),
        pieces in prop::collection::vec((1_usize..5_000, 0_u64..200), 1..10),
        chunk_bytes in 128_u32..70_000,
    ) {
        let mut pair = Pair::new(chunk_bytes);
        pair.pieces = pieces;
        pair.settle();
        for message in &sent {
            pair.client.send(message);
        }
        pair.settle();
        pair.client.finish();
        pair.settle();
        let mut came: Vec<MediaMessage> = Vec::new();
        for event in &pair.server_events {
            if let ServerEvent::Media(message) = event {
                came.push(message.clone());
            }
        }
        prop_assert_eq!(came, sent);
        prop_assert_eq!(pair.server_error, None);
        let is_end = |event: &ServerEvent| matches!(event, ServerEvent::PublishEnded(_));
        prop_assert!(pair.server_events.last().is_some_and(is_end));
    }
}
