//! Values as Redis returns them, read as hostile input: whoever can write under our prefix must not break a reader.

use std::time::Duration;

use redis::Value;

use crate::{
    ClaimOutcome, CommandId, Edge, EdgeName, EdgePhase, Home, ID_BYTES_MAX, InvalidId,
    LEASE_TRACKS_MAX, Lease, LeaseStats, LeaseTrack, Origin, OriginName, REASON_BYTES_MAX,
    RegistryError, RenewalOutcome, SessionId, Slot, StreamId,
};

/// Fields of a lease, in the order in which [`lease`] reads them.
pub(super) const LEASE_FIELDS: [&str; 8] = [
    "sess", "edge", "origin", "epoch", "attempt", "hb", "since", "stats",
];

/// Fields of a home, in the order in which [`home`] reads them.
pub(super) const HOME_FIELDS: [&str; 2] = ["origin", "broadcast"];

/// Fields of an origin, in the order in which [`origin`] reads them.
pub(super) const ORIGIN_FIELDS: [&str; 5] = ["relay", "zone", "draining", "streams", "budget"];

/// The outcome and, where it is a grant, Redis's clock.
pub(super) fn claim_outcome(reply: Value) -> Result<(ClaimOutcome, Option<u64>), RegistryError> {
    let reply = texts(reply)?;
    let reply: Vec<_> = reply.iter().map(Option::as_deref).collect();
    match *reply.as_slice() {
        [Some("future")] => Ok((ClaimOutcome::EpochInFuture, None)),
        [Some("leaving")] => Ok((ClaimOutcome::Leaving, None)),
        [Some("refused"), owner, edge, media_age_ms] => {
            let outcome = ClaimOutcome::Refused {
                owner: name(owner, SessionId::new, "session")?,
                edge: name(edge, EdgeName::new, "edge")?,
                media_age: Duration::from_millis(number(media_age_ms, "age")?),
            };
            Ok((outcome, None))
        }
        [
            Some("granted"),
            epoch,
            origin,
            broadcast,
            session,
            edge,
            now_ms,
        ] => {
            let previous = match (session, edge) {
                (None | Some(""), _) => None,
                (session, edge) => Some((
                    name(session, SessionId::new, "session")?,
                    name(edge, EdgeName::new, "edge")?,
                )),
            };
            let outcome = ClaimOutcome::Granted {
                epoch: number(epoch, "epoch")?,
                home: Home {
                    origin: name(origin, OriginName::new, "home")?,
                    broadcast_id: broadcast_id(broadcast)?,
                },
                previous,
            };
            Ok((outcome, Some(number(now_ms, "time")?)))
        }
        _ => Err(malformed("reply")),
    }
}

/// The outcome and Redis's clock.
pub(super) fn renewal_outcome(reply: Value) -> Result<(RenewalOutcome, u64), RegistryError> {
    let reply = texts(reply)?;
    let [outcome, epoch, now_ms] = reply.as_slice() else {
        return Err(malformed("reply"));
    };
    let outcome = match outcome.as_deref() {
        Some("fenced") => RenewalOutcome::Fenced {
            epoch: number(epoch.as_deref(), "epoch")?,
        },
        Some("healed") => RenewalOutcome::Healed,
        Some("renewed") => RenewalOutcome::Renewed,
        Some("won_back") => RenewalOutcome::WonBack,
        Some(_) | None => return Err(malformed("reply")),
    };
    Ok((outcome, number(now_ms.as_deref(), "time")?))
}

/// `None`: there is none.
pub(super) fn lease(
    (stream, slot): (StreamId, Slot),
    reply: Value,
    now_ms: u64,
) -> Result<Option<Lease>, RegistryError> {
    let reply = texts(reply)?;
    if reply.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [
        session,
        edge,
        origin,
        epoch,
        attempt,
        media_ms,
        since_ms,
        stats,
    ] = reply.as_slice()
    else {
        return Err(malformed("lease"));
    };
    let media_ms: u64 = number(media_ms.as_deref(), "lease")?;
    Ok(Some(Lease {
        stream,
        slot,
        session: name(session.as_deref(), SessionId::new, "lease")?,
        edge: name(edge.as_deref(), EdgeName::new, "lease")?,
        origin: name(origin.as_deref(), OriginName::new, "lease")?,
        epoch: number(epoch.as_deref(), "lease")?,
        attempt: number(attempt.as_deref(), "lease")?,
        since_ms: number(since_ms.as_deref(), "lease")?,
        media_age: Duration::from_millis(now_ms.saturating_sub(media_ms)),
        stats: stats_of(stats.as_deref())?,
    }))
}

