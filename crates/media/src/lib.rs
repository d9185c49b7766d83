//! The cluster's currency: [`Frame`], its tracks, FLV bodies, timestamps, and the log's GOP tail.
//!
//! Pure: no socket, no clock, no executor. Bytes from the internet cannot make it panic.

#![deny(clippy::indexing_slicing)]
#![deny(missing_docs)]

pub mod codec;
pub mod flv;
pub mod frame;
pub mod log;
mod random_access;
pub mod timestamp;
pub mod tracks;

pub use frame::{BODY_BYTES_MAX, FourCc, Frame, FrameKind, Part, PartType};
pub use random_access::RandomAccess;
pub use tracks::{Correction, Track, TrackId, Tracks};
