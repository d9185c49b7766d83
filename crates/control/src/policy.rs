//! What a publisher may do once it is in: the same for a stream key, a signed key and a webhook's answer.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::v1::{Container, IngestRole, MediaLimits, PublishPolicy};
use serde::{Deserialize, Serialize};

use crate::{
    admission::Refusal,
    field::{Violations, client_ip, mentions_stream_key, time_ms, timestamp},
};

/// As stored, and as a signed key or a webhook writes it. What this version does not know is refused: it may be a
/// restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Policy {
    /// Milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_before_ms: Option<i64>,
    /// 0: no end.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_session_seconds: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) limits: Limits,
    /// Empty: every address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allowed_cidrs: Vec<IpNet>,
    /// `None`: the cluster's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reconnect_window_seconds: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) role: Role,
    /// Empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) quota_group: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) takeover_priority: u32,
}

/// As `headwater.v1.MediaLimits`; 0 and empty: not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_bitrate_bps: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_width: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_height: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_frame_rate_millihertz: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_keyframe_interval_ms: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) video_codecs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) audio_codecs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) containers: Vec<Wrapping>,
}

/// As `headwater.v1.Container`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wrapping {
    Flv,
    Enhanced,
}

/// Which of a stream's inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    #[default]
    Primary,
    Backup,
    /// As the publisher says.
    Any,
}

/// What a source of admission allows: who publishes what, and under which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) tenant: String,
    pub(crate) app: String,
    pub(crate) stream: String,
    /// A stream key's id, or `jti:…` or `webhook:…` of another source: what revocations name.
    pub(crate) credential_id: String,
    /// As `headwater.v1.TakeoverPolicy`.
    pub(crate) takeover_policy: i32,
    /// Milliseconds since the Unix epoch: ends what it started.
    pub(crate) expire_ms: Option<i64>,
    pub(crate) policy: Policy,
}

impl Terms {
    /// Whether a publisher at this address (as the edge tells it) may come in now. To be asked when nothing else is wrong
    /// with the credential: the answer tells of its terms.
    pub(crate) fn admits(&self, client_address: &str, now_ms: i64) -> Result<(), Refusal> {
        let not_before_ms = self.policy.not_before_ms;
        if not_before_ms.is_some_and(|not_before_ms| not_before_ms > now_ms) {
            Err(Refusal::NotYetValid)
        } else if self.policy.takes(client_address) {
            Ok(())
        } else {
            Err(Refusal::AddressNotAllowed)
        }
    }
}

const SESSION_SECONDS_MAX: u32 = 30 * 24 * 60 * 60;
const RECONNECT_WINDOW_SECONDS_MAX: u32 = 1800;
const TAKEOVER_PRIORITY_MAX: u32 = 1000;
/// A terabit: so far from what anybody publishes that sums of it cannot overflow.
pub(crate) const BITRATE_BPS_MAX: u64 = 1_000_000_000_000;
const CIDRS_MAX: usize = 32;
const CODECS_MAX: usize = 16;
const CODEC_BYTES_MAX: usize = 16;
const QUOTA_GROUP_BYTES_MAX: usize = 64;

impl Policy {
    /// Reads the message; what is wrong with it is noted under its field's path.
    pub(crate) fn parse(message: PublishPolicy, violations: &mut Violations) -> Self {
        let not_before = message.not_before.map(time_ms).transpose();
        let limits = message.limits.unwrap_or_default();
        let cidrs: Option<Vec<_>> = message
            .allowed_cidrs
            .iter()
            .map(|text| cidr(text))
            .collect();
        let cidrs = cidrs.ok_or("addresses, or networks such as 192.0.2.0/24");
        let containers = limits.containers.iter().map(|value| container(*value));
        let containers = containers.collect::<Option<Vec<_>>>();
        let role = violations.check("policy.role", role(message.role));
        let policy = Self {
            not_before_ms: violations.check("policy.not_before", not_before).flatten(),
            max_session_seconds: message.max_session_seconds,
            allowed_cidrs: violations
                .check("policy.allowed_cidrs", cidrs)
                .unwrap_or_default(),
            reconnect_window_seconds: message.reconnect_window_seconds,
            role: role.unwrap_or_default(),
            quota_group: message.quota_group,
            takeover_priority: message.takeover_priority,
            limits: Limits {
                max_bitrate_bps: limits.max_bitrate_bps,
                max_width: limits.max_width,
                max_height: limits.max_height,
                max_frame_rate_millihertz: limits.max_frame_rate_millihertz,
                max_keyframe_interval_ms: limits.max_keyframe_interval_ms,
                video_codecs: limits.video_codecs,
                audio_codecs: limits.audio_codecs,
                containers: violations
                    .check(
                        "policy.limits.containers",
                        containers.ok_or("not a container"),
                    )
                    .unwrap_or_default(),
            },
        };
        policy.check(violations);
        policy
    }

