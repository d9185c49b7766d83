//! How long to wait before trying again.

use std::time::Duration;

/// Between half and one and a half of a pause: many processes are not to do at once what one does.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness there is no jitter.
    aws_lc_rs::rand::fill(&mut random).ok();
    let half = pause / 2;
    half + pause.mul_f64(f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX))
}
