//! Where Redis Cluster keeps a key.

use redis::{Arg, Cmd};

/// Of the key that a command or script is about; all of its keys have one tag. `None`: it has no key.
pub(super) fn slot(command: &Cmd) -> Option<u16> {
    let mut arguments = command.args_iter();
    let command = arguments.next()?;
    let before = if matches!(command, Arg::Simple(b"EVALSHA")) {
        // A script's hash and the number of its keys come first.
        2
    } else if matches!(command, Arg::Simple(b"XREAD")) {
        // COUNT, BLOCK, a value each, and STREAMS.
        5
    } else {
        0
    };
    let Arg::Simple(key) = arguments.nth(before)? else {
        return None;
    };
    Some(crc16(tag(key)) % SLOTS)
}

/// What decides of a key: what is in its first braces.
fn tag(key: &[u8]) -> &[u8] {
    let inside = || {
        let (_, rest) = key.split_at_checked(key.iter().position(|byte| *byte == b'{')? + 1)?;
        let (tag, _) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'}')?)?;
        (!tag.is_empty()).then_some(tag)
    };
    inside().unwrap_or(key)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _bit| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

pub(super) const SLOTS: u16 = 16_384;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redis::cmd;

    use super::*;
    use crate::{CommandId, redis::commands::read};

    #[test]
    fn keys_are_where_redis_looks_for_them() {
        // As CLUSTER KEYSLOT says.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [
            ("foo", 12_182),
            ("hw:{foo}:x", 12_182),
            ("{}foo", crc16(b"{}foo") % SLOTS),
        ] {
            assert_eq!(slot(cmd("GET").arg(key)), Some(expected), "{key}");
            let script = cmd("EVALSHA")
                .arg("hash")
                .arg(1)
                .arg(key)
                .arg("argument")
                .to_owned();
            assert_eq!(slot(&script), Some(expected), "{key}");
            let read = read(key, CommandId::default(), Duration::ZERO);
            assert_eq!(slot(&read), Some(expected), "{key}");
        }
        assert_eq!(slot(&cmd("TIME")), None);
    }
}
