//! Events to webhooks, whatever becomes of receivers and of control.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::v1::{
    CreateWebhookRequest, CreateWebhookResponse, DeleteWebhookRequest, EventType,
    GetWebhookRequest, ListDeadLettersRequest, ListWebhooksRequest, ReplayWebhookRequest, Webhook,
    event_service_server::EventService as _,
};
use tonic::Code;

use super::{
    backend::{Asked, Backend, Reply},
    event_service::report,
    fixture::{Fixture, Replica, of_tenant, reason, until},
    on_both,
};
use crate::{
    database::{Delivery, Settled, Settlement},
    delivery::TENANT_REQUESTS_MAX,
    field::now_ms,
    standard_webhooks::{ID, SIGNATURE, Secret, TIMESTAMP, verify},
};

on_both!(
    a_receiver_that_fails_hangs_and_recovers_gets_every_event_in_order,
    nothing_is_lost_when_the_process_that_delivers_dies,
    what_a_newer_version_wrote_is_not_delivered_and_holds_nothing_up,
    a_stream_whose_events_fail_holds_no_other_up_and_is_given_up,
    a_receiver_that_is_gone_is_left_alone_until_a_replay,
    a_webhook_is_there_for_its_own_tenant_alone,
    a_url_that_is_not_called_is_refused,
    receivers_of_one_tenant_that_hang_hold_up_no_other_tenant,
    a_process_without_the_hold_changes_nothing,
);

impl Replica {
    async fn create_webhook(&self, url: String) -> CreateWebhookResponse {
        self.create_webhook_of("default", url).await
    }

    async fn create_webhook_of(&self, tenant: &str, url: String) -> CreateWebhookResponse {
        let request = CreateWebhookRequest {
            url,
            ..CreateWebhookRequest::default()
        };
        let created = self.events.create_webhook(of_tenant(tenant, request));
        created.await.unwrap().into_inner()
    }

    async fn webhook(&self, id: &str) -> Webhook {
        let request = GetWebhookRequest { id: id.to_owned() };
        let found = self.events.get_webhook(of_tenant("default", request));
        found.await.unwrap().into_inner()
    }

    /// Starts sessions with the numbers, of four streams in turn.
    async fn start_sessions(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let stream = format!("stream-{}", number % 4);
            let report = report(EventType::SessionStarted, &format!("s-{number}"), &stream);
            self.report(vec![report]).await.unwrap();
        }
    }
}

fn is_signed(secret: &str, asked: &Asked) -> bool {
    let secret = Secret::parse(secret).unwrap();
    let timestamp = asked.header(TIMESTAMP).parse().unwrap();
    let (id, signature) = (asked.header(ID), asked.header(SIGNATURE));
    verify(&secret, id, timestamp, asked.body.as_bytes(), signature)
}

/// Session numbers of what was asked, by their stream, without repetitions.
fn numbers(asked: &[Asked]) -> BTreeMap<String, Vec<usize>> {
    let mut seen = BTreeSet::new();
    let mut streams = BTreeMap::<String, Vec<usize>>::new();
    for asked in asked {
        let data = &asked.json()["data"];
        let session = data["session_id"].as_str().unwrap().to_owned();
        let number = session.strip_prefix("s-").unwrap().parse().unwrap();
        if seen.insert(session) {
            let stream = data["stream"].as_str().unwrap().to_owned();
            streams.entry(stream).or_default().push(number);
        }
    }
    streams
}

/// A receiver that answers with this status (0: not at all) and keeps what it took.
async fn receiver(
    fixture: &mut Fixture,
) -> (Backend, Arc<AtomicU16>, Arc<parking_lot::Mutex<Vec<Asked>>>) {
    let status = Arc::new(AtomicU16::new(204));
    let taken = Arc::<parking_lot::Mutex<Vec<Asked>>>::default();
    let (says, takes) = (status.clone(), taken.clone());
    let backend = Backend::start(fixture.directory.path(), move |asked| {
        match says.load(Ordering::SeqCst) {
            0 => Reply::Hang,
            status => {
                if status < 300 {
                    takes.lock().push(asked.clone());
                }
                Reply::Answer(status, String::new())
            }
        }
    })
    .await;
    fixture.config.egress = backend.egress.clone();
    (backend, status, taken)
}

