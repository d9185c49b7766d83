//! What a key's fields may hold, at its creation and later.

use std::collections::BTreeMap;

use proto::v1::{MediaLimits, PublishPolicy, StreamKey as StreamKeyMessage, TakeoverPolicy};

use crate::{
    client_certificate::CertificateBinding,
    database::KeyRecord,
    field::{self, Violations, timestamp},
    policy::Policy,
};

/// What may change of a key, checked.
pub(super) struct Settings {
    pub(super) description: String,
    pub(super) expire_ms: Option<i64>,
    pub(super) takeover_policy: i32,
    pub(super) client_certificate: Option<CertificateBinding>,
    pub(super) policy: Policy,
    pub(super) labels: BTreeMap<String, String>,
}

impl Settings {
    /// Reads them from a message. An expiry that is not new may be past.
    pub(super) fn check(
        message: StreamKeyMessage,
        now_ms: i64,
        new_expiry: bool,
        violations: &mut Violations,
    ) -> Self {
        let description = field::description(&message.description);
        violations.check("description", description);
        let expire_ms = message.expire_time.map(|time| {
            if new_expiry {
                field::future_ms(time, now_ms)
            } else {
                field::time_ms(time)
            }
        });
        let expire_ms = violations.check("expire_time", expire_ms.transpose());
        let takeover = takeover_policy(message.takeover_policy);
        let takeover = violations.check("takeover_policy", takeover);
        let binding = &message.client_certificate;
        let binding = (!binding.is_empty()).then(|| CertificateBinding::parse(binding));
        let binding = violations.check("client_certificate", binding.transpose());
        violations.check("labels", field::labels(&message.labels));
        let policy = Policy::parse(message.policy.unwrap_or_default(), violations);
        let expire_ms = expire_ms.flatten();
        if let (Some(not_before_ms), Some(expire_ms)) = (policy.not_before_ms, expire_ms)
            && not_before_ms >= expire_ms
        {
            violations.check::<()>("policy.not_before", Err("not before expire_time"));
        }
        Self {
            description: message.description,
            expire_ms,
            takeover_policy: takeover.unwrap_or_default(),
            client_certificate: binding.flatten(),
            policy,
            labels: message.labels,
        }
    }

    /// The key with these settings.
    pub(super) fn of(self, record: KeyRecord) -> KeyRecord {
        let Self {
            description,
            expire_ms,
            takeover_policy,
            client_certificate,
            policy,
            labels,
        } = self;
        KeyRecord {
            description,
            expire_ms,
            takeover_policy,
            client_certificate,
            policy,
            labels,
            ..record
        }
    }
}

fn takeover_policy(policy: i32) -> Result<i32, &'static str> {
    match TakeoverPolicy::try_from(policy) {
        Ok(TakeoverPolicy::Unspecified) => Ok(TakeoverPolicy::TakeoverIfStale.into()),
        Ok(known) => Ok(known.into()),
        Err(_unknown) => Err("not a takeover policy"),
    }
}

/// Which fields an update names.
pub(super) struct Mask {
    paths: Vec<String>,
}

impl Mask {
    /// Fails where it names what cannot be updated, or nothing.
    pub(super) fn parse(mask: Option<prost_types::FieldMask>) -> Result<Self, &'static str> {
        let paths = mask.unwrap_or_default().paths;
        let mut to = StreamKeyMessage::default();
        let from = StreamKeyMessage::default();
        if paths.is_empty() {
            Err("names no field")
        } else if paths.len() > PATHS_MAX {
            Err("at most 32 paths")
        } else if paths.iter().all(|path| copy(path, &from, &mut to)) {
            Ok(Self { paths })
        } else {
            Err(
                "may name description, expire_time, takeover_policy, client_certificate, labels, policy, and fields of \
                 policy such as policy.limits or policy.limits.max_bitrate_bps",
            )
        }
    }

    pub(super) fn names(&self, path: &str) -> bool {
        self.paths.iter().any(|named| named == path)
    }

    /// The key as it is, with what the mask names as it is given.
    pub(super) fn apply(
        &self,
        given: &StreamKeyMessage,
        key: StreamKeyMessage,
    ) -> StreamKeyMessage {
        let mut key = key;
        for path in &self.paths {
            copy(path, given, &mut key);
        }
        key
    }
}

