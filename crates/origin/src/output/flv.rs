//! HTTP-FLV: `GET /live/{app}/{stream}.flv?token=…[&wait=SECONDS]`, for ffmpeg, ffplay, VLC and the like.
//!
//! A player that joins late gets metadata, sequence headers and the current GOP first. One that falls behind goes on at a
//! keyframe. `wait` asks to be held until the stream starts.

mod tags;

use std::{collections::VecDeque, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::Stream;
use media::log::Event;
use runtime::bearer::BearerError;
use serde::Deserialize;

use self::tags::Tags;
use super::{
    READ_BYTES,
    players::{Players, Unavailable},
};
use crate::{
    metrics::OutputLabels,
    stream::{Next, Subscription},
};

#[derive(Deserialize)]
struct FlvQuery {
    token: Option<String>,
    wait: Option<u64>,
}

/// Why there is no stream: a status and a sentence.
type Refusal = (StatusCode, &'static str);

pub(crate) fn router(players: Players) -> Router {
    Router::new()
        .route("/live/{*path}", get(play))
        .with_state(players)
}

async fn play(
    State(players): State<Players>,
    Path(path): Path<String>,
    Query(query): Query<FlvQuery>,
    headers: HeaderMap,
) -> Response {
    match attach(&players, &path, &query, &headers).await {
        Ok(subscription) => (
            [
                (header::CONTENT_TYPE, "video/x-flv"),
                (header::CACHE_CONTROL, "no-store"),
            ],
            Body::from_stream(body(subscription)),
        )
            .into_response(),
        Err((status, text)) => (status, format!("{text}\n")).into_response(),
    }
}

async fn attach(
    players: &Players,
    path: &str,
    query: &FlvQuery,
    headers: &HeaderMap,
) -> Result<Subscription, Refusal> {
    check_credential(players, query, headers)?;
    let (app, name) = path
        .strip_suffix(".flv")
        .and_then(|path| path.rsplit_once('/'))
        .unwrap_or_default();
    let wait = Duration::from_secs(query.wait.unwrap_or_default());
    players
        .attach(app, name, wait, OutputLabels::FLV)
        .await
        .map_err(|unavailable| match unavailable {
            Unavailable::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "this origin takes no more players",
            ),
            Unavailable::Leaving => (StatusCode::SERVICE_UNAVAILABLE, "this origin is leaving"),
            Unavailable::NotLive => (StatusCode::NOT_FOUND, "no such stream is live"),
            Unavailable::Unnamed => (
                StatusCode::NOT_FOUND,
                "a stream is at /live/{app}/{stream}.flv",
            ),
        })
}

fn check_credential(
    players: &Players,
    query: &FlvQuery,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let checked = match &query.token {
        Some(token) => players.credentials.check(token),
        None => {
            let header = headers.get(header::AUTHORIZATION);
            players
                .credentials
                .check_header(header.map(|value| value.as_bytes()))
        }
    };
    checked.map_err(|error| {
        let text = match error {
            BearerError::Invalid => "the token is not valid",
            BearerError::Missing => "a token is required: ?token=…",
        };
        (StatusCode::UNAUTHORIZED, text)
    })
}

fn body(subscription: Subscription) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let state = (subscription, Tags::default(), VecDeque::new());
    futures_util::stream::unfold(
        state,
        |(mut subscription, mut tags, mut ready)| async move {
            loop {
                if let Some(bytes) = ready.pop_front() {
                    return Some((Ok(bytes), (subscription, tags, ready)));
                }
                // A live reader does not fail for lagging; the end of the stream is the end of the body.
                match subscription.next(READ_BYTES).await.ok()? {
                    Next::End(_) => return None,
                    Next::Event(Event::Frames(entries)) => tags.write(&entries, &mut ready),
                    Next::Event(Event::Gap(_)) => {}
                    Next::Event(Event::Header(header)) => tags.header(header),
                }
            }
        },
    )
}
