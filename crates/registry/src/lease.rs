//! What is asked of the registry and what it answers. Plain values.

use std::{net::IpAddr, time::Duration};

use aws_lc_rs::digest;

use crate::id::{EdgeName, OriginName, SessionId, Slot, StreamId};

/// A request to publish a stream.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What is to be published.
    pub stream: StreamId,
    /// In which slot.
    pub slot: Slot,
    /// By which session.
    pub session: SessionId,
    /// On which edge.
    pub edge: EdgeName,
    /// The origin that the edge would choose.
    pub candidate: OriginName,
    /// Origins that the edge knows to be there and not draining: a home outside of them is given up.
    pub announced: Vec<OriginName>,
    /// The broadcast id for a stream that has no home (32 hex digits, random).
    pub broadcast_id: String,
    /// What happens to a live owner.
    pub policy: Policy,
    /// What later claims by others are measured against.
    pub standing: Standing,
    /// Whether an owner that is about to leave is waited for ([`ClaimOutcome::Leaving`]) and not replaced at once.
    pub patient: bool,
    /// The epoch granted is above this: an origin has already seen it. 0: no floor.
    pub floor: u64,
    /// How long the home is kept behind the lease.
    pub home_ttl: Duration,
    /// What `sessions list` shows of the session.
    pub stats: LeaseStats,
}

/// What a second publisher does to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: the second is refused.
    Reject,
    /// Replaces it.
    Takeover,
    /// Replaces it where it has sent no media for this long.
    TakeoverIfStale(Duration),
    /// Replaces it where its priority is higher than the first's, or as [`TakeoverIfStale`](Self::TakeoverIfStale).
    Priority(Duration),
    /// Replaces it where its encoder has the first's address, or as [`TakeoverIfStale`](Self::TakeoverIfStale).
    SameAddress(Duration),
}

/// What claims of others are measured against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// For [`Policy::Priority`].
    pub priority: u32,
    /// For [`Policy::SameAddress`]: the encoder's, digested ([`Standing::address`]); empty: like no other.
    pub address: String,
    /// The session was asked to go on elsewhere: whoever claims the stream is its successor, whatever the policy.
    pub leaving: bool,
}

impl Standing {
    /// Tells addresses apart without telling them: of this stream alone.
    pub fn address(stream: StreamId, address: IpAddr) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(stream.as_bytes());
        context.update(address.to_canonical().to_string().as_bytes());
        let hash = context.finish();
        let (bytes, _rest) = hash.as_ref().split_at(ADDRESS_BYTES);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Of a digested address.
const ADDRESS_BYTES: usize = 16;

/// The answer to a [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The floor, or the stored epoch, is more than [`EPOCH_AHEAD_MS_MAX`](crate::EPOCH_AHEAD_MS_MAX) ahead of the
    /// registry's clock.
    EpochInFuture,
    /// The session owns the stream.
    Granted {
        /// Above every epoch granted before.
        epoch: u64,
        /// Where the stream lives: the home's origin where that is announced, else the candidate.
        home: Home,
        /// Whom it replaced.
        previous: Option<(SessionId, EdgeName)>,
    },
    /// The owner is about to leave, and its last frames may be on their way: to be asked again in a moment. Only to a
    /// patient claim.
    Leaving,
    /// Another session owns it.
    Refused {
        /// That session.
        owner: SessionId,
        /// Its edge.
        edge: EdgeName,
        /// Since its last media.
        media_age: Duration,
    },
}

/// Where a stream's broadcast lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The origin that holds the log.
    pub origin: OriginName,
    /// The broadcast: what one audience sees as one.
    pub broadcast_id: String,
}

/// One lease to extend.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The lease's stream.
    pub stream: StreamId,
    /// The lease's slot.
    pub slot: Slot,
    /// The holder.
    pub session: SessionId,
    /// The holder's edge.
    pub edge: EdgeName,
    /// The holder's epoch.
    pub epoch: u64,
    /// The holder's latest attempt.
    pub attempt: u32,
    /// Where the session publishes now.
    pub origin: OriginName,
    /// The broadcast.
    pub broadcast_id: String,
    /// Since the last media came from the encoder.
    pub media_age: Duration,
    /// What claims of others are measured against.
    pub standing: Standing,
    /// How long the home is kept behind the lease.
    pub home_ttl: Duration,
    /// What `sessions list` shows.
    pub stats: LeaseStats,
}

