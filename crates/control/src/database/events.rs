//! The event log: what happened, in order, written with the change that it tells of or not at all.

use data_encoding::HEXLOWER;
use prost::Message as _;
use proto::v1::{EventType, KeyEvent, SessionEvent};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Database, DatabaseError, keys::number, log::Logged};

/// One event to be written. Its position is the database's to give.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewEvent {
    /// Unique: an event that is there already is not written again.
    pub(crate) id: String,
    pub(crate) create_ms: i64,
    pub(crate) tenant: String,
    pub(crate) event_type: EventType,
    pub(crate) subject: Subject,
}

/// One event of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EventEntry {
    pub(crate) position: u64,
    pub(crate) id: String,
    pub(crate) create_ms: i64,
    pub(crate) tenant: String,
    pub(crate) event_type: EventType,
    /// `None`: of a type that a newer version has written. It has its place in the log, and is told to nobody.
    pub(crate) subject: Option<Subject>,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subject {
    Key(KeyEvent),
    Session(Box<SessionEvent>),
}

impl NewEvent {
    /// A change of a key, now.
    pub(crate) fn of_key(
        event_type: EventType,
        tenant: &str,
        now_ms: i64,
        event: KeyEvent,
    ) -> Self {
        Self {
            id: uuid::Uuid::now_v7().to_string(),
            create_ms: now_ms,
            tenant: tenant.to_owned(),
            event_type,
            subject: Subject::Key(event),
        }
    }
}

impl Subject {
    pub(crate) fn app(&self) -> &str {
        match self {
            Self::Key(event) => &event.app,
            Self::Session(event) => &event.app,
        }
    }

    /// The stream that it is about.
    pub(crate) fn stream(&self) -> &str {
        match self {
            Self::Key(event) => &event.stream,
            Self::Session(event) => &event.stream,
        }
    }

    fn decode(event_type: EventType, hex: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
        match event_type {
            EventType::SessionStarted
            | EventType::SessionEnded
            | EventType::SessionRefused
            | EventType::SessionTakenOver
            | EventType::SessionOnAir
            | EventType::SessionStandby => {
                let event = SessionEvent::decode(&*bytes).ok()?;
                Some(Self::Session(Box::new(event)))
            }
            EventType::KeyCreated
            | EventType::KeyUpdated
            | EventType::KeyRotated
            | EventType::KeyRevoked
            | EventType::KeyDeleted => Some(Self::Key(KeyEvent::decode(&*bytes).ok()?)),
            EventType::Unspecified => None,
        }
    }

    fn encode(&self) -> String {
        HEXLOWER.encode(&match self {
            Self::Key(event) => event.encode_to_vec(),
            Self::Session(event) => event.encode_to_vec(),
        })
    }
}

/// Takes the next position of the event log, unless the event is there already: whether it was written. Locks the log's
/// head until the commit: comes last but for [`append`](super::revocations::append), always in this order.
pub(super) async fn append_event(
    transaction: &mut Transaction<'_, Any>,
    event: &NewEvent,
) -> Result<bool, DatabaseError> {
    let position: i64 =
        sqlx::query_scalar("UPDATE events_head SET position = position + 1 RETURNING position")
            .fetch_one(&mut **transaction)
            .await?;
    let inserted = sqlx::query(
        "INSERT INTO events (position, id, create_ms, tenant, app, type, subject) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING",
    )
    .bind(position)
    .bind(&event.id)
    .bind(event.create_ms)
    .bind(&event.tenant)
    .bind(event.subject.app())
    .bind(i64::from(i32::from(event.event_type)))
    .bind(event.subject.encode())
    .execute(&mut **transaction)
    .await?;
    let written = inserted.rows_affected() == 1;
    if !written {
        // Nobody has seen the position: the head is locked.
        sqlx::query("UPDATE events_head SET position = position - 1")
            .execute(&mut **transaction)
            .await?;
    }
    Ok(written)
}

impl Database {
    /// Writes events that are no part of another change. How many were new.
    pub(crate) async fn append_events(&self, events: &[NewEvent]) -> Result<u64, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            let mut written = 0_u64;
            for event in events {
                written =
                    written.saturating_add(append_event(&mut transaction, event).await?.into());
            }
            transaction.commit().await?;
            Ok(written)
        })
        .await
    }

    /// The position behind which the events since a time come.
    pub(crate) async fn events_since(&self, since_ms: i64) -> Result<u64, DatabaseError> {
        self.bounded(async {
            let position = sqlx::query_scalar(
                "SELECT COALESCE((SELECT MIN(position) - 1 FROM events WHERE create_ms >= $1), position) \
                 FROM events_head",
            )
            .bind(since_ms)
            .fetch_one(&self.pool)
            .await?;
            number(position, "position")
        })
        .await
    }

    /// `None` where it was forgotten.
    pub(crate) async fn event(&self, position: u64) -> Result<Option<EventEntry>, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query(
                "SELECT position, id, create_ms, tenant, type, subject FROM events WHERE position = $1",
            )
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .fetch_optional(&self.pool)
            .await?;
            let entry = row.map(|row| EventEntry::read(&row)).transpose()?;
            Ok(entry.flatten())
        })
        .await
    }
}

impl Logged for EventEntry {
    const NAME: &'static str = "event log";
    const PAGE: &'static str = "SELECT events_head.position AS head, events.position, id, create_ms, tenant, type, subject \
        FROM events_head LEFT JOIN events ON events.position > $1 ORDER BY events.position LIMIT $2";
    const START: &'static str =
        "SELECT COALESCE((SELECT MIN(position) - 1 FROM events), position) FROM events_head";
    /// Up to the first that is not old: one that tells late of something old takes no newer ones with it.
    const PRUNE: &'static str = "DELETE FROM events WHERE position <= COALESCE(\
        (SELECT MIN(position) - 1 FROM (SELECT position, create_ms FROM events ORDER BY position LIMIT $2) AS oldest \
         WHERE create_ms >= $1), \
        (SELECT MAX(position) FROM (SELECT position FROM events ORDER BY position LIMIT $2) AS oldest))";

    fn read(row: &AnyRow) -> Result<Option<Self>, DatabaseError> {
        let Some(position) = row.try_get::<Option<i64>, _>("position")? else {
            return Ok(None);
        };
        let event_type: i32 = number(row.try_get("type")?, "event type")?;
        let event_type = EventType::try_from(event_type).unwrap_or(EventType::Unspecified);
        let subject = if event_type == EventType::Unspecified {
            None
        } else {
            let subject: String = row.try_get("subject")?;
            let subject = Subject::decode(event_type, &subject);
            Some(subject.ok_or(DatabaseError::Malformed { what: "event" })?)
        };
        Ok(Some(Self {
            position: number(position, "position")?,
            id: row.try_get("id")?,
            create_ms: row.try_get("create_ms")?,
            tenant: row.try_get("tenant")?,
            event_type,
            subject,
        }))
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn create_ms(&self) -> i64 {
        self.create_ms
    }

    async fn prune_beside(database: &Database, now_ms: i64) -> Result<(), DatabaseError> {
        let before_ms = now_ms.saturating_sub(TOLD_SESSIONS_KEPT_MS);
        database.prune_told_sessions(before_ms).await?;
        database.prune_deliveries(now_ms).await.map(drop)
    }
}

/// An edge reports again for minutes at most; a day is much longer.
const TOLD_SESSIONS_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
