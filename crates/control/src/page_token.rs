//! Page tokens: opaque to clients, the last item of a page to us.

use data_encoding::BASE64URL_NOPAD;
use tonic::Status;

use crate::field::{self, Violations};

/// The part of a listing that a request asks for, checked.
pub(crate) struct Page {
    pub(crate) after: Cursor,
    pub(crate) size: u32,
}

/// Where a listing goes on: behind the item of this time and id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    pub(crate) time_ms: i64,
    pub(crate) id: String,
}

impl Page {
    /// `app` is the filter that every listing has; empty: every application.
    pub(crate) fn of(app: &str, page_size: u32, page_token: &str) -> Result<Self, Status> {
        let mut violations = Violations::default();
        if !app.is_empty() {
            violations.check("app", field::app(app));
        }
        let size = violations.check("page_size", field::page_size(page_size));
        let after = violations.check("page_token", Cursor::decode(page_token));
        violations.finish()?;
        Ok(Self {
            after: after.unwrap_or(Cursor::START),
            size: size.unwrap_or_default(),
        })
    }
}

/// Takes away what was read beyond a page; the last of the page, where there is a next one.
pub(crate) fn cut<T>(items: &mut Vec<T>, size: u32) -> Option<&T> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = items.len() > size;
    items.truncate(size);
    items.last().filter(|_| more)
}

impl Cursor {
    /// Before everything.
    pub(crate) const START: Self = Self {
        time_ms: i64::MIN,
        id: String::new(),
    };

    pub(crate) fn encode(&self) -> String {
        BASE64URL_NOPAD.encode(format!("{}.{}", self.time_ms, self.id).as_bytes())
    }

    /// Empty: the start.
    pub(crate) fn decode(token: &str) -> Result<Self, &'static str> {
        if token.is_empty() {
            return Ok(Self::START);
        }
        let parse = || {
            let text = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).ok()?).ok()?;
            let (time_ms, id) = text.split_once('.')?;
            // PostgreSQL takes no NUL in a text.
            let id = (!id.contains('\0')).then(|| id.to_owned())?;
            Some(Self {
                time_ms: time_ms.parse().ok()?,
                id,
            })
        };
        if token.len() > TOKEN_BYTES_MAX {
            None
        } else {
            parse()
        }
        .ok_or("not a page token of this method")
    }
}

/// A position in the event log, for a client to come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogCursor(pub(crate) u64);

impl LogCursor {
    pub(crate) fn encode(self) -> String {
        BASE64URL_NOPAD.encode(format!("e{}", self.0).as_bytes())
    }

    pub(crate) fn decode(token: &str) -> Result<Self, &'static str> {
        let parse = || {
            let text = String::from_utf8(BASE64URL_NOPAD.decode(token.as_bytes()).ok()?).ok()?;
            text.strip_prefix('e')?.parse().ok().map(Self)
        };
        (token.len() <= TOKEN_BYTES_MAX)
            .then(parse)
            .flatten()
            .ok_or("not a cursor of this method")
    }
}

const TOKEN_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_token() {
        let cursor = Cursor {
            time_ms: 1_700_000_000_000,
            id: "a.b".to_owned(),
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        assert_eq!(Cursor::decode(""), Ok(Cursor::START));
    }

    #[test]
    fn a_position_survives_its_cursor() {
        let cursor = LogCursor(u64::MAX);
        assert_eq!(LogCursor::decode(&cursor.encode()), Ok(cursor));
        assert!(LogCursor::decode("").is_err() && LogCursor::decode("ZS0x").is_err());
    }

    #[test]
    fn anything_else_is_refused() {
        for token in ["x", "AAAA", "bm90aGluZw", &"A".repeat(600)] {
            assert!(Cursor::decode(token).is_err(), "{token}");
        }
    }
}
