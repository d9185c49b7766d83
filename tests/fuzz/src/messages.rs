//! What comes over gRPC, as the roles read it: bytes, then a message of the contract, then what it stands for.

use media::BODY_BYTES_MAX;
use prost::Message as _;
use proto::{
    frames::{Assembler, BATCH_BYTES_MAX, BATCH_FRAMES_MAX, Parts, batches},
    grant::{self, GrantVerifier},
    tracks,
    v1::{FrameBatch, Track},
};

use crate::script::Script;

/// The first byte says which message the rest is.
pub(crate) fn messages(data: &[u8]) {
    let mut script = Script::new(data);
    match script.u8() % 4 {
        0 => frames(script, Parts::Included),
        1 => frames(script, Parts::Omitted),
        2 => {
            if let Ok(track) = Track::decode(script.rest()) {
                assert!(!tracks::describe(&track).is_empty() || track.codec.is_empty());
            }
        }
        _ => {
            let bytes = script.rest();
            // Nobody has a signature of this key.
            assert!(GrantVerifier::new([[9; 32]]).verify(bytes).is_err());
            let _read = grant::read_unverified(bytes);
        }
    }
}

/// Batches of one call, each counted with 16 bits.
fn frames(mut script: Script<'_>, parts: Parts) {
    let mut assembler = Assembler::new(parts);
    let mut complete = Vec::new();
    loop {
        let length = script.u16();
        let bytes = script.bytes(length.into());
        if bytes.is_empty() {
            break;
        }
        let Ok(batch) = FrameBatch::decode(bytes) else {
            return;
        };
        let Ok(frames) = assembler.push(batch) else {
            // The call is over.
            return;
        };
        complete.extend(frames);
        assert!(assembler.partial_bytes() <= BODY_BYTES_MAX);
    }
    for (_, frame) in &complete {
        for part in &frame.parts {
            assert!(part.payload(&frame.body).len() <= frame.body.len());
        }
    }
    // What was understood is told again in the same words.
    let told = batches(complete.iter().map(|(s, frame)| (*s, frame)), parts);
    let mut again = Vec::new();
    let mut assembler = Assembler::new(parts);
    for batch in told {
        assert!(
            batch.frames.len() <= BATCH_FRAMES_MAX && batch.encoded_len() < 2 * BATCH_BYTES_MAX
        );
        again.extend(assembler.push(batch).expect("our own batch"));
    }
    assert_eq!(again.len(), complete.len());
    for ((sequence, frame), (told, read)) in complete.iter().zip(&again) {
        assert_eq!(
            (sequence, frame.kind, &frame.body),
            (told, read.kind, &read.body)
        );
        assert_eq!(frame.parts.len(), read.parts.len());
    }
}
