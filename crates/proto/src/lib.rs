//! The gRPC contract: code generated from `proto/`, and the conversions every role shares.
//!
//! - [`v1`]: the public API; [`internal::v1`]: what the roles say to each other.
//! - [`cloud_events`]: events as CloudEvents in JSON.
//! - [`error`]: gRPC statuses with a `google.rpc.ErrorInfo` reason, built and read in one place.
//! - [`frames`]: [`media::Frame`]s to batches and back, fragments included.
//! - [`tracks`]: [`media::Tracks`] as messages.
//! - [`grant`]: signing and verifying what control allowed.

pub mod cloud_events;
pub mod error;
pub mod frames;
pub mod grant;
pub mod tracks;

/// The whole contract: a serialized `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The public API.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("headwater.v1");
}

/// What the roles say to each other.
pub mod internal {
    /// Version 1.
    #[allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        clippy::nursery,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("headwater.internal.v1");
    }
}
