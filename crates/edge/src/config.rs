//! What a deployment may change. Finished values: nothing here is read from a file or the environment.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;
use runtime::shutdown::DrainTimes;

/// Everything an edge can be told. `Default` is what production starts from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The machine that it runs on, for people; empty where that is not known.
    pub host: String,
    /// Where this edge stands: origins of the same zone come first. Empty where zones are not known.
    pub zone: String,
    /// Origins that are known without an announcement; an announcement of the same name replaces the entry.
    pub static_origins: Vec<StaticOrigin>,
    /// `host:port` that resolves to origins' relay ports (a headless Service): candidates while the registry tells none.
    pub origins_dns: Option<String>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// What becomes of RTMP without TLS.
    pub plain_rtmp: PlainRtmp,
    /// What happens to new publishes while the registry is down.
    pub outage_policy: OutagePolicy,
    /// What lists of sessions and events tell of an encoder's address.
    pub client_address: ClientAddress,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// How the edge gets empty.
    pub drain: DrainLimits,
    /// How long that takes on an order that says nothing else: as where the process ends.
    pub drain_times: DrainTimes,
    /// Limits of the way to the origin.
    pub relay: RelayLimits,
    /// Limits of the protocol.
    pub rtmp: rtmp::limits::Limits,
}

/// An origin from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticOrigin {
    /// Its name, as it announces itself.
    pub name: registry::OriginName,
    /// `host:port` of its relay port.
    pub relay_address: String,
    /// Where it stands; empty where zones are not known.
    pub zone: String,
}

/// Whether a load balancer tells the encoder's address. Never guessed: the header's bytes are as forgeable as any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Connections are the encoders' own.
    #[default]
    Off,
    /// Every connection comes from one of these networks and begins with a PROXY header, version 1 or 2.
    Require {
        /// The load balancers.
        trusted: Vec<IpNet>,
        /// Whether the encoder's TLS may end at the load balancer.
        terminated_tls: TerminatedTls,
    },
}

/// What becomes of RTMP without TLS, on the same ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainRtmp {
    /// Taken in like RTMPS: stream keys travel in the clear.
    Allow,
    /// Told to come over RTMPS, then closed.
    #[default]
    Refuse,
}

/// RTMP without TLS from a trusted load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TerminatedTls {
    /// Taken where the header says that the encoder came over TLS (PP2_TYPE_SSL).
    Announced,
    /// Always taken: the load balancer is known to take nothing but TLS, and does not say so.
    Assumed,
    /// As [`PlainRtmp`] has it.
    #[default]
    Refuse,
}

/// What lists of sessions and events tell of an encoder's address. Control is always asked with the whole of it, and
/// the log of a process has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// Address and port.
    #[default]
    Full,
    /// Nothing.
    None,
    /// Its network: /24 of IPv4, /48 of IPv6.
    Prefix,
}

/// What happens to new publishes while the registry is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutagePolicy {
    /// Refused, retryably.
    FailClosed,
    /// The origin grants the epoch; the lease heals once the registry is back.
    #[default]
    Keep,
}

/// Limits of connections, before and beside RTMP's own ([`rtmp::limits`]).
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub connections_max: usize,
    /// Connections at a time of one IPv4 address or one IPv6 /64.
    pub connections_per_address_max: usize,
    /// To receive a whole PROXY header.
    pub proxy_header_timeout: Duration,
    /// From accept to the end of the TLS handshake, the PROXY header apart.
    pub tls_handshake_timeout: Duration,
    /// For one write: a peer that does not read must not hold a task.
    pub write_timeout: Duration,
    /// Reading on after our last word, so that it reaches the encoder instead of a reset.
    pub linger: Duration,
    /// TCP keepalive: silence before the first probe.
    pub keepalive_idle: Duration,
    /// TCP keepalive: between probes.
    pub keepalive_interval: Duration,
    /// TCP keepalive: unanswered probes that end the connection.
    pub keepalive_probes: u32,
    /// TCP_USER_TIMEOUT: sent bytes may stay unacknowledged for this long.
    pub tcp_user_timeout: Duration,
    /// Between two pings of a publisher: they measure the round trip, and are bytes for the timeout above to watch. An
    /// answer is not waited for: OBS sends none.
    pub ping_period: Duration,
    /// Chunk size that is announced to encoders, in bytes. FFmpeg adopts it for sending.
    pub chunk_bytes_out: u32,
    /// Window acknowledgement size that is announced, in bytes.
    pub window_bytes: u32,
    /// A publisher that sends more than this is read more slowly.
    pub bytes_per_second_max: u32,
    /// One that goes on for this long is disconnected.
    pub bitrate_patience: Duration,
}

/// How an edge gets empty.
#[derive(Clone, Debug)]
pub struct DrainLimits {
    /// Whether encoders that said they can are asked to connect elsewhere.
    pub reconnect_request: bool,
    /// They are asked spread over this time.
    pub reconnect_jitter: Duration,
    /// The others are closed spread over this time before the end; half of the drain at most.
    pub close_spread: Duration,
    /// How long a session that is to be closed may go on to its next keyframe.
    pub keyframe_wait: Duration,
    /// Sessions asked or closed per second, the spread notwithstanding while there is time.
    pub departures_per_second_max: u32,
}