/// 0: there is none.
pub(super) fn epoch(reply: Value) -> Result<u64, RegistryError> {
    match text(reply)? {
        None => Ok(0),
        epoch => number(epoch.as_deref(), "epoch"),
    }
}

/// `None`: there is none.
pub(super) fn home(reply: Value) -> Result<Option<Home>, RegistryError> {
    match texts(reply)?.as_slice() {
        [None, None] => Ok(None),
        [origin, broadcast] => Ok(Some(Home {
            origin: name(origin.as_deref(), OriginName::new, "home")?,
            broadcast_id: broadcast_id(broadcast.as_deref())?,
        })),
        _ => Err(malformed("home")),
    }
}

/// `None`: its announcement has expired.
pub(super) fn origin(origin: OriginName, reply: Value) -> Result<Option<Origin>, RegistryError> {
    let reply = texts(reply)?;
    if reply.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [relay, zone, draining, streams, budget] = reply.as_slice() else {
        return Err(malformed("origin"));
    };
    let budget_percent: u8 = number(budget.as_deref(), "origin")?;
    if budget_percent > 100 {
        return Err(malformed("origin"));
    }
    Ok(Some(Origin {
        name: origin,
        relay_address: word(relay.as_deref(), ADDRESS_BYTES_MAX, "origin")?,
        zone: word(zone.as_deref(), ID_BYTES_MAX, "origin")?,
        draining: flag(draining.as_deref(), "origin")?,
        streams: number(streams.as_deref(), "origin")?,
        budget_percent,
    }))
}

/// Fields of an edge, in the order in which [`edge`] reads them and [`encode_edge`] writes them.
pub(super) const EDGE_FIELDS: [&str; 9] = [
    "host", "zone", "version", "phase", "stopping", "sessions", "until", "reason", "heard",
];

/// What [`edge`] reads.
pub(super) fn encode_edge(edge: &Edge) -> [String; 9] {
    let Edge {
        name: _,
        host,
        zone,
        version,
        phase,
        stopping,
        sessions,
        drain_until_ms,
        drain_reason,
        heard,
    } = edge;
    [
        host.clone(),
        zone.clone(),
        version.clone(),
        phase.as_str().to_owned(),
        u8::from(*stopping).to_string(),
        sessions.to_string(),
        drain_until_ms
            .map(|until| until.to_string())
            .unwrap_or_default(),
        reason(drain_reason.clone()),
        heard.to_string(),
    ]
}

/// `None`: its announcement has expired.
pub(super) fn edge(edge: EdgeName, reply: Value) -> Result<Option<Edge>, RegistryError> {
    let reply = texts(reply)?;
    if reply.iter().all(Option::is_none) {
        return Ok(None);
    }
    let reply: Vec<_> = reply.iter().map(Option::as_deref).collect();
    let [
        host,
        zone,
        version,
        phase,
        stopping,
        sessions,
        until,
        Some(said),
        heard,
    ] = *reply.as_slice()
    else {
        return Err(malformed("edge"));
    };
    let known = |text: &str| {
        EdgePhase::ALL
            .into_iter()
            .find(|phase| phase.as_str() == text)
    };
    Ok(Some(Edge {
        name: edge,
        host: word(host, ID_BYTES_MAX, "edge")?,
        zone: word(zone, ID_BYTES_MAX, "edge")?,
        version: word(version, ID_BYTES_MAX, "edge")?,
        phase: phase.and_then(known).ok_or_else(|| malformed("edge"))?,
        stopping: flag(stopping, "edge")?,
        sessions: number(sessions, "edge")?,
        drain_until_ms: optional(until, "edge")?,
        drain_reason: reason(said.to_owned()),
        // An edge of the version before does not say.
        heard: match heard {
            None => CommandId::default(),
            heard => command_id(heard, "edge")?,
        },
    }))
}

/// As it is displayed.
pub(super) fn command_id(
    text: Option<&str>,
    what: &'static str,
) -> Result<CommandId, RegistryError> {
    let halves = text.and_then(|text| text.split_once('-'));
    let (at_ms, within) = halves.ok_or_else(|| malformed(what))?;
    Ok(CommandId {
        at_ms: number(Some(at_ms), what)?,
        number: number(Some(within), what)?,
    })
}

