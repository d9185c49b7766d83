//! What a key looks like to people and to scripts.

use proto::v1::{Container, IngestRole, PublishPolicy, StreamKey};
use serde_json::{Value, json};

use crate::{api, output};

/// One line of a list.
pub(super) const HEADING: [&str; 9] = [
    "ID",
    "APP",
    "STREAM",
    "STATE",
    "CREATED",
    "EXPIRES",
    "LOGIN",
    "LABELS",
    "DESCRIPTION",
];

pub(super) fn row(key: StreamKey) -> [String; 9] {
    let state = state(&key);
    let created = api::time(key.create_time.as_ref());
    let expires = api::time(key.expire_time.as_ref());
    let labels: Vec<_> = key.labels.iter().map(label).collect();
    let login = if key.adobe { "key, password" } else { "key" };
    [
        key.id,
        key.app,
        key.stream,
        state,
        created,
        expires,
        login.to_owned(),
        labels.join(","),
        key.description,
    ]
}

/// All that is known of a key, a line each.
pub(super) fn print(key: &StreamKey) {
    let time = |time: Option<&prost_types::Timestamp>| time.map(|time| api::time(Some(time)));
    let none = PublishPolicy::default();
    let policy = key.policy.as_ref().unwrap_or(&none);
    let labels: Vec<_> = key.labels.iter().map(label).collect();
    let mut lines = vec![
        ("id", Some(key.id.clone())),
        ("publishes", Some(format!("{}/{}", key.app, key.stream))),
        ("tenant", some(&key.tenant)),
        ("state", Some(state(key))),
        ("description", some(&key.description)),
        ("labels", some(&labels.join(", "))),
        ("created", time(key.create_time.as_ref())),
        ("changed", time(key.update_time.as_ref())),
        ("not before", time(policy.not_before.as_ref())),
        ("expires", time(key.expire_time.as_ref())),
        ("revoked", time(key.revoke_time.as_ref())),
        (
            "old secret until",
            time(key.previous_secret_expire_time.as_ref()),
        ),
        ("takeover", Some(takeover(key))),
        ("password", key.adobe.then(|| "yes".to_owned())),
        ("client certificate", some(&key.client_certificate)),
    ];
    lines.extend(policy_lines(policy));
    lines.push(("etag", some(&key.etag)));
    for (name, value) in lines {
        if let Some(value) = value {
            output::line(format_args!("{name:<20} {}", output::printable(value)));
        }
    }
}

fn policy_lines(policy: &PublishPolicy) -> Vec<(&'static str, Option<String>)> {
    let limits = policy.limits.clone().unwrap_or_default();
    let number = |number: u64, unit: &str| (number > 0).then(|| format!("{number} {unit}"));
    let list = |list: &[String]| (!list.is_empty()).then(|| list.join(", "));
    let size = match (limits.max_width, limits.max_height) {
        (0, 0) => None,
        (width, height) => Some(format!("{width}x{height}")),
    };
    let rate = limits.max_frame_rate_millihertz;
    let rate = (rate > 0).then(|| format!("{} fps", f64::from(rate) / 1000.0));
    let role = match policy.role() {
        IngestRole::Unspecified | IngestRole::Primary => None,
        IngestRole::Backup => Some("backup".to_owned()),
        IngestRole::Any => Some("primary, or backup with backup=1".to_owned()),
    };
    vec![
        ("from", list(&policy.allowed_cidrs)),
        ("role", role),
        ("quota group", some(&policy.quota_group)),
        (
            "takeover priority",
            (policy.takeover_priority > 0).then(|| policy.takeover_priority.to_string()),
        ),
        (
            "longest session",
            number(policy.max_session_seconds.into(), "s"),
        ),
        (
            "reconnect window",
            policy.reconnect_window_seconds.map(|s| format!("{s} s")),
        ),
        (
            "bitrate",
            number(limits.max_bitrate_bps / 1000, "kb/s at most"),
        ),
        ("size", size.map(|size| format!("{size} at most"))),
        ("frame rate", rate.map(|rate| format!("{rate} at most"))),
        (
            "keyframe interval",
            number(limits.max_keyframe_interval_ms.into(), "ms at most"),
        ),
        ("video codecs", list(&limits.video_codecs)),
        ("audio codecs", list(&limits.audio_codecs)),
        ("containers", list(&containers(&limits.containers))),
    ]
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn to_json(key: &StreamKey) -> Value {
    let time = api::json_time;
    let policy = key.policy.clone().unwrap_or_default();
    let limits = policy.limits.clone().unwrap_or_default();
    json!({
        "id": key.id,
        "tenant": key.tenant,
        "app": key.app,
        "stream": key.stream,
        "description": key.description,
        "create_time": time(key.create_time.as_ref()),
        "update_time": time(key.update_time.as_ref()),
        "expire_time": time(key.expire_time.as_ref()),
        "revoke_time": time(key.revoke_time.as_ref()),
        "previous_secret_expire_time": time(key.previous_secret_expire_time.as_ref()),
        "state": state(key),
        "takeover_policy": takeover(key),
        "client_certificate": key.client_certificate,
        "adobe": key.adobe,
        "labels": key.labels,
        "etag": key.etag,
        "policy": {
            "not_before": time(policy.not_before.as_ref()),
            "max_session_seconds": policy.max_session_seconds,
            "allowed_cidrs": policy.allowed_cidrs,
            "reconnect_window_seconds": policy.reconnect_window_seconds,
            "role": word(policy.role().as_str_name(), "INGEST_ROLE_"),
            "quota_group": policy.quota_group,
            "takeover_priority": policy.takeover_priority,
            "limits": {
                "max_bitrate_bps": limits.max_bitrate_bps,
                "max_width": limits.max_width,
                "max_height": limits.max_height,
                "max_frame_rate_millihertz": limits.max_frame_rate_millihertz,
                "max_keyframe_interval_ms": limits.max_keyframe_interval_ms,
                "video_codecs": limits.video_codecs,
                "audio_codecs": limits.audio_codecs,
                "containers": containers(&limits.containers),
            },
        },
    })
}

fn state(key: &StreamKey) -> String {
    word(key.state().as_str_name(), "STREAM_KEY_STATE_")
}

fn takeover(key: &StreamKey) -> String {
    word(key.takeover_policy().as_str_name(), "TAKEOVER_POLICY_")
}

fn containers(values: &[i32]) -> Vec<String> {
    let known = values
        .iter()
        .filter_map(|value| Container::try_from(*value).ok());
    known
        .map(|container| word(container.as_str_name(), "CONTAINER_"))
        .collect()
}

/// An enum's value without what all its values begin with.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

fn label((name, value): (&String, &String)) -> String {
    format!("{name}={value}")
}
