//! Aggregate messages (type 22): a sequence of FLV tags in one message.

use bytes::Bytes;

use crate::cursor::Cursor;
use crate::message::{Message, message_type};

/// The messages in an aggregate, with timestamps that count from the aggregate's own. Ends where a tag overruns.
/// Aggregates inside are left out. Bodies are copied: a slice would keep the whole aggregate alive.
pub(crate) fn messages(aggregate: &Message) -> impl Iterator<Item = Message> + '_ {
    let mut cursor = Cursor::new(&aggregate.body);
    let mut first_timestamp = None;
    std::iter::from_fn(move || tag(&mut cursor))
        .map(move |(type_id, timestamp, body)| {
            let first = *first_timestamp.get_or_insert(timestamp);
            Message {
                type_id,
                timestamp: aggregate
                    .timestamp
                    .wrapping_add(timestamp.wrapping_sub(first)),
                message_stream_id: aggregate.message_stream_id,
                body: Bytes::copy_from_slice(body),
            }
        })
        .filter(|message| message.type_id != message_type::AGGREGATE)
}

/// Type, timestamp and body of the next tag; its stream id and back pointer are skipped, the last one's may be missing.
fn tag<'a>(cursor: &mut Cursor<'a>) -> Option<(u8, u32, &'a [u8])> {
    let type_id = cursor.u8()?;
    let bytes = cursor.u24()?;
    let low = cursor.u24()?;
    let high = cursor.u8()?;
    cursor.u24()?;
    let body = cursor.take(usize::try_from(bytes).ok()?)?;
    cursor.u32();
    Some((type_id, (u32::from(high) << 24) | low, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(timestamp: u32, tags: &[(u8, u32, &[u8])]) -> Message {
        let mut body = Vec::new();
        for (type_id, timestamp, payload) in tags {
            body.push(*type_id);
            body.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
            body.extend_from_slice(&timestamp.to_be_bytes()[1..]);
            body.push(timestamp.to_be_bytes()[0]);
            body.extend_from_slice(&[0; 3]);
            body.extend_from_slice(payload);
            body.extend_from_slice(&[0; 4]);
        }
        Message {
            type_id: message_type::AGGREGATE,
            timestamp,
            message_stream_id: 1,
            body: body.into(),
        }
    }

    #[test]
    fn timestamps_count_from_the_aggregates_own() {
        let message = aggregate(1_000, &[(8, 0x0200_0000, b"a"), (9, 0x0200_0017, b"bc")]);
        let found: Vec<_> = messages(&message).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].type_id, found[0].timestamp), (8, 1_000));
        assert_eq!((found[1].type_id, found[1].timestamp), (9, 1_023));
        assert_eq!(&found[1].body[..], b"bc");
    }

    #[test]
    fn a_tag_that_overruns_and_a_nested_aggregate_are_dropped() {
        let nested = aggregate(0, &[(22, 0, b"x"), (8, 5, b"y")]);
        assert_eq!(messages(&nested).count(), 1);

        let whole = aggregate(0, &[(8, 0, b"whole"), (8, 5, b"overrun")]);
        for (missing, tags) in [(0, 2), (1, 2), (4, 2), (5, 1), (11 + 7 + 4, 1)] {
            let mut cut = whole.clone();
            cut.body = whole.body.slice(..whole.body.len() - missing);
            assert_eq!(messages(&cut).count(), tags, "without {missing} bytes");
        }
    }
}
