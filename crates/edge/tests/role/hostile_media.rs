//! Media that no encoder sends in good faith, and a good publisher beside it that loses nothing.

use std::time::{Duration, Instant};

use rtmp::{MediaKind, MediaMessage};
use tokio::time::timeout;

use crate::{
    encoder::{Encoder, Said, media},
    fake_origin::SessionLog,
    harness::{Harness, assert_same, in_time, logged, until},
    neighbour::Neighbour,
};

/// x264: 426×240 at 25 frames a second.
pub(crate) const AVC_HEADER: &[u8] = &[
    0x17, 0, 0, 0, 0, 0x01, 0x42, 0xc0, 0x15, 0xff, 0xe1, 0x00, 0x19, 0x67, 0x42, 0xc0, 0x15, 0xd9,
    0x01, 0xb1, 0xfe, 0x4f, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20,
    0xf1, 0x62, 0xe4, 0x80, 0x01, 0x00, 0x05, 0x68, 0xcb, 0x83, 0xcb, 0x20,
];
pub(crate) const KEYFRAME: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88];
const AAC_HEADER: &[u8] = &[0xaf, 0, 0x12, 0x10];

fn message(kind: MediaKind, timestamp: u32, body: &[u8]) -> MediaMessage {
    MediaMessage {
        kind,
        timestamp,
        body: body.to_vec().into(),
    }
}

pub(crate) fn video(body: &[u8]) -> MediaMessage {
    message(MediaKind::Video, 40, body)
}

fn audio(body: &[u8]) -> MediaMessage {
    message(MediaKind::Audio, 40, body)
}

fn script(body: &[u8]) -> MediaMessage {
    message(MediaKind::Script, 40, body)
}

/// An edge with two publishers, a good one and another.
struct Scene {
    harness: Harness,
    good: Encoder,
    good_session: String,
    sent: Vec<MediaMessage>,
    other: Encoder,
    other_session: String,
}

impl Scene {
    async fn new() -> Self {
        let harness = Harness::start_with(1, |config| {
            config.relay.renew_period = Duration::from_millis(100);
        })
        .await;
        let sent = media(0..60, 2000);
        let mut good = Encoder::publish(harness.address, "live", "good-neighbour").await;
        let (_, good_session) = harness.owner().await;
        good.send_all(&sent[..60]).await;
        let other = Encoder::publish(harness.address, "live", "good-other").await;
        let leases = harness.leases().await;
        let other_session = leases
            .iter()
            .find(|lease| lease.session.as_str() != good_session);
        let other_session = other_session.unwrap().session.to_string();
        Self {
            harness,
            good,
            good_session,
            sent,
            other,
            other_session,
        }
    }

    async fn send(&mut self, messages: &[MediaMessage]) {
        self.other.send_all(messages).await;
    }

    fn dropped(&self, reason: &str) -> i64 {
        let sample = format!("headwater_frames_dropped_total{{reason=\"{reason}\"}}");
        self.harness.metric(&sample)
    }

    /// What the origin has of the other publisher.
    fn log(&self) -> SessionLog {
        self.harness.origins[0].session(&self.other_session)
    }

    async fn has(&self, bodies: &[&[u8]]) {
        until("the frames", || self.log().frames.len() >= bodies.len()).await;
        let frames = self.log().frames;
        let got: Vec<&[u8]> = frames.iter().map(|frame| &frame.body[..]).collect();
        assert_eq!(got, bodies);
    }

    /// The other publisher is told why, and closed.
    async fn is_told(&mut self, description: &str) {
        let said = in_time("a word", self.other.said()).await;
        assert_eq!(said, Said::Rejected(description.to_owned()));
        let ended = "headwater_sessions_ended_total{reason=\"media_error\"}";
        until("the end", || self.harness.metric(ended) == 1).await;
    }

    /// The good publisher goes on, and the origin has all of it.
    async fn good_publisher_lost_nothing(mut self) {
        self.good.send_all(&self.sent[60..]).await;
        in_time("finish", self.good.finish()).await;
        let origin = &self.harness.origins[0];
        let session = &self.good_session;
        until("the close", || origin.session(session).closed.is_some()).await;
        assert_same(&origin.session(session).frames, 0, &self.sent);
    }
}