    /// Notes every value that is out of its range, wherever the policy came from.
    pub(crate) fn check(&self, violations: &mut Violations) {
        let at_most = |holds: bool, expected| if holds { Ok(()) } else { Err(expected) };
        violations.check(
            "policy.max_session_seconds",
            at_most(
                self.max_session_seconds <= SESSION_SECONDS_MAX,
                "at most 30 days",
            ),
        );
        violations.check(
            "policy.reconnect_window_seconds",
            at_most(
                self.reconnect_window_seconds <= Some(RECONNECT_WINDOW_SECONDS_MAX),
                "at most 1800",
            ),
        );
        violations.check(
            "policy.allowed_cidrs",
            at_most(self.allowed_cidrs.len() <= CIDRS_MAX, "at most 32"),
        );
        violations.check(
            "policy.takeover_priority",
            at_most(
                self.takeover_priority <= TAKEOVER_PRIORITY_MAX,
                "at most 1000",
            ),
        );
        violations.check("policy.quota_group", quota_group(&self.quota_group));
        violations.check(
            "policy.limits.max_bitrate_bps",
            at_most(
                self.limits.max_bitrate_bps <= BITRATE_BPS_MAX,
                "at most 1000000000000",
            ),
        );
        violations.check(
            "policy.limits.video_codecs",
            codecs(&self.limits.video_codecs),
        );
        violations.check(
            "policy.limits.audio_codecs",
            codecs(&self.limits.audio_codecs),
        );
    }

    pub(crate) fn message(&self) -> PublishPolicy {
        PublishPolicy {
            not_before: self.not_before_ms.map(timestamp),
            max_session_seconds: self.max_session_seconds,
            limits: Some(self.limits.message()),
            allowed_cidrs: self.allowed_cidrs.iter().map(IpNet::to_string).collect(),
            reconnect_window_seconds: self.reconnect_window_seconds,
            role: match self.role {
                Role::Primary => IngestRole::Primary,
                Role::Backup => IngestRole::Backup,
                Role::Any => IngestRole::Any,
            }
            .into(),
            quota_group: self.quota_group.clone(),
            takeover_priority: self.takeover_priority,
        }
    }

    fn takes(&self, client_address: &str) -> bool {
        let networks = &self.allowed_cidrs;
        networks.is_empty()
            || client_ip(client_address)
                .is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
    }

    /// When a session that starts now has to end: milliseconds since the Unix epoch.
    pub(crate) fn session_until_ms(&self, now_ms: i64, expire_ms: Option<i64>) -> Option<u64> {
        let longest = (self.max_session_seconds > 0).then(|| {
            now_ms.saturating_add(i64::from(self.max_session_seconds).saturating_mul(1000))
        });
        let until_ms = match (longest, expire_ms) {
            (Some(longest), Some(expire)) => Some(longest.min(expire)),
            (Some(until), None) | (None, Some(until)) => Some(until),
            (None, None) => None,
        };
        until_ms.and_then(|until_ms| u64::try_from(until_ms).ok())
    }
}

impl Limits {
    pub(crate) fn message(&self) -> MediaLimits {
        MediaLimits {
            max_bitrate_bps: self.max_bitrate_bps,
            max_width: self.max_width,
            max_height: self.max_height,
            max_frame_rate_millihertz: self.max_frame_rate_millihertz,
            max_keyframe_interval_ms: self.max_keyframe_interval_ms,
            video_codecs: self.video_codecs.clone(),
            audio_codecs: self.audio_codecs.clone(),
            containers: self
                .containers
                .iter()
                .map(|container| match container {
                    Wrapping::Flv => Container::Flv.into(),
                    Wrapping::Enhanced => Container::Enhanced.into(),
                })
                .collect(),
        }
    }
}

impl Role {
    /// What a publisher is that says whether it is the backup.
    pub(crate) fn asked(self, backup: bool) -> Result<Self, Refusal> {
        match self {
            Self::Primary if backup => Err(Refusal::BackupNotAllowed),
            Self::Any if backup => Ok(Self::Backup),
            Self::Primary | Self::Any => Ok(Self::Primary),
            Self::Backup => Ok(Self::Backup),
        }
    }

    /// The stream's slot.
    pub(crate) fn slot(self) -> u32 {
        match self {
            Self::Primary | Self::Any => 0,
            Self::Backup => 1,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn cidr(text: &str) -> Option<IpNet> {
    let address = |text: &str| text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(|| address(text))
}

fn container(value: i32) -> Option<Wrapping> {
    match Container::try_from(value).ok()? {
        Container::Unspecified => None,
        Container::Flv => Some(Wrapping::Flv),
        Container::Enhanced => Some(Wrapping::Enhanced),
    }
}

fn role(value: i32) -> Result<Role, &'static str> {
    match IngestRole::try_from(value) {
        Ok(IngestRole::Unspecified | IngestRole::Primary) => Ok(Role::Primary),
        Ok(IngestRole::Backup) => Ok(Role::Backup),
        Ok(IngestRole::Any) => Ok(Role::Any),
        Err(_unknown) => Err("not a role"),
    }
}

fn codecs(names: &[String]) -> Result<(), &'static str> {
    let is_name = |name: &String| {
        !name.is_empty()
            && name.len() <= CODEC_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if names.len() <= CODECS_MAX && names.iter().all(is_name) {
        Ok(())
    } else {
        Err("at most 16 codecs such as avc1 or mp4a")
    }
}

/// A quota group; empty: none.
pub(crate) fn quota_group(group: &str) -> Result<(), &'static str> {
    let characters = group
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if characters && group.len() <= QUOTA_GROUP_BYTES_MAX && !mentions_stream_key(group) {
        Ok(())
    } else {
        Err("at most 64 bytes of [A-Za-z0-9_.-], and no stream key")
    }
}
