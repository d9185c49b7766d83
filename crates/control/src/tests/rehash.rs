//! What is stored under an old pepper moves to the newest one, and the old one can be retired.

use std::time::Duration;

use proto::v1::{
    CreateStreamKeyRequest, CreateWebhookRequest, CreateWebhookResponse, GetStreamKeyRequest,
    StreamKey as StreamKeyMessage, event_service_server::EventService as _,
    stream_key_service_server::StreamKeyService as _,
};

use super::{
    admission_service::is_granted,
    fixture::{Fixture, Replica, of_tenant, until},
    on_both,
};
use crate::{
    adobe::password_equivalent,
    database::KeyRecord,
    pepper::PepperError,
    rehash::Rehashes,
    stream_key::{StreamKey, StreamKeyId},
};

on_both!(
    a_pepper_is_retired_once_keys_were_shown,
    a_pepper_is_retired_although_a_password_alone_is_used,
    nothing_depends_on_a_pepper_that_others_may_not_have_yet,
);

pub(super) fn second() -> String {
    format!("2:{}\n", "5".repeat(64))
}

/// Gives control one more pepper; gives back the first one's line.
pub(super) async fn add_pepper(fixture: &Fixture, control: &mut Replica) -> String {
    let path = &fixture.config.pepper_file;
    let first = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("{first}{}", second())).unwrap();
    assert_eq!(control.pepper_file.advance().await.unwrap(), 2);
    first
}

async fn record(control: &Replica, id: &str) -> KeyRecord {
    let id = StreamKeyId::parse(id).unwrap();
    control.shared.database.key(id).await.unwrap().unwrap()
}

async fn granted(control: &Replica, secret: &str) -> bool {
    is_granted(&control.authorize("live", secret).await.unwrap())
}

async fn etag(control: &Replica, id: &str) -> String {
    let request = GetStreamKeyRequest { id: id.to_owned() };
    let found = control.keys.get_stream_key(of_tenant("default", request));
    found.await.unwrap().into_inner().etag
}

async fn key_with_password(control: &Replica) -> (StreamKeyMessage, String) {
    let request = CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: "box".to_owned(),
        adobe: true,
        ..CreateStreamKeyRequest::default()
    };
    let request = of_tenant("default", request);
    let created = control.keys.create_stream_key(request).await;
    let created = created.unwrap().into_inner();
    (created.stream_key.unwrap(), created.secret)
}

async fn webhook(control: &Replica) -> CreateWebhookResponse {
    let request = CreateWebhookRequest {
        url: "https://platform.example/hook".to_owned(),
        ..CreateWebhookRequest::default()
    };
    let request = of_tenant("default", request);
    let created = control.events.create_webhook(request).await;
    created.unwrap().into_inner()
}

async fn a_pepper_is_retired_once_keys_were_shown(mut fixture: Fixture) {
    fixture.rehash_delay = Duration::ZERO;
    let mut control = fixture.replica().await;
    let (shown, shown_secret) = control.create("shown").await;
    let (idle, idle_secret) = control.create("idle").await;
    let (with_password, password_secret) = key_with_password(&control).await;
    let webhook = webhook(&control).await;
    let before = etag(&control, &shown.id).await;

    add_pepper(&fixture, &mut control).await;
    for (id, secret) in [
        (&shown.id, &shown_secret),
        (&with_password.id, &password_secret),
    ] {
        assert!(granted(&control, secret).await);
        until("the newest pepper", async || {
            record(&control, id).await.pepper_version == 2
        })
        .await;
    }
    assert_eq!(etag(&control, &shown.id).await, before);
    assert_eq!(record(&control, &idle.id).await.pepper_version, 1);
    let database = &control.shared.database;
    until("the webhook's newest pepper", async || {
        database.webhooks_before(2, 10).await.unwrap().is_empty()
    })
    .await;

    let path = &fixture.config.pepper_file;
    std::fs::write(path, second()).unwrap();
    let refused = control.pepper_file.advance().await;
    assert!(
        matches!(refused, Err(PepperError::Missing { version: 1 })),
        "the idle key needs it: {refused:?}"
    );
    assert!(granted(&control, &idle_secret).await);
    until("the idle key's newest pepper", async || {
        record(&control, &idle.id).await.pepper_version == 2
    })
    .await;
    drop(control);
    // Started with the new one alone.
    let control = fixture.replica().await;
    for secret in [&shown_secret, &idle_secret, &password_secret] {
        assert!(granted(&control, secret).await);
    }
    let peppers = control.shared.peppers.load();
    let stored = record(&control, &with_password.id).await;
    let opened = peppers.open(2, stored.id, &stored.adobe.unwrap()).unwrap();
    let password_key = StreamKey::parse(&password_secret).ok().unwrap();
    assert_eq!(opened[..], password_equivalent(&password_key)[..]);
    let id = webhook.webhook.unwrap().id;
    let stored = control.shared.database.webhook(&id).await.unwrap().unwrap();
    let opened = peppers.open_webhook(2, &id, &stored.secret_sealed).unwrap();
    assert_eq!(&opened[..], webhook.secret.as_bytes());
}

