//! The simple handshake.
