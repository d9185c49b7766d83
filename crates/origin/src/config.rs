//! What an origin is told. Finished values: reading files and the environment is the binary's.

use std::time::Duration;

use media::log::LogLimits;
use registry::OriginName;

/// An origin's configuration. [`Config::new`] fills in everything but the name.
#[derive(Clone, Debug)]
pub struct Config {
    /// As it announces itself; stable over restarts.
    pub name: OriginName,
    /// `host:port` of the relay port as edges reach it.
    pub relay_address: String,
    /// Where the process stands; empty where zones are not known.
    pub zone: String,
    /// Whose streams the playback credential opens.
    pub tenant: String,
    /// What happens to new publishes while the registry does not answer.
    pub outage_policy: OutagePolicy,
    /// What one stream may hold; also how far a reader may fall behind.
    pub log: LogLimits,
    /// Counts and sizes.
    pub limits: Limits,
    /// Waits.
    pub timing: Timing,
    /// When readers get a stream's other publisher.
    pub backup: Backup,
}

/// What happens to new publishes while the registry does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutagePolicy {
    /// They are refused, with a reason that says "try again".
    FailClosed,
    /// They are taken: a double publish during an outage is better than no publish.
    #[default]
    Keep,
}

/// When readers get a stream's other publisher, where it has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// A publisher that has sent no media for this long is left.
    pub starve_after: Duration,
    /// How long the primary has to be well before readers get it back, and the least time between two switches that
    /// need not be.
    pub clear_time: Duration,
    /// A publisher is left of whose media so many percentage points less came than of the other's; 100: never.
    pub worse_by_percent: u8,
}

/// Counts and sizes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What all logs and half-received bodies may hold together, in bytes. From 80 % on no more
    /// streams of other origins are taken, from 90 % on new publishes are refused.
    pub process_bytes_max: usize,
    /// Streams held at a time.
    pub streams_max: usize,
    /// Streams of other origins that are read here, or about to be, at a time.
    pub followed_streams_max: usize,
    /// Other origins that follow one stream of this one.
    pub followers_per_stream_max: usize,
    /// Subscribers of all outputs together.
    pub subscribers_max: usize,
    /// Connections of the HTTP port.
    pub http_connections_max: usize,
    /// Connections of the RTMP port.
    pub rtmp_connections_max: usize,
}

/// Waits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For a Publish RPC's first message.
    pub open_timeout: Duration,
    /// For the registry's answer about a stream that this origin does not hold.
    pub registry_wait: Duration,
    /// How long a stream stays open for its publisher to come back, where its grant has no window of its own, and at
    /// least where the way to the publisher broke.
    pub publisher_lost_grace: Duration,
    /// An acknowledgement goes out this long after what it acknowledges, at the latest.
    pub ack_period: Duration,
    /// How often the registry is asked who owns the streams held here.
    pub recheck_period: Duration,
    /// How often the origin announces itself.
    pub announce_period: Duration,
    /// How long a reader waits for a stream that another origin has to come here: longer than an edge takes to leave an
    /// origin that is frozen.
    pub find_wait: Duration,
    /// How long a followed stream stays without a reader.
    pub follow_linger: Duration,
    /// An owner that has sent nothing of a followed stream for this long may have lost it: the registry is asked.
    pub follow_silence: Duration,
    /// How long a subscriber with a cursor waits for a stream that no origin has yet.
    pub resume_wait: Duration,
    /// How long a subscriber may ask to wait for a stream to start.
    pub wait_for_stream_max: Duration,
    /// To read an HTTP request.
    pub http_request_timeout: Duration,
    /// A player that takes no byte for this long is given up.
    pub http_write_timeout: Duration,
    /// For a player's TLS handshake, and for its RTMP handshake.
    pub rtmp_handshake_timeout: Duration,
    /// From there until a player has said what it wants to play.
    pub rtmp_play_timeout: Duration,
    /// A player that takes no byte for this long is given up.
    pub rtmp_write_timeout: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(name: OriginName) -> Self {
        Self {
            name,
            relay_address: String::new(),
            zone: String::new(),
            tenant: "default".to_owned(),
            outage_policy: OutagePolicy::default(),
            log: LogLimits::default(),
            limits: Limits::default(),
            timing: Timing::default(),
            backup: Backup::default(),
        }
    }
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            starve_after: Duration::from_secs(1),
            clear_time: Duration::from_secs(10),
            worse_by_percent: 30,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            process_bytes_max: 2 * 1024 * 1024 * 1024,
            streams_max: 10_000,
            followed_streams_max: 10_000,
            followers_per_stream_max: 64,
            subscribers_max: 20_000,
            http_connections_max: 10_000,
            rtmp_connections_max: 10_000,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(5),
            registry_wait: Duration::from_millis(500),
            publisher_lost_grace: Duration::from_secs(15),
            ack_period: Duration::from_millis(50),
            recheck_period: Duration::from_secs(5),
            announce_period: registry::ANNOUNCE_PERIOD,
            find_wait: Duration::from_secs(4),
            follow_linger: Duration::from_secs(10),
            follow_silence: Duration::from_secs(1),
            resume_wait: Duration::from_secs(10),
            wait_for_stream_max: Duration::from_secs(60),
            http_request_timeout: Duration::from_secs(10),
            http_write_timeout: Duration::from_secs(10),
            rtmp_handshake_timeout: Duration::from_secs(10),
            rtmp_play_timeout: Duration::from_secs(20),
            rtmp_write_timeout: Duration::from_secs(10),
        }
    }
}
