//! Applications whose publishers the platform's backend decides on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use proto::{
    internal::v1::{Denial, DenialReason, authorize_request::Credential},
    v1::{TerminateSessionRequest, session_service_server::SessionService as _},
};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{
    backend::{Asked, Backend, Reply},
    fixture::{Fixture, Replica, of_tenant, reason, until},
    on_both,
    rehash::{add_pepper, second},
    session_service::publish,
    signed_keys::{denied, granted},
};
use crate::{
    AdmissionSource, Application, Webhook,
    field::now_ms,
    standard_webhooks::{self, Secret},
};

on_both!(
    a_backend_is_asked_and_its_answer_becomes_a_grant,
    a_backend_refuses_with_its_own_words,
    answers_are_remembered_until_a_session_is_terminated,
    a_backend_that_hangs_holds_up_its_own_publishers_alone,
    a_ban_outlives_the_pepper_and_holds_whatever_stands_in_the_query,
    a_backend_that_says_no_by_its_status_is_not_left_alone,
    a_refusal_that_is_remembered_asks_nobody,
);

/// With an application of this name that asks the backend.
fn asks(fixture: &mut Fixture, backend: &Backend, app: &str, timeout: Duration) -> Secret {
    let secret = Secret::generate().unwrap();
    let secret_file = fixture.directory.path().join("webhook-secret");
    std::fs::write(&secret_file, format!("{}\n", *secret.reveal())).unwrap();
    fixture.config.egress = backend.egress.clone();
    fixture.config.applications.push(Application {
        name: app.to_owned(),
        admission: AdmissionSource::Webhook(Webhook {
            url: backend.url("/authorize"),
            secret_file,
            tenant: None,
            timeout,
            concurrency_max: 8,
        }),
    });
    secret
}