async fn a_pepper_is_retired_although_a_password_alone_is_used(mut fixture: Fixture) {
    fixture.rehash_delay = Duration::ZERO;
    let mut control = fixture.replica().await;
    let (key, secret) = key_with_password(&control).await;
    let (lapsed, _) = key_with_password(&control).await;
    control.revoke(&lapsed.id).await;
    let (shown, shown_secret) = control.create("shown").await;
    let before = etag(&control, &key.id).await;
    add_pepper(&fixture, &mut control).await;
    until("what is left", async || {
        control.metric("headwater_pepper_rewrites_total{kind=\"password\"} 1")
            && control.metric("headwater_pepper_rewrites_total{kind=\"credential_key\"} 1")
            && control.metric("headwater_pepper_outdated{kind=\"stream_key\"} 1")
    })
    .await;
    assert_eq!(record(&control, &key.id).await.pepper_version, 2);
    assert_eq!(record(&control, &lapsed.id).await.pepper_version, 1);
    assert_eq!(etag(&control, &key.id).await, before);
    assert!(granted(&control, &shown_secret).await);
    until("nothing left", async || {
        record(&control, &shown.id).await.pepper_version == 2
            && control.metric("headwater_pepper_outdated{kind=\"stream_key\"} 0")
    })
    .await;
    std::fs::write(&fixture.config.pepper_file, second()).unwrap();
    assert_eq!(control.pepper_file.advance().await.unwrap(), 2);
    // The password, and the whole key as well, which nobody had shown.
    let stored = record(&control, &key.id).await;
    let peppers = control.shared.peppers.load_full();
    let opened = peppers.open(2, stored.id, &stored.adobe.unwrap()).unwrap();
    let stream_key = StreamKey::parse(&secret).ok().unwrap();
    assert_eq!(opened[..], password_equivalent(&stream_key)[..]);
    assert!(granted(&control, &secret).await);
    let wrong = StreamKey::generate().unwrap().with_id(stored.id);
    assert!(!granted(&control, &wrong.reveal()).await);
}

async fn nothing_depends_on_a_pepper_that_others_may_not_have_yet(fixture: Fixture) {
    let mut control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    add_pepper(&fixture, &mut control).await;
    let stream_key = StreamKey::parse(&secret).ok().unwrap();
    let stored = record(&control, &key.id).await;
    let peppers = control.shared.peppers.load_full();
    for (delay, version) in [(fixture.rehash_delay, 1), (Duration::ZERO, 2)] {
        let shared = &control.shared;
        let (database, metrics) = (&shared.database, &shared.metrics);
        let (rehashes, rehasher) = Rehashes::new(database, &shared.peppers, metrics, delay);
        // More than there is room for: nobody waits.
        for _ in 0..1000 {
            rehashes.tell(&peppers, &stored, &stream_key);
        }
        drop(rehashes);
        rehasher.run().await;
        let stored = record(&control, &key.id).await;
        assert_eq!(stored.pepper_version, version);
    }
    assert!(granted(&control, &secret).await);
}
