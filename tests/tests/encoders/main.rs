//! Encoders that users own, at the versions that `tests/encoders` pins, against the real `headwater`: what each of them
//! sends arrives, how each of them ends is understood, and what its user sees when it is refused.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

mod certificates;
mod codecs;
mod endings;
mod passwords;
mod publishing;
mod timestamps;
