//! What becomes of sessions is told to control: once it listens, and before the edge is gone.

use std::time::Duration;

use proto::v1::EventType;
use tonic::Code;

use crate::{
    encoder::{Encoder, Said, media, send_until},
    fake_origin::Mode,
    harness::{Harness, in_time, until},
};

const SENT: &str = "headwater_session_reports_total{outcome=\"sent\"}";
const REFUSED: &str = "headwater_session_reports_total{outcome=\"refused\"}";
const DROPPED: &str = "headwater_session_reports_total{outcome=\"dropped\"}";

#[tokio::test]
async fn a_session_is_reported_when_it_starts_and_when_it_ends() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-reported").await;
    let session = harness.lease().await.session.to_string();
    let control = &harness.control;
    let started = || control.reports(EventType::SessionStarted);
    until("the start", || started().len() == 1).await;
    let report = started().remove(0);
    assert_eq!(report.session_id, session);
    assert_eq!(
        [
            report.tenant,
            report.app,
            report.stream,
            report.stream_key_id,
            report.encoder
        ],
        ["default", "live", "reported", "key-of-reported", "test"].map(str::to_owned)
    );
    assert!(report.edge.starts_with("edge-"), "{}", report.edge);
    assert!(report.client_address.starts_with("127.0.0.1:"));
    assert_eq!(control.reports(EventType::SessionEnded), []);

    encoder.send_all(&media(0..25, 1_000)).await;
    let lasts = Duration::from_millis(50);
    tokio::time::sleep(lasts).await;
    encoder.finish().await;
    let ended = || control.reports(EventType::SessionEnded);
    until("the end", || ended().len() == 1).await;
    let report = ended().remove(0);
    assert_eq!(
        (report.session_id, report.reason.as_str()),
        (session, "client_close")
    );
    assert!(report.received_bytes > 25_000, "{}", report.received_bytes);
    assert!(Duration::from_millis(report.duration_ms) >= lasts);
    until("the count", || harness.metric(SENT) == 2).await;
}

#[tokio::test]
async fn a_takeover_names_both_sessions() {
    let harness = Harness::start(1).await;
    let first = Encoder::publish(harness.address, "live", "takeover-slot").await;
    let one = harness.lease().await.session.to_string();
    let second = Encoder::publish(harness.address, "live", "takeover-slot").await;
    let other = harness.lease().await.session.to_string();
    let control = &harness.control;
    let taken_over = || control.reports(EventType::SessionTakenOver);
    until("the report", || taken_over().len() == 1).await;
    let report = taken_over().remove(0);
    assert_eq!(
        (report.session_id, report.successor_session_id),
        (one.clone(), other)
    );
    assert_eq!(
        (report.stream.as_str(), report.reason.as_str(), report.slot),
        ("slot", "fenced", Some(0))
    );
    let ended = || control.reports(EventType::SessionEnded);
    until("the end", || ended().len() == 1).await;
    let report = ended().remove(0);
    assert_eq!((report.session_id, report.reason.as_str()), (one, "fenced"));
    drop((first, second));
}

#[tokio::test]
async fn it_is_reported_when_readers_get_the_other_publisher_and_when_they_get_this_one_again() {
    let harness = Harness::start(1).await;
    let (control, origin) = (&harness.control, &harness.origins[0]);
    // From the start, as where the other one is there; and later on.
    origin.set(Mode::Standby(7));
    let mut encoder = Encoder::publish(harness.address, "live", "good-switched").await;
    let mut sent = Vec::new();
    for (mode, change, times) in [
        (Mode::Standby(7), EventType::SessionStandby, 1),
        (Mode::Take, EventType::SessionOnAir, 1),
        (Mode::Standby(7), EventType::SessionStandby, 2),
    ] {
        origin.set(mode);
        let told = || control.reports(change).len() == times;
        send_until(&mut encoder, &mut sent, "the change to be told", told).await;
    }
    // Many acknowledgements say the same.
    assert_eq!(control.reports(EventType::SessionOnAir).len(), 1);
    let report = control.reports(EventType::SessionStandby).remove(0);
    assert_eq!((report.stream.as_str(), report.slot), ("switched", Some(0)));
    encoder.finish().await;
}

