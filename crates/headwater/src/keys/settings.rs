//! From the command line to a key's fields, and which of them an update names.

use std::time::{Duration, SystemTime};

use proto::v1::{Container, IngestRole, MediaLimits, PublishPolicy, StreamKey, TakeoverPolicy};

use crate::{
    api,
    cli::{
        ContainerName, Field, IngestRoleName, LimitArguments, SettingsArguments, Takeover,
        UsageError,
    },
};

/// A key with what was given, and the paths of that.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) stream_key: StreamKey,
    pub(super) paths: Vec<&'static str>,
}

/// Reads the arguments; each that was given is a path.
pub(super) fn settings(given: SettingsArguments) -> Result<Settings, UsageError> {
    let mut settings = Settings::default();
    let SettingsArguments {
        description,
        expires_in,
        takeover,
        takeover_priority,
        client_certificate,
        label,
        not_before,
        max_session,
        limits,
        allow_from,
        reconnect_window,
        role,
        quota_group,
    } = given;
    let key = &mut settings.stream_key;
    let mut policy = PublishPolicy::default();
    let paths = &mut settings.paths;
    let mut put = |field: Field, given: bool| {
        if given {
            paths.extend(field.paths());
        }
    };
    put(Field::Description, description.is_some());
    key.description = description.unwrap_or_default();
    put(Field::Expiry, expires_in.is_some());
    key.expire_time = expires_in.map(api::expire_time);
    put(Field::Takeover, takeover.is_some());
    key.takeover_policy = takeover.map(takeover_policy).unwrap_or_default().into();
    put(Field::TakeoverPriority, takeover_priority.is_some());
    policy.takeover_priority = takeover_priority.unwrap_or_default();
    put(Field::ClientCertificate, client_certificate.is_some());
    key.client_certificate = client_certificate.unwrap_or_default();
    put(Field::Labels, !label.is_empty());
    key.labels = label.into_iter().collect();
    put(Field::NotBefore, not_before.is_some());
    policy.not_before = not_before.map(|time| SystemTime::from(time).into());
    put(Field::MaxSession, max_session.is_some());
    policy.max_session_seconds = seconds(max_session, "--max-session")?;
    policy.limits = Some(media_limits(limits, &mut put)?);
    put(Field::AllowFrom, !allow_from.is_empty());
    policy.allowed_cidrs = allow_from;
    put(Field::ReconnectWindow, reconnect_window.is_some());
    policy.reconnect_window_seconds = reconnect_window
        .map(|window| seconds(Some(window), "--reconnect-window"))
        .transpose()?;
    put(Field::Role, role.is_some());
    policy.role = role.map(ingest_role).unwrap_or_default().into();
    put(Field::QuotaGroup, quota_group.is_some());
    policy.quota_group = quota_group.unwrap_or_default();
    key.policy = Some(policy);
    Ok(settings)
}

fn media_limits(
    given: LimitArguments,
    put: &mut impl FnMut(Field, bool),
) -> Result<MediaLimits, UsageError> {
    let LimitArguments {
        max_bitrate,
        max_size,
        max_frame_rate,
        max_keyframe_interval,
        video_codec,
        audio_codec,
        container,
    } = given;
    put(Field::MaxBitrate, max_bitrate.is_some());
    put(Field::MaxSize, max_size.is_some());
    put(Field::MaxFrameRate, max_frame_rate.is_some());
    put(Field::MaxKeyframeInterval, max_keyframe_interval.is_some());
    put(Field::VideoCodec, !video_codec.is_empty());
    put(Field::AudioCodec, !audio_codec.is_empty());
    put(Field::Container, container.is_some());
    let (max_width, max_height) = max_size.unwrap_or_default();
    Ok(MediaLimits {
        max_bitrate_bps: max_bitrate.unwrap_or_default(),
        max_width,
        max_height,
        max_frame_rate_millihertz: max_frame_rate.unwrap_or_default(),
        max_keyframe_interval_ms: milliseconds(max_keyframe_interval)?,
        video_codecs: video_codec,
        audio_codecs: audio_codec,
        containers: container.map(wrapping).into_iter().collect(),
    })
}

impl Field {
    /// As an update mask names it.
    pub(super) fn paths(self) -> &'static [&'static str] {
        match self {
            Self::AllowFrom => &["policy.allowed_cidrs"],
            Self::AudioCodec => &["policy.limits.audio_codecs"],
            Self::ClientCertificate => &["client_certificate"],
            Self::Container => &["policy.limits.containers"],
            Self::Description => &["description"],
            Self::Expiry => &["expire_time"],
            Self::Labels => &["labels"],
            Self::MaxBitrate => &["policy.limits.max_bitrate_bps"],
            Self::MaxFrameRate => &["policy.limits.max_frame_rate_millihertz"],
            Self::MaxKeyframeInterval => &["policy.limits.max_keyframe_interval_ms"],
            Self::MaxSession => &["policy.max_session_seconds"],
            Self::MaxSize => &["policy.limits.max_width", "policy.limits.max_height"],
            Self::NotBefore => &["policy.not_before"],
            Self::QuotaGroup => &["policy.quota_group"],
            Self::ReconnectWindow => &["policy.reconnect_window_seconds"],
            Self::Role => &["policy.role"],
            Self::Takeover => &["takeover_policy"],
            Self::TakeoverPriority => &["policy.takeover_priority"],
            Self::VideoCodec => &["policy.limits.video_codecs"],
        }
    }
}

fn seconds(time: Option<Duration>, argument: &str) -> Result<u32, UsageError> {
    let time = time.unwrap_or_default();
    // A part of a second is one: 0 would be no limit at all.
    let seconds = time
        .as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0));
    u32::try_from(seconds).map_err(|_long| too_long(argument))
}

fn milliseconds(interval: Option<Duration>) -> Result<u32, UsageError> {
    // As above: a part of a millisecond is one.
    let interval_ms = interval.unwrap_or_default().as_micros().div_ceil(1000);
    u32::try_from(interval_ms).map_err(|_long| too_long("--max-keyframe-interval"))
}

fn too_long(argument: &str) -> UsageError {
    UsageError(format!("{argument} is too long"))
}

fn takeover_policy(takeover: Takeover) -> TakeoverPolicy {
    match takeover {
        Takeover::Always => TakeoverPolicy::Takeover,
        Takeover::IfStale => TakeoverPolicy::TakeoverIfStale,
        Takeover::Never => TakeoverPolicy::Reject,
        Takeover::Priority => TakeoverPolicy::Priority,
        Takeover::SameAddress => TakeoverPolicy::SameAddress,
    }
}

fn wrapping(container: ContainerName) -> i32 {
    match container {
        ContainerName::Flv => Container::Flv.into(),
        ContainerName::Enhanced => Container::Enhanced.into(),
    }
}

fn ingest_role(role: IngestRoleName) -> IngestRole {
    match role {
        IngestRoleName::Primary => IngestRole::Primary,
        IngestRoleName::Backup => IngestRole::Backup,
        IngestRoleName::Any => IngestRole::Any,
    }
}
