//! The fields of requests: what each may hold, and how a request that breaks it is answered.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use proto::error::DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::stream_key::redacted;

/// Collects what is wrong with a request, so that its sender learns of everything at once. What a field holds is never
/// repeated.
#[derive(Default)]
pub(crate) struct Violations {
    found: Vec<(&'static str, &'static str)>,
    prefix: &'static str,
}

impl Violations {
    /// Of fields of the message that this names, with a dot.
    pub(crate) fn below(prefix: &'static str) -> Self {
        Self {
            prefix,
            ..Self::default()
        }
    }

    /// Notes the field where the check failed, and passes the checked value on.
    pub(crate) fn check<T>(
        &mut self,
        field: &'static str,
        checked: Result<T, &'static str>,
    ) -> Option<T> {
        checked
            .map_err(|description| self.found.push((field, description)))
            .ok()
    }

    /// The answer, where there was something wrong.
    pub(crate) fn finish(self) -> Result<(), Status> {
        if self.found.is_empty() {
            return Ok(());
        }
        let mut details = ErrorDetails::with_error_info("FIELD_INVALID", DOMAIN, HashMap::new());
        let mut summary = Vec::new();
        for (field, description) in &self.found {
            let field = format!("{}{field}", self.prefix);
            summary.push(format!("{field}: {description}"));
            details.add_bad_request_violation(field, *description);
        }
        Err(Status::with_error_details(
            Code::InvalidArgument,
            summary.join("; "),
            details,
        ))
    }
}

/// One field was wrong.
pub(crate) fn invalid(field: &'static str, description: &'static str) -> Status {
    let mut violations = Violations::default();
    let _: Option<()> = violations.check(field, Err(description));
    violations
        .finish()
        .err()
        .unwrap_or_else(|| Status::invalid_argument(description))
}

/// An application: segments of `[A-Za-z0-9_.-]`, parted by `/`.
pub fn app(app: &str) -> Result<(), &'static str> {
    let segment = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if app.len() > APP_BYTES_MAX {
        Err("at most 256 bytes")
    } else if !app.split('/').all(segment) {
        Err("segments of [A-Za-z0-9_.-], none of them empty, `.` or `..`, parted by `/`")
    } else if mentions_stream_key(app) {
        Err(STREAM_KEY)
    } else {
        Ok(())
    }
}

/// A stream's public name: part of URLs and file names.
pub(crate) fn stream(stream: &str) -> Result<(), &'static str> {
    let characters = stream
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.~".contains(&byte));
    if stream.len() > STREAM_BYTES_MAX {
        Err("at most 128 bytes")
    } else if stream.is_empty() || !characters || stream == "." || stream == ".." {
        Err("[A-Za-z0-9_.~-], and not `.` or `..`")
    } else if mentions_stream_key(stream) {
        Err(STREAM_KEY)
    } else {
        Ok(())
    }
}

/// A tenant's name.
pub fn tenant(tenant: &str) -> Result<(), &'static str> {
    let characters = tenant
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if tenant.is_empty() || tenant.len() > TENANT_BYTES_MAX || !characters {
        Err("1 to 128 bytes of [A-Za-z0-9_.-]")
    } else {
        Ok(())
    }
}

/// The tenant that a request names; empty: none.
pub(crate) fn named_tenant(named: &str) -> Result<&str, &'static str> {
    if !named.is_empty() {
        tenant(named)?;
    }
    Ok(named)
}

/// For people.
pub(crate) fn description(description: &str) -> Result<(), &'static str> {
    if description.len() > DESCRIPTION_BYTES_MAX {
        Err("at most 512 bytes")
    } else {
        readable(description)
    }
}

/// For the log and the publisher.
pub(crate) fn reason(reason: &str) -> Result<(), &'static str> {
    if reason.len() > REASON_BYTES_MAX {
        Err("at most 256 bytes")
    } else {
        readable(reason)
    }
}

/// For whoever made the key: see `StreamKey.labels`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<(), &'static str> {
    let is_key = |key: &str| {
        let in_alphabet = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-/".contains(&byte)
        };
        !key.is_empty() && key.len() <= LABEL_BYTES_MAX && key.bytes().all(in_alphabet)
    };
    let is_value = |value: &str| {
        let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        value.len() <= LABEL_BYTES_MAX && value.bytes().all(in_alphabet)
    };
    let mut texts = labels.iter().flat_map(|(key, value)| [key, value]);
    if labels.len() > LABELS_MAX {
        Err("at most 32")
    } else if !labels.keys().all(|key| is_key(key)) {
        Err("keys of 1 to 63 bytes of [a-z0-9_.-/]")
    } else if !labels.values().all(|value| is_value(value)) {
        Err("values of at most 63 bytes of [A-Za-z0-9_.-]")
    } else if texts.any(|text| mentions_stream_key(text)) {
        Err(STREAM_KEY)
    } else {
        Ok(())
    }
}

/// What a caller calls its request; empty: nothing.
pub(crate) fn request_id(id: &str) -> Result<(), &'static str> {
    let characters = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
    if id.len() > REQUEST_ID_BYTES_MAX || !characters {
        Err("at most 128 bytes of [A-Za-z0-9_.:-]")
    } else if mentions_stream_key(id) {
        Err(STREAM_KEY)
    } else {
        Ok(())
    }
}