/// Whether there is such a field.
fn copy(path: &str, from: &StreamKeyMessage, to: &mut StreamKeyMessage) -> bool {
    match path {
        "description" => to.description.clone_from(&from.description),
        "expire_time" => to.expire_time = from.expire_time,
        "takeover_policy" => to.takeover_policy = from.takeover_policy,
        "client_certificate" => to.client_certificate.clone_from(&from.client_certificate),
        "labels" => to.labels.clone_from(&from.labels),
        "policy" => to.policy.clone_from(&from.policy),
        _ => {
            let Some(path) = path.strip_prefix("policy.") else {
                return false;
            };
            let none = PublishPolicy::default();
            let from = from.policy.as_ref().unwrap_or(&none);
            return copy_in_policy(path, from, to.policy.get_or_insert_default());
        }
    }
    true
}

fn copy_in_policy(path: &str, from: &PublishPolicy, to: &mut PublishPolicy) -> bool {
    match path {
        "not_before" => to.not_before = from.not_before,
        "max_session_seconds" => to.max_session_seconds = from.max_session_seconds,
        "limits" => to.limits.clone_from(&from.limits),
        "allowed_cidrs" => to.allowed_cidrs.clone_from(&from.allowed_cidrs),
        "reconnect_window_seconds" => to.reconnect_window_seconds = from.reconnect_window_seconds,
        "role" => to.role = from.role,
        "quota_group" => to.quota_group.clone_from(&from.quota_group),
        "takeover_priority" => to.takeover_priority = from.takeover_priority,
        _ => {
            let Some(path) = path.strip_prefix("limits.") else {
                return false;
            };
            let none = MediaLimits::default();
            let from = from.limits.as_ref().unwrap_or(&none);
            return copy_in_limits(path, from, to.limits.get_or_insert_default());
        }
    }
    true
}

fn copy_in_limits(path: &str, from: &MediaLimits, to: &mut MediaLimits) -> bool {
    match path {
        "max_bitrate_bps" => to.max_bitrate_bps = from.max_bitrate_bps,
        "max_width" => to.max_width = from.max_width,
        "max_height" => to.max_height = from.max_height,
        "max_frame_rate_millihertz" => {
            to.max_frame_rate_millihertz = from.max_frame_rate_millihertz;
        }
        "max_keyframe_interval_ms" => to.max_keyframe_interval_ms = from.max_keyframe_interval_ms,
        "video_codecs" => to.video_codecs.clone_from(&from.video_codecs),
        "audio_codecs" => to.audio_codecs.clone_from(&from.audio_codecs),
        "containers" => to.containers.clone_from(&from.containers),
        _ => return false,
    }
    true
}

/// A stored key, as its owner sees it at this moment.
pub(super) fn message(record: KeyRecord, now_ms: i64) -> StreamKeyMessage {
    let previous = record.previous_at(now_ms);
    StreamKeyMessage {
        previous_secret_expire_time: previous.map(|previous| timestamp(previous.until_ms)),
        state: record.state(now_ms).into(),
        etag: etag(&record),
        id: record.id.to_string(),
        tenant: record.tenant,
        app: record.app,
        stream: record.stream,
        description: record.description,
        create_time: Some(timestamp(record.create_ms)),
        expire_time: record.expire_ms.map(timestamp),
        revoke_time: record.revoke_ms.map(timestamp),
        takeover_policy: record.takeover_policy,
        adobe: record.adobe.is_some(),
        client_certificate: record
            .client_certificate
            .map(|binding| binding.as_str().to_owned())
            .unwrap_or_default(),
        policy: Some(record.policy.message()),
        labels: record.labels,
        update_time: record.update_ms.map(timestamp),
    }
}

pub(super) fn etag(record: &KeyRecord) -> String {
    format!("v{}", record.version)
}

/// More than there are fields.
const PATHS_MAX: usize = 32;