/// An entry of an edge's index.
pub(super) fn member(member: Option<&str>) -> Result<(StreamId, Slot), RegistryError> {
    let (stream, slot) = member
        .and_then(|member| member.split_once(':'))
        .ok_or_else(|| malformed("index"))?;
    let stream = StreamId::from_hex(stream).map_err(|_invalid| malformed("index"))?;
    let slot = Slot::new(number(Some(slot), "index")?).map_err(|_invalid| malformed("index"))?;
    Ok((stream, slot))
}

/// What [`member`] reads.
pub(super) fn encode_member(stream: StreamId, slot: Slot) -> String {
    format!("{stream}:{}", slot.number())
}

/// Redis's clock, from `TIME`.
pub(super) fn time_ms(reply: Value) -> Result<u64, RegistryError> {
    let reply = texts(reply)?;
    let [seconds, micros] = reply.as_slice() else {
        return Err(malformed("time"));
    };
    let seconds: u64 = number(seconds.as_deref(), "time")?;
    let micros: u64 = number(micros.as_deref(), "time")?;
    Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

/// What `lease` reads: JSON, with long texts cut; without tracks where they would make it too long.
pub(super) fn encode_stats(stats: &LeaseStats) -> String {
    // Texts and numbers: nothing that JSON could refuse.
    let json = |stats: &LeaseStats| serde_json::to_string(stats).unwrap_or_default();
    let mut stats = bounded(stats.clone());
    let whole = json(&stats);
    if whole.len() <= STATS_BYTES_MAX {
        return whole;
    }
    stats.tracks.clear();
    json(&stats)
}

fn stats_of(json: Option<&str>) -> Result<LeaseStats, RegistryError> {
    let json = json
        .filter(|json| json.len() <= STATS_BYTES_MAX)
        .ok_or_else(|| malformed("stats"))?;
    let stats = serde_json::from_str(json).map_err(|_invalid| malformed("stats"))?;
    Ok(bounded(stats))
}

fn bounded(stats: LeaseStats) -> LeaseStats {
    let cut = |mut text: String| {
        text.truncate(text.floor_char_boundary(STATS_TEXT_BYTES_MAX));
        text
    };
    let LeaseStats {
        tenant,
        app,
        name,
        stream_key_id,
        quota_group,
        client_address,
        encoder,
        bitrate_bps,
        received_bytes,
        video_codec,
        audio_codec,
        frame_rate_millihertz,
        width,
        height,
        tracks,
    } = stats;
    let track = |track: LeaseTrack| LeaseTrack {
        codec: cut(track.codec),
        codec_string: cut(track.codec_string),
        ..track
    };
    LeaseStats {
        tenant: cut(tenant),
        app: cut(app),
        name: cut(name),
        stream_key_id: cut(stream_key_id),
        quota_group: cut(quota_group),
        client_address: cut(client_address),
        encoder: cut(encoder),
        bitrate_bps,
        received_bytes,
        video_codec: cut(video_codec),
        audio_codec: cut(audio_codec),
        frame_rate_millihertz,
        width,
        height,
        tracks: tracks
            .into_iter()
            .take(LEASE_TRACKS_MAX)
            .map(track)
            .collect(),
    }
}

/// An array of texts, some of them nil.
pub(super) fn texts(reply: Value) -> Result<Vec<Option<String>>, RegistryError> {
    let Value::Array(values) = reply else {
        return Err(malformed("reply"));
    };
    values.into_iter().map(text).collect()
}

fn text(value: Value) -> Result<Option<String>, RegistryError> {
    if value == Value::Nil {
        return Ok(None);
    }
    let Value::BulkString(bytes) = value else {
        return Err(malformed("text"));
    };
    let text = String::from_utf8(bytes).map_err(|_invalid| malformed("text"))?;
    Ok(Some(text))
}

pub(super) fn name<T>(
    text: Option<&str>,
    new: impl Fn(&str) -> Result<T, InvalidId>,
    what: &'static str,
) -> Result<T, RegistryError> {
    new(text.unwrap_or_default()).map_err(|_invalid| malformed(what))
}

fn broadcast_id(text: Option<&str>) -> Result<String, RegistryError> {
    // The alphabet of a name, whatever its form.
    name(text, SessionId::new, "home").map(|id| id.as_str().to_owned())
}

/// Decimal digits alone: no sign.
pub(super) fn number<T: std::str::FromStr>(
    text: Option<&str>,
    what: &'static str,
) -> Result<T, RegistryError> {
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed(what))
}

