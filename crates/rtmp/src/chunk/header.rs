//! Chunk headers as they are on the wire (RTMP 1.0 §5.3.1).

use super::EXTENDED;
use crate::cursor::Cursor;

/// One chunk's basic and message header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) chunk_stream_id: u32,
    pub(super) fields: HeaderFields,
}

/// What each of the four forms says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderFields {
    /// fmt 0: all of it, the timestamp absolute.
    Full {
        timestamp: TimestampField,
        message: MessageShape,
        message_stream_id: u32,
    },
    /// fmt 1: the timestamp is a delta.
    SameStream {
        delta: TimestampField,
        message: MessageShape,
    },
    /// fmt 2.
    SameShape { delta: TimestampField },
    /// fmt 3. The repeated extended timestamp, where there is one.
    Same { extended: Option<u32> },
}

/// The effective value, and whether it came in the extended field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimestampField {
    pub(super) value: u32,
    pub(super) is_extended: bool,
}

/// Length and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageShape {
    pub(super) bytes: usize,
    pub(super) type_id: u8,
}

/// What the reader knows of a chunk stream and a fmt 3 header depends on.
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// The extended timestamp of the latest header, if it had one.
    pub(super) extended: Option<u32>,
    /// Whether a message is unfinished.
    pub(super) continues: bool,
}

impl ChunkHeader {
    /// `None`: more bytes are needed. `context` tells about a chunk stream that was seen before.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        context: impl FnOnce(u32) -> Option<Context>,
    ) -> Option<Self> {
        let (format, chunk_stream_id) = basic_header(cursor)?;
        let fields = match format {
            0 => {
                let field = cursor.u24()?;
                let message = MessageShape::read(cursor)?;
                let message_stream_id = cursor.u32_little_endian()?;
                HeaderFields::Full {
                    timestamp: TimestampField::read(field, cursor)?,
                    message,
                    message_stream_id,
                }
            }
            1 => {
                let field = cursor.u24()?;
                let message = MessageShape::read(cursor)?;
                HeaderFields::SameStream {
                    delta: TimestampField::read(field, cursor)?,
                    message,
                }
            }
            2 => {
                let field = cursor.u24()?;
                HeaderFields::SameShape {
                    delta: TimestampField::read(field, cursor)?,
                }
            }
            _ => HeaderFields::Same {
                extended: repeated_timestamp(cursor, context(chunk_stream_id))?,
            },
        };
        Some(Self {
            chunk_stream_id,
            fields,
        })
    }
}

/// fmt and csid: 2..=63 in the first byte, 64..=319 with one more, 64..=65599 with two more (little-endian).
fn basic_header(cursor: &mut Cursor<'_>) -> Option<(u8, u32)> {
    let first = cursor.u8()?;
    let id = match first & 0x3F {
        0 => 64 + u32::from(cursor.u8()?),
        1 => 64 + u32::from(u16::from_le_bytes(cursor.array()?)),
        id => u32::from(id),
    };
    Some((first >> 6, id))
}

/// The specification repeats an extended timestamp on every fmt 3; some encoders (OBS up to 30.0) do not. Where a
/// message goes on, the four bytes are taken only if they are the expected ones, otherwise they are payload. Compared
/// byte by byte, so that a wrong byte decides without waiting for the others. Where a message begins, they are there.
fn repeated_timestamp(cursor: &mut Cursor<'_>, context: Option<Context>) -> Option<Option<u32>> {
    let Some(Context {
        extended: Some(expected),
        continues,
    }) = context
    else {
        return Some(None);
    };
    if continues {
        let came = cursor
            .rest()
            .iter()
            .zip(expected.to_be_bytes())
            .all(|(came, expected)| *came == expected);
        if !came {
            return Some(None);
        }
    }
    Some(Some(cursor.u32()?))
}

impl TimestampField {
    fn read(field: u32, cursor: &mut Cursor<'_>) -> Option<Self> {
        let is_extended = field == EXTENDED;
        let value = if is_extended { cursor.u32()? } else { field };
        Some(Self { value, is_extended })
    }
}

impl MessageShape {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(Self {
            bytes: usize::try_from(cursor.u24()?).ok()?,
            type_id: cursor.u8()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_of_the_chunk_stream_id_are_read() {
        for (bytes, id) in [
            (&[0xC2][..], 2),
            (&[0xFF], 63),
            (&[0xC0, 0], 64),
            (&[0xC0, 255], 319),
            (&[0xC1, 0, 0], 64),
            (&[0xC1, 1, 0], 65),
            (&[0xC1, 0, 1], 320),
            (&[0xC1, 255, 255], 65_599),
        ] {
            assert_eq!(basic_header(&mut Cursor::new(bytes)), Some((3, id)));
        }
        assert_eq!(basic_header(&mut Cursor::new(&[0xC1, 7])), None);
    }

    #[test]
    fn a_repeated_timestamp_is_told_from_payload_as_early_as_possible() {
        let context = Some(Context {
            extended: Some(0x0100_0002),
            continues: true,
        });
        let read = |bytes: &[u8]| repeated_timestamp(&mut Cursor::new(bytes), context);
        assert_eq!(read(&[1, 0, 0, 2, 9]), Some(Some(0x0100_0002)));
        assert_eq!(read(&[1, 0, 0]), None, "could still be either");
        assert_eq!(read(&[1, 7]), Some(None), "cannot be it any more");
    }
}