async fn a_receiver_that_fails_hangs_and_recovers_gets_every_event_in_order(mut fixture: Fixture) {
    let (backend, status, taken) = receiver(&mut fixture).await;
    let control = fixture.replica().await;
    let created = control
        .create_webhook(backend.url("/hook?token=x").to_string())
        .await;
    let webhook = created.webhook.unwrap();
    control.start_sessions(0..8).await;
    until("the first 8 are delivered", async || {
        taken.lock().len() == 8
    })
    .await;
    status.store(500, Ordering::SeqCst);
    control.start_sessions(8..40).await;
    until("failures are noted", async || {
        control.webhook(&webhook.id).await.last_error == "HTTP 500"
    })
    .await;
    status.store(0, Ordering::SeqCst);
    backend.hangs(1).await;
    control.start_sessions(40..60).await;
    status.store(200, Ordering::SeqCst);
    until("everything is delivered", async || {
        control.webhook(&webhook.id).await.pending == 0 && taken.lock().len() >= 60
    })
    .await;
    let taken = taken.lock().clone();
    assert!(taken.iter().all(|asked| is_signed(&created.secret, asked)));
    let first = taken.first().unwrap();
    assert_eq!(first.header("content-type"), "application/cloudevents+json");
    assert_eq!(first.json()["id"], first.header(ID));
    assert_eq!(first.json()["type"], "dev.headwater.session.started");
    for (stream, numbers) in numbers(&taken) {
        assert_eq!(numbers.len(), 15, "{stream}");
        assert!(numbers.is_sorted(), "{stream}: {numbers:?}");
    }
    let webhook = control.webhook(&webhook.id).await;
    assert_eq!((webhook.last_error.as_str(), webhook.dead), ("", 0));
    assert!(webhook.last_success_time.is_some());
}

async fn nothing_is_lost_when_the_process_that_delivers_dies(mut fixture: Fixture) {
    let (backend, status, taken) = receiver(&mut fixture).await;
    let first = fixture.replica().await;
    let created = first.create_webhook(backend.url("/hook").to_string()).await;
    let id = created.webhook.unwrap().id;
    // It holds the webhook, and dies with requests under way and with changes that it never looked at.
    status.store(0, Ordering::SeqCst);
    first.start_sessions(0..10).await;
    backend.hangs(1).await;
    first.start_sessions(10..30).await;
    drop(first);
    let second = fixture.replica().await;
    second.start_sessions(30..40).await;
    status.store(200, Ordering::SeqCst);
    until("another takes over and delivers all", async || {
        second.webhook(&id).await.pending == 0
            && numbers(&taken.lock()).values().map(Vec::len).sum::<usize>() == 40
    })
    .await;
    for (stream, numbers) in numbers(&taken.lock()) {
        assert!(numbers.is_sorted(), "{stream}: {numbers:?}");
    }
}

