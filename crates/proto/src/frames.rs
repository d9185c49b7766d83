//! [`media::Frame`]s as batches and back: bodies fragmented so that any gRPC client can read them, and put together
//! again under a limit.

use bytes::{Bytes, BytesMut};
use media::{BODY_BYTES_MAX, FourCc, Frame, FrameKind, Part, PartType, flv};

use crate::v1;

/// Most bytes of bodies in one batch: any gRPC client's default of 4 MiB per message reads it.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Most frames and fragments in one batch.
pub const BATCH_FRAMES_MAX: usize = 4096;

/// Whether a frame's parts go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// To subscribers.
    Included,
    /// To origins, which read the body themselves.
    Omitted,
}

/// Frames with their sequences as batches, in order; bodies are shared, not copied.
pub fn batches<'a>(
    frames: impl IntoIterator<Item = (u64, &'a Frame)>,
    parts: Parts,
) -> Vec<v1::FrameBatch> {
    let mut batches = Vec::new();
    let mut batch = v1::FrameBatch::default();
    let mut room = BATCH_BYTES_MAX;
    for (sequence, frame) in frames {
        let mut body = frame.body.clone();
        loop {
            let fragment = body.split_to(body.len().min(room));
            let last_fragment = body.is_empty();
            room = room.saturating_sub(fragment.len());
            // A body that found no room at all begins in the next batch.
            if last_fragment || !fragment.is_empty() {
                batch.frames.push(v1::Frame {
                    sequence,
                    kind: kind_to_proto(frame.kind).into(),
                    timestamp_ms: frame.timestamp_ms,
                    body: fragment,
                    last_fragment,
                    parts: match parts {
                        Parts::Included if last_fragment => {
                            frame.parts.iter().map(part_to_proto).collect()
                        }
                        Parts::Included | Parts::Omitted => Vec::new(),
                    },
                });
            }
            if !last_fragment || batch.frames.len() == BATCH_FRAMES_MAX {
                batches.push(std::mem::take(&mut batch));
                room = BATCH_BYTES_MAX;
            }
            if last_fragment {
                break;
            }
        }
    }
    if !batch.frames.is_empty() {
        batches.push(batch);
    }
    batches
}

/// A batch is not what [`batches`] makes.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// More than [`BATCH_BYTES_MAX`] or [`BATCH_FRAMES_MAX`].
    #[error("a batch has {bytes} bytes of bodies in {frames} frames")]
    BatchTooLarge {
        /// Of bodies.
        bytes: usize,
        /// And fragments.
        frames: usize,
    },
    /// Fragments of more than [`BODY_BYTES_MAX`].
    #[error("the body of frame {sequence} has more than {BODY_BYTES_MAX} bytes")]
    BodyTooLarge {
        /// The frame.
        sequence: u64,
    },
    /// A fragment that is empty, or of another frame than the one before it.
    #[error("frame {sequence} has a fragment out of place")]
    FragmentMisplaced {
        /// The frame.
        sequence: u64,
    },
    /// Neither audio, video nor script data.
    #[error("frame {sequence} has the unknown kind {kind}")]
    UnknownKind {
        /// The frame.
        sequence: u64,
        /// As sent.
        kind: i32,
    },
}

/// Puts fragments together, from one batch to the next.
#[derive(Debug)]
pub struct Assembler {
    parts: Parts,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    sequence: u64,
    kind: FrameKind,
    timestamp_ms: i64,
    body: BytesMut,
}

