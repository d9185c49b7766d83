//! `headwater keys` and `headwater quotas` on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a stream key; its secret is shown this once
    Create(Box<CreateArguments>),
    /// Show a stream key with its policy
    Get {
        /// As `keys list` shows it
        id: String,
    },
    /// List stream keys, oldest first
    List(ListArguments),
    /// Change a stream key; live sessions are held to the new limits
    Update(Box<UpdateArguments>),
    /// Give a stream key a new secret, shown this once; live sessions go on
    Rotate {
        /// As `keys list` shows it
        id: String,
        /// For how long the old secret is good too, such as `1h`
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
        overlap: Duration,
        #[command(flatten)]
        once: OnceArguments,
        /// Only if the key is still what `keys get` showed with this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
        /// Write the secret to this file (mode 0600) instead of showing it
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Revoke a stream key and end its live sessions
    Revoke {
        /// As `keys list` shows it
        id: String,
        /// For the log and the publisher
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Refuse a key that the platform signed itself, by its claim `jti`, and end its live sessions
    RevokeSigned(RevokeSignedArguments),
    /// Revoke a stream key, end its live sessions and forget it
    Delete {
        /// As `keys list` shows it
        id: String,
        /// For the log and the publisher
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Only if the key is still what `keys get` showed with this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CreateArguments {
    /// Application, as in the RTMPS URL's path
    #[arg(long, default_value = "live")]
    pub(crate) app: String,
    /// Public name of the stream that the key publishes
    #[arg(long)]
    pub(crate) stream: String,
    /// Whose the key is [default: the token's tenant]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    #[command(flatten)]
    pub(crate) settings: SettingsArguments,
    /// The encoder insists on user and password (Adobe authentication, over TLS alone)
    #[arg(long)]
    pub(crate) adobe: bool,
    #[command(flatten)]
    pub(crate) once: OnceArguments,
    /// Write the secret to this file (mode 0600) instead of showing it
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    /// Of one application alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) app: String,
    /// Of one stream alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) stream: String,
    /// Of one tenant alone
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// With this label; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// In this state; repeat it for several
    #[arg(long)]
    pub(crate) state: Vec<KeyState>,
    /// Revoked ones too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct UpdateArguments {
    /// As `keys list` shows it
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) settings: SettingsArguments,
    /// Take this away from the key; repeat it for several
    #[arg(long, value_name = "FIELD")]
    pub(crate) clear: Vec<Field>,
    /// Only if the key is still what `keys get` showed with this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) etag: String,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeSignedArguments {
    /// Application, as in the RTMPS URL's path
    #[arg(long)]
    pub(crate) app: String,
    /// The key's own name; of a key without one, what its id in `sessions list` ends in
    #[arg(long)]
    pub(crate) jti: String,
    /// When the key itself expires, such as `2026-07-01T18:00:00Z`: it is remembered until then [default: in 24 h]
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<jiff::Timestamp>,
    /// For the log and the publisher
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    /// Whose the key is [default: the token's tenant, or the application's]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
}

/// What a request is called.
#[derive(Args, Debug)]
pub(crate) struct OnceArguments {
    /// A name of your making: the same command again within a day does nothing, and shows the same secret
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) request_id: String,
}

/// What may be said of a key, now and later. Limits are held by the edge while a session runs.
#[derive(Args, Debug, Default)]
pub(crate) struct SettingsArguments {
    /// For people
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// The key is refused after this time, such as `30days`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) expires_in: Option<Duration>,
    /// What a second publisher with the key gets while the first is live [default: if-stale]
    #[arg(long)]
    pub(crate) takeover: Option<Takeover>,
    /// With `--takeover priority`: what its publisher has against others of the stream, up to 1000
    #[arg(long, value_name = "NUMBER")]
    pub(crate) takeover_priority: Option<u32>,
    /// Publish only with this client certificate: a DNS name, URI or email address of its subjectAltName, or its
    /// SHA-256 fingerprint
    #[arg(long, value_name = "NAME")]
    pub(crate) client_certificate: Option<String>,
    /// A label; repeat it for several. An update replaces them all
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// The key is refused before this time, such as `2026-07-01T18:00:00Z`
    #[arg(long, value_name = "TIME")]
    pub(crate) not_before: Option<jiff::Timestamp>,
    /// The longest that one session lasts, such as `2h`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_session: Option<Duration>,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
    /// Addresses that may publish, such as 192.0.2.0/24; repeat it for several
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub(crate) allow_from: Vec<String>,
    /// For how long the stream waits for a publisher that was lost, such as `20s`, 30m at most; 0s: not at all [default:
    /// the cluster's, 15s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) reconnect_window: Option<Duration>,
    /// Which of the stream's two inputs
    #[arg(long)]
    pub(crate) role: Option<IngestRoleName>,
    /// Keys of one group share a quota (headwater quotas)
    #[arg(long, value_name = "NAME")]
    pub(crate) quota_group: Option<String>,
}

/// What the media is held to.
#[derive(Args, Debug, Default)]
pub(crate) struct LimitArguments {
    /// The highest bitrate, over 10 s, such as `6M` or `800k`, in bits per second
    #[arg(long, value_name = "BITRATE", value_parser = bitrate)]
    pub(crate) max_bitrate: Option<u64>,
    /// The largest picture, such as `1920x1080`
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_size: Option<(u32, u32)>,
    /// The highest frame rate, such as `30fps` or `59.94`
    #[arg(long, value_name = "RATE", value_parser = frame_rate)]
    pub(crate) max_frame_rate: Option<u32>,
    /// The longest time between keyframes, such as `4s`
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_keyframe_interval: Option<Duration>,
    /// A video codec that may be sent, such as avc1 or hvc1; repeat it for several
    #[arg(long, value_name = "FOURCC", value_delimiter = ',')]
    pub(crate) video_codec: Vec<String>,
    /// An audio codec that may be sent, such as mp4a or Opus; repeat it for several
    #[arg(long, value_name = "FOURCC", value_delimiter = ',')]
    pub(crate) audio_codec: Vec<String>,
    /// How media may be wrapped
    #[arg(long)]
    pub(crate) container: Option<ContainerName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Takeover {
    /// Admitted; the first is ended
    Always,
    /// Admitted where the first has sent no media for some seconds
    IfStale,
    /// Refused
    Never,
    /// Admitted where its `--takeover-priority` is higher, else as if-stale
    Priority,
    /// Admitted where it comes from the first's address, else as if-stale
    SameAddress,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ContainerName {
    /// FLV tags as Adobe described them, alone
    Flv,
    /// Enhanced RTMP's headers alone
    Enhanced,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum IngestRoleName {
    Primary,
    Backup,
    /// Primary, or backup where the URL says backup=1
    Any,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KeyState {
    Active,
    /// Not valid yet
    Pending,
    Expired,
    Revoked,
}

/// What an update can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    AllowFrom,
    AudioCodec,
    ClientCertificate,
    Container,
    Description,
    Expiry,
    Labels,
    MaxBitrate,
    MaxFrameRate,
    MaxKeyframeInterval,
    MaxSession,
    MaxSize,
    NotBefore,
    QuotaGroup,
    ReconnectWindow,
    Role,
    Takeover,
    TakeoverPriority,
    VideoCodec,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotasCommand {
    /// Show what a tenant may have, and has
    Get {
        /// [default: the token's tenant]
        #[arg(long, default_value = "", hide_default_value = true)]
        tenant: String,
    },
    /// Set what a tenant may have, or a group of its keys; what is not given is not limited
    Set(QuotaArguments),
}

#[derive(Args, Debug)]
pub(crate) struct QuotaArguments {
    /// [default: the token's tenant]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) tenant: String,
    /// Of the keys of this group (keys create --quota-group) instead of all
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) group: String,
    /// Keys that are not revoked
    #[arg(long, value_name = "NUMBER", default_value_t)]
    pub(crate) max_keys: u32,
    /// Sessions at the same time
    #[arg(long, value_name = "NUMBER", default_value_t)]
    pub(crate) max_sessions: u32,
    /// Of all sessions together, such as `500M`, in bits per second
    #[arg(long, value_name = "BITRATE", default_value = "0", value_parser = bitrate)]
    pub(crate) max_bitrate: u64,
    /// Take the quota away: a tenant is then held to the configuration's
    #[arg(long, conflicts_with_all = ["max_keys", "max_sessions", "max_bitrate"])]
    pub(crate) remove: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "not NAME=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn bitrate(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix("bps").unwrap_or(text).trim();
    let (number, thousands) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.split_at(at).0, 1),
        Some((at, 'm' | 'M')) => (text.split_at(at).0, 2),
        Some((at, 'g' | 'G')) => (text.split_at(at).0, 3),
        Some(_) | None => (text, 0),
    };
    decimal(number.trim(), thousands).ok_or_else(|| "not a bitrate such as 6M or 800k".to_owned())
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let parse = || {
        let (width, height) = text.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    };
    parse().ok_or_else(|| "not a size such as 1920x1080".to_owned())
}

/// In thousandths of a frame per second.
fn frame_rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("fps").unwrap_or(text).trim();
    let rate = decimal(number, 1).and_then(|rate| u32::try_from(rate).ok());
    rate.ok_or_else(|| "not a frame rate such as 30fps or 59.94".to_owned())
}

/// A number with at most as many decimals as it loses by being multiplied by a thousand so often.
fn decimal(text: &str, thousands: u32) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !(decimals.is_empty() && !text.contains('.') || digits(decimals)) {
        return None;
    }
    let places = usize::try_from(thousands).ok()?.checked_mul(3)?;
    if decimals.len() > places {
        return None;
    }
    format!("{whole}{decimals:0<places$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        for (text, bps) in [
            ("6M", 6_000_000),
            ("2.5m", 2_500_000),
            ("800k", 800_000),
            ("1 Gbps", 1_000_000_000),
            ("1200", 1200),
        ] {
            assert_eq!(bitrate(text), Ok(bps), "{text}");
        }
        for text in [
            "",
            "M",
            "-1M",
            "1.5",
            "1.0000001M",
            "6MB",
            "99999999999999999999",
            "1.M",
            "ü",
        ] {
            assert!(bitrate(text).is_err(), "{text}");
        }
        assert_eq!(frame_rate("30fps"), Ok(30_000));
        assert_eq!(frame_rate("59.94"), Ok(59_940));
        assert!(frame_rate("fast").is_err() && frame_rate("4294968").is_err());
        assert_eq!(size("1920x1080"), Ok((1920, 1080)));
        assert!(size("1920").is_err() && size("1x-1").is_err());
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("a").is_err());
    }
}
