//! What a server says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Value, from_redis_value, from_redis_value_ref};

/// The answer to ROLE.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    Primary {
        /// Of its stream of writes.
        offset: i64,
        /// The furthest that a replica has said to have; `None`: there is no replica.
        acknowledged: Option<i64>,
    },
    /// A replica, a sentinel.
    Other(String),
}

/// `None` where it was not told: its user may not ask, or this is no answer.
pub(super) fn read_role(value: &Value) -> Option<Role> {
    let Value::Array(parts) = value else {
        return None;
    };
    let name: String = from_redis_value_ref(parts.first()?).ok()?;
    if name != "master" {
        return Some(Role::Other(name));
    }
    let offset = from_redis_value_ref(parts.get(1)?).ok()?;
    let replicas: Vec<(String, String, i64)> = from_redis_value_ref(parts.get(2)?).ok()?;
    Some(Role::Primary {
        offset,
        acknowledged: replicas.iter().map(|(_, _, offset)| *offset).max(),
    })
}

/// How far the server's clock is ahead of `here`.
pub(super) fn skew_seconds(time: Value, here: SystemTime) -> Option<f64> {
    let (seconds, microseconds): (u64, u32) = from_redis_value(time).ok()?;
    let there = Duration::from_secs(seconds)
        .checked_add(Duration::from_micros(microseconds.into()))?
        .as_secs_f64();
    Some(there - here.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_role_is_read_or_unknown() {
        let replica =
            |offset: &str| Value::Array(vec![text("127.0.0.1"), text("6380"), text(offset)]);
        let primary =
            |replicas| Value::Array(vec![text("master"), Value::Int(20), Value::Array(replicas)]);
        let known = |acknowledged| {
            Some(Role::Primary {
                offset: 20,
                acknowledged,
            })
        };
        assert_eq!(read_role(&primary(vec![])), known(None));
        let two = primary(vec![replica("19"), replica("7")]);
        assert_eq!(read_role(&two), known(Some(19)));
        let other = Value::Array(vec![text("slave"), text("127.0.0.1"), Value::Int(6379)]);
        assert_eq!(read_role(&other), Some(Role::Other("slave".to_owned())));
        for strange in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![text("master")]),
            primary(vec![Value::Nil]),
            primary(vec![replica("-")]),
        ] {
            assert_eq!(read_role(&strange), None, "{strange:?}");
        }
    }

    #[test]
    fn a_clock_is_compared() {
        let here = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let skew = |seconds, microseconds| {
            skew_seconds(Value::Array(vec![text(seconds), text(microseconds)]), here)
        };
        assert!((skew("1800000002", "500000").unwrap() - 2.5).abs() < 0.001);
        assert!((skew("1799999999", "0").unwrap() + 1.0).abs() < 0.001);
        for strange in [
            skew("-1", "0"),
            skew("18446744073709551615", "999999"),
            skew("x", "0"),
        ] {
            assert!(strange.is_none_or(f64::is_finite), "{strange:?}");
        }
    }
}
