//! The event log: reported once, watched from anywhere, put right where an edge died.

use std::time::{Duration, Instant};

use proto::{
    internal::v1::{
        ReportSessionsRequest, SessionReport, admission_service_server::AdmissionService as _,
    },
    v1::{
        Event, EventType, SessionEvent, WatchEventsRequest, WatchEventsResponse,
        WatchSessionsRequest, event::Subject, event_service_server::EventService as _,
        session_service_server::SessionService as _, watch_sessions_response::Change,
    },
};
use registry::{SessionId, Slot, StreamId};
use runtime::identity::Role;
use tokio::time::timeout;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status};

use super::{
    fixture::{Fixture, Replica, of_role, of_tenant, reason},
    on_both,
    session_service::publish,
};
use crate::{database::EventEntry, field::now_ms, session_log::Reconciler};

on_both!(
    what_is_reported_twice_is_an_event_once,
    a_watch_goes_on_behind_its_cursor_at_another_replica,
    a_watch_hears_what_it_asked_for_alone,
    a_watch_passes_over_what_a_newer_version_wrote,
    a_cursor_behind_forgotten_events_has_expired,
    an_event_of_long_ago_takes_no_newer_ones_with_it,
    a_watcher_that_is_told_nothing_of_much_hears_a_sign_of_life,
    a_session_of_an_edge_that_died_ends_once,
    a_session_that_goes_on_behind_its_end_is_told_once,
    a_known_key_that_is_refused_is_an_event_and_a_flood_is_not_many,
    sessions_are_watched,
);

/// Well above the sign of life.
const PATIENCE: Duration = Duration::from_secs(25);

pub(super) fn report(event_type: EventType, session: &str, stream: &str) -> SessionReport {
    SessionReport {
        event_id: format!("{session}-{}", event_type.as_str_name()),
        time_ms: now_ms().unsigned_abs(),
        r#type: event_type.into(),
        session: Some(SessionEvent {
            session_id: session.to_owned(),
            tenant: "default".to_owned(),
            app: "live".to_owned(),
            stream: stream.to_owned(),
            ..SessionEvent::default()
        }),
    }
}

impl Replica {
    pub(super) async fn report(&self, reports: Vec<SessionReport>) -> Result<(), Status> {
        let request = of_role(Role::Edge, ReportSessionsRequest { reports });
        self.admission.report_sessions(request).await.map(drop)
    }

    async fn watch_events(
        &self,
        tenant: &str,
        request: WatchEventsRequest,
    ) -> Result<Told, Status> {
        let watch = self.events.watch_events(of_tenant(tenant, request)).await?;
        Ok(Told {
            stream: watch.into_inner(),
            cursor: String::new(),
        })
    }

    /// What a newer version would write: at which position.
    pub(super) async fn write_newer_event(&self) -> i64 {
        let pool = self.shared.database.pool();
        let mut transaction = pool.begin().await.unwrap();
        let head = "UPDATE events_head SET position = position + 1 RETURNING position";
        let head = sqlx::query_scalar(head).fetch_one(&mut *transaction);
        let position: i64 = head.await.unwrap();
        // Nothing of it is as this version would read it.
        let event = "INSERT INTO events (position, id, create_ms, tenant, app, type, subject) \
                     VALUES ($1, $2, $3, 'default', 'live', 9999, 'of another form')";
        let inserted = sqlx::query(event)
            .bind(position)
            .bind(format!("newer-{position}"))
            .bind(now_ms())
            .execute(&mut *transaction);
        inserted.await.unwrap();
        transaction.commit().await.unwrap();
        position
    }