async fn what_a_newer_version_wrote_is_not_delivered_and_holds_nothing_up(mut fixture: Fixture) {
    let (backend, _, taken) = receiver(&mut fixture).await;
    let control = fixture.replica().await;
    let created = control.create_webhook(backend.url("/hook").to_string());
    let id = created.await.webhook.unwrap().id;
    control.start_sessions(0..1).await;
    let position = control.write_newer_event().await;
    control.start_sessions(1..2).await;
    until("what is known is delivered", async || {
        control.webhook(&id).await.pending == 0 && taken.lock().len() >= 2
    })
    .await;
    // As a newer version leaves it: given up, to be listed and replayed.
    let dead = "INSERT INTO deliveries (webhook_id, position, lane, create_ms, next_ms, dead_ms) \
                VALUES ($1, $2, 0, 0, 0, 1)";
    let dead = sqlx::query(dead).bind(&id).bind(position);
    let pool = control.shared.database.pool();
    dead.execute(pool).await.unwrap();
    let request = ListDeadLettersRequest {
        webhook_id: id.clone(),
        ..ListDeadLettersRequest::default()
    };
    let listed = control
        .events
        .list_dead_letters(of_tenant("default", request));
    let listed = listed.await.unwrap().into_inner().dead_letters;
    let events = listed.iter().filter_map(|dead| dead.event.as_ref());
    let events: Vec<_> = events.map(|event| (event.r#type(), &*event.id)).collect();
    assert_eq!(
        events,
        [(EventType::Unspecified, &*format!("newer-{position}"))]
    );
    let replay = ReplayWebhookRequest {
        webhook_id: id.clone(),
        since: Some(prost_types::Timestamp::default()),
    };
    let replayed = control.events.replay_webhook(of_tenant("default", replay));
    replayed.await.unwrap();
    until(
        "what is known is delivered again, the rest is left",
        async || {
            let webhook = control.webhook(&id).await;
            taken.lock().len() >= 4 && (webhook.pending, webhook.dead) == (0, 0)
        },
    )
    .await;
    let known: usize = numbers(&taken.lock()).values().map(Vec::len).sum();
    assert_eq!(known, 2);
}

async fn a_stream_whose_events_fail_holds_no_other_up_and_is_given_up(mut fixture: Fixture) {
    fixture.pacing.give_up = Duration::from_millis(300);
    let refuses = Arc::new(AtomicUsize::new(1));
    let says = refuses.clone();
    let backend = Backend::start(fixture.directory.path(), move |asked| {
        let poison = asked.json()["data"]["stream"] == "stream-0";
        let refused = poison && says.load(Ordering::SeqCst) == 1;
        Reply::Answer(if refused { 400 } else { 200 }, String::new())
    })
    .await;
    fixture.config.egress = backend.egress.clone();
    let control = fixture.replica().await;
    let created = control
        .create_webhook(backend.url("/hook").to_string())
        .await;
    let id = created.webhook.unwrap().id;
    control.start_sessions(0..12).await;
    until("what fails is given up", async || {
        let webhook = control.webhook(&id).await;
        webhook.dead == 3 && webhook.pending == 0
    })
    .await;
    dead_letters_come_in_pages(&control, &id).await;

    refuses.store(0, Ordering::SeqCst);
    let replay = ReplayWebhookRequest {
        webhook_id: id.clone(),
        since: None,
    };
    let replayed = control
        .events
        .replay_webhook(of_tenant("default", replay))
        .await;
    assert_eq!(replayed.unwrap().into_inner().events, 3);
    until("dead letters are delivered", async || {
        let webhook = control.webhook(&id).await;
        webhook.dead == 0 && webhook.pending == 0
    })
    .await;
    replay_delivers_again(&control, &backend, &id).await;
    assert!(
        control
            .metrics
            .encode()
            .contains("webhook_deliveries_total{outcome=\"dead\"} 3")
    );
}

async fn dead_letters_come_in_pages(control: &Replica, id: &str) {
    let dead = ListDeadLettersRequest {
        webhook_id: id.to_owned(),
        page_size: 2,
        ..ListDeadLettersRequest::default()
    };
    let page = control
        .events
        .list_dead_letters(of_tenant("default", dead.clone()))
        .await;
    let page = page.unwrap().into_inner();
    assert_eq!(page.dead_letters.len(), 2);
    assert_eq!(page.dead_letters[0].last_error, "HTTP 400");
    assert!(page.dead_letters[0].event.is_some() && page.dead_letters[0].attempts > 0);
    let rest = ListDeadLettersRequest {
        page_token: page.next_page_token,
        ..dead
    };
    let rest = control
        .events
        .list_dead_letters(of_tenant("default", rest))
        .await;
    let rest = rest.unwrap().into_inner();
    assert_eq!(
        (rest.dead_letters.len(), rest.next_page_token.as_str()),
        (1, "")
    );
}

async fn replay_delivers_again(control: &Replica, backend: &Backend, id: &str) {
    let before = backend.asked().len();
    let since = Some(prost_types::Timestamp::default());
    let replay = ReplayWebhookRequest {
        webhook_id: id.to_owned(),
        since,
    };
    let replayed = control
        .events
        .replay_webhook(of_tenant("default", replay))
        .await;
    assert_eq!(replayed.unwrap().into_inner().events, 12);
    until("all is delivered again", async || {
        backend.asked().len() >= before + 12
    })
    .await;
}

async fn a_receiver_that_is_gone_is_left_alone_until_a_replay(mut fixture: Fixture) {
    let (backend, status, taken) = receiver(&mut fixture).await;
    let control = fixture.replica().await;
    let created = control
        .create_webhook(backend.url("/hook").to_string())
        .await;
    let id = created.webhook.unwrap().id;
    status.store(410, Ordering::SeqCst);
    control.start_sessions(0..1).await;
    until("it is disabled", async || {
        control.webhook(&id).await.disable_time.is_some()
    })
    .await;
    let asked = backend.asked().len();
    control.start_sessions(1..5).await;
    status.store(200, Ordering::SeqCst);
    let replay = ReplayWebhookRequest {
        webhook_id: id.clone(),
        since: None,
    };
    control
        .events
        .replay_webhook(of_tenant("default", replay))
        .await
        .unwrap();
    until("what came meanwhile is delivered", async || {
        numbers(&taken.lock()).values().map(Vec::len).sum::<usize>() == 5
    })
    .await;
    assert_eq!(asked, 1);
}

async fn a_webhook_is_there_for_its_own_tenant_alone(fixture: Fixture) {
    let control = fixture.replica().await;
    let created = control
        .create_webhook("https://example.com/hook".to_owned())
        .await;
    assert!(Secret::parse(&created.secret).is_some());
    let id = created.webhook.unwrap().id;
    let not_found = (Code::NotFound, "WEBHOOK_NOT_FOUND".to_owned());
    let events = &control.events;
    let get = GetWebhookRequest { id: id.clone() };
    assert_eq!(
        reason(events.get_webhook(of_tenant("other", get)).await),
        not_found
    );
    let delete = DeleteWebhookRequest { id: id.clone() };
    let deleted = events
        .delete_webhook(of_tenant("other", delete.clone()))
        .await;
    assert_eq!(reason(deleted), not_found);
    let dead = ListDeadLettersRequest {
        webhook_id: id.clone(),
        ..ListDeadLettersRequest::default()
    };
    assert_eq!(
        reason(events.list_dead_letters(of_tenant("other", dead)).await),
        not_found
    );
    let replay = ReplayWebhookRequest {
        webhook_id: id.clone(),
        since: None,
    };
    assert_eq!(
        reason(events.replay_webhook(of_tenant("other", replay)).await),
        not_found
    );
    let list = |tenant| events.list_webhooks(of_tenant(tenant, ListWebhooksRequest::default()));
    assert!(
        list("other")
            .await
            .unwrap()
            .into_inner()
            .webhooks
            .is_empty()
    );
    assert_eq!(
        list("default").await.unwrap().into_inner().webhooks.len(),
        1
    );
    events
        .delete_webhook(of_tenant("default", delete))
        .await
        .unwrap();
    let get = GetWebhookRequest { id };
    assert_eq!(
        reason(events.get_webhook(of_tenant("default", get)).await),
        not_found
    );
}

async fn receivers_of_one_tenant_that_hang_hold_up_no_other_tenant(mut fixture: Fixture) {
    let taken = Arc::new(AtomicUsize::new(0));
    let takes = taken.clone();
    let backend = Backend::start(fixture.directory.path(), move |asked| {
        if asked.json()["tenant"] == "hung" {
            return Reply::Hang;
        }
        takes.fetch_add(1, Ordering::SeqCst);
        Reply::Answer(200, String::new())
    })
    .await;
    fixture.config.egress = backend.egress.clone();
    let control = fixture.replica().await;
    let url = backend.url("/hook").to_string();
    for _ in 0..TENANT_REQUESTS_MAX {
        control.create_webhook_of("hung", url.clone()).await;
    }
    let good = control.create_webhook(url).await.webhook.unwrap();
    let hung = (0..8).map(|number| {
        let stream = format!("hung-{number}");
        let mut report = report(EventType::SessionStarted, &stream, &stream);
        report.session.as_mut().unwrap().tenant = "hung".to_owned();
        report
    });
    control.report(hung.collect()).await.unwrap();
    backend.hangs(TENANT_REQUESTS_MAX).await;
    control.start_sessions(0..40).await;
    until("the other tenant's events are delivered", async || {
        control.webhook(&good.id).await.pending == 0 && taken.load(Ordering::SeqCst) >= 40
    })
    .await;
    assert!(backend.hanging() <= TENANT_REQUESTS_MAX);
}

async fn a_process_without_the_hold_changes_nothing(fixture: Fixture) {
    let control = fixture.replica().await;
    let created = control
        .create_webhook("https://example.com/hook".to_owned())
        .await;
    let id = created.webhook.unwrap().id;
    control.shutdown.drain();
    let database = &control.shared.database;
    let now_ms = now_ms();
    until("nobody holds it", async || {
        let (held, _) = database
            .hold_webhooks("first", now_ms, now_ms + 1000, 10)
            .await
            .unwrap();
        held.len() == 1
    })
    .await;
    let delivery = Delivery {
        position: 1,
        lane: 1,
        create_ms: now_ms,
        attempts: 0,
        next_ms: now_ms,
    };
    let position = database.webhook(&id).await.unwrap().unwrap().position;
    let deliveries = [delivery];
    let scheduled = database.schedule_deliveries("first", &id, (position, 1), &deliveries);
    assert!(scheduled.await.unwrap());
    let (held, acquired) = database
        .hold_webhooks("second", now_ms + 1001, now_ms + 5000, 10)
        .await
        .unwrap();
    assert_eq!((held.len(), acquired.len()), (1, 1));
    let before = database.webhook(&id).await.unwrap();
    let settled = [(1, Settled::Delivered)];
    let settle = |holder| Settlement {
        holder,
        webhook_id: &id,
        settled: &settled,
        last_success_ms: Some(now_ms),
        last_error: None,
        now_ms,
    };
    assert!(!database.settle_deliveries(settle("first")).await.unwrap());
    let disabled = database.disable_webhook("first", &id, now_ms, "gone");
    assert!(!disabled.await.unwrap());
    assert_eq!(database.webhook(&id).await.unwrap(), before);
    assert_eq!(database.deliveries(&id, 10).await.unwrap(), [delivery]);
    assert!(database.settle_deliveries(settle("second")).await.unwrap());
    assert!(database.deliveries(&id, 10).await.unwrap().is_empty());
    let disabled = database.disable_webhook("second", &id, now_ms, "gone");
    assert!(disabled.await.unwrap());
}

async fn a_url_that_is_not_called_is_refused(fixture: Fixture) {
    let control = fixture.replica().await;
    let events = &control.events;
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    for url in [
        "",
        "http://example.com/",
        "https://user@example.com/",
        "https://",
    ] {
        let request = CreateWebhookRequest {
            url: url.to_owned(),
            ..CreateWebhookRequest::default()
        };
        let refused = events.create_webhook(of_tenant("default", request)).await;
        assert_eq!(reason(refused), invalid, "{url}");
    }
}
