//! AMF0, bounded.
