//! Where a subscriber resumes, at this origin or another one. Opaque to it.
//!
//! Layout: version (1 byte), length of the broadcast id (1 byte), broadcast id, length of the session id (1 byte),
//! session id, the next sequence that is wanted (8 bytes, big-endian).

/// Behind the last frame that a subscriber had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) broadcast_id: String,
    pub(super) session_id: String,
    pub(super) next_sequence: u64,
}

/// Not a cursor of ours.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a cursor")]
pub(super) struct CursorError;

const VERSION: u8 = 1;

impl Cursor {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for id in [&self.broadcast_id, &self.session_id] {
            // Ids have at most 128 bytes.
            bytes.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
            bytes.extend(id.as_bytes().iter().take(usize::from(u8::MAX)));
        }
        bytes.extend(self.next_sequence.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CursorError> {
        let rest = bytes.strip_prefix(&[VERSION]).ok_or(CursorError)?;
        let (broadcast_id, rest) = id(rest)?;
        let (session_id, rest) = id(rest)?;
        let next_sequence = rest.try_into().map_err(|_| CursorError)?;
        Ok(Self {
            broadcast_id,
            session_id,
            next_sequence: u64::from_be_bytes(next_sequence),
        })
    }
}

fn id(bytes: &[u8]) -> Result<(String, &[u8]), CursorError> {
    let (length, rest) = bytes.split_first().ok_or(CursorError)?;
    let (id, rest) = rest
        .split_at_checked(usize::from(*length))
        .ok_or(CursorError)?;
    let id = std::str::from_utf8(id).map_err(|_| CursorError)?;
    Ok((id.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_bytes_and_no_cut_of_them_is_one() {
        let cursor = Cursor {
            broadcast_id: "b".repeat(32),
            session_id: "s1".to_owned(),
            next_sequence: 1 << 40,
        };
        let bytes = cursor.encode();
        assert_eq!(Cursor::decode(&bytes), Ok(cursor));
        for end in 0..bytes.len() {
            assert_eq!(Cursor::decode(&bytes[..end]), Err(CursorError));
        }
        assert_eq!(
            Cursor::decode(&[bytes.as_slice(), &[0]].concat()),
            Err(CursorError)
        );
        assert_eq!(Cursor::decode(&[1, 1, 0xff]), Err(CursorError));
    }
}
