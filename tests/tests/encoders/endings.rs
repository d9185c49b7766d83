//! How encoders end without saying so, and what their users see when they are refused.

use std::time::Duration;

use tests::{
    clients::{Address, Client},
    deployment::APP,
    standalone::Standalone,
    turn,
    wait::wait_until,
};

/// To start, to publish, to see an end.
const SEEN: Duration = Duration::from_secs(60);
/// Until it is killed.
const ENDLESS_SECONDS: u32 = 600;

of_every_encoder! { comes_back_after_kill_9, tells_its_user_that_the_key_is_wrong, tells_its_user_to_use_tls }

/// Killed in the middle, started again at once, with the same key. By address where the encoder can check a certificate
/// for one: then no server name is sent.
async fn comes_back_after_kill_9(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "encoder").await;
    let host = match client {
        // Its mbedTLS compares no addresses.
        Client::Obs => "localhost",
        Client::Ffmpeg5 | Client::Ffmpeg9 | Client::Librtmp | Client::PyAv | Client::Rtmp2Sink => {
            "127.0.0.1"
        }
    };
    let address = Address::at(&format!("rtmps://{host}"), deployment, &key.secret);
    let subscriber = deployment.subscribe(&key);
    let mut publisher = client.publish(&address, ENDLESS_SECONDS, &deployment.logs);
    subscriber.frames(50, SEEN).await;
    publisher.process.kill();
    let ended = ["session ended", "reason=\"disconnected\""];
    standalone.process.log_line(&ended, SEEN).await;

    let frames = subscriber.frame_count();
    let _publisher = client.publish(&address, ENDLESS_SECONDS, &deployment.logs);
    subscriber.frames(frames + 50, SEEN).await;
    let received = subscriber.received();
    assert!(received.gaps.is_empty(), "{:?}", received.gaps);
    received.assert_monotonic();
    assert_eq!(received.sessions().len(), 2, "one session after the other");
}

/// `rtmp://` on the port of `rtmps://`.
async fn tells_its_user_to_use_tls(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let address = Address::at("rtmp://localhost", deployment, "any");
    let publisher = client.publish(&address, ENDLESS_SECONDS, &deployment.logs);
    let said = match client {
        Client::Ffmpeg5 | Client::Ffmpeg9 | Client::Rtmp2Sink => "use rtmps:// instead",
        Client::Librtmp => "Could not connect to RTMP stream",
        // With its dialog about the stream key.
        Client::Obs => "failed: -3",
        Client::PyAv => "UnknownError",
    };
    wait_until("the user to be told", SEEN, || {
        publisher.said().contains(said)
    })
    .await;
}

async fn tells_its_user_that_the_key_is_wrong(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let address = Address::secure(deployment, "not-a-key");
    let mut publisher = client.publish(&address, ENDLESS_SECONDS, &deployment.logs);
    let (code, words): (_, &[&str]) = match client {
        Client::Ffmpeg5 => (
            1,
            &[
                "Server error: Stream key not accepted",
                "Operation not permitted",
            ],
        ),
        Client::Ffmpeg9 => (
            255,
            &[
                "Server error: Stream key not accepted",
                "Operation not permitted",
            ],
        ),
        Client::Librtmp => (1, &["Could not connect to RTMP stream"]),
        // Also shows a dialog.
        Client::Obs => (0, &["NetStream.Publish.BadName"]),
        Client::PyAv => (1, &["PermissionError", "Operation not permitted"]),
        Client::Rtmp2Sink => (1, &["publish denied", "Stream key not accepted"]),
    };
    let refused = ["publish refused", "reason=\"key_not_accepted\""];
    standalone.process.log_line(&refused, SEEN).await;
    if client == Client::Obs {
        wait_until("OBS to say so", SEEN, || {
            words.iter().all(|word| publisher.said().contains(word))
        })
        .await;
        // Behind its dialog it does not always hear that it should end.
        publisher.process.kill();
        return;
    }
    let status = publisher.finish().await;
    let said = publisher.said();
    println!("{client}: {status}");
    assert_eq!(status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}