#[tokio::test]
async fn a_refusal_behind_the_grant_is_reported_once_in_a_while() {
    let harness = Harness::start(1).await;
    let first = Encoder::publish(harness.address, "live", "reject-slot").await;
    for _ in 0..3 {
        let mut second = Encoder::connect(harness.address, "live", "reject-slot").await;
        let told = Said::Rejected("This stream is already being published".to_owned());
        assert_eq!(in_time("the refusal", second.said()).await, told);
    }
    first.finish().await;
    let control = &harness.control;
    until("the end", || {
        control.reports(EventType::SessionEnded).len() == 1
    })
    .await;
    let refused = control.reports(EventType::SessionRefused);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (
            refused[0].stream_key_id.as_str(),
            refused[0].reason.as_str()
        ),
        ("key-of-slot", "already_publishing")
    );
}

#[tokio::test]
async fn reports_wait_for_a_control_that_takes_them() {
    let harness = Harness::start(1).await;
    harness.control.refuse_reports(4, Code::Unavailable);
    let encoder = Encoder::publish(harness.address, "live", "good-waiting").await;
    encoder.finish().await;
    let control = &harness.control;
    let count = |event_type| control.reports(event_type).len();
    until("both", || {
        count(EventType::SessionStarted) == 1 && count(EventType::SessionEnded) == 1
    })
    .await;
    assert_eq!((harness.metric(DROPPED), harness.metric(REFUSED)), (0, 0));
}

#[tokio::test]
async fn what_control_refuses_is_counted_and_not_sent_again() {
    let harness = Harness::start(1).await;
    harness.control.refuse_reports(1, Code::InvalidArgument);
    let encoder = Encoder::publish(harness.address, "live", "good-refused").await;
    until("the refusal", || harness.metric(REFUSED) == 1).await;
    encoder.finish().await;
    let control = &harness.control;
    until("the end", || {
        control.reports(EventType::SessionEnded).len() == 1
    })
    .await;
    assert_eq!(control.reports(EventType::SessionStarted), []);
}

#[tokio::test]
async fn a_report_that_control_refuses_takes_none_of_the_others_with_it() {
    let harness = Harness::start(1).await;
    let control = &harness.control;
    control.refuse_reports(usize::MAX, Code::Unavailable);
    let encoders = [
        Encoder::publish(harness.address, "live", "good-one").await,
        Encoder::publish(harness.address, "live", "good-two").await,
    ];
    for encoder in encoders {
        encoder.finish().await;
    }
    harness.no_lease().await;
    // The first start is on its way alone; the other three reports wait, and come together behind it.
    control.refuse_reports(2, Code::InvalidArgument);
    until("the others", || harness.metric(SENT) == 3).await;
    assert_eq!(harness.metric(REFUSED), 1);
    assert_eq!(control.reports(EventType::SessionStarted).len(), 1);
    assert_eq!(control.reports(EventType::SessionEnded).len(), 2);
}

#[tokio::test]
async fn the_last_reports_leave_before_the_edge_does() {
    let harness = Harness::start(1).await;
    // At least one pause lies between the end of the session and the report's arrival.
    harness.control.refuse_reports(2, Code::Unavailable);
    let _encoder = Encoder::publish(harness.address, "live", "good-drained").await;
    harness.shutdown.drain();
    harness.shutdown.stop();
    in_time("the edge to end", harness.edge).await.unwrap();
    let ended = harness.control.reports(EventType::SessionEnded);
    let reasons: Vec<_> = ended.iter().map(|report| report.reason.as_str()).collect();
    assert_eq!(reasons, ["drain"]);
}

#[tokio::test]
async fn an_edge_does_not_wait_for_ever_for_a_control_to_take_its_last_reports() {
    let harness = Harness::start(1).await;
    harness
        .control
        .refuse_reports(usize::MAX, Code::Unavailable);
    let _encoder = Encoder::publish(harness.address, "live", "good-drained").await;
    harness.shutdown.drain();
    harness.shutdown.stop();
    let metrics = harness.metrics.clone();
    in_time("the edge to end", harness.edge).await.unwrap();
    let lost = format!("{DROPPED} 2");
    assert!(metrics.encode().contains(&lost), "{}", metrics.encode());
}
