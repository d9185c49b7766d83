//! The peppers: what the database's HMACs are keyed with, and the database alone does not give away.

use std::{collections::BTreeMap, path::Path};

use aws_lc_rs::{hmac, rand};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::{
    secret_file::{SecretFileError, read},
    stream_key::StreamKey,
};

/// A file of `<version>:<64 hex digits>` lines; the highest version makes new MACs, the others still check old ones.
pub(crate) struct Peppers {
    keys: BTreeMap<u32, hmac::Key>,
    current: (u32, hmac::Key),
}

/// An HMAC-SHA256 of a stream key.
pub(crate) type Mac = [u8; 32];

impl Peppers {
    pub(crate) fn load(path: &Path) -> Result<Self, SecretFileError> {
        let text = read(path)?;
        Self::parse(&text).ok_or_else(|| SecretFileError::Content {
            path: path.to_owned(),
            expected: "a line `<version>:<64 hex digits>` for each pepper",
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut keys = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (version, pepper) = line.split_once(':')?;
            let pepper = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(pepper.as_bytes()).ok()?);
            if pepper.len() != PEPPER_BYTES {
                return None;
            }
            let key = hmac::Key::new(hmac::HMAC_SHA256, &pepper);
            if keys.insert(version.parse().ok()?, key).is_some() {
                return None;
            }
        }
        let current = keys.last_key_value()?;
        let current = (*current.0, current.1.clone());
        Some(Self { keys, current })
    }

    /// The version that new MACs are made with.
    pub(crate) fn current(&self) -> u32 {
        self.current.0
    }

    /// Whether MACs of this version can be checked.
    pub(crate) fn has(&self, version: u32) -> bool {
        self.keys.contains_key(&version)
    }

    /// With the current version.
    pub(crate) fn mac(&self, stream_key: &StreamKey) -> Mac {
        let tag = hmac::sign(&self.current.1, &*stream_key.mac_input());
        let mut mac = [0; 32];
        for (byte, tag) in mac.iter_mut().zip(tag.as_ref()) {
            *byte = *tag;
        }
        mac
    }

    /// In constant time; false where the version is not known.
    pub(crate) fn verify(&self, version: u32, stream_key: &StreamKey, mac: &Mac) -> bool {
        let key = self.keys.get(&version);
        key.is_some_and(|key| hmac::verify(key, &*stream_key.mac_input(), mac).is_ok())
    }
}

/// The content of a new pepper file: one pepper, version 1.
pub fn generate_pepper_file() -> Option<Zeroizing<String>> {
    let mut pepper = Zeroizing::new([0; PEPPER_BYTES]);
    rand::fill(&mut *pepper).ok()?;
    let hex = Zeroizing::new(HEXLOWER.encode(&*pepper));
    Some(Zeroizing::new(format!("1:{}\n", *hex)))
}

const PEPPER_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digit: &str) -> String {
        digit.repeat(64)
    }

    #[test]
    fn a_generated_file_parses() {
        assert_eq!(
            Peppers::parse(&generate_pepper_file().unwrap())
                .unwrap()
                .current(),
            1
        );
    }

    #[test]
    fn the_highest_version_is_current_and_the_others_still_verify() {
        let stream_key = StreamKey::generate().unwrap();
        let old = Peppers::parse(&format!("9:{}", hex("a"))).unwrap();
        let both = Peppers::parse(&format!("10:{}\n\n9:{}\n", hex("b"), hex("a"))).unwrap();
        assert_eq!(both.current(), 10);
        assert!(both.verify(9, &stream_key, &old.mac(&stream_key)));
        assert!(both.verify(10, &stream_key, &both.mac(&stream_key)));
        assert!(!both.verify(10, &stream_key, &old.mac(&stream_key)));
        assert!(!both.verify(11, &stream_key, &both.mac(&stream_key)));
        assert!(!both.verify(10, &StreamKey::generate().unwrap(), &both.mac(&stream_key)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "\n",
            "1",
            "1:ab",
            &format!("x:{}", hex("a")),
            &format!("1:{}", hex("g")),
            &format!("1:{0}\n1:{0}", hex("a")),
        ] {
            assert!(Peppers::parse(text).is_none(), "{text:?}");
        }
    }
}
