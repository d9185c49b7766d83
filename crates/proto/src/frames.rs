//! [`media::Frame`]s as batches, bodies fragmented so that any gRPC client can read them.
