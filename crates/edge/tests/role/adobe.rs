//! User and password instead of a stream key: three connections, and who is asked what.

use std::time::{Duration, Instant};

use proto::internal::v1::authorize_request::Credential;

use crate::{
    encoder::{Encoder, Said, media},
    fake_control::{DENIED, RIGHT},
    harness::{Harness, assert_same, in_time, logged, until},
};

const NEED_AUTH: &str = "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ";

/// The description with which `connect` to this application is refused; the server closes behind it.
async fn refused(harness: &Harness, app: &str) -> String {
    let mut encoder = Encoder::connect(harness.address, app, "name").await;
    let Said::Rejected(description) = in_time("refusal", encoder.said()).await else {
        panic!("{app} is not refused");
    };
    assert_eq!(in_time("close", encoder.said()).await, Said::Closed);
    description
}

fn answered(response: &str) -> String {
    format!("live/_adobe_?authmod=adobe&user=bob&challenge=0a0b&response={response}&opaque=opaque")
}

#[tokio::test]
async fn a_password_publishes_after_three_connections() {
    let harness = Harness::start(1).await;
    assert_eq!(refused(&harness, "live/_adobe_").await, NEED_AUTH);
    assert!(harness.control.requests().is_empty(), "nobody is asked yet");

    let told = refused(&harness, "live/_adobe_?authmod=adobe&user=bob").await;
    let expected = "[ AccessManager.Reject ] : [ authmod=adobe ] : \
                    ?reason=needauth&user=bob&salt=salt-of-bob&challenge=00000001&opaque=opaque";
    assert_eq!(told, expected);

    let sent = media(0..20, 100);
    let mut encoder = Encoder::publish(harness.address, &answered(RIGHT), "good-login").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent).await;
    encoder.finish().await;
    let origin = &harness.origins[0];
    until("the close", || origin.session(&session).closed.is_some()).await;
    assert_same(&origin.session(&session).frames, 0, &sent);

    let requests = harness.control.requests();
    assert_eq!(requests.len(), 2, "a challenge and a publish");
    assert_eq!(requests[1].app, "live");
    let Some(Credential::Adobe(credential)) = &requests[1].credential else {
        panic!("another credential");
    };
    let response = credential.response.clone().unwrap();
    assert!(credential.user == "bob" && response.response == RIGHT);
    assert!(response.challenge == "0a0b" && response.opaque == "opaque");
    assert!(response.name == "good-login");
    until("the log", || logged().contains(&session)).await;
    assert!(!logged().contains(RIGHT), "a response is in the log");
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_words() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::connect(harness.address, &answered("wrong"), "good-login").await;
    assert_eq!(encoder.said().await, Said::Rejected(DENIED.to_owned()));
    assert_eq!(in_time("close", encoder.said()).await, Said::Closed);
    assert!(harness.leases().await.is_empty());
}

#[tokio::test]
async fn without_control_there_is_no_challenge_and_that_is_said_in_time() {
    let harness = Harness::start(1).await;
    harness.control_shutdown.stop();
    let asked = Instant::now();
    let told = refused(&harness, "live?authmod=adobe&user=bob").await;
    let elapsed = asked.elapsed();
    println!("no challenge: refused after {elapsed:?} (goal 2.5 s)");
    assert!(elapsed < Duration::from_millis(2_500) * 5);
    assert_eq!(
        told,
        "The service is not available right now, please try again"
    );
}

#[tokio::test]
async fn control_hears_what_an_encoder_can_do() {
    let harness = Harness::start(1).await;
    let encoder = Encoder::publish(harness.address, "live", "good-able").await;
    let announced = harness.control.requests().remove(0).capabilities.unwrap();
    assert_eq!((announced.caps_ex, announced.four_cc_list.len()), (0, 0));
    encoder.finish().await;
}
