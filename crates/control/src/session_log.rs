//! What becomes of sessions, as events: what edges report, what admission refuses, and what neither told because an edge
//! died.

mod reconcile;
mod refusals;

use proto::{
    internal::v1::{ReportSessionsRequest, SessionReport},
    v1::{EventType, SessionEvent},
};
use registry::SessionId;
use tonic::Status;

pub(crate) use self::{
    reconcile::Reconciler,
    refusals::{RefusalWriter, Refusals},
};
use crate::{
    database::{NewEvent, Subject},
    field::{self, Violations},
    stream_key::redacted,
};

/// The reports of a request, checked. Edges are ours and repeat what is refused as it stands: texts that are too long are
/// cut, and what cannot be an event of a session is refused for good.
pub(crate) fn reports(
    request: ReportSessionsRequest,
    now_ms: i64,
) -> Result<Vec<NewEvent>, Status> {
    if request.reports.len() > REPORTS_MAX {
        return Err(field::invalid("reports", "at most 256"));
    }
    request
        .reports
        .into_iter()
        .map(|report| parse(report, now_ms))
        .collect()
}

fn parse(report: SessionReport, now_ms: i64) -> Result<NewEvent, Status> {
    let event_type = report.r#type();
    let Some(session) = report.session else {
        return Err(field::invalid("reports.session", "missing"));
    };
    let mut violations = Violations::default();
    violations.check("reports.event_id", id(&report.event_id));
    violations.check("reports.type", reported_type(event_type));
    violations.check("reports.session.session_id", id(&session.session_id));
    violations.check("reports.session.tenant", field::tenant(&session.tenant));
    violations.check("reports.session.app", field::app(&session.app));
    violations.check("reports.session.stream", field::stream(&session.stream));
    violations.finish()?;
    Ok(NewEvent {
        id: report.event_id,
        // The edge's clock may go before ours; what is kept by time must not be from the future.
        create_ms: i64::try_from(report.time_ms)
            .unwrap_or(i64::MAX)
            .min(now_ms),
        tenant: session.tenant.clone(),
        event_type,
        subject: Subject::Session(Box::new(clean(session))),
    })
}

fn id(id: &str) -> Result<(), &'static str> {
    SessionId::new(id)
        .map(drop)
        .map_err(|_invalid| "1 to 128 bytes of [A-Za-z0-9._:-]")
}

fn reported_type(event_type: EventType) -> Result<(), &'static str> {
    match event_type {
        EventType::SessionStarted
        | EventType::SessionEnded
        | EventType::SessionRefused
        | EventType::SessionTakenOver
        | EventType::SessionOnAir
        | EventType::SessionStandby => Ok(()),
        EventType::Unspecified
        | EventType::KeyCreated
        | EventType::KeyUpdated
        | EventType::KeyRotated
        | EventType::KeyRevoked
        | EventType::KeyDeleted => Err("not what becomes of a session"),
    }
}

/// Publishers choose some of the texts: they may be long, drive a terminal, or hold a stream key.
fn clean(session: SessionEvent) -> SessionEvent {
    SessionEvent {
        session_id: session.session_id,
        tenant: session.tenant,
        app: session.app,
        stream: session.stream,
        stream_key_id: text(&session.stream_key_id),
        edge: text(&session.edge),
        client_address: text(&session.client_address),
        encoder: text(&session.encoder),
        reason: text(&session.reason),
        description: text(&session.description),
        received_bytes: session.received_bytes,
        duration_ms: session.duration_ms,
        successor_session_id: text(&session.successor_session_id),
        slot: session.slot,
    }
}

fn text(text: &str) -> String {
    let redacted = redacted(text);
    let end = redacted.floor_char_boundary(TEXT_BYTES_MAX);
    let (kept, _rest) = redacted.split_at(end);
    // PostgreSQL takes no NUL in a text; the others would reach terminals.
    kept.replace(char::is_control, "\u{fffd}")
}

const REPORTS_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn report(event_type: EventType) -> SessionReport {
        SessionReport {
            event_id: "e-1".to_owned(),
            time_ms: 5_000,
            r#type: event_type.into(),
            session: Some(SessionEvent {
                session_id: "s-1".to_owned(),
                tenant: "default".to_owned(),
                app: "live".to_owned(),
                stream: "main".to_owned(),
                encoder: format!("\u{1b}[2J{}", "x".repeat(2000)),
                ..SessionEvent::default()
            }),
        }
    }

    #[test]
    fn a_report_is_an_event_with_what_publishers_chose_made_harmless() {
        let event = parse(report(EventType::SessionStarted), 4_000).unwrap();
        assert_eq!((event.id.as_str(), event.create_ms), ("e-1", 4_000));
        let Subject::Session(session) = event.subject else {
            panic!("a report is of a session");
        };
        assert!(session.encoder.starts_with("\u{fffd}[2Jx"));
        assert!(session.encoder.len() <= TEXT_BYTES_MAX + 2);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert!(parse(report(EventType::KeyCreated), 0).is_err());
        let mut nameless = report(EventType::SessionEnded);
        nameless.event_id.clear();
        assert!(parse(nameless, 0).is_err());
        let mut empty = report(EventType::SessionEnded);
        empty.session = None;
        assert!(parse(empty, 0).is_err());
        let many = vec![report(EventType::SessionEnded); REPORTS_MAX + 1];
        assert!(reports(ReportSessionsRequest { reports: many }, 0).is_err());
    }
}