impl Assembler {
    /// `parts`: taken from the messages, or found anew in the bodies ([`Parts::Omitted`], what origins do: a publisher's
    /// index is not to be trusted).
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            partial: None,
        }
    }

    /// The frames that a batch completes, with their sequences. Their bodies have buffers of their exact size: a slice of
    /// what came from the network would pin all of it.
    pub fn push(&mut self, batch: v1::FrameBatch) -> Result<Vec<(u64, Frame)>, FrameError> {
        let bytes = batch.frames.iter().map(|frame| frame.body.len()).sum();
        let frames = batch.frames.len();
        if bytes > BATCH_BYTES_MAX || frames > BATCH_FRAMES_MAX {
            return Err(FrameError::BatchTooLarge { bytes, frames });
        }
        let mut complete = Vec::with_capacity(frames);
        for frame in batch.frames {
            complete.extend(self.push_fragment(frame)?);
        }
        Ok(complete)
    }

    /// What the begun body holds, in bytes.
    pub fn partial_bytes(&self) -> usize {
        self.partial
            .as_ref()
            .map_or(0, |partial| partial.body.capacity())
    }

    fn push_fragment(&mut self, fragment: v1::Frame) -> Result<Option<(u64, Frame)>, FrameError> {
        let sequence = fragment.sequence;
        let misplaced = FrameError::FragmentMisplaced { sequence };
        let (kind, timestamp_ms, body) = match self.partial.take() {
            None if fragment.last_fragment => {
                let kind = kind_from_proto(&fragment)?;
                (
                    kind,
                    fragment.timestamp_ms,
                    Bytes::copy_from_slice(&fragment.body),
                )
            }
            begun => {
                let mut partial = match begun {
                    Some(partial) => partial,
                    None => Partial {
                        sequence,
                        kind: kind_from_proto(&fragment)?,
                        timestamp_ms: fragment.timestamp_ms,
                        body: BytesMut::new(),
                    },
                };
                if partial.sequence != sequence || fragment.body.is_empty() {
                    return Err(misplaced);
                }
                if partial.body.len().saturating_add(fragment.body.len()) > BODY_BYTES_MAX {
                    return Err(FrameError::BodyTooLarge { sequence });
                }
                partial.body.extend_from_slice(&fragment.body);
                if !fragment.last_fragment {
                    self.partial = Some(partial);
                    return Ok(None);
                }
                (
                    partial.kind,
                    partial.timestamp_ms,
                    Bytes::copy_from_slice(&partial.body),
                )
            }
        };
        let frame = match self.parts {
            Parts::Included => Frame {
                kind,
                timestamp_ms,
                body,
                parts: fragment.parts.iter().filter_map(part_from_proto).collect(),
            },
            Parts::Omitted => flv::parse_or_opaque(kind, timestamp_ms, body),
        };
        Ok(Some((sequence, frame)))
    }
}

pub(crate) fn kind_to_proto(kind: FrameKind) -> v1::FrameKind {
    match kind {
        FrameKind::Audio => v1::FrameKind::Audio,
        FrameKind::Script => v1::FrameKind::Script,
        FrameKind::Video => v1::FrameKind::Video,
    }
}

fn kind_from_proto(frame: &v1::Frame) -> Result<FrameKind, FrameError> {
    match v1::FrameKind::try_from(frame.kind) {
        Ok(v1::FrameKind::Audio) => Ok(FrameKind::Audio),
        Ok(v1::FrameKind::Script) => Ok(FrameKind::Script),
        Ok(v1::FrameKind::Video) => Ok(FrameKind::Video),
        Ok(v1::FrameKind::Unspecified) | Err(_) => Err(FrameError::UnknownKind {
            sequence: frame.sequence,
            kind: frame.kind,
        }),
    }
}

fn part_to_proto(part: &Part) -> v1::FramePart {
    v1::FramePart {
        track: part.track.into(),
        codec: part.codec.to_string(),
        r#type: match part.part_type {
            PartType::Coded => v1::PartType::Coded,
            PartType::Metadata => v1::PartType::Metadata,
            PartType::SequenceEnd => v1::PartType::SequenceEnd,
            PartType::SequenceHeader => v1::PartType::SequenceHeader,
        }
        .into(),
        keyframe: part.keyframe,
        composition_offset_ms: part.composition_offset_ms,
        timestamp_offset_ns: part.timestamp_offset_ns,
        offset: part.offset,
        length: part.length,
    }
}

