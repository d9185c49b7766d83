//! What a backend says.

use std::time::Duration;

use serde::Deserialize;

use super::super::offer::{Checked, Offer, Takeover};
use crate::{field, policy::Policy};

/// A decision of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Allow(Checked),
    /// With a text for the publisher; empty: ours.
    Deny(String),
}

/// As it is written. What this version does not know is refused: it may be a restriction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    allow: bool,
    #[serde(default)]
    stream: String,
    tenant: Option<String>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    takeover_policy: Takeover,
    client_certificate: Option<String>,
    #[serde(default)]
    reason: String,
    ttl_seconds: Option<u64>,
}

impl Answer {
    /// The answer, and for how long it may be remembered. `None`: not one that can be followed.
    pub(super) fn read(
        json: &[u8],
        tenant: Option<&str>,
        default_tenant: &str,
    ) -> Option<(Self, Duration)> {
        let written: Written = serde_json::from_slice(json).ok()?;
        let kept = written.ttl_seconds.map(Duration::from_secs);
        if !written.allow {
            let reason = field::reason(&written.reason).map(|()| written.reason);
            let kept = kept.unwrap_or(DENIED_TIME).min(DENIED_TIME_MAX);
            return Some((Self::Deny(reason.unwrap_or_default()), kept));
        }
        let offer = Offer {
            stream: written.stream,
            tenant: written.tenant,
            policy: written.policy,
            takeover_policy: written.takeover_policy,
            client_certificate: written.client_certificate,
        };
        let offer = offer.check(tenant, default_tenant)?;
        let kept = kept.unwrap_or_default().min(ALLOWED_TIME_MAX);
        Some((Self::Allow(offer), kept))
    }

    /// For metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allowed",
            Self::Deny(_) => "denied",
        }
    }
}

/// For how long an answer is remembered at most. One that allows is not remembered where it does not say so.
const ALLOWED_TIME_MAX: Duration = Duration::from_secs(300);
/// An encoder that is refused comes again and again.
const DENIED_TIME: Duration = Duration::from_secs(5);
const DENIED_TIME_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<(Answer, Duration)> {
        Answer::read(json.as_bytes(), None, "default")
    }

    #[test]
    fn an_answer_is_remembered_within_bounds() {
        let kept = |json| read(json).unwrap().1.as_secs();
        assert_eq!(kept(r#"{"allow":true,"stream":"a"}"#), 0);
        assert_eq!(kept(r#"{"allow":true,"stream":"a","ttl_seconds":9}"#), 9);
        assert_eq!(
            kept(r#"{"allow":true,"stream":"a","ttl_seconds":9999}"#),
            300
        );
        assert_eq!(kept(r#"{"allow":false}"#), 5);
        assert_eq!(kept(r#"{"allow":false,"ttl_seconds":0}"#), 0);
        assert_eq!(kept(r#"{"allow":false,"ttl_seconds":9999}"#), 60);
    }

    #[test]
    fn what_cannot_be_followed_is_no_answer() {
        for json in [
            "",
            "{}",
            r#"{"allow":"yes","stream":"a"}"#,
            r#"{"allow":true}"#,
            r#"{"allow":true,"stream":"a/b"}"#,
            r#"{"allow":true,"stream":"a","max_bitrate":1}"#,
            r#"{"allow":true,"stream":"a","policy":{"max_bitrate":1}}"#,
            r#"{"allow":true,"stream":"a","policy":{"max_session_seconds":99999999}}"#,
            r#"{"allow":true,"stream":"a","tenant":"a b"}"#,
            r#"{"allow":true,"stream":"a","takeover_policy":"never"}"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
        let foreign = br#"{"allow":true,"stream":"a","tenant":"b"}"#;
        assert_eq!(Answer::read(foreign, Some("a"), "default"), None);
    }

    #[test]
    fn a_reason_that_cannot_be_shown_is_left_out() {
        let reason = |json| match read(json).unwrap().0 {
            Answer::Deny(reason) => reason,
            Answer::Allow(_) => panic!("allowed"),
        };
        assert_eq!(reason(r#"{"allow":false,"reason":"no plan"}"#), "no plan");
        assert_eq!(reason("{\"allow\":false,\"reason\":\"a\\u0007\"}"), "");
    }
}
