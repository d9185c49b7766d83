//! Hop 7 of a frame's life: a subscriber's cursor becomes what it reads.

pub(crate) mod flv;
pub(crate) mod follow;
pub(crate) mod grpc;
pub(crate) mod players;
pub(crate) mod rtmp;

mod cursor;
mod pieces;
mod timeline;

/// What one step reads from the log, in bytes of bodies, or one frame: what a subscriber that stalls holds beyond its
/// socket. With the index of their parts, even of the smallest frames, they are less than a gRPC message of 4 MiB.
const READ_BYTES: usize = 256 * 1024;
/// Longest application or stream name that is looked up, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Whether a name can be a stream's at all.
fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}