/// The answer to a [`Renewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalOutcome {
    /// A higher epoch was granted: the session is over.
    Fenced {
        /// The highest epoch known.
        epoch: u64,
    },
    /// The lease had vanished and nobody newer came: it is back.
    Healed,
    /// The lease goes on.
    Renewed,
    /// Its server did not answer, while others did: nothing is known.
    Unavailable,
    /// An older lease had come back (a failover lost a write): the higher epoch won.
    WonBack,
}

/// Who owns a stream, as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The last epoch granted; 0 where none is known.
    pub epoch: u64,
    /// The live lease.
    pub lease: Option<Lease>,
    /// The home, also for a while behind the lease.
    pub home: Option<Home>,
}

/// A live lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is published.
    pub stream: StreamId,
    /// In which slot.
    pub slot: Slot,
    /// By which session.
    pub session: SessionId,
    /// On which edge.
    pub edge: EdgeName,
    /// At which origin.
    pub origin: OriginName,
    /// The holder's epoch.
    pub epoch: u64,
    /// The holder's latest attempt; 0 until its first renewal.
    pub attempt: u32,
    /// When the session began, in milliseconds since the Unix epoch (the registry's clock).
    pub since_ms: u64,
    /// Since the last media, at the time of reading.
    pub media_age: Duration,
    /// What `sessions list` shows.
    pub stats: LeaseStats,
}

/// A small blob beside the lease: what `sessions list` shows. No secret is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct LeaseStats {
    /// Names of the stream.
    pub tenant: String,
    /// Names of the stream.
    pub app: String,
    /// Names of the stream.
    pub name: String,
    /// The public part of the stream key.
    pub stream_key_id: String,
    /// Whose quota it counts against beside its tenant's; empty: no group's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub quota_group: String,
    /// The encoder's address.
    pub client_address: String,
    /// What the encoder calls itself.
    pub encoder: String,
    /// Over the last renewal period, in bits per second.
    pub bitrate_bps: u64,
    /// Since the session began.
    pub received_bytes: u64,
    /// FourCC of video track 0; empty while unknown.
    pub video_codec: String,
    /// FourCC of audio track 0; empty while unknown.
    pub audio_codec: String,
    /// Frames of video track 0 per second over the last renewal period, in thousandths.
    #[serde(skip_serializing_if = "is_zero")]
    pub frame_rate_millihertz: u32,
    /// Of video track 0, in pixels; 0: not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub width: u32,
    /// Of video track 0, in pixels; 0: not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub height: u32,
    /// All tracks; at most [`LEASE_TRACKS_MAX`] are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracks: Vec<LeaseTrack>,
}

/// Most tracks that a lease tells of.
pub const LEASE_TRACKS_MAX: usize = 32;

/// A track, as `sessions list` shows it. 0 and empty: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct LeaseTrack {
    /// Audio otherwise.
    pub video: bool,
    /// Audio and video track ids are separate namespaces.
    pub id: u8,
    /// As FourCC.
    pub codec: String,
    /// As RFC 6381 has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub codec_string: String,
    /// The codec's own number.
    #[serde(skip_serializing_if = "is_zero")]
    pub profile: u32,
    /// The codec's own number.
    #[serde(skip_serializing_if = "is_zero")]
    pub level: u32,
    /// In pixels.
    #[serde(skip_serializing_if = "is_zero")]
    pub width: u32,
    /// In pixels.
    #[serde(skip_serializing_if = "is_zero")]
    pub height: u32,
    /// Frames per second: numerator and denominator.
    #[serde(skip_serializing_if = "is_no_rate")]
    pub frame_rate: (u32, u32),
    /// Of a sample.
    #[serde(skip_serializing_if = "is_zero")]
    pub bit_depth: u32,
    /// As ITU-T H.273 numbers them.
    #[serde(skip_serializing_if = "is_zero")]
    pub transfer_characteristics: u32,
    /// Samples per second.
    #[serde(skip_serializing_if = "is_zero")]
    pub sample_rate: u32,
    /// Of audio.
    #[serde(skip_serializing_if = "is_zero")]
    pub channels: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_no_rate(rate: &(u32, u32)) -> bool {
    *rate == (0, 0)
}

/// What an origin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub name: OriginName,
    /// `host:port` of its RelayService. A hint: the peer proves its role by certificate.
    pub relay_address: String,
    /// Where it stands; empty where zones are not known.
    pub zone: String,
    /// New sessions go elsewhere.
    pub draining: bool,
    /// How many streams it holds.
    pub streams: u32,
    /// The share of its memory budget in use, 0 to 100.
    pub budget_percent: u8,
}