/// `None` for a part of a later version of the contract.
fn part_from_proto(part: &v1::FramePart) -> Option<Part> {
    Some(Part {
        track: u8::try_from(part.track).ok()?,
        codec: FourCc(part.codec.as_bytes().try_into().unwrap_or_default()),
        part_type: match v1::PartType::try_from(part.r#type).ok()? {
            v1::PartType::Coded => PartType::Coded,
            v1::PartType::Metadata => PartType::Metadata,
            v1::PartType::SequenceEnd => PartType::SequenceEnd,
            v1::PartType::SequenceHeader => PartType::SequenceHeader,
            v1::PartType::Unspecified => return None,
        },
        keyframe: part.keyframe,
        composition_offset_ms: part.composition_offset_ms,
        timestamp_offset_ns: part.timestamp_offset_ns,
        offset: part.offset,
        length: part.length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(body_bytes: usize) -> Frame {
        let mut body = vec![0x17, 1, 0, 0, 0];
        body.resize(body_bytes.max(6), 7);
        flv::parse(FrameKind::Video, 40, body.into()).unwrap()
    }

    fn audio() -> Frame {
        flv::parse(FrameKind::Audio, 41, Bytes::from_static(&[0xaf, 1, 9])).unwrap()
    }

    fn assemble(batches: Vec<v1::FrameBatch>, parts: Parts) -> Vec<(u64, Frame)> {
        let mut assembler = Assembler::new(parts);
        batches
            .into_iter()
            .flat_map(|batch| assembler.push(batch).unwrap())
            .collect()
    }

    fn fragment(sequence: u64, body: &'static [u8], last_fragment: bool) -> v1::Frame {
        v1::Frame {
            sequence,
            kind: v1::FrameKind::Video.into(),
            body: Bytes::from_static(body),
            last_fragment,
            ..v1::Frame::default()
        }
    }

    fn push(frames: Vec<v1::Frame>) -> Result<Vec<(u64, Frame)>, FrameError> {
        Assembler::new(Parts::Omitted).push(v1::FrameBatch { frames })
    }

    #[test]
    fn frames_survive_batches_of_any_cut() {
        let silence = flv::parse(FrameKind::Audio, 42, Bytes::new()).unwrap();
        let offset = flv::parse(
            FrameKind::Audio,
            40,
            Bytes::from_static(b"\x97\x02\0\0\x05\x01Opusx"),
        );
        let frames = [
            offset.unwrap(),
            audio(),
            video(12 * 1024 * 1024),
            silence,
            video(BATCH_BYTES_MAX),
            audio(),
            video(BATCH_BYTES_MAX - 3),
            video(6),
            audio(),
        ];
        let numbered: Vec<_> = (7..).zip(frames).collect();
        for parts in [Parts::Included, Parts::Omitted] {
            let batches = batches(numbered.iter().map(|(s, frame)| (*s, frame)), parts);
            for batch in &batches {
                let bytes: usize = batch.frames.iter().map(|frame| frame.body.len()).sum();
                assert!((1..=BATCH_BYTES_MAX).contains(&bytes), "{bytes}");
            }
            assert_eq!(assemble(batches, parts), numbered);
        }
    }

    #[test]
    fn many_small_frames_make_several_batches() {
        let audio = audio();
        let frames: Vec<_> = (0..10_000).map(|sequence| (sequence, &audio)).collect();
        let batches = batches(frames, Parts::Omitted);
        assert_eq!(batches.len(), 3);
        assert_eq!(assemble(batches, Parts::Omitted).len(), 10_000);
    }

    #[test]
    fn nothing_makes_no_batch() {
        assert_eq!(batches([], Parts::Included), []);
    }

    #[test]
    fn fragments_out_of_place_are_refused() {
        for frames in [
            vec![fragment(1, b"a", false), fragment(2, b"b", true)],
            vec![fragment(1, b"a", false), fragment(1, b"", true)],
            vec![fragment(1, b"", false)],
        ] {
            let error = push(frames).unwrap_err();
            assert!(matches!(error, FrameError::FragmentMisplaced { .. }));
        }
    }

    #[test]
    fn a_batch_a_body_and_a_kind_have_limits() {
        static LARGE: [u8; BATCH_BYTES_MAX + 1] = [0; BATCH_BYTES_MAX + 1];
        assert!(matches!(
            push(vec![fragment(1, &LARGE, true)]),
            Err(FrameError::BatchTooLarge { .. })
        ));
        assert!(matches!(
            push(vec![fragment(1, b"", true); BATCH_FRAMES_MAX + 1]),
            Err(FrameError::BatchTooLarge { .. })
        ));
        let unknown = v1::Frame {
            kind: 9,
            ..fragment(1, b"a", true)
        };
        assert_eq!(
            push(vec![unknown]),
            Err(FrameError::UnknownKind {
                sequence: 1,
                kind: 9
            })
        );
        let mut assembler = Assembler::new(Parts::Omitted);
        let mib = || v1::FrameBatch {
            frames: vec![fragment(1, &LARGE[1..], false)],
        };
        for _ in 0..15 {
            assert_eq!(assembler.push(mib()), Ok(vec![]));
        }
        assert_eq!(
            assembler.push(mib()),
            Err(FrameError::BodyTooLarge { sequence: 1 })
        );
    }
}
