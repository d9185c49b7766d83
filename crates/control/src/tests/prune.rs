//! What is old is forgotten, however much of it there is.

use sqlx::AssertSqlSafe;

use super::{fixture::Fixture, on_both};
use crate::{
    database::{Database, EventEntry, LogEntry, Logged, ROWS_PER_STEP},
    field::now_ms,
};

on_both!(
    more_than_one_step_of_every_table_is_forgotten,
    a_log_is_cut_where_it_says,
);

/// More than two steps take.
const OLD: i64 = 2 * ROWS_PER_STEP + 1;

async fn execute(database: &Database, statement: String) {
    let statement = AssertSqlSafe(statement);
    sqlx::raw_sql(statement)
        .execute(database.pool())
        .await
        .unwrap();
}

/// Rows `first` to `last`, numbered `i`.
async fn fill(database: &Database, columns: &str, values: &str, first: i64, last: i64) {
    let rows = format!(
        "INSERT INTO {columns} WITH RECURSIVE n (i) AS \
         (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) SELECT {values} FROM n"
    );
    execute(database, rows).await;
}

async fn count(database: &Database, table: &str) -> i64 {
    let statement = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
    sqlx::query_scalar(statement)
        .fetch_one(database.pool())
        .await
        .unwrap()
}

/// Entries of the log made at a time.
async fn fill_log(database: &Database, log: &str, first: i64, last: i64, create_ms: i64) {
    let (columns, values) = match log {
        "events" => (
            "events (position, id, create_ms, tenant, app, type, subject)",
            format!("i, 'e-' || i, {create_ms}, 'default', 'live', 1, ''"),
        ),
        _ => (
            "revocations (position, create_ms, session_id, reason)",
            format!("i, {create_ms}, 's-' || i, ''"),
        ),
    };
    fill(database, columns, &values, first, last).await;
    execute(database, format!("UPDATE {log}_head SET position = {last}")).await;
}

async fn more_than_one_step_of_every_table_is_forgotten(fixture: Fixture) {
    let database = Database::open(&fixture.config.database).await.unwrap();
    let now_ms = now_ms();
    let many = u64::try_from(OLD).unwrap();
    for (columns, values) in [
        (
            "refused_credentials (id, until_ms, revoked)",
            "'c-' || i, 1, 0",
        ),
        (
            "requests (tenant, request_id, fingerprint, stream_key_id, sealed_key, pepper_version, expire_ms)",
            "'default', 'r-' || i, '', '', '', 1, 1",
        ),
        (
            "told_sessions (session_id, start_ms, end_ms, subject)",
            "'s-' || i, 0, 1, ''",
        ),
        (
            "deliveries (webhook_id, position, lane, create_ms, next_ms, dead_ms)",
            "'w', i, 0, 0, 0, 1",
        ),
    ] {
        fill(&database, columns, values, 1, OLD).await;
    }
    // What stays: a session that is live, an event and what is on its way of an old one, a dead letter of a newer one.
    fill(
        &database,
        "told_sessions (session_id, start_ms, subject)",
        "'live', 0, ''",
        1,
        1,
    )
    .await;
    fill_log(&database, "events", OLD, OLD, now_ms).await;
    fill(
        &database,
        "deliveries (webhook_id, position, lane, create_ms, next_ms)",
        "'another', i, 0, 0, 0",
        1,
        1,
    )
    .await;
    assert_eq!(database.prune_credentials(now_ms).await.unwrap(), many);
    assert_eq!(database.prune_requests(now_ms).await.unwrap(), many);
    EventEntry::prune_beside(&database, now_ms).await.unwrap();
    assert_eq!(count(&database, "told_sessions").await, 1);
    assert_eq!(count(&database, "deliveries").await, 2);
}

async fn a_log_is_cut_where_it_says(fixture: Fixture) {
    let database = Database::open(&fixture.config.database).await.unwrap();
    let now_ms = now_ms();
    for log in ["events", "revocations"] {
        fill_log(&database, log, 1, OLD, 1).await;
        fill_log(&database, log, OLD + 1, OLD + 1, now_ms).await;
        // Late, of long ago.
        fill_log(&database, log, OLD + 2, OLD + 2, 1).await;
    }
    let many = u64::try_from(OLD).unwrap();
    let before_ms = now_ms - 1000;
    // Of events, up to the first that is not old; of revocations, up to the last that is.
    let pruned = database.prune_log::<EventEntry>(before_ms).await.unwrap();
    assert_eq!((pruned, count(&database, "events").await), (many, 2));
    assert_eq!(database.log_start::<EventEntry>().await.unwrap(), many);
    let pruned = database.prune_log::<LogEntry>(before_ms).await.unwrap();
    assert_eq!(
        (pruned, count(&database, "revocations").await),
        (many + 2, 0)
    );
    assert_eq!(database.log_start::<LogEntry>().await.unwrap(), many + 2);
    // All of it old: nothing is left, and what comes goes on behind it.
    let pruned = database.prune_log::<EventEntry>(now_ms + 1).await.unwrap();
    assert_eq!(pruned, 2);
    assert_eq!(database.log_start::<EventEntry>().await.unwrap(), many + 2);
}