fn key(asked: &Asked) -> String {
    asked.json()["data"]["stream_key"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn allow(stream: &str) -> Reply {
    Reply::Answer(200, json!({"allow": true, "stream": stream}).to_string())
}

async fn a_backend_is_asked_and_its_answer_becomes_a_grant(mut fixture: Fixture) {
    let backend = Backend::start(fixture.directory.path(), |_asked| {
        let answer = json!({
            "allow": true,
            "stream": "main",
            "tenant": "acme",
            "policy": {"max_session_seconds": 60, "limits": {"max_width": 1920}},
        });
        Reply::Answer(200, answer.to_string())
    });
    let backend = backend.await;
    let secret = asks(&mut fixture, &backend, "hooked", TIMEOUT);
    let control = fixture.replica().await;
    let answer = control.ask(|request| {
        request.app = "hooked".to_owned();
        request.credential = Some(Credential::StreamKey("their own key".to_owned()));
        request.token = "t".to_owned();
        request.encoder = "OBS".to_owned();
    });
    let grant = granted(&fixture, answer.await.unwrap());
    assert_eq!(
        (&*grant.tenant, &*grant.app, &*grant.stream),
        ("acme", "hooked", "main")
    );
    assert!(grant.stream_key_id.starts_with("webhook:"));
    assert!(!grant.stream_key_id.contains("their"));
    assert_eq!(grant.session_until_ms, grant.issued_ms + 60_000);
    assert_eq!(grant.limits.unwrap().max_width, 1920);

    let asked = &backend.asked()[0];
    let (id, body) = (asked.header(standard_webhooks::ID), asked.body.as_bytes());
    let time: i64 = asked.header(standard_webhooks::TIMESTAMP).parse().unwrap();
    assert!((now_ms() / 1000 - time).abs() < 60);
    let signature = asked.header(standard_webhooks::SIGNATURE);
    assert!(standard_webhooks::verify(
        &secret, id, time, body, signature
    ));
    assert_eq!(asked.header("content-type"), "application/json");
    let body = asked.json();
    assert_eq!(body["type"], "publish.authorize");
    let data = &body["data"];
    assert_eq!(
        (&data["app"], &data["stream_key"], &data["token"]),
        (&json!("hooked"), &json!("their own key"), &json!("t"))
    );
    assert_eq!(data["client_address"], "192.0.2.7:1935");
    assert_eq!(
        (&data["encoder"], &data["session_id"]),
        (&json!("OBS"), &json!("session-1"))
    );
    assert!(control.metric(
        "headwater_admission_webhook_answers_total{outcome=\"allowed\",source=\"webhook\"} 1"
    ));
}

async fn a_backend_refuses_with_its_own_words(mut fixture: Fixture) {
    let backend = Backend::start(fixture.directory.path(), |asked| match &*key(asked) {
        "words" => Reply::Answer(
            200,
            json!({"allow": false, "reason": "Plan ended"}).to_string(),
        ),
        "silent" => Reply::Answer(200, json!({"allow": false}).to_string()),
        "nonsense" => Reply::Answer(200, "<html>".to_owned()),
        "newer" => Reply::Answer(
            200,
            json!({"allow": true, "stream": "a", "geo": 1}).to_string(),
        ),
        _ => Reply::Answer(503, json!({"allow": true, "stream": "a"}).to_string()),
    });
    let backend = backend.await;
    asks(&mut fixture, &backend, "hooked", TIMEOUT);
    let control = fixture.replica().await;
    for (key, reason, description, retryable) in [
        (
            "words",
            DenialReason::RefusedByPlatform,
            "Plan ended",
            false,
        ),
        (
            "silent",
            DenialReason::RefusedByPlatform,
            "Stream key not accepted",
            false,
        ),
        (
            "nonsense",
            DenialReason::SourceUnavailable,
            UNAVAILABLE,
            true,
        ),
        ("newer", DenialReason::SourceUnavailable, UNAVAILABLE, true),
        ("broken", DenialReason::SourceUnavailable, UNAVAILABLE, true),
    ] {
        let denial = denied(control.ask_with("hooked", key, "session-1").await);
        assert_eq!(
            (denial.reason(), &*denial.description, denial.retryable),
            (reason, description, retryable),
            "{key}"
        );
    }
}

async fn answers_are_remembered_until_a_session_is_terminated(mut fixture: Fixture) {
    let backend = Backend::start(fixture.directory.path(), |asked| match &*key(asked) {
        "good" => {
            let answer = json!({"allow": true, "stream": "main", "ttl_seconds": 300});
            Reply::Answer(200, answer.to_string())
        }
        "fresh" => allow("fresh"),
        _ => Reply::Answer(200, json!({"allow": false, "ttl_seconds": 60}).to_string()),
    });
    let backend = backend.await;
    asks(&mut fixture, &backend, "hooked", TIMEOUT);
    fixture.config.hold_off = Duration::from_millis(1);
    let control = fixture.replica().await;
    let mut grants = Vec::new();
    for attempt in 0..3 {
        let session = format!("session-{attempt}");
        grants.push(granted(
            &fixture,
            control.ask_with("hooked", "good", &session).await,
        ));
        denied(control.ask_with("hooked", "bad", &session).await);
        granted(
            &fixture,
            control.ask_with("hooked", "fresh", &session).await,
        );
    }
    let asked = |name: &str| {
        backend
            .asked()
            .iter()
            .filter(|asked| key(asked) == name)
            .count()
    };
    assert_eq!((asked("good"), asked("bad"), asked("fresh")), (1, 1, 3));
    let elsewhere = control.ask(|request| {
        request.app = "hooked".to_owned();
        request.credential = Some(Credential::StreamKey("good".to_owned()));
        request.client_address = "198.51.100.1:1935".to_owned();
    });
    granted(&fixture, elsewhere.await.unwrap());
    assert_eq!(
        asked("good"),
        2,
        "from another address it is another question"
    );

    let id = &grants[0].stream_key_id;
    publish(&fixture, "session-0", "default", "hooked", id).await;
    let request = TerminateSessionRequest {
        id: "session-0".to_owned(),
        ..Default::default()
    };
    let request = of_tenant("default", request);
    control.sessions.terminate_session(request).await.unwrap();
    // The test decides when it is over.
    let held_off_until = now_ms() + 60_000;
    refuse_until(&control.shared.database, id, held_off_until).await;
    let denial = denied(control.ask_with("hooked", "good", "session-9").await);
    assert_eq!(denial.reason(), DenialReason::HeldOff);
    control
        .shared
        .database
        .prune_credentials(held_off_until)
        .await
        .unwrap();
    granted(
        &fixture,
        control.ask_with("hooked", "good", "session-9").await,
    );
    assert_eq!(asked("good"), 3, "what was remembered is void");
}

/// Holds a credential off as a termination does.
async fn refuse_until(database: &crate::database::Database, id: &str, until_ms: i64) {
    let termination = crate::database::Termination {
        tenant: "default",
        session_id: "session-0",
        stream_key_id: id,
        reason: "",
        held_off_until_ms: until_ms,
    };
    database
        .terminate_session(&termination, now_ms())
        .await
        .unwrap();
}

async fn a_backend_that_hangs_holds_up_its_own_publishers_alone(mut fixture: Fixture) {
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = hangs.clone();
    let hung = Backend::start(fixture.directory.path(), move |asked| {
        if hanging.load(Ordering::SeqCst) && key(asked).starts_with("hung") {
            Reply::Hang
        } else {
            allow("main")
        }
    });
    let hung = hung.await;
    asks(&mut fixture, &hung, "hung", TIMEOUT);
    asks(&mut fixture, &hung, "good", TIMEOUT);
    let (_, managed) = fixture.replica().await.create("main").await;
    let (control, stuck) = {
        let mut attempts = 0;
        loop {
            let control = Arc::new(fixture.replica().await);
            let mut stuck = JoinSet::new();
            let beside = stuck_ones_hold_up_nobody(&fixture, &control, &hung, &managed, &mut stuck);
            if beside.await {
                break (control, stuck);
            }
            // Questions ended before the others were decided: on a machine that stood still for so long, or because the
            // others waited for them.
            attempts += 1;
            assert!(attempts < 5, "others wait for a backend that hangs");
            drop(stuck);
            until("nothing hangs", async || hung.hanging() == 0).await;
        }
    };

    // What found no room is told to come again, at once; what hung, at its deadline.
    let denials = stuck.join_all().await;
    assert_eq!(denials.len(), 24);
    for denial in denials {
        assert_eq!(denial.reason(), DenialReason::SourceUnavailable);
        assert!(denial.retryable);
    }
    // So many keys without an answer: it is left alone.
    assert!(control.metric("headwater_admission_webhook_breakers_open 1"));
    let denial = denied(control.ask_with("hung", "later", "session-1").await);
    assert_eq!(denial.reason(), DenialReason::SourceUnavailable);
    let asked = hung.asked();
    assert!(
        asked.iter().all(|asked| key(asked) != "later"),
        "it is not even asked"
    );

    // Until it answers again.
    hangs.store(false, Ordering::SeqCst);
    let answered = async {
        while control.metric("headwater_admission_webhook_breakers_open 1") {
            control.ask_with("hung", "other", "session-1").await;
        }
    };
    timeout(Duration::from_secs(25), answered)
        .await
        .expect("the backend is asked again");
    granted(
        &fixture,
        control.ask_with("hung", "hung", "session-1").await,
    );
}

/// Starts questions that hang, more than the application may ask at once. False where they ended before everybody else
/// was answered.
async fn stuck_ones_hold_up_nobody(
    fixture: &Fixture,
    control: &Arc<Replica>,
    hung: &Backend,
    managed: &str,
    stuck: &mut JoinSet<Denial>,
) -> bool {
    let mut hang = |key: String| {
        let control = control.clone();
        stuck.spawn(async move { denied(control.ask_with("hung", &key, "session-1").await) });
    };
    let hangs = async |requests| {
        let enough = timeout(TIMEOUT, hung.hangs(requests));
        enough.await.is_ok()
    };

    // One key at its bound: another key of the same application is answered.
    for _ in 0..4 {
        hang("hung".to_owned());
    }
    if !hangs(2).await {
        return false;
    }
    granted(
        fixture,
        control.ask_with("hung", "other", "session-1").await,
    );

    // The whole application at its bound: other applications are.
    for number in 0..20 {
        hang(format!("hung-{number}"));
    }
    if !hangs(8).await {
        return false;
    }
    others_are_answered(fixture, control, managed).await;
    hung.hanging() == 8
}

async fn a_ban_outlives_the_pepper_and_holds_whatever_stands_in_the_query(mut fixture: Fixture) {
    let backend = Backend::start(fixture.directory.path(), |asked| allow(&key(asked))).await;
    asks(&mut fixture, &backend, "hooked", TIMEOUT);
    fixture.rehash_delay = Duration::ZERO;
    let mut control = fixture.replica().await;
    let ask = async |control: &Replica, key: &str, token: &str| {
        let answer = control.ask(|request| {
            request.app = "hooked".to_owned();
            request.credential = Some(Credential::StreamKey(key.to_owned()));
            request.token = token.to_owned();
        });
        answer.await.unwrap()
    };
    let id = granted(&fixture, ask(&control, "main", "t").await).stream_key_id;
    let other = granted(&fixture, ask(&control, "other", "t").await).stream_key_id;
    assert_ne!(id, other);
    refuse_until(&control.shared.database, &id, now_ms() + 86_400_000).await;
    let banned = async |control: &Replica| {
        for token in ["t", "", "another"] {
            let denial = denied(ask(control, "main", token).await);
            assert_eq!(denial.reason(), DenialReason::HeldOff, "{token}");
        }
        let again = granted(&fixture, ask(control, "other", "u").await);
        assert_eq!(again.stream_key_id, other);
    };
    banned(&control).await;
    add_pepper(&fixture, &mut control).await;
    banned(&control).await;
    until("the newest pepper", async || {
        let stored = control.shared.database.credential_key().await.unwrap();
        stored.unwrap().0 == 2
    })
    .await;
    std::fs::write(&fixture.config.pepper_file, second()).unwrap();
    assert_eq!(control.pepper_file.advance().await.unwrap(), 2);
    banned(&control).await;
    drop(control);
    banned(&fixture.replica().await).await;
}

async fn a_backend_that_says_no_by_its_status_is_not_left_alone(mut fixture: Fixture) {
    let backend = Backend::start(fixture.directory.path(), |asked| {
        let status = key(asked).split('-').next().unwrap().parse().unwrap();
        Reply::Answer(status, "<html>".to_owned())
    });
    let backend = backend.await;
    asks(&mut fixture, &backend, "hooked", TIMEOUT);
    let control = fixture.replica().await;
    let ask = async |status: u16, number: usize| {
        let key = format!("{status}-{number}");
        denied(control.ask_with("hooked", &key, "session-1").await)
    };
    for (number, status) in [200, 302, 400, 401, 403, 404].into_iter().enumerate() {
        // Failures do not add up where it answers in between.
        ask(503, number).await;
        let denial = ask(status, number).await;
        assert_eq!(denial.reason(), DenialReason::SourceUnavailable);
        assert!(denial.retryable, "{status}");
    }
    assert!(control.metric("headwater_admission_webhook_breakers_open 0"));
    assert_eq!(backend.asked().len(), 12);
    for (number, status) in [429, 500, 502, 503, 429].into_iter().enumerate() {
        assert!(control.metric("headwater_admission_webhook_breakers_open 0"));
        ask(status, number).await;
    }
    assert!(control.metric("headwater_admission_webhook_breakers_open 1"));
    let line = "headwater_admission_webhook_answers_total{outcome=\"backend_failed\",source=\"webhook\"} 11";
    assert!(control.metric(line));
}

async fn a_refusal_that_is_remembered_asks_nobody(mut fixture: Fixture) {
    let backend = Backend::start(fixture.directory.path(), |asked| match &*key(asked) {
        "good" => {
            let answer = json!({"allow": true, "stream": "main", "ttl_seconds": 300});
            Reply::Answer(200, answer.to_string())
        }
        _ => Reply::Answer(200, json!({"allow": false, "ttl_seconds": 60}).to_string()),
    });
    let backend = backend.await;
    asks(&mut fixture, &backend, "hooked", TIMEOUT);
    let control = fixture.replica().await;
    granted(&fixture, control.ask_with("hooked", "good", "one").await);
    denied(control.ask_with("hooked", "bad", "one").await);
    control.shared.database.close().await;
    let denial = denied(control.ask_with("hooked", "bad", "two").await);
    assert_eq!(denial.reason(), DenialReason::RefusedByPlatform);
    // Whether its session was terminated has to be known.
    let asked = control.ask(|request| {
        request.app = "hooked".to_owned();
        request.credential = Some(Credential::StreamKey("good".to_owned()));
    });
    assert_eq!(reason(asked.await).1, "DATABASE_UNAVAILABLE");
    assert_eq!(backend.asked().len(), 2);
}

/// Those of another application with the same backend, and those of an application with keys of ours.
async fn others_are_answered(fixture: &Fixture, control: &Replica, managed: &str) {
    let mut times = Vec::new();
    for attempt in 0..20 {
        for (app, key) in [("good", &*format!("key-{attempt}")), ("live", managed)] {
            let started = Instant::now();
            granted(fixture, control.ask_with(app, key, "session-1").await);
            times.push(started.elapsed());
        }
    }
    times.sort_unstable();
    let (median, slowest) = (times.get(20), times.last());
    println!("decisions beside a backend that hangs: p50 {median:?}, slowest of 40 {slowest:?}");
}

const UNAVAILABLE: &str = "Stream keys cannot be checked right now, please try again";
/// Longer than the decisions take that are counted meanwhile, and below the outbound client's own deadline.
const TIMEOUT: Duration = Duration::from_millis(4500);
