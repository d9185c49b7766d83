//! The chunk stream (RTMP 1.0 §5.3): messages cut into chunks, several chunk streams (csids) interleaved.
//!
//! [`ChunkReader`] puts messages together, [`ChunkWriter`] takes them apart. Protocol control is not known here.

mod header;
mod reader;
mod writer;

pub use reader::{Bounds, ChunkReader};
pub use writer::{ChunkWriter, MessageHeader};

/// Each direction starts with it (RTMP 1.0 §5.4.1).
pub const DEFAULT_CHUNK_BYTES: usize = 128;

/// A 24-bit timestamp field of this value says that a 32-bit one follows (RTMP 1.0 §5.3.1.3).
const EXTENDED: u32 = 0xFF_FFFF;