/// Limits of a publish and of its way to the origin.
#[derive(Clone, Debug)]
pub struct RelayLimits {
    /// For control's decision, retries included. HaishinKit gives up on a publish after 3 s.
    pub authorize_timeout: Duration,
    /// For one Publish RPC to be accepted.
    pub open_timeout: Duration,
    /// Until a new publish has an origin, whatever number of origins was tried.
    pub start_timeout: Duration,
    /// A publisher without media for this long can be replaced (takeover_if_stale). Others know of its media by its lease
    /// alone: [`RENEWAL_LATE_MAX`] above `renew_period` at least, or one that is well looks silent to them.
    pub stale_after: Duration,
    /// Acknowledged frames are kept at least this long, for subscribers of an origin that is lost.
    pub replay_window: Duration,
    /// Unacknowledged bytes of one session that stop reading from its encoder.
    pub unacknowledged_bytes_max: usize,
    /// Bytes of one session's ring, acknowledged history included.
    pub ring_bytes_max: usize,
    /// Bytes of all rings. At 90 % new publishes are refused.
    pub process_bytes_max: usize,
    /// Bodies of one batch, in bytes; a larger frame travels alone.
    pub batch_bytes: usize,
    /// Without a new acknowledgement while frames are outstanding: the origin is given up.
    pub stall_timeout: Duration,
    /// Sessions that open at an origin at a time: those of an origin that died do so all at once, each with what it replays.
    pub openings_max: usize,
    /// Without any origin that takes the session: it ends.
    pub reopen_timeout: Duration,
    /// For the last frames of an ended session to be acknowledged.
    pub finish_timeout: Duration,
    /// For the last frames of a publisher that was asked to leave its edge, before its successor begins.
    pub leaving_wait: Duration,
    /// For a revocation to explain why the session was fenced, before it ends as taken over.
    pub fenced_grace: Duration,
    /// How often origins are asked for in the registry.
    pub origins_poll_period: Duration,
    /// A lease is renewed this often.
    pub renew_period: Duration,
}

/// What a renewal may be late by.
pub const RENEWAL_LATE_MAX: Duration = Duration::from_secs(1);

const PREFIX_BITS_V4: u8 = 24;
const PREFIX_BITS_V6: u8 = 48;

impl ClientAddress {
    pub(crate) fn told(self, address: SocketAddr) -> String {
        match self {
            Self::Full => address.to_string(),
            Self::None => String::new(),
            Self::Prefix => {
                let address = address.ip().to_canonical();
                let bits = if address.is_ipv4() {
                    PREFIX_BITS_V4
                } else {
                    PREFIX_BITS_V6
                };
                IpNet::new(address, bits).map_or_else(
                    |_too_long| String::new(),
                    |network| network.trunc().to_string(),
                )
            }
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            proxy_header_timeout: Duration::from_secs(3),
            tls_handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            keepalive_idle: Duration::from_secs(15),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
            tcp_user_timeout: Duration::from_secs(20),
            ping_period: Duration::from_secs(15),
            chunk_bytes_out: 65_536,
            window_bytes: 2_500_000,
            // 400 Mbit/s: more than any encoder sends, less than what fills a link.
            bytes_per_second_max: 50_000_000,
            bitrate_patience: Duration::from_secs(10),
        }
    }
}

impl Default for DrainLimits {
    fn default() -> Self {
        Self {
            reconnect_request: true,
            reconnect_jitter: Duration::from_secs(60),
            close_spread: Duration::from_secs(60),
            keyframe_wait: Duration::from_secs(10),
            departures_per_second_max: 50,
        }
    }
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            authorize_timeout: Duration::from_millis(2_500),
            open_timeout: Duration::from_secs(2),
            start_timeout: Duration::from_secs(8),
            stale_after: Duration::from_secs(3),
            replay_window: Duration::from_secs(3),
            unacknowledged_bytes_max: 16 * 1024 * 1024,
            ring_bytes_max: 48 * 1024 * 1024,
            process_bytes_max: 2 * 1024 * 1024 * 1024,
            batch_bytes: 64 * 1024,
            stall_timeout: Duration::from_secs(2),
            openings_max: 64,
            reopen_timeout: Duration::from_secs(30),
            finish_timeout: Duration::from_secs(5),
            leaving_wait: Duration::from_secs(1),
            fenced_grace: Duration::from_secs(1),
            origins_poll_period: Duration::from_secs(2),
            renew_period: registry::RENEW_PERIOD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_far_as_it_may_be() {
        let told = |setting: ClientAddress, address: &str| setting.told(address.parse().unwrap());
        for (address, prefix) in [
            ("192.0.2.77:1935", "192.0.2.0/24"),
            ("[2001:db8:1:2::3]:1935", "2001:db8:1::/48"),
            ("[::ffff:192.0.2.77]:1935", "192.0.2.0/24"),
        ] {
            assert_eq!(told(ClientAddress::Full, address), address);
            assert_eq!(told(ClientAddress::Prefix, address), prefix);
            assert_eq!(told(ClientAddress::None, address), "");
        }
    }
}