/// Printable ASCII without blanks; may be empty.
pub(super) fn word(
    text: Option<&str>,
    bytes_max: usize,
    what: &'static str,
) -> Result<String, RegistryError> {
    text.filter(|text| text.len() <= bytes_max)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .map(str::to_owned)
        .ok_or_else(|| malformed(what))
}

pub(super) fn flag(text: Option<&str>, what: &'static str) -> Result<bool, RegistryError> {
    match text {
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(_) | None => Err(malformed(what)),
    }
}

/// A number, or nothing where it is empty.
pub(super) fn optional(
    text: Option<&str>,
    what: &'static str,
) -> Result<Option<u64>, RegistryError> {
    match text {
        Some("") => Ok(None),
        text => number(text, what).map(Some),
    }
}

/// For people: cut, and without what moves a cursor.
pub(super) fn reason(mut text: String) -> String {
    text.retain(|letter| !letter.is_control());
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

pub(super) fn malformed(what: &'static str) -> RegistryError {
    RegistryError::Malformed { what }
}

/// A host name and a port.
const ADDRESS_BYTES_MAX: usize = 262;

/// One text in the stats.
const STATS_TEXT_BYTES_MAX: usize = 256;

/// All of them, each byte escaped, and the rest.
const STATS_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn track(id: u8) -> LeaseTrack {
        LeaseTrack {
            video: id < 16,
            id: id % 16,
            codec: "hvc1".to_owned(),
            codec_string: "hvc1.2.4.L153.90".to_owned(),
            profile: 2,
            level: 153,
            width: 3840,
            height: 2160,
            frame_rate: (60_000, 1001),
            bit_depth: 10,
            transfer_characteristics: 16,
            sample_rate: 48_000,
            channels: 8,
        }
    }

    #[test]
    fn stats_of_older_and_newer_processes_are_read() {
        let older = r#"{"tenant":"default","video_codec":"avc1"}"#;
        let read = stats_of(Some(older)).unwrap();
        assert_eq!((read.video_codec.as_str(), read.tracks.len()), ("avc1", 0));
        let newer = r#"{"tenant":"default","tracks":[{"id":3,"codec":"avc1","new":1}],"new":{}}"#;
        let read = stats_of(Some(newer)).unwrap();
        assert_eq!((read.tracks[0].id, read.tracks[0].video), (3, false));
        // What an older process reads: nothing that it knows is missing or of another kind.
        let stats = LeaseStats {
            video_codec: "hvc1".to_owned(),
            frame_rate_millihertz: 59_940,
            width: 3840,
            height: 2160,
            tracks: vec![track(0)],
            ..LeaseStats::default()
        };
        let written: serde_json::Value = serde_json::from_str(&encode_stats(&stats)).unwrap();
        assert_eq!(written["video_codec"], "hvc1");
        assert_eq!(stats_of(Some(&encode_stats(&stats))).unwrap(), stats);
    }

    #[test]
    fn figures_that_are_none_are_refused() {
        for hostile in [
            r#"{"width":-1}"#,
            r#"{"height":4294967296}"#,
            r#"{"frame_rate_millihertz":29.97}"#,
            r#"{"width":"1920"}"#,
        ] {
            assert!(stats_of(Some(hostile)).is_err(), "{hostile}");
        }
    }

    #[test]
    fn every_track_fits_and_what_does_not_leaves_the_rest_readable() {
        let mut stats = LeaseStats {
            encoder: "OBS".to_owned(),
            tracks: (0..40).map(track).collect(),
            ..LeaseStats::default()
        };
        let read = stats_of(Some(&encode_stats(&stats))).unwrap();
        assert_eq!(read.tracks, stats.tracks[..LEASE_TRACKS_MAX]);
        let control = "\u{1}".repeat(STATS_TEXT_BYTES_MAX);
        stats.encoder = control.clone();
        for text in [&mut stats.tenant, &mut stats.app, &mut stats.name] {
            text.clone_from(&control);
        }
        for text in [&mut stats.stream_key_id, &mut stats.client_address] {
            text.clone_from(&control);
        }
        let read = stats_of(Some(&encode_stats(&stats))).unwrap();
        assert_eq!((read.encoder, read.tracks.len()), (control, 0));
    }
}
