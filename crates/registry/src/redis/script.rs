//! The Lua scripts, each with the keys and arguments it takes. What they do is said in the `.lua` files.

use std::sync::LazyLock;

use redis::{Cmd, Script};

pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| script(include_str!("claim.lua")));
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| script(include_str!("renew.lua")));
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| script(include_str!("release.lua")));
pub(super) static KICK: LazyLock<Script> = LazyLock::new(|| script(include_str!("kick.lua")));
pub(super) static ANNOUNCE: LazyLock<Script> =
    LazyLock::new(|| script(include_str!("announce.lua")));
pub(super) static USE: LazyLock<Script> = LazyLock::new(|| script(include_str!("use.lua")));

/// To be loaded into each connection's server.
pub(super) static SCRIPTS: LazyLock<[&'static Script; 6]> =
    LazyLock::new(|| [&*CLAIM, &*RENEW, &*RELEASE, &*KICK, &*ANNOUNCE, &*USE]);

/// Calls a script by its hash; the arguments follow the keys.
pub(super) fn call(script: &Script, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    command
}

fn script(body: &str) -> Script {
    Script::new(&format!("{}\n{body}", include_str!("common.lua")))
}