/// What an edge calls a client's address: with its port, or without.
pub(crate) fn client_ip(address: &str) -> Option<IpAddr> {
    let with_port = address.parse().map(|address: SocketAddr| address.ip());
    let address = with_port.or_else(|_without| address.parse());
    address.ok().map(|address| address.to_canonical())
}

/// How many to list at most; 0 stands for [`PAGE_SIZE_DEFAULT`].
pub(crate) fn page_size(size: u32) -> Result<u32, &'static str> {
    match size {
        0 => Ok(PAGE_SIZE_DEFAULT),
        1..=PAGE_SIZE_MAX => Ok(size),
        _ => Err("at most 1000"),
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn time_ms(time: prost_types::Timestamp) -> Result<i64, &'static str> {
    let nanos = i64::from(time.nanos);
    let valid =
        (0..=TIMESTAMP_SECONDS_MAX).contains(&time.seconds) && (0..1_000_000_000).contains(&nanos);
    if !valid {
        return Err("not a time");
    }
    Ok(time
        .seconds
        .saturating_mul(1000)
        .saturating_add(nanos / 1_000_000))
}

/// The same, of a time in the future.
pub(crate) fn future_ms(time: prost_types::Timestamp, now_ms: i64) -> Result<i64, &'static str> {
    let time_ms = time_ms(time)?;
    if time_ms > now_ms {
        Ok(time_ms)
    } else {
        Err("in the past")
    }
}

/// Milliseconds of an overlap, or a ban.
pub(crate) fn period_ms(period: prost_types::Duration) -> Result<i64, &'static str> {
    let period = Duration::try_from(period).ok();
    let period = period.filter(|period| *period <= PERIOD_MAX);
    let period_ms = period.and_then(|period| i64::try_from(period.as_millis()).ok());
    period_ms.ok_or("0 to 30 days")
}

/// A stored time as a timestamp.
pub(crate) fn timestamp(time_ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(time_ms.rem_euclid(1000))
        .unwrap_or_default()
        .saturating_mul(1_000_000);
    prost_types::Timestamp {
        seconds: time_ms.div_euclid(1000),
        nanos,
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    millis(since_epoch)
}

/// Whole milliseconds, as times are stored.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn readable(text: &str) -> Result<(), &'static str> {
    if text.chars().any(char::is_control) {
        Err("no control characters")
    } else if mentions_stream_key(text) {
        Err(STREAM_KEY)
    } else {
        Ok(())
    }
}

pub(crate) fn mentions_stream_key(text: &str) -> bool {
    redacted(text) != text
}

const STREAM_KEY: &str = "holds a stream key, which is a secret";
const APP_BYTES_MAX: usize = 256;
const STREAM_BYTES_MAX: usize = 128;
const TENANT_BYTES_MAX: usize = 128;
const DESCRIPTION_BYTES_MAX: usize = 512;
const REASON_BYTES_MAX: usize = 256;
const REQUEST_ID_BYTES_MAX: usize = 128;
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 63;
const PERIOD_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1000;
/// The last second of the year 9999: protobuf's own limit.
const TIMESTAMP_SECONDS_MAX: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_are_segments() {
        for good in ["live", "a/b.c/d-e_f", "..."] {
            assert_eq!(app(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".",
            "a b",
            "ü",
            &"a".repeat(257),
        ] {
            assert!(app(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn streams_are_one_segment_and_no_stream_key() {
        for good in ["main", "a.b~c-d_e", "..."] {
            assert_eq!(stream(good), Ok(()), "{good}");
        }
        let stream_key = format!("hw_{}_{}", "0".repeat(16), "0".repeat(30));
        for bad in [
            "",
            "a/b",
            ".",
            "..",
            "a b",
            "a%2fb",
            &"a".repeat(129),
            &stream_key,
        ] {
            assert!(stream(bad).is_err(), "{bad}");
        }
        assert_eq!(description(&format!("for {stream_key}")), Err(STREAM_KEY));
    }

    #[test]
    fn a_timestamp_survives_and_nonsense_is_refused() {
        let time = timestamp(1_700_000_000_123);
        assert_eq!((time.seconds, time.nanos), (1_700_000_000, 123_000_000));
        assert_eq!(future_ms(time, 0), Ok(1_700_000_000_123));
        assert_eq!(future_ms(time, 1_700_000_000_123), Err("in the past"));
        for (seconds, nanos) in [(-1, 0), (i64::MAX, 0), (1, -1), (1, 1_000_000_000)] {
            assert!(future_ms(prost_types::Timestamp { seconds, nanos }, 0).is_err());
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut violations = Violations::default();
        violations.check("app", app(""));
        violations.check("stream", stream("ok"));
        violations.check("page_size", page_size(1001));
        let status = violations.finish().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            proto::error::reason(&status).as_deref(),
            Some("FIELD_INVALID")
        );
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(
            fields
                .iter()
                .map(|field| field.field.as_str())
                .collect::<Vec<_>>(),
            ["app", "page_size"]
        );
    }
}
