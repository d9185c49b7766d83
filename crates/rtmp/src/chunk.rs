//! The chunk stream: reader and writer.
