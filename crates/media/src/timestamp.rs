//! Wire timestamps (u32 milliseconds, wrapping) unwrapped to 64 bits.

use crate::{Frame, FrameKind};

/// A step further than this, either way, is not time passing: ten minutes, in milliseconds.
pub const STEP_MS_MAX: u32 = 10 * 60 * 1000;

/// Presentation this far from decoding, either way, is the most that is believed, in milliseconds.
pub const COMPOSITION_OFFSET_MS_MAX: i32 = 10_000;

/// Unwraps the timestamps of one session, all kinds and tracks together.
///
/// A step is the signed 32-bit difference to the last timestamp. A step beyond [`STEP_MS_MAX`] is a discontinuity: the
/// unwrapped time stands still for this frame and goes on from there, so that the distance between audio and video
/// stays.
#[derive(Clone, Debug, Default)]
pub struct Unwrapper {
    last: Option<Instant>,
    /// Coded media was seen; before it, only headers stand at the last timestamp.
    started: bool,
    discontinuities: u64,
}

#[derive(Clone, Copy, Debug)]
struct Instant {
    wire: u32,
    unwrapped_ms: i64,
}

impl Unwrapper {
    /// Nothing seen yet: the first timestamp is taken as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a frame its unwrapped timestamp.
    ///
    /// Headers and ends of sequence do not make a discontinuity: encoders send them with timestamp 0 wherever the media
    /// stands (OBS its last SequenceEnd, FFmpeg the headers before media that starts late).
    pub fn stamp(&mut self, frame: &mut Frame, wire: u32) {
        // What is passed through unread counts as media.
        let media = frame.coded() || (frame.parts.is_empty() && frame.kind != FrameKind::Script);
        frame.timestamp_ms = if media {
            self.coded(wire)
        } else {
            self.beside(wire)
        };
    }

    /// How many discontinuities there were.
    pub fn discontinuities(&self) -> u64 {
        self.discontinuities
    }

    fn coded(&mut self, wire: u32) -> i64 {
        let unwrapped_ms = match self.last {
            None => i64::from(wire),
            Some(last) => last.step(wire).unwrap_or_else(|| {
                self.discontinuities = self.discontinuities.saturating_add(u64::from(self.started));
                last.unwrapped_ms
            }),
        };
        self.started = true;
        self.last = Some(Instant { wire, unwrapped_ms });
        unwrapped_ms
    }

    fn beside(&mut self, wire: u32) -> i64 {
        let Some(last) = self.last else {
            let unwrapped_ms = i64::from(wire);
            self.last = Some(Instant { wire, unwrapped_ms });
            return unwrapped_ms;
        };
        // A header at 0 in the midst of media says nothing about time.
        match last.step(wire) {
            Some(unwrapped_ms) if wire != 0 => {
                self.last = Some(Instant { wire, unwrapped_ms });
                unwrapped_ms
            }
            Some(_) | None => last.unwrapped_ms,
        }
    }
}

impl Instant {
    fn step(self, wire: u32) -> Option<i64> {
        let difference = wire.wrapping_sub(self.wire).cast_signed();
        (difference.unsigned_abs() < STEP_MS_MAX)
            .then(|| self.unwrapped_ms.saturating_add(i64::from(difference)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::flv;

    const CODED: &[u8] = &[0xaf, 1, 0];
    const SEQUENCE_END: &[u8] = b"\xa2hvc1";
    const SEQUENCE_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x08];

    fn stamp(unwrapper: &mut Unwrapper, body: &'static [u8], wire: u32) -> i64 {
        let kind = if body == SEQUENCE_END {
            FrameKind::Video
        } else {
            FrameKind::Audio
        };
        let mut frame = flv::parse(kind, 0, Bytes::from_static(body)).unwrap();
        unwrapper.stamp(&mut frame, wire);
        frame.timestamp_ms
    }

    #[test]
    fn time_goes_on_behind_the_wrap() {
        let mut unwrapper = Unwrapper::new();
        assert_eq!(
            stamp(&mut unwrapper, CODED, u32::MAX - 9),
            i64::from(u32::MAX) - 9
        );
        assert_eq!(stamp(&mut unwrapper, CODED, 10), i64::from(u32::MAX) + 11);
        assert_eq!(
            stamp(&mut unwrapper, CODED, u32::MAX),
            i64::from(u32::MAX),
            "back again"
        );
        assert_eq!(unwrapper.discontinuities(), 0);
    }

    #[test]
    fn small_steps_back_are_kept() {
        let mut unwrapper = Unwrapper::new();
        assert_eq!(stamp(&mut unwrapper, CODED, 100), 100);
        assert_eq!(stamp(&mut unwrapper, CODED, 60), 60);
        assert_eq!(stamp(&mut unwrapper, CODED, 100), 100);
    }

    #[test]
    fn a_jump_stands_still_and_is_counted() {
        let mut unwrapper = Unwrapper::new();
        stamp(&mut unwrapper, CODED, 5_000);
        assert_eq!(stamp(&mut unwrapper, CODED, 2_000_000_000), 5_000);
        assert_eq!(stamp(&mut unwrapper, CODED, 2_000_000_040), 5_040);
        assert_eq!(unwrapper.discontinuities(), 1);
    }

    #[test]
    fn a_last_sequence_end_at_zero_is_no_jump() {
        for end in [3_000, 20_000_000] {
            let mut unwrapper = Unwrapper::new();
            stamp(&mut unwrapper, CODED, end);
            assert_eq!(
                stamp(&mut unwrapper, SEQUENCE_END, 0),
                i64::from(end),
                "{end}"
            );
            assert_eq!(stamp(&mut unwrapper, CODED, end + 20), i64::from(end) + 20);
            assert_eq!(unwrapper.discontinuities(), 0);
        }
    }

    #[test]
    fn media_that_starts_late_behind_its_headers_is_no_jump() {
        let mut unwrapper = Unwrapper::new();
        assert_eq!(stamp(&mut unwrapper, SEQUENCE_HEADER, 0), 0);
        assert_eq!(stamp(&mut unwrapper, CODED, 20_000_000), 0);
        assert_eq!(stamp(&mut unwrapper, CODED, 20_000_033), 33);
        assert_eq!(unwrapper.discontinuities(), 0);
    }

    proptest! {
        #[test]
        fn small_steps_add_up_across_any_number_of_wraps(
            start in any::<u32>(),
            steps in proptest::collection::vec(-599_000i32..599_000, 1..200),
        ) {
            let mut unwrapper = Unwrapper::new();
            let mut wire = start;
            let mut expected = stamp(&mut unwrapper, CODED, wire);
            for step in steps {
                wire = wire.wrapping_add_signed(step);
                expected += i64::from(step);
                prop_assert_eq!(stamp(&mut unwrapper, CODED, wire), expected);
            }
        }

        #[test]
        fn anything_unwraps_without_panic(wires in proptest::collection::vec(any::<u32>(), 0..200)) {
            let mut unwrapper = Unwrapper::new();
            for wire in wires {
                stamp(&mut unwrapper, CODED, wire);
                stamp(&mut unwrapper, SEQUENCE_END, wire);
            }
        }
    }
}
