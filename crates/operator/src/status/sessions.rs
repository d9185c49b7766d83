//! How often the number of live sessions is written.

use std::time::Duration;

use jiff::Timestamp;

use crate::controls::Control;

/// Not more often than this.
const PERIOD: Duration = Duration::from_secs(30);
/// Not for a smaller change than one part in so many.
const PARTS: i32 = 10;

/// The number to write: the one that is there, unless it changed by more than a tenth and the last change of it was long
/// enough ago. Where no control knows it, the last one stands.
pub(crate) fn publishing(
    written: Option<i32>,
    written_at: Option<Timestamp>,
    controls: &[Control],
    now: Timestamp,
) -> Option<i32> {
    let counted = controls.iter().filter_map(|control| control.state.as_ref()?.sessions);
    let Some(counted) = counted.max() else {
        return written;
    };
    let counted = i32::try_from(counted).unwrap_or(i32::MAX);
    let Some(before) = written else {
        return Some(counted);
    };
    let changed = counted.abs_diff(before) > (before / PARTS).unsigned_abs();
    let recent = written_at.is_some_and(|at| now < at.checked_add(PERIOD).unwrap_or(Timestamp::MAX));
    Some(if changed && !recent { counted } else { before })
}
