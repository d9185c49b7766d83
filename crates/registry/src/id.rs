//! Names of things, checked when they are made: what a [`StreamId`] or a [`SessionId`] holds is safe in a key, a log
//! line and a metric.

use aws_lc_rs::digest;

/// First 128 bits of SHA-256 over the length-prefixed (tenant, app, name). Prints as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId([u8; 16]);

/// Which of a stream's two publishers: 0 primary, 1 backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

/// What an origin compares: the registry grants the epoch, the edge counts the attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken {
    /// Grows with each owner.
    pub epoch: u64,
    /// Grows with each Publish RPC of one owner, from 1.
    pub attempt: u32,
}

/// Not an id: empty, too long, or with a character outside `[A-Za-z0-9._:-]`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a valid id")]
pub struct InvalidId;

/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 128;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the characters and the length.
            pub fn new(id: &str) -> Result<Self, InvalidId> {
                let valid = !id.is_empty()
                    && id.len() <= ID_BYTES_MAX
                    && id
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
                if valid { Ok(Self(id.into())) } else { Err(InvalidId) }
            }

            /// As it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// One publishing session: from an accepted publish to its end, whatever origins it sees.
    SessionId
}
name! {
    /// An edge process; new with each start.
    EdgeName
}
name! {
    /// An origin process; stable over restarts.
    OriginName
}

impl StreamId {
    /// The id of a tenant's stream.
    pub fn derive(tenant: &str, app: &str, name: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [tenant, app, name] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut id = [0; 16];
        for (byte, hash) in id.iter_mut().zip(context.finish().as_ref()) {
            *byte = *hash;
        }
        Self(id)
    }

    /// From its 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
        Ok(Self(bytes.try_into().map_err(|_wrong_length| InvalidId)?))
    }

    /// From its 32 hex digits.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidId> {
        if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidId);
        }
        let value = u128::from_str_radix(hex, 16).map_err(|_not_hex| InvalidId)?;
        Ok(Self(value.to_be_bytes()))
    }

    /// Its 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl std::fmt::Debug for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamId({self})")
    }
}

impl Slot {
    /// The stream's first publisher.
    pub const PRIMARY: Self = Self(0);
    /// The stream's standby publisher.
    pub const BACKUP: Self = Self(1);
    /// Both.
    pub const ALL: [Self; 2] = [Self::PRIMARY, Self::BACKUP];

    /// 0 or 1.
    pub fn new(slot: u32) -> Result<Self, InvalidId> {
        match slot {
            0 => Ok(Self::PRIMARY),
            1 => Ok(Self::BACKUP),
            _ => Err(InvalidId),
        }
    }

    /// 0 or 1.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The stream's other one.
    pub fn other(self) -> Self {
        if self == Self::PRIMARY {
            Self::BACKUP
        } else {
            Self::PRIMARY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_prefixes_keep_names_apart() {
        assert_ne!(
            StreamId::derive("a", "bc", "d"),
            StreamId::derive("ab", "c", "d")
        );
    }

    #[test]
    fn a_stream_id_survives_its_hex() {
        let id = StreamId::derive("default", "live", "main");
        assert_eq!(StreamId::from_hex(&id.to_string()), Ok(id));
        assert_eq!(
            StreamId::from_hex("+0000000000000000000000000000000"),
            Err(InvalidId)
        );
    }

    #[test]
    fn ids_that_could_break_a_key_are_refused() {
        for id in ["", "a b", "a{b}", "a\n", "ü", &"x".repeat(129)] {
            assert_eq!(SessionId::new(id), Err(InvalidId), "{id:?}");
        }
        assert!(SessionId::new("0190c0de-7000-7000-8000-000000000000").is_ok());
    }
}
