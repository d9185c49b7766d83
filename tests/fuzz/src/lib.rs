//! The fuzz targets: everything that reads bytes of strangers, each as a function of a byte string that panics where a
//! promise is broken. libFuzzer looks for such bytes (`make fuzz`, `tests/fuzz/libfuzzer`); the normal tests replay what
//! it kept (`tests/fuzz/corpus`).
//!
//! | target | what it promises |
//! |---|---|
//! | `handshake` | any cut of the bytes gives the same; nothing beyond its own bytes is taken |
//! | `chunk_reader` | any cut gives the same messages; memory follows what came; written again they read the same |
//! | `amf0` | what was read can be written and read again |
//! | `amf3` | what was read can be written as AMF0 |
//! | `publish_path` | names are clean and within their limits |
//! | `session` | a server session under any order of calls: events in order, deadlines in the future, little said |
//! | `client` | a client session under any server |
//! | `flv` | parts lie within their body |
//! | `codec` | what a decoder configuration says is plausible, or it is refused; pictures are looked at within their frame |
//! | `tracks` | a session's tracks are bounded; what is set right is set right once, and no body changes |
//! | `messages` | frames, tracks and grants over gRPC: bounded, and told again in the same words |
//! | `player` | a play session under any player; it asks once |
//! | `proxy` | a PROXY header is bounded, and nothing behind it is read |

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is the report"
)]

mod amf;
mod bodies;
mod chunks;
mod client;
mod handshakes;
mod messages;
mod paths;
mod players;
mod proxies;
mod script;
mod sessions;
mod tracks;

/// A function that panics where a promise is broken, under the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("amf0", amf::amf0),
    ("amf3", amf::amf3),
    ("chunk_reader", chunks::chunk_reader),
    ("client", client::client),
    ("codec", bodies::codec),
    ("flv", bodies::flv),
    ("handshake", handshakes::handshake),
    ("messages", messages::messages),
    ("player", players::player),
    ("proxy", proxies::proxy),
    ("publish_path", paths::publish_path),
    ("session", sessions::session),
    ("tracks", tracks::tracks),
];
