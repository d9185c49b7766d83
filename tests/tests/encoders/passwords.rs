//! A user and a password instead of a stream key (Adobe authentication): each encoder connects three times.
//!
//! Not librtmp: Debian's has the option, and dies on it of its own memory (`munmap_chunk(): invalid pointer`) before it
//! connects a second time.

use std::time::Duration;

use proto::v1::CreateStreamKeyRequest;
use tests::{
    api::IssuedKey,
    clients::{Address, Client, Publisher},
    deployment::{APP, Deployment},
    standalone::Standalone,
    turn,
    wait::wait_until,
};

/// To start, to publish, to see an end.
const SEEN: Duration = Duration::from_secs(60);
const SECONDS: u32 = 3;

of_encoders_with_passwords! { logs_in, tells_its_user_that_the_password_is_wrong }

async fn logs_in(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = create(deployment).await;
    let subscriber = deployment.subscribe(&key);
    let mut publisher = publish(client, deployment, &key, key.password());
    subscriber.frames(50, SEEN).await;
    let status = publisher.finish().await;
    assert!(status.success(), "{client}: {status}\n{}", publisher.said());
    let received = subscriber.finish(SEEN).await;
    received.assert_contiguous();
    assert_eq!(received.ended.as_deref(), Some("client_close"));
}

async fn tells_its_user_that_the_password_is_wrong(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = create(deployment).await;
    let mut publisher = publish(client, deployment, &key, "wrong");
    let said = match client {
        Client::PyAv => "error",
        Client::Ffmpeg5 | Client::Ffmpeg9 | Client::Librtmp | Client::Obs | Client::Rtmp2Sink => {
            "User or password not accepted"
        }
    };
    wait_until("the user to be told", SEEN, || {
        publisher.said().contains(said)
    })
    .await;
    if client == Client::Obs {
        // Behind its dialog it does not always hear that it should end.
        publisher.process.kill();
        return;
    }
    println!("{client}: {}", publisher.finish().await);
}

async fn create(deployment: &Deployment) -> IssuedKey {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: "encoder".to_owned(),
        adobe: true,
        ..CreateStreamKeyRequest::default()
    };
    deployment.api.try_create_key(request).await.unwrap()
}

fn publish(client: Client, deployment: &Deployment, key: &IssuedKey, password: &str) -> Publisher {
    let address = Address {
        login: Some((key.id.clone(), password.to_owned())),
        ..Address::secure(deployment, &key.stream)
    };
    let address = Address {
        server: format!("{}/_adobe_", address.server),
        ..address
    };
    client.publish(&address, SECONDS, &deployment.logs)
}
