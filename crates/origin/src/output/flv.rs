//! HTTP-FLV: `GET /live/{app}/{stream}.flv?token=…[&wait=SECONDS]`, for ffmpeg, ffplay, VLC and the like.
//!
//! A player that joins late gets metadata, sequence headers and the current GOP first. One that falls behind goes on at a
//! keyframe. `wait` asks to be held until the stream starts.

mod tags;

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
use media::log::{Class, Event, Start};
use registry::StreamId;
use runtime::{
    bearer::{BearerCredentials, BearerError},
    shutdown::Shutdown,
};
use serde::Deserialize;

use self::tags::Tags;
use super::{READ_BYTES, valid_name};
use crate::{
    config::Config,
    metrics::OutputLabels,
    stream::{Next, Streams, Subscription, SubscriptionStart},
};

/// What the HTTP port needs. A cheap handle.
#[derive(Clone)]
pub(crate) struct FlvOutput {
    pub(crate) config: Arc<Config>,
    pub(crate) credentials: BearerCredentials,
    pub(crate) shutdown: Shutdown,
    pub(crate) streams: Streams,
}

#[derive(Deserialize)]
struct FlvQuery {
    token: Option<String>,
    wait: Option<u64>,
}

/// Why there is no stream: a status and a sentence.
type Refusal = (StatusCode, &'static str);

pub(crate) fn router(output: FlvOutput) -> Router {
    Router::new()
        .route("/live/{*path}", get(play))
        .with_state(output)
}

async fn play(
    State(output): State<FlvOutput>,
    Path(path): Path<String>,
    Query(query): Query<FlvQuery>,
    headers: HeaderMap,
) -> Response {
    match output.attach(&path, &query, &headers).await {
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

impl FlvOutput {
    async fn attach(
        &self,
        path: &str,
        query: &FlvQuery,
        headers: &HeaderMap,
    ) -> Result<Subscription, Refusal> {
        self.check_credential(query, headers)?;
        let (app, name) = path
            .strip_suffix(".flv")
            .and_then(|path| path.rsplit_once('/'))
            .filter(|(app, name)| valid_name(app) && valid_name(name))
            .ok_or((
                StatusCode::NOT_FOUND,
                "a stream is at /live/{app}/{stream}.flv",
            ))?;
        let admitted = self.streams.admit_subscriber().ok_or((
            StatusCode::SERVICE_UNAVAILABLE,
            "this origin takes no more players",
        ))?;
        let wait = Duration::from_secs(query.wait.unwrap_or_default())
            .min(self.config.timing.wait_for_stream_max);
        let stream_id = StreamId::derive(&self.config.tenant, app, name);
        let deadline = tokio::time::Instant::now() + wait;
        let (stream, waited) = tokio::select! {
            biased;
            found = self.streams.wait(stream_id, deadline) => {
                found.ok_or((StatusCode::NOT_FOUND, "no such stream is live"))?
            }
            () = self.shutdown.draining() => {
                return Err((StatusCode::SERVICE_UNAVAILABLE, "this origin is leaving"));
            }
        };
        Ok(stream.subscribe(SubscriptionStart {
            admitted,
            class: Class::Live,
            start: if waited {
                Start::Oldest
            } else {
                Start::CurrentGop
            },
            labels: OutputLabels::FLV,
        }))
    }

    fn check_credential(&self, query: &FlvQuery, headers: &HeaderMap) -> Result<(), Refusal> {
        let checked = match &query.token {
            Some(token) => self.credentials.check(token),
            None => {
                let header = headers.get(header::AUTHORIZATION);
                self.credentials
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