#[tokio::test]
async fn hostile_42_large_and_frequent_metadata_is_dropped() {
    let mut scene = Scene::new().await;
    let metadata = |bytes: usize| {
        let name = b"\x02\0\x0aonMetaData\x08\0\0\x27\x10";
        script(&[&name[..], &vec![0; bytes]].concat())
    };
    scene.send(&[metadata(180_000)]).await;
    until("the drop", || scene.dropped("metadata_too_large") == 1).await;
    scene.send(&vec![metadata(10); 1000]).await;
    until("the drops", || scene.dropped("metadata_rate") == 900).await;
    until("the rest", || scene.log().frames.len() == 100).await;
    // 5 MB are more than script data may have.
    scene.send(&[metadata(5_000_000)]).await;
    while in_time("the close", scene.other.said()).await != Said::Closed {}
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn hostile_43_media_is_dropped_until_its_sequence_header() {
    let mut scene = Scene::new().await;
    let coded = video(KEYFRAME);
    scene
        .send(&[coded.clone(), audio(&[0xaf, 1, 9]), coded.clone()])
        .await;
    until("the drops", || scene.dropped("no_sequence_header") == 3).await;
    scene
        .send(&[video(AVC_HEADER), coded, audio(&[0xaf, 1, 9])])
        .await;
    until("the drop", || scene.dropped("no_sequence_header") == 4).await;
    // Video alone is a stream.
    scene.has(&[AVC_HEADER, KEYFRAME]).await;
    scene.good_publisher_lost_nothing().await;
}

/// Ten seconds that no configuration shortens, by the clock on the wall.
#[tokio::test]
async fn hostile_43_who_sends_no_sequence_header_in_ten_seconds_is_told_so() {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut scene = Scene::new().await;
    let neighbour = Neighbour::start(&scene.harness, "beside-43").await;
    let started = Instant::now();
    let mut sent = 0;
    let said = loop {
        scene.send(&[video(KEYFRAME)]).await;
        sent += 1;
        let period = Duration::from_millis(100);
        if let Ok(said) = timeout(period, scene.other.said()).await {
            break said;
        }
        assert!(started.elapsed() < 5 * LIMIT, "nobody says anything");
    };
    let after = started.elapsed();
    println!("told after {after:.2?} (limit {LIMIT:?})");
    let told = "Media came for 10 seconds without the sequence header that its codec needs";
    assert_eq!(said, Said::Rejected(told.to_owned()));
    assert!(after >= LIMIT, "{after:?}");
    let ended = "headwater_sessions_ended_total{reason=\"media_error\"}";
    until("the end", || scene.harness.metric(ended) == 1).await;
    assert!(logged().contains("reason=\"media_error\""));
    assert!(scene.log().frames.is_empty(), "not one was of any use");
    let dropped = scene.dropped("no_sequence_header");
    assert!((sent - 2..=sent).contains(&dropped), "{dropped} of {sent}");
    neighbour.lost_nothing(&scene.harness).await;
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn hostile_44_a_header_that_cannot_be_read_goes_on_as_it_is() {
    let mut scene = Scene::new().await;
    let headers: [&[u8]; 4] = [
        &[0x17, 0, 0, 0, 0, 1, 66, 0, 30, 0xff, 0xff],
        &[
            0x17, 0, 0, 0, 0, 1, 66, 0, 30, 0xff, 0xe1, 0, 8, 0x67, 66, 0, 30, 0, 0, 0, 0, 0,
        ],
        &AVC_HEADER[..30],
        &[0xaf, 0, 0xff],
    ];
    for header in headers {
        let kind = if header[0] == 0xaf { audio } else { video };
        scene.send(&[kind(header)]).await;
    }
    scene.has(&headers).await;
    let session = scene.other_session.clone();
    for _ in 0..1000 {
        let leases = scene.harness.leases().await;
        let lease = leases
            .iter()
            .find(|lease| lease.session.as_str() == session);
        let tracks = &lease.unwrap().stats.tracks;
        if tracks.len() == 2 {
            assert!(tracks.iter().all(|track| track.codec_string.is_empty()));
            return scene.good_publisher_lost_nothing().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lease never told the tracks");
}

#[tokio::test]
async fn hostile_45_a_new_header_with_every_frame_ends_the_session() {
    let mut scene = Scene::new().await;
    for number in 0..11 {
        let header = [AAC_HEADER, &[number]].concat();
        scene.send(&[audio(&header), audio(&[0xaf, 1, 9])]).await;
    }
    let told = "The codec configuration changes more than 10 times in 10 seconds";
    scene.is_told(told).await;
    assert_eq!(scene.dropped("header_rate"), 1);
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn hostile_46_frames_of_broken_nal_units_are_dropped_and_start_codes_refused() {
    let mut scene = Scene::new().await;
    let coded = |units: &[u8]| video(&[&[0x17, 1, 0, 0, 0], units].concat());
    scene
        .send(&[video(AVC_HEADER), coded(&[0, 0, 0, 9, 0x65])])
        .await;
    scene.send(&[coded(&[0; 16]), coded(&[0; 400_000])]).await;
    scene.send(&[video(KEYFRAME)]).await;
    scene.has(&[AVC_HEADER, KEYFRAME]).await;
    for reason in ["nalu_overrun", "nalu_empty", "nalus"] {
        assert_eq!(scene.dropped(reason), 1, "{reason}");
    }
    let annex_b = coded(&[0, 0, 0, 1, 0x67, 66, 0, 0, 0, 1, 0x65, 9]);
    scene.send(&[annex_b]).await;
    let told = "The video has Annex B start codes (00 00 00 01); RTMP takes NAL units with a length before each";
    scene.is_told(told).await;
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn hostile_47_timestamps_that_jump_are_rebased() {
    let mut scene = Scene::new().await;
    let times = [0, 1 << 31, 0, u32::MAX, 0, 0x7fff_ffff, 5, 5, 4, 0xff_ffff];
    let mut sent = vec![video(AVC_HEADER)];
    sent.extend(times.map(|time| message(MediaKind::Video, time, KEYFRAME)));
    scene.send(&sent).await;
    let bodies: Vec<_> = sent.iter().map(|message| &message.body[..]).collect();
    scene.has(&bodies).await;
    // A jump stands still: time never runs away.
    let frames = scene.log().frames;
    let latest = frames.iter().map(|frame| frame.timestamp_ms.abs()).max();
    assert!(latest.unwrap() < 10_000, "{latest:?}");
    scene.good_publisher_lost_nothing().await;
}

/// Audio in chunks of the size that these encoders announce, all behind the 24 bits of a timestamp: whether the chunks
/// that go on with a message repeat the extended field (FFmpeg, GStreamer) or not (OBS before 30.1).
fn beyond_24_bits(timestamp: u32, body: &[u8], repeats: bool) -> Vec<u8> {
    const CSID: u8 = 20;
    let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    let extended = timestamp.to_be_bytes();
    let mut bytes = vec![CSID, 0xff, 0xff, 0xff];
    bytes.extend(length);
    bytes.extend([8, 1, 0, 0, 0]);
    bytes.extend(extended);
    for (index, chunk) in body.chunks(4096).enumerate() {
        if index > 0 {
            bytes.push(0xc0 | CSID);
            if repeats {
                bytes.extend(extended);
            }
        }
        bytes.extend(chunk);
    }
    bytes
}

/// MP3, which needs no header: where a chunk begins are bytes that look like the extended field.
fn like_a_timestamp(timestamp: u32, repeats: bool) -> Vec<u8> {
    let mut body = vec![0x2f; 10_000];
    let mut looks = timestamp.to_be_bytes();
    if !repeats {
        // The very same would be taken for the field: nothing tells them apart, and it is one in 2^32.
        looks[3] ^= 1;
    }
    for start in [4096, 8192] {
        body[start..start + 4].copy_from_slice(&looks);
    }
    body[100..104].copy_from_slice(&timestamp.to_be_bytes());
    body
}

#[tokio::test]
async fn hostile_48_extended_timestamps_repeated_or_not_leave_the_payload_alone() {
    let mut scene = Scene::new().await;
    let (mut bodies, mut timestamps) = (Vec::new(), Vec::new());
    for number in 0..20 {
        // From the first value that needs it, over the one that is a carry in every byte.
        let timestamp = 0xff_ffff + number * 20;
        let repeats = number % 2 == 0;
        let body = like_a_timestamp(timestamp, repeats);
        let bytes = beyond_24_bits(timestamp, &body, repeats);
        scene.other.send_raw(&bytes).await;
        bodies.push(body);
        timestamps.push(i64::from(timestamp));
    }
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    scene.has(&bodies).await;
    let frames = scene.log().frames;
    for (frame, timestamp) in frames.iter().zip(&timestamps) {
        let since_first = frame.timestamp_ms - frames[0].timestamp_ms;
        assert_eq!(since_first, timestamp - timestamps[0]);
    }
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn what_an_encoder_describes_wrongly_goes_on_as_it_came_and_is_counted() {
    let mut scene = Scene::new().await;
    let idr_as_inter: &[u8] = &[0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88];
    let inter_as_idr: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, 0x9a];
    let late: &[u8] = &[0x27, 1, 0x7f, 0xff, 0xff, 0, 0, 0, 2, 0x41, 0x9a];
    let sent = [AVC_HEADER, KEYFRAME, idr_as_inter, inter_as_idr, late, late];
    scene.send(&sent.map(video)).await;
    scene.has(&sent).await;
    let corrected = |scene: &Scene, reason: &str| {
        let sample = format!("headwater_frames_corrected_total{{reason=\"{reason}\"}}");
        scene.harness.metric(&sample)
    };
    assert_eq!(corrected(&scene, "keyframe"), 2);
    assert_eq!(corrected(&scene, "composition_time"), 2);
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn aac_with_adts_headers_becomes_aac_as_flv_has_it() {
    // AAC-LC, 44.1 kHz, stereo; the first without a checksum, the second with one.
    let plain: &[u8] = &[0xaf, 1, 0xff, 0xf1, 0x50, 0x80, 1, 0x3f, 0xfc, 0x21, 1];
    let checked: &[u8] = &[
        0xaf, 1, 0xff, 0xf0, 0x50, 0x80, 1, 0x7f, 0xfc, 9, 9, 0x21, 2,
    ];
    let raw: [&[u8]; 2] = [&[0xaf, 1, 0x21, 1], &[0xaf, 1, 0x21, 2]];
    // Without a sequence header one is made; where the encoder sends its own, that is the one.
    for header in [None, Some(AAC_HEADER)] {
        let mut scene = Scene::new().await;
        let sent = header.into_iter().chain([plain, checked]);
        scene.send(&sent.map(audio).collect::<Vec<_>>()).await;
        scene.has(&[AAC_HEADER, raw[0], raw[1]]).await;
        let sample = "headwater_frames_corrected_total{reason=\"adts\"}";
        assert_eq!(scene.harness.metric(sample), 2);
        scene.good_publisher_lost_nothing().await;
    }
}

#[tokio::test]
async fn hostile_49_multitrack_beyond_its_limits_is_dropped() {
    let mut scene = Scene::new().await;
    // A size behind the end, nested, chained, too many in one message, and too many in all.
    scene.send(&[video(b"\x96\x11av01\x01\xff\xff\xffx")]).await;
    scene.send(&[video(b"\x96\x06\x96\x06av01")]).await;
    let chain = [&[0x97][..], &[2, 0, 0, 0, 7].repeat(100_000)].concat();
    scene
        .send(&[video(&chain), video(b"\x97\xff\xff\xff\0")])
        .await;
    let ids: Vec<u8> = (0..=255).flat_map(|id| [id, 0, 0, 1, 9]).collect();
    scene
        .send(&[video(&[b"\x96\x11av01", &ids[..]].concat())])
        .await;
    let tracks: Vec<_> = (0..=255)
        .map(|id| [&b"\x96\x01av01"[..], &[id, 0x12, 0]].concat())
        .collect();
    let messages: Vec<_> = tracks.iter().map(|body| video(body)).collect();
    scene.send(&messages).await;
    let taken: Vec<_> = tracks.iter().take(16).map(|body| &body[..]).collect();
    scene.has(&taken).await;
    for (reason, count) in [
        ("truncated", 2),
        ("nested", 1),
        ("mod_ex", 1),
        ("tracks", 241),
    ] {
        until(reason, || scene.dropped(reason) == count).await;
    }
    scene.good_publisher_lost_nothing().await;
}

#[tokio::test]
async fn hostile_50_what_nobody_defined_is_dropped_and_silence_is_not() {
    let mut scene = Scene::new().await;
    scene
        .send(&[video(b"\x91wxyz\0"), video(b"\x9favc1"), audio(b"\x9fOpus")])
        .await;
    scene
        .send(&[
            audio(&[0x90]),
            audio(b"\x90Opu"),
            video(&[]),
            video(&[0x17]),
        ])
        .await;
    scene.send(&[audio(&[])]).await;
    scene.has(&[&[]]).await;
    for (reason, count) in [
        ("unknown_codec", 1),
        ("unknown_packet_type", 2),
        ("truncated", 4),
    ] {
        assert_eq!(scene.dropped(reason), count, "{reason}");
    }
    scene.good_publisher_lost_nothing().await;
}
