//! Listings of keys, by what a request asks for.

use std::sync::Arc;

use proto::v1::StreamKeyState;
use sqlx::AssertSqlSafe;

use super::{Database, DatabaseError, KeyRecord};
use crate::page_token::Cursor;

/// Which keys to list. Empty: all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyFilter {
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) app: String,
    pub(crate) stream: String,
    /// Each must be there with this value.
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) states: Vec<StreamKeyState>,
    /// The states are those of this moment.
    pub(crate) now_ms: i64,
}

impl Database {
    /// In order of creation, behind `after`.
    pub(crate) async fn keys(
        &self,
        filter: &KeyFilter,
        after: &Cursor,
        limit: u32,
    ) -> Result<Vec<KeyRecord>, DatabaseError> {
        let mut statement = Statement::default();
        let conditions = filter.conditions(after, &mut statement);
        let limit = statement.number(limit.into());
        // Of our own words alone: values are bound.
        let sql = AssertSqlSafe(format!(
            "SELECT * FROM stream_keys WHERE {conditions} ORDER BY create_ms, id LIMIT {limit}"
        ));
        self.bounded(async {
            let mut query = sqlx::query(sql);
            for value in statement.values {
                query = match value {
                    Value::Number(number) => query.bind(number),
                    Value::Text(text) => query.bind(text),
                };
            }
            let rows = query.fetch_all(&self.pool).await?;
            rows.into_iter().map(KeyRecord::read).collect()
        })
        .await
    }
}

/// The values of a statement that is put together.
#[derive(Default)]
struct Statement<'a> {
    values: Vec<Value<'a>>,
}

enum Value<'a> {
    Number(i64),
    Text(&'a str),
}

impl<'a> Statement<'a> {
    fn number(&mut self, number: i64) -> String {
        self.place(Value::Number(number))
    }

    fn text(&mut self, text: &'a str) -> String {
        self.place(Value::Text(text))
    }

    /// Where the value stands in the statement.
    fn place(&mut self, value: Value<'a>) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }
}

impl KeyFilter {
    fn conditions<'a>(&'a self, after: &'a Cursor, statement: &mut Statement<'a>) -> String {
        let (time, id) = (statement.number(after.time_ms), statement.text(&after.id));
        let mut conditions = vec![format!("(create_ms, id) > ({time}, {id})")];
        let tenant = self.tenant.as_deref().unwrap_or_default();
        for (column, value) in [
            ("tenant", tenant),
            ("app", &self.app),
            ("stream", &self.stream),
        ] {
            if !value.is_empty() {
                conditions.push(format!("{column} = {}", statement.text(value)));
            }
        }
        for (label, value) in &self.labels {
            let (label, value) = (statement.text(label), statement.text(value));
            conditions.push(format!(
                "EXISTS (SELECT 1 FROM stream_key_labels WHERE stream_key_id = stream_keys.id \
                 AND label = {label} AND value = {value})"
            ));
        }
        let states: Vec<_> = self
            .states
            .iter()
            .filter_map(|state| self.state(*state, statement))
            .collect();
        if !states.is_empty() {
            conditions.push(format!("({})", states.join(" OR ")));
        }
        conditions.join(" AND ")
    }

    fn state(&self, state: StreamKeyState, statement: &mut Statement<'_>) -> Option<String> {
        let mut now = || statement.number(self.now_ms);
        let condition = match state {
            StreamKeyState::Unspecified => return None,
            StreamKeyState::Revoked => "revoke_ms IS NOT NULL".to_owned(),
            StreamKeyState::Expired => format!("revoke_ms IS NULL AND expire_ms <= {}", now()),
            StreamKeyState::Pending => format!(
                "revoke_ms IS NULL AND (expire_ms IS NULL OR expire_ms > {}) AND not_before_ms > {}",
                now(),
                now()
            ),
            StreamKeyState::Active => format!(
                "revoke_ms IS NULL AND (expire_ms IS NULL OR expire_ms > {}) \
                 AND (not_before_ms IS NULL OR not_before_ms <= {})",
                now(),
                now()
            ),
        };
        Some(format!("({condition})"))
    }
}

impl KeyRecord {
    /// What may be asked of the key at this moment.
    pub(crate) fn state(&self, now_ms: i64) -> StreamKeyState {
        if self.revoke_ms.is_some() {
            StreamKeyState::Revoked
        } else if self.expire_ms.is_some_and(|expire_ms| expire_ms <= now_ms) {
            StreamKeyState::Expired
        } else if (self.policy.not_before_ms).is_some_and(|not_before| not_before > now_ms) {
            StreamKeyState::Pending
        } else {
            StreamKeyState::Active
        }
    }
}
