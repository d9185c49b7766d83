//! The section `edge`.

mod tls;

use std::{net::SocketAddr, path::PathBuf};

use edge::{ProxyProtocol, StaticOrigin};
use runtime::{shutdown::DrainTimes, tls::EncoderTlsFiles};
use serde::Deserialize;

use self::tls::{PlainRtmp, TerminatedTls, TlsVersion};
use super::{
    check::Check,
    client_certificates::ClientCertificatesSection,
    scalar::{
        Address, Bytes, Count, HostPort, Network, OneOrMany, OriginName, OutagePolicy, Period,
        Seconds, Switch, Time, defaulted_section,
    },
    shared,
};

/// What an edge process needs beside [`shared::Shared`].
#[derive(Debug)]
pub(crate) struct EdgeConfig {
    /// `host:port` of control's internal port; each name may resolve to many addresses.
    pub(crate) control: Vec<String>,
    pub(crate) edge: edge::Config,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) tls: EncoderTlsFiles,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Section {
    certificate: Option<PathBuf>,
    certificates: Option<PathBuf>,
    client_address: Option<ClientAddress>,
    client_certificates: Option<ClientCertificatesSection>,
    connections: Option<ConnectionsSection>,
    control: Option<OneOrMany<HostPort>>,
    drain: Option<DrainSection>,
    listen: Option<OneOrMany<Address>>,
    origins: Option<Vec<Option<OriginSection>>>,
    origins_dns: Option<HostPort>,
    outage_policy: Option<OutagePolicy>,
    plain_rtmp: Option<PlainRtmp>,
    private_key: Option<PathBuf>,
    proxy_protocol: Option<ProxySection>,
    relay: Option<RelaySection>,
    rtmp: Option<RtmpSection>,
    tls_minimum: Option<TlsVersion>,
    zone: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OriginSection {
    name: Option<OriginName>,
    relay_address: Option<HostPort>,
    zone: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProxySection {
    mode: Option<ProxyMode>,
    terminated_tls: Option<TerminatedTls>,
    trusted: Option<OneOrMany<Network>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum ProxyMode {
    Off,
    Require,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClientAddress {
    Full,
    None,
    Prefix,
}

defaulted_section! {
    ConnectionsSection => edge::ConnectionLimits {
        connections_max: Count<usize>,
        connections_per_address_max: Count<usize>,
        proxy_header_timeout: Time,
        tls_handshake_timeout: Time,
        write_timeout: Time,
        linger: Time,
        keepalive_idle: Seconds,
        keepalive_interval: Seconds,
        keepalive_probes: Count<u32>,
        tcp_user_timeout: Time,
        ping_period: Period,
        chunk_bytes_out: Bytes<u32>,
        window_bytes: Bytes<u32>,
        bytes_per_second_max: Bytes<u32>,
        bitrate_patience: Time,
    }
}

defaulted_section! {
    DrainSection => edge::DrainLimits {
        reconnect_request: Switch,
        reconnect_jitter: Time,
        close_spread: Time,
        keyframe_wait: Time,
        departures_per_second_max: Count<u32>,
    }
}

defaulted_section! {
    RelaySection => edge::RelayLimits {
        authorize_timeout: Time,
        open_timeout: Time,
        start_timeout: Time,
        stale_after: Time,
        replay_window: Time,
        unacknowledged_bytes_max: Bytes<usize>,
        ring_bytes_max: Bytes<usize>,
        process_bytes_max: Bytes<usize>,
        batch_bytes: Bytes<usize>,
        stall_timeout: Time,
        openings_max: Count<usize>,
        reopen_timeout: Time,
        finish_timeout: Time,
        leaving_wait: Time,
        fenced_grace: Time,
        origins_poll_period: Period,
        renew_period: Period,
    }
}

defaulted_section! {
    RtmpSection => rtmp::limits::Limits {
        handshake_deadline: Time,
        connect_deadline: Time,
        publish_deadline: Time,
        first_media_deadline: Time,
        idle_deadline: Time,
        slow_drip_deadline: Time,
        slow_drip_bytes_per_second: Count<u32>,
        chunk_bytes_in_min: Bytes<u32>,
        audio_message_bytes: Bytes<usize>,
        video_message_bytes: Bytes<usize>,
        messages_per_second: Count<u32>,
        control_messages_per_second: Count<u32>,
    }
}

impl Section {
    pub(super) fn finish(self, check: &mut Check) -> Option<EdgeConfig> {
        let default = shared::certificate("edge", self.certificate, self.private_key, check);
        let others = check.optional_directory("edge.certificates", self.certificates);
        let client_certificates = self.client_certificates.unwrap_or_default();
        let client_certificates = client_certificates.finish("edge.client_certificates", check);
        let control = check.required("edge.control", self.control);
        let control = control.map(|control| control.finish("edge.control", check));
        let listen = check.required("edge.listen", self.listen);
        let listen = listen.map(|listen| listen.finish("edge.listen", check));
        if listen.as_ref().is_some_and(Vec::is_empty) {
            check.mistake("edge.listen", "needs an address");
        }
        if control.as_ref().is_some_and(Vec::is_empty) {
            check.mistake("edge.control", "needs an address");
        }
        let edge = edge::Config {
            // The process's.
            host: String::new(),
            drain_times: DrainTimes::default(),
            zone: self.zone.unwrap_or_default(),
            static_origins: origins(self.origins.unwrap_or_default(), check),
            origins_dns: self.origins_dns.map(|name| name.0),
            proxy_protocol: self.proxy_protocol.unwrap_or_default().finish(check),
            plain_rtmp: match self.plain_rtmp {
                Some(PlainRtmp::Allow) => edge::PlainRtmp::Allow,
                Some(PlainRtmp::Refuse) | None => edge::PlainRtmp::Refuse,
            },
            outage_policy: match self.outage_policy {
                Some(OutagePolicy::FailClosed) => edge::OutagePolicy::FailClosed,
                Some(OutagePolicy::Keep) => edge::OutagePolicy::Keep,
                None => edge::OutagePolicy::default(),
            },
            client_address: match self.client_address {
                Some(ClientAddress::Full) | None => edge::ClientAddress::Full,
                Some(ClientAddress::None) => edge::ClientAddress::None,
                Some(ClientAddress::Prefix) => edge::ClientAddress::Prefix,
            },
            connections: ConnectionsSection::finish(self.connections),
            drain: DrainSection::finish(self.drain),
            relay: RelaySection::finish(self.relay),
            rtmp: RtmpSection::finish(self.rtmp),
        };
        if edge.relay.unacknowledged_bytes_max > edge.relay.ring_bytes_max {
            check.mistake(
                "edge.relay.unacknowledged_bytes_max",
                "is above edge.relay.ring_bytes_max",
            );
        }
        let renewed_within = edge
            .relay
            .renew_period
            .saturating_add(edge::RENEWAL_LATE_MAX);
        if edge.relay.stale_after < renewed_within {
            check.mistake(
                "edge.relay.stale_after",
                "is less than a second above edge.relay.renew_period: publishers that are well would look silent",
            );
        }
        Some(EdgeConfig {
            control: control?.into_iter().map(|address| address.0).collect(),
            edge,
            listen: listen?.into_iter().map(|address| address.0).collect(),
            tls: EncoderTlsFiles {
                default: default?,
                others,
                client_certificates: client_certificates?,
                minimum_version: self.tls_minimum.unwrap_or(TlsVersion::Tls12).version(),
            },
        })
    }
}

fn origins(sections: Vec<Option<OriginSection>>, check: &mut Check) -> Vec<StaticOrigin> {
    let mut origins = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        let path = format!("edge.origins[{index}]");
        let Some(section) = check.required(&path, section) else {
            continue;
        };
        let name = check.required(&format!("{path}.name"), section.name);
        let relay_address = check.required(&format!("{path}.relay_address"), section.relay_address);
        if let (Some(name), Some(relay_address)) = (name, relay_address) {
            origins.push(StaticOrigin {
                name: name.0,
                relay_address: relay_address.0,
                zone: section.zone.unwrap_or_default(),
            });
        }
    }
    origins
}

impl ProxySection {
    fn finish(self, check: &mut Check) -> ProxyProtocol {
        let trusted: Vec<_> = self
            .trusted
            .map(|trusted| trusted.finish("edge.proxy_protocol.trusted", check))
            .unwrap_or_default()
            .into_iter()
            .map(|network| network.0)
            .collect();
        if self.mode != Some(ProxyMode::Require) {
            return ProxyProtocol::Off;
        }
        if trusted.is_empty() {
            check.mistake(
                "edge.proxy_protocol.trusted",
                "is required where mode is require: anybody could claim any address",
            );
        }
        ProxyProtocol::Require {
            trusted,
            terminated_tls: match self.terminated_tls {
                Some(TerminatedTls::Announced) => edge::TerminatedTls::Announced,
                Some(TerminatedTls::Assumed) => edge::TerminatedTls::Assumed,
                Some(TerminatedTls::Refuse) | None => edge::TerminatedTls::Refuse,
            },
        }
    }
}
