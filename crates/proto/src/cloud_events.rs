//! Events as CloudEvents 1.0 in JSON, structured mode: what webhooks receive and what `headwater events tail -o json` prints.

use serde_json::{Map, Value, json};

use crate::v1::{Event, EventType, KeyEvent, SessionEvent, event::Subject};

/// Content type of one event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// `source` of every event; ids are unique in it.
pub const SOURCE: &str = "headwater";

/// One event.
pub fn json(event: &Event) -> Value {
    let (about, data) = match &event.subject {
        Some(Subject::Session(session)) => {
            (about(&session.app, &session.stream), of_session(session))
        }
        Some(Subject::Key(key)) => (about(&key.app, &key.stream), of_key(key)),
        None => (String::new(), Value::Null),
    };
    let mut json = json!({
        "specversion": "1.0",
        "id": event.id,
        "source": SOURCE,
        "type": name(event.r#type()),
        "datacontenttype": "application/json",
        "tenant": event.tenant,
        "data": data,
    });
    // Neither may be empty.
    if !about.is_empty() {
        json["subject"] = about.into();
    }
    if let Some(time) = &event.time {
        json["time"] = time.to_string().into();
    }
    json
}

/// `type` of a CloudEvent: [`PREFIX`] and the short name.
pub fn name(event_type: EventType) -> String {
    format!("{PREFIX}{}", short_name(event_type))
}

/// Such as `session.started`.
pub fn short_name(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Unspecified => "unspecified",
        EventType::SessionStarted => "session.started",
        EventType::SessionEnded => "session.ended",
        EventType::SessionRefused => "session.refused",
        EventType::SessionTakenOver => "session.taken_over",
        EventType::SessionOnAir => "session.on_air",
        EventType::SessionStandby => "session.standby",
        EventType::KeyCreated => "key.created",
        EventType::KeyUpdated => "key.updated",
        EventType::KeyRotated => "key.rotated",
        EventType::KeyRevoked => "key.revoked",
        EventType::KeyDeleted => "key.deleted",
    }
}

/// The type of a name, short or whole.
pub fn parse_name(name: &str) -> Option<EventType> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    EVENT_TYPES
        .into_iter()
        .find(|event_type| short_name(*event_type) == name)
}

/// Every type of event.
pub const EVENT_TYPES: [EventType; 11] = [
    EventType::SessionStarted,
    EventType::SessionEnded,
    EventType::SessionRefused,
    EventType::SessionTakenOver,
    EventType::SessionOnAir,
    EventType::SessionStandby,
    EventType::KeyCreated,
    EventType::KeyUpdated,
    EventType::KeyRotated,
    EventType::KeyRevoked,
    EventType::KeyDeleted,
];

fn about(app: &str, stream: &str) -> String {
    if app.is_empty() && stream.is_empty() {
        String::new()
    } else {
        format!("{app}/{stream}")
    }
}

fn of_session(session: &SessionEvent) -> Value {
    let SessionEvent {
        session_id,
        tenant,
        app,
        stream,
        stream_key_id,
        edge,
        client_address,
        encoder,
        reason,
        description,
        received_bytes,
        duration_ms,
        successor_session_id,
        slot,
    } = session;
    let mut data = texts([
        ("session_id", session_id),
        ("tenant", tenant),
        ("app", app),
        ("stream", stream),
        ("stream_key_id", stream_key_id),
        ("edge", edge),
        ("client_address", client_address),
        ("encoder", encoder),
        ("reason", reason),
        ("description", description),
        ("successor_session_id", successor_session_id),
    ]);
    for (name, number) in [
        ("received_bytes", received_bytes),
        ("duration_ms", duration_ms),
    ] {
        if *number > 0 {
            data.insert(name.to_owned(), (*number).into());
        }
    }
    if let Some(slot) = slot {
        data.insert("slot".to_owned(), (*slot).into());
    }
    data.into()
}

fn of_key(key: &KeyEvent) -> Value {
    let KeyEvent {
        stream_key_id,
        app,
        stream,
        actor,
        reason,
    } = key;
    texts([
        ("stream_key_id", stream_key_id),
        ("app", app),
        ("stream", stream),
        ("actor", actor),
        ("reason", reason),
    ])
    .into()
}

/// What is not known is left out.
fn texts<const N: usize>(texts: [(&str, &String); N]) -> Map<String, Value> {
    let known = texts.into_iter().filter(|(_name, text)| !text.is_empty());
    known
        .map(|(name, text)| (name.to_owned(), text.as_str().into()))
        .collect()
}

const PREFIX: &str = "dev.headwater.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_cloud_event() {
        let event = Event {
            id: "1".to_owned(),
            r#type: EventType::SessionEnded.into(),
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 500_000_000,
            }),
            tenant: "default".to_owned(),
            cursor: "c".to_owned(),
            subject: Some(Subject::Session(SessionEvent {
                session_id: "s".to_owned(),
                app: "live".to_owned(),
                stream: "main".to_owned(),
                received_bytes: 7,
                slot: Some(0),
                ..SessionEvent::default()
            })),
        };
        let expected = json!({
            "specversion": "1.0",
            "id": "1",
            "source": "headwater",
            "type": "dev.headwater.session.ended",
            "subject": "live/main",
            "time": "2023-11-14T22:13:20.500Z",
            "datacontenttype": "application/json",
            "tenant": "default",
            "data": {"session_id": "s", "app": "live", "stream": "main", "received_bytes": 7, "slot": 0},
        });
        assert_eq!(json(&event), expected);
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for event_type in EVENT_TYPES {
            assert_eq!(parse_name(short_name(event_type)), Some(event_type));
            assert_eq!(parse_name(&name(event_type)), Some(event_type));
        }
        assert_eq!(parse_name("unspecified"), None);
    }
}
