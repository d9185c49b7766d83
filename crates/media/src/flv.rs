//! Hop 3 of a frame's life: a message body becomes a [`Frame`](crate::Frame).