    async fn all_events(&self) -> Vec<(EventType, String)> {
        let page = self.shared.database.log_page::<EventEntry>(0, 1000).await;
        let page = page.unwrap();
        let positions = page.entries.iter().map(|entry| entry.position);
        assert!(positions.eq(1..=page.head), "positions have no gap");
        let entries = page.entries.iter().map(super::super::events::message);
        entries
            .map(|event| (event.r#type(), session(&event)))
            .collect()
    }
}

struct Told {
    stream: ReceiverStream<Result<WatchEventsResponse, Status>>,
    cursor: String,
}

impl Told {
    /// The next so many events.
    async fn next(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let told = async {
            while events.len() < count {
                let answer = self
                    .stream
                    .next()
                    .await
                    .expect("a watch stays open")
                    .unwrap();
                events.extend(answer.events);
                self.cursor = answer.cursor;
            }
        };
        timeout(PATIENCE, told).await.expect("events are told");
        events
    }
}

fn session(event: &Event) -> String {
    match &event.subject {
        Some(Subject::Session(session)) => session.session_id.clone(),
        Some(Subject::Key(_)) | None => String::new(),
    }
}

async fn what_is_reported_twice_is_an_event_once(fixture: Fixture) {
    let (a, b) = (fixture.replica().await, fixture.replica().await);
    let started = report(EventType::SessionStarted, "s-1", "one");
    let ended = report(EventType::SessionEnded, "s-1", "one");
    let taken_over = report(EventType::SessionTakenOver, "s-1", "one");
    let on_air = [EventType::SessionStandby, EventType::SessionOnAir]
        .map(|change| report(change, "s-1", "one"));
    let mut all = vec![started.clone()];
    all.extend(on_air);
    all.extend([taken_over, ended.clone()]);
    let (first, second) = tokio::join!(a.report(all.clone()), b.report(all.clone()));
    // SQLite may have one of two writers come again: the edge does.
    for (again, replica) in [(first, &a), (second, &b)] {
        if again.is_err() {
            replica.report(all.clone()).await.unwrap();
        }
    }
    // Under another id it is the same start, and the same end.
    for mut again in [started.clone(), ended] {
        again.event_id.push('x');
        b.report(vec![again]).await.unwrap();
    }
    let expected = [
        EventType::SessionStarted,
        EventType::SessionStandby,
        EventType::SessionOnAir,
        EventType::SessionTakenOver,
        EventType::SessionEnded,
    ];
    assert_eq!(
        a.all_events().await,
        expected.map(|kind| (kind, "s-1".to_owned()))
    );

    let request = ReportSessionsRequest {
        reports: vec![started],
    };
    let foreign = a.admission.report_sessions(of_role(Role::Origin, request));
    let not_admitted = (Code::PermissionDenied, "ROLE_NOT_ADMITTED".to_owned());
    assert_eq!(reason(foreign.await), not_admitted);
    let many = vec![report(EventType::SessionStarted, "s-2", "one"); 257];
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    assert_eq!(reason(a.report(many).await), invalid);
}

async fn a_watch_goes_on_behind_its_cursor_at_another_replica(fixture: Fixture) {
    let (a, b) = (fixture.replica().await, fixture.replica().await);
    let mut told = a
        .watch_events("default", WatchEventsRequest::default())
        .await
        .unwrap();
    a.report(vec![report(EventType::SessionStarted, "s-1", "one")])
        .await
        .unwrap();
    let events = told.next(1).await;
    assert_eq!((events.len(), session(&events[0])), (1, "s-1".to_owned()));
    let ended = report(EventType::SessionEnded, "s-1", "one");
    a.report(vec![ended]).await.unwrap();
    // More than is kept in memory.
    for batch in 0..6 {
        let reports = (0..200).map(|number| {
            report(
                EventType::SessionStarted,
                &format!("s-{batch}-{number}"),
                "one",
            )
        });
        a.report(reports.collect()).await.unwrap();
    }
    let request = WatchEventsRequest {
        cursor: told.cursor.clone(),
        ..WatchEventsRequest::default()
    };
    let mut resumed = b.watch_events("default", request).await.unwrap();
    let events = resumed.next(1201).await;
    assert_eq!(
        (events.len(), events[0].r#type()),
        (1201, EventType::SessionEnded)
    );
    let since = WatchEventsRequest {
        since: Some(prost_types::Timestamp::default()),
        ..WatchEventsRequest::default()
    };
    let mut whole = b.watch_events("default", since).await.unwrap();
    assert_eq!(whole.next(1202).await.len(), 1202);
}

async fn a_watch_hears_what_it_asked_for_alone(fixture: Fixture) {
    let control = fixture.replica().await;
    let ended_alone = WatchEventsRequest {
        types: vec![EventType::SessionEnded.into()],
        ..WatchEventsRequest::default()
    };
    let mut ended = control.watch_events("default", ended_alone).await.unwrap();
    let mut other = control
        .watch_events("other", WatchEventsRequest::default())
        .await
        .unwrap();
    let mut foreign = report(EventType::SessionStarted, "s-2", "two");
    foreign.session.as_mut().unwrap().tenant = "other".to_owned();
    let own = [EventType::SessionStarted, EventType::SessionEnded];
    let mut reports = own.map(|kind| report(kind, "s-1", "one")).to_vec();
    reports.push(foreign);
    control.report(reports).await.unwrap();
    assert_eq!(session(&other.next(1).await[0]), "s-2");
    assert_eq!(ended.next(1).await[0].r#type(), EventType::SessionEnded);
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    for request in [
        WatchEventsRequest {
            cursor: "x".to_owned(),
            ..WatchEventsRequest::default()
        },
        WatchEventsRequest {
            types: vec![0],
            ..WatchEventsRequest::default()
        },
        WatchEventsRequest {
            tenant: "other".to_owned(),
            ..WatchEventsRequest::default()
        },
    ] {
        assert_eq!(
            reason(control.watch_events("default", request).await.map(drop)),
            invalid
        );
    }
}

async fn a_watch_passes_over_what_a_newer_version_wrote(fixture: Fixture) {
    let control = fixture.replica().await;
    let started = |session: &str| vec![report(EventType::SessionStarted, session, "one")];
    let all = WatchEventsRequest {
        since: Some(prost_types::Timestamp::default()),
        ..WatchEventsRequest::default()
    };
    let mut live = control.watch_events("default", all.clone()).await.unwrap();
    control.report(started("s-1")).await.unwrap();
    control.write_newer_event().await;
    control.report(started("s-2")).await.unwrap();
    let sessions = |events: Vec<Event>| events.iter().map(session).collect::<Vec<_>>();
    assert_eq!(sessions(live.next(2).await), ["s-1", "s-2"]);
    // From the database, at a process that was not there; and from a cursor right before it.
    let second = fixture.replica().await;
    let mut read = second.watch_events("default", all).await.unwrap();
    let told = read.next(2).await;
    assert_eq!(sessions(told.clone()), ["s-1", "s-2"]);
    let behind = WatchEventsRequest {
        cursor: told[0].cursor.clone(),
        ..WatchEventsRequest::default()
    };
    let mut behind = second.watch_events("default", behind).await.unwrap();
    assert_eq!(sessions(behind.next(1).await), ["s-2"]);
    assert_eq!(second.all_events().await.len(), 3, "it keeps its position");
}

async fn a_cursor_behind_forgotten_events_has_expired(fixture: Fixture) {
    let control = fixture.replica().await;
    let mut told = control
        .watch_events("default", WatchEventsRequest::default())
        .await
        .unwrap();
    let start_ms = now_ms().unsigned_abs() - 10_000;
    for (number, session) in ["s-1", "s-2"].into_iter().enumerate() {
        let mut report = report(EventType::SessionStarted, session, "one");
        report.time_ms = start_ms + 2_000 * u64::try_from(number).unwrap();
        control.report(vec![report]).await.unwrap();
    }
    let first = told.next(2).await[0].cursor.clone();
    let pruned = control
        .shared
        .database
        .prune_log::<EventEntry>(i64::try_from(start_ms).unwrap() + 1_000)
        .await;
    assert_eq!(pruned.unwrap(), 1);
    let from = |cursor: String| WatchEventsRequest {
        cursor,
        ..WatchEventsRequest::default()
    };
    let mut rest = control.watch_events("default", from(first)).await.unwrap();
    assert_eq!(session(&rest.next(1).await[0]), "s-2");
    let start = crate::page_token::LogCursor(0).encode();
    let expired = control.watch_events("default", from(start)).await.map(drop);
    assert_eq!(
        reason(expired),
        (Code::OutOfRange, "CURSOR_EXPIRED".to_owned())
    );
}

async fn an_event_of_long_ago_takes_no_newer_ones_with_it(fixture: Fixture) {
    let control = fixture.replica().await;
    let now = now_ms().unsigned_abs();
    for (session, time_ms) in [("new", now), ("old", now - 60_000)] {
        let mut report = report(EventType::SessionStarted, session, "one");
        report.time_ms = time_ms;
        control.report(vec![report]).await.unwrap();
    }
    let before_ms = now_ms() - 30_000;
    let pruned = control.shared.database.prune_log::<EventEntry>(before_ms);
    assert_eq!(pruned.await.unwrap(), 0);
    assert_eq!(control.all_events().await.len(), 2);
}

async fn a_watcher_that_is_told_nothing_of_much_hears_a_sign_of_life(fixture: Fixture) {
    let control = fixture.replica().await;
    let request = WatchEventsRequest {
        app: "another".to_owned(),
        ..WatchEventsRequest::default()
    };
    let mut told = control.watch_events("default", request).await.unwrap();
    let started = Instant::now();
    let mut number = 0;
    let greeting = told.stream.next().await.unwrap().unwrap().cursor;
    let sign = loop {
        // Its own silence counts, not that of the log.
        tokio::select! {
            sign = told.stream.next() => break sign.unwrap().unwrap(),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        number += 1;
        let report = report(EventType::SessionStarted, &format!("s-{number}"), "one");
        control.report(vec![report]).await.unwrap();
        assert!(started.elapsed() < PATIENCE, "a sign of life");
    };
    assert_eq!(sign.events, []);
    assert_ne!(sign.cursor, greeting, "where to go on has moved");
    println!("a sign of life after {:?}", started.elapsed());
}

async fn a_session_of_an_edge_that_died_ends_once(fixture: Fixture) {
    let replicas = [fixture.replica().await, fixture.replica().await];
    let patience = Duration::from_millis(50);
    let mut reconcilers = replicas
        .each_ref()
        .map(|replica| Reconciler::new(replica.shared.clone()).with_patience(patience));
    // Of an edge that does not report: it starts by its lease.
    publish(&fixture, "quiet", "default", "live", "").await;
    replicas[0]
        .report(vec![report(EventType::SessionStarted, "lost", "lost")])
        .await
        .unwrap();
    let events = async |reconcilers: &mut [Reconciler; 2], count| {
        let found = async {
            loop {
                for reconciler in &mut *reconcilers {
                    reconciler.look().await;
                }
                let events = replicas[0].all_events().await;
                if events.len() >= count {
                    return events;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, found).await.expect("events come")
    };
    let mut found = events(&mut reconcilers, 3).await;
    found.sort();
    let expected = [
        (EventType::SessionStarted, "lost".to_owned()),
        (EventType::SessionStarted, "quiet".to_owned()),
        (EventType::SessionEnded, "lost".to_owned()),
    ];
    assert_eq!(found, expected);
    // Its edge was only slow.
    replicas[1]
        .report(vec![report(EventType::SessionEnded, "lost", "lost")])
        .await
        .unwrap();
    let stream = StreamId::derive("default", "live", "quiet");
    let quiet = SessionId::new("quiet").unwrap();
    fixture
        .registry
        .kick(stream, Slot::PRIMARY, Some(&quiet))
        .await
        .unwrap();
    let found = events(&mut reconcilers, 4).await;
    assert_eq!(found[3..], [(EventType::SessionEnded, "quiet".to_owned())]);
}

async fn a_session_that_goes_on_behind_its_end_is_told_once(fixture: Fixture) {
    let control = fixture.replica().await;
    let mut reconciler = Reconciler::new(control.shared.clone()).with_patience(Duration::ZERO);
    publish(&fixture, "slow", "default", "live", "").await;
    let told = [EventType::SessionStarted, EventType::SessionEnded];
    let reports = told.map(|kind| report(kind, "slow", "slow"));
    control.report(reports.to_vec()).await.unwrap();
    let shared = &control.shared;
    let leases = shared.leases.at_most(Duration::ZERO).await.unwrap();
    assert_eq!(leases.len(), 1);
    reconciler.look().await;
    // From here on, telling it again would be news.
    sqlx::query("DELETE FROM told_sessions")
        .execute(shared.database.pool())
        .await
        .unwrap();
    for _ in 0..3 {
        reconciler.look().await;
    }
    let expected = told.map(|kind| (kind, "slow".to_owned()));
    assert_eq!(control.all_events().await, expected);
}

async fn a_known_key_that_is_refused_is_an_event_and_a_flood_is_not_many(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    control.revoke(&key.id).await;
    let request = WatchEventsRequest {
        types: vec![EventType::SessionRefused.into()],
        since: Some(prost_types::Timestamp::default()),
        ..WatchEventsRequest::default()
    };
    let mut told = control.watch_events("default", request).await.unwrap();
    let unknown = crate::stream_key::StreamKey::generate().unwrap();
    control.authorize("live", &unknown.reveal()).await.unwrap();
    for _ in 0..20 {
        control.authorize("live", &secret).await.unwrap();
    }
    let refused = told.next(1).await.pop().unwrap();
    let Some(Subject::Session(session)) = refused.subject else {
        panic!("a refusal is of a session");
    };
    assert_eq!(
        (session.stream_key_id, session.reason.as_str()),
        (key.id.clone(), "revoked")
    );
    assert_eq!(
        (session.app.as_str(), session.stream.as_str()),
        ("live", "main")
    );
    let page = control
        .shared
        .database
        .log_page::<EventEntry>(0, 100)
        .await
        .unwrap();
    let refusals = page
        .entries
        .iter()
        .filter(|entry| entry.event_type == EventType::SessionRefused);
    assert_eq!(refusals.count(), 1);
}

async fn sessions_are_watched(fixture: Fixture) {
    let control = fixture.replica().await;
    publish(&fixture, "early", "default", "live", "").await;
    publish(&fixture, "foreign", "other", "live", "").await;
    let request = of_tenant("default", WatchSessionsRequest::default());
    let watch = control.sessions.watch_sessions(request).await.unwrap();
    let mut watch = watch.into_inner();
    let mut next = async || {
        let answer = timeout(PATIENCE, watch.next())
            .await
            .expect("a watch answers");
        answer.unwrap().unwrap().change.unwrap()
    };
    assert!(matches!(next().await, Change::Session(session) if session.id == "early"));
    assert!(matches!(next().await, Change::Complete(_)));
    publish(&fixture, "late", "default", "live", "").await;
    assert!(matches!(next().await, Change::Session(session) if session.id == "late"));
    let stream = StreamId::derive("default", "live", "early");
    fixture
        .registry
        .kick(stream, Slot::PRIMARY, None)
        .await
        .unwrap();
    assert_eq!(next().await, Change::EndedSessionId("early".to_owned()));
    control.shutdown.drain();
    let ended = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(reason(ended), (Code::Unavailable, "DRAINING".to_owned()));
}
