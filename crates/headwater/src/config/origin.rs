//! The section `origin`.

use std::{net::SocketAddr, path::PathBuf};

use proto::grant::GrantVerifier;
use runtime::tls::CertificateFiles;
use serde::Deserialize;

use super::{
    check::Check,
    scalar::{
        Address, Bytes, Count, HostPort, OriginName, OutagePolicy, Period, Time, defaulted_section,
    },
    shared,
};

/// What an origin process needs beside [`shared::Shared`].
pub(crate) struct OriginConfig {
    /// Control's public keys, 64 hex digits a line; more than one while the key rotates.
    pub(crate) grant_public_key_file: PathBuf,
    pub(crate) http_listen: SocketAddr,
    pub(crate) origin: origin::Config,
    pub(crate) playback_certificate: CertificateFiles,
    pub(crate) playback_listen: SocketAddr,
    /// One a line; more than one while they rotate.
    pub(crate) playback_token_file: PathBuf,
    /// Where edges reach the relay port; `None`: where it listens.
    pub(crate) relay_advertise: Option<String>,
    pub(crate) relay_listen: SocketAddr,
    /// `None`: no playback over RTMP.
    pub(crate) rtmp: Option<RtmpConfig>,
}

/// Playback over RTMP.
pub(crate) struct RtmpConfig {
    /// `None`: without TLS.
    pub(crate) certificate: Option<CertificateFiles>,
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Section {
    backup: Option<BackupSection>,
    grant_public_key_file: Option<PathBuf>,
    http: Option<HttpSection>,
    limits: Option<LimitsSection>,
    log: Option<LogSection>,
    name: Option<OriginName>,
    outage_policy: Option<OutagePolicy>,
    playback: Option<PlaybackSection>,
    playback_token_file: Option<PathBuf>,
    relay: Option<RelaySection>,
    rtmp: Option<RtmpSection>,
    tenant: Option<String>,
    timing: Option<TimingSection>,
    zone: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HttpSection {
    listen: Option<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlaybackSection {
    certificate: Option<PathBuf>,
    listen: Option<Address>,
    private_key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RelaySection {
    advertise: Option<HostPort>,
    listen: Option<Address>,
}

/// Not served where it is left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RtmpSection {
    certificate: Option<PathBuf>,
    listen: Option<Address>,
    private_key: Option<PathBuf>,
}

defaulted_section! {
    /// What one stream may hold.
    LogSection => media::log::LogLimits {
        bytes_max: Bytes<usize>,
        frames_max: Count<usize>,
        age_max: Time,
    }
}

defaulted_section! {
    /// When readers get a stream's other publisher.
    BackupSection => origin::Backup {
        starve_after: Period,
        clear_time: Time,
        worse_by_percent: Count<u8>,
    }
}

defaulted_section! {
    LimitsSection => origin::Limits {
        process_bytes_max: Bytes<usize>,
        streams_max: Count<usize>,
        followed_streams_max: Count<usize>,
        followers_per_stream_max: Count<usize>,
        subscribers_max: Count<usize>,
        http_connections_max: Count<usize>,
        rtmp_connections_max: Count<usize>,
    }
}

defaulted_section! {
    TimingSection => origin::Timing {
        open_timeout: Time,
        registry_wait: Time,
        publisher_lost_grace: Time,
        ack_period: Period,
        recheck_period: Period,
        announce_period: Period,
        find_wait: Time,
        follow_linger: Time,
        follow_silence: Period,
        resume_wait: Time,
        wait_for_stream_max: Time,
        http_request_timeout: Time,
        http_write_timeout: Time,
        rtmp_handshake_timeout: Time,
        rtmp_play_timeout: Time,
        rtmp_write_timeout: Time,
    }
}

impl Section {
    pub(super) fn finish(self, check: &mut Check) -> Option<OriginConfig> {
        let name = check.required("origin.name", self.name);
        let relay = self.relay.unwrap_or_default();
        let relay_listen = check.required("origin.relay.listen", relay.listen);
        let everywhere = relay_listen
            .as_ref()
            .is_some_and(|listen| listen.0.ip().is_unspecified());
        if everywhere && relay.advertise.is_none() {
            check.mistake(
                "origin.relay.advertise",
                "is required where origin.relay.listen is every address: edges need one of them",
            );
        }
        let playback = self.playback.unwrap_or_default();
        let playback_listen = check.required("origin.playback.listen", playback.listen);
        let playback_certificate = shared::certificate(
            "origin.playback",
            playback.certificate,
            playback.private_key,
            check,
        );
        let http = self.http.unwrap_or_default();
        let http_listen = check.required("origin.http.listen", http.listen);
        let rtmp = self.rtmp.map(|rtmp| rtmp.finish(check));
        let grant_public_key_file = grant_keys(self.grant_public_key_file, check);
        let playback_token_file = playback_token(self.playback_token_file, check);

        let defaults = origin::Config::new(name?.0);
        Some(OriginConfig {
            grant_public_key_file: grant_public_key_file?,
            http_listen: http_listen?.0,
            origin: origin::Config {
                zone: self.zone.unwrap_or_default(),
                tenant: self.tenant.unwrap_or(defaults.tenant),
                outage_policy: match self.outage_policy {
                    Some(OutagePolicy::FailClosed) => origin::OutagePolicy::FailClosed,
                    Some(OutagePolicy::Keep) => origin::OutagePolicy::Keep,
                    None => defaults.outage_policy,
                },
                log: LogSection::finish(self.log),
                limits: LimitsSection::finish(self.limits),
                timing: TimingSection::finish(self.timing),
                backup: BackupSection::finish(self.backup),
                name: defaults.name,
                // Known once the port is bound.
                relay_address: String::new(),
            },
            playback_certificate: playback_certificate?,
            playback_listen: playback_listen?.0,
            playback_token_file: playback_token_file?,
            relay_advertise: relay.advertise.map(|advertise| advertise.0),
            relay_listen: relay_listen?.0,
            rtmp: match rtmp {
                Some(rtmp) => Some(rtmp?),
                None => None,
            },
        })
    }
}

impl RtmpSection {
    fn finish(self, check: &mut Check) -> Option<RtmpConfig> {
        let listen = check.required("origin.rtmp.listen", self.listen);
        let secured = self.certificate.is_some() || self.private_key.is_some();
        let certificate = secured
            .then(|| shared::certificate("origin.rtmp", self.certificate, self.private_key, check));
        Some(RtmpConfig {
            certificate: match certificate {
                Some(certificate) => Some(certificate?),
                None => None,
            },
            listen: listen?.0,
        })
    }
}

/// Whether control's public keys are in it.
fn grant_keys(file: Option<PathBuf>, check: &mut Check) -> Option<PathBuf> {
    const PATH: &str = "origin.grant_public_key_file";
    let content = check.content(PATH, file.clone())?;
    if GrantVerifier::from_hex_lines(&content).is_none() {
        check.mistake(PATH, "does not hold public keys, 64 hex digits a line");
    }
    Some(check.resolve(&file?))
}

/// Whether a token is in it.
fn playback_token(file: Option<PathBuf>, check: &mut Check) -> Option<PathBuf> {
    const PATH: &str = "origin.playback_token_file";
    if check.content(PATH, file.clone())?.is_empty() {
        check.mistake(PATH, "is empty");
    }
    Some(check.resolve(&file?))
}
