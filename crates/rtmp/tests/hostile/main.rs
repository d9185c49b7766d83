//! Hostile and malformed input, as far as it concerns this layer: one test per number of the list. Each says what comes
//! of it, for a stranger and for a publisher where that differs; nothing may panic, and what the session holds in memory
//! grows with what came, never with what was declared. What concerns a process is in `crates/edge/tests/role`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

mod amf;
mod chunks;
mod control;
mod handshake;
mod names;
mod order;
mod rates;
#[path = "../support/wire.rs"]
mod wire;

use rtmp::ProtocolError;
use rtmp::limits::{PARTIAL_BYTES, UNPUBLISHED_PARTIAL_BYTES};
use wire::{Script, Server};

/// What must come of it.
#[derive(Debug, PartialEq)]
enum Fate {
    /// The session goes on, and a publisher's media still comes through.
    Lives,
    /// The session ends with this reason.
    Fails(&'static str),
    /// The peer is told this, and the session closes.
    Refused(&'static str),
}

use Fate::{Fails, Lives, Refused};

/// What the edge reads at a time.
const READ_BYTES: usize = 32 << 10;
/// For a session that has received nothing to speak of: chunk streams, the beginnings of messages, our answers.
const HELD_BYTES: usize = 96 << 10;

/// Feeds a script as the edge does, and watches the session's memory.
fn feed(server: &mut Server, bytes: &[u8]) -> Result<(), ProtocolError> {
    let mut fed = 0;
    for piece in bytes.chunks(READ_BYTES) {
        let outcome = server.feed(piece);
        fed += piece.len();
        let held = server.session.held_bytes();
        assert!(held <= 2 * fed + HELD_BYTES, "{held} held of {fed} bytes");
        let partial = if server.publishes {
            PARTIAL_BYTES
        } else {
            UNPUBLISHED_PARTIAL_BYTES
        };
        assert!(held <= 2 * partial + HELD_BYTES, "{held} held");
        outcome?;
    }
    Ok(())
}

/// What comes of it, behind what `begin` says.
fn fate(begin: fn() -> Script, write: impl FnOnce(&mut Script)) -> Fate {
    let mut server = Server::new();
    let mut script = begin();
    write(&mut script);
    match feed(&mut server, &script.bytes) {
        Err(error) => Fails(error.reason()),
        Ok(()) if server.session.is_closing() => Refused(last_code(&mut server)),
        Ok(()) => {
            if server.publishes {
                media_goes_on(&mut server);
            }
            Lives
        }
    }
}

fn last_code(server: &mut Server) -> &'static str {
    let replies = server.replied_commands();
    let code = replies.last().unwrap().split(' ').next_back().unwrap();
    let known = [
        "NetConnection.Connect.Rejected",
        "NetStream.Publish.BadName",
        "NetStream.Play.Failed",
    ];
    known.into_iter().find(|known| *known == code).unwrap()
}

fn media_goes_on(server: &mut Server) {
    let before = server.media().len();
    let mut after = fresh();
    after.chunk_bytes(4096);
    after.message(40, 9, 7, 1, b"after");
    server.feed(&after.bytes).unwrap();
    assert_eq!(server.media().len(), before + 1, "media goes on");
}

/// A script that goes on where another ended, on chunk streams of its own.
fn fresh() -> Script {
    let mut script = Script::new();
    drop(script.bytes.split());
    script
}
