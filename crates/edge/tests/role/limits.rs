//! A publisher who breaks a limit of its grant is told which, and so are the origin, metrics and control.

use std::time::{Duration, Instant};

use edge::ClientAddress;
use proto::{
    internal::v1::KeyChange,
    v1::{Container, EventType, MediaLimits},
};

use crate::{
    encoder::{Encoder, Said, media},
    fake_control::unix_ms,
    harness::{Harness, in_time, until},
    hostile_media::{AVC_HEADER, KEYFRAME, video},
};

/// A change of a key's terms is known at an edge within this; a busy test machine gets five times that.
const CHANGE_GOAL: Duration = Duration::from_secs(1);

/// Publishes until the session is ended; how that was told.
async fn ended_with(harness: &Harness, encoder: &mut Encoder, reason: &str) -> String {
    let Said::Rejected(told) = in_time("the end", encoder.said()).await else {
        panic!("no last word");
    };
    let sample = format!("headwater_sessions_ended_total{{reason=\"{reason}\"}}");
    until("the metric", || harness.metric(&sample) == 1).await;
    let ended = || harness.control.reports(EventType::SessionEnded);
    until("the report", || !ended().is_empty()).await;
    let report = ended().remove(0);
    assert_eq!(
        (report.reason, report.description),
        (reason.to_owned(), told.clone())
    );
    harness.no_lease().await;
    told
}

async fn publishing_under(limits: MediaLimits) -> (Harness, Encoder) {
    let harness = Harness::start(1).await;
    harness.control.grant_with(limits, 0);
    let encoder = Encoder::publish(harness.address, "live", "good-limited").await;
    (harness, encoder)
}

#[tokio::test]
async fn a_picture_that_is_too_large_ends_the_session_with_its_header() {
    let (harness, mut encoder) = publishing_under(MediaLimits {
        max_width: 320,
        max_height: 180,
        ..MediaLimits::default()
    })
    .await;
    let (origin, session) = harness.owner().await;
    encoder.send(&video(AVC_HEADER)).await;
    let told = ended_with(&harness, &mut encoder, "limit_size").await;
    assert_eq!(told, "Picture of 426x240 above this key's limit of 320x180");
    let origin = &harness.origins[origin];
    until("the close", || origin.session(&session).closed.is_some()).await;
    let log = origin.session(&session);
    assert_eq!(log.closed.as_deref(), Some("limit_size"));
    assert!(log.frames.is_empty(), "what is not allowed goes nowhere");
}

#[tokio::test]
async fn a_bitrate_that_is_too_high_ends_the_session() {
    let (harness, mut encoder) = publishing_under(MediaLimits {
        max_bitrate_bps: 100_000,
        ..MediaLimits::default()
    })
    .await;
    // 200 kB: more than twelve and a half seconds of what is allowed.
    encoder.send_all(&media(0..100, 2_000)).await;
    let told = ended_with(&harness, &mut encoder, "limit_bitrate").await;
    assert_eq!(told, "Bitrate above this key's limit of 100 kb/s");
}

#[tokio::test]
async fn codecs_and_containers_are_judged_with_the_first_header() {
    for (limits, reason, told) in [
        (
            MediaLimits {
                video_codecs: vec!["hvc1".to_owned()],
                ..MediaLimits::default()
            },
            "limit_codec",
            "This key does not take the codec avc1",
        ),
        (
            MediaLimits {
                containers: vec![Container::Enhanced.into()],
                ..MediaLimits::default()
            },
            "limit_container",
            "This key takes Enhanced RTMP only",
        ),
    ] {
        let (harness, mut encoder) = publishing_under(limits).await;
        encoder.send(&video(AVC_HEADER)).await;
        assert_eq!(ended_with(&harness, &mut encoder, reason).await, told);
    }
}

#[tokio::test]
async fn other_terms_reach_a_live_session_and_end_it_where_it_breaks_them() {
    let (harness, mut encoder) = publishing_under(MediaLimits::default()).await;
    encoder
        .send_all(&[video(AVC_HEADER), video(KEYFRAME)])
        .await;
    until_received(&harness).await;
    harness.control.change(KeyChange {
        stream_key_id: "key-of-limited".to_owned(),
        limits: Some(MediaLimits {
            max_height: 180,
            ..MediaLimits::default()
        }),
        ..KeyChange::default()
    });
    let changed = Instant::now();
    let mut timestamp = 40;
    let told = loop {
        timestamp += 40;
        let mut frame = video(KEYFRAME);
        frame.timestamp = timestamp;
        encoder.send(&frame).await;
        let said = tokio::time::timeout(Duration::from_millis(40), encoder.said());
        match said.await {
            Ok(Said::Rejected(told)) => break told,
            Ok(said) => panic!("{said:?}"),
            Err(_nothing) => assert!(changed.elapsed() < CHANGE_GOAL * 5, "not ended"),
        }
    };
    println!(
        "ended {:?} after the change (goal {CHANGE_GOAL:?})",
        changed.elapsed()
    );
    assert_eq!(
        told,
        "Picture of 426x240 above this key's limit of 180 in height"
    );
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_also_where_that_changes() {
    // By the grant.
    let harness = Harness::start(1).await;
    harness
        .control
        .grant_with(MediaLimits::default(), unix_ms() + 500);
    let mut encoder = Encoder::publish(harness.address, "live", "good-limited").await;
    let told = ended_with(&harness, &mut encoder, "session_expired").await;
    assert_eq!(told, "This stream's time is over");

    // An hour, by the grant; then by the key's new terms, a second. Silent: nothing but the clock ends it.
    for change in [
        KeyChange {
            expire_ms: 1,
            ..KeyChange::default()
        },
        KeyChange {
            max_session_seconds: 1,
            ..KeyChange::default()
        },
    ] {
        let harness = Harness::start(1).await;
        let hour_ms = 3_600_000;
        let control = &harness.control;
        control.grant_with(MediaLimits::default(), unix_ms() + hour_ms);
        let mut encoder = Encoder::publish(harness.address, "live", "good-limited").await;
        control.change(KeyChange {
            stream_key_id: "key-of-limited".to_owned(),
            ..change
        });
        ended_with(&harness, &mut encoder, "session_expired").await;
    }
}

#[tokio::test]
async fn the_lease_tells_size_and_frame_rate_and_no_more_of_the_address_than_it_may() {
    let harness = Harness::start_with(1, |config| {
        config.relay.renew_period = Duration::from_millis(200);
        config.client_address = ClientAddress::Prefix;
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-figures").await;
    encoder.send(&video(AVC_HEADER)).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut timestamp = 0;
    let stats = loop {
        assert!(Instant::now() < deadline, "no figures");
        timestamp += 40;
        let mut frame = video(KEYFRAME);
        frame.timestamp = timestamp;
        encoder.send(&frame).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let stats = harness.lease().await.stats;
        if stats.width > 0 && stats.frame_rate_millihertz > 0 {
            break stats;
        }
    };
    assert_eq!((stats.width, stats.height), (426, 240));
    assert_eq!(stats.client_address, "127.0.0.0/24");
    encoder.finish().await;
}

async fn until_received(harness: &Harness) {
    let (origin, session) = harness.owner().await;
    let origin = &harness.origins[origin];
    until("a frame", || !origin.session(&session).frames.is_empty()).await;
}
