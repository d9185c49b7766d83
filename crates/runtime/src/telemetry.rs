//! Logs, and the traces that go edge → control → origin.
//!
//! Spans get W3C trace ids in every process, so that log lines of one publish can be joined across roles. Where a
//! collector is configured the sampled ones go there ([`export`]). What a span holds are its own fields and what is set
//! here; log lines stay out of it, because they may hold an encoder's address.

mod export;
mod log_filter;

use std::{collections::HashMap, io::IsTerminal};

use opentelemetry::{
    propagation::TextMapPropagator,
    trace::{SpanContext, Status, TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tonic::metadata::MetadataMap;
use tracing::{Level, Metadata, Span, debug};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

pub use self::export::{Export, FLUSH_TIMEOUT, QUEUE_SPANS_MAX};
pub use self::log_filter::LogFilter;

/// The header and gRPC metadata key of W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// A span with a field of this name is for log lines alone: it may live for hours, and traces break of that.
const LOG_ONLY: &str = "log_only";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not a filter.
    #[error("the log filter {filter:?} is not valid")]
    Filter {
        /// As configured.
        filter: String,
    },
    /// Spans cannot be sent as configured.
    #[error("traces cannot be exported: {0}")]
    Exporter(String),
    /// Twice in one process.
    #[error("logging is set up already")]
    Twice,
}

/// What is kept of the set-up until the end of the process.
pub struct Telemetry {
    log_filter: LogFilter,
    tracers: SdkTracerProvider,
}

impl Telemetry {
    /// For a filter that changes while the process runs.
    pub fn log_filter(&self) -> LogFilter {
        self.log_filter.clone()
    }

    /// Sends the spans that are left, within [`FLUSH_TIMEOUT`]. Spans that end later are lost.
    pub async fn flush(&self) {
        let tracers = self.tracers.clone();
        let flushing =
            tokio::task::spawn_blocking(move || tracers.shutdown_with_timeout(FLUSH_TIMEOUT));
        if let Ok(Err(error)) = flushing.await {
            debug!(%error, "the last spans were not exported");
        }
    }
}

/// Logs to standard error; W3C trace context is the propagator. Once per process. `export` needs a tokio runtime.
pub fn init(
    format: LogFormat,
    filter: &str,
    export: Option<Export>,
) -> Result<Telemetry, TelemetryError> {
    let (filter, log_filter) = reload::Layer::new(parse(filter)?);
    let tracers = match export {
        Some(export) => export.into_provider()?,
        None => unexported(),
    };
    // Each layer has a filter of its own: a quiet log must not cut traces.
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Json => log.json().flatten_event(true).boxed(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(spans_of(&tracers))
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry {
        log_filter: LogFilter(log_filter),
        tracers,
    })
}

/// Whether a filter would be taken: for configuration that is checked before anything starts.
pub fn check_filter(filter: &str) -> Result<(), TelemetryError> {
    parse(filter).map(drop)
}

/// The current span's context as a W3C `traceparent`; empty where there is none.
pub fn traceparent() -> String {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT).unwrap_or_default()
}

/// Makes `span` a child of a `traceparent` that came from outside; anything malformed is ignored.
pub fn set_parent(span: &Span, traceparent: &str) {
    let parent = extract(traceparent);
    if parent.span().span_context().is_valid() {
        // An error says that nobody records this span.
        span.set_parent(parent).ok();
    }
}

/// Server side: makes `span` a child of the caller's, from the metadata of its request.
pub fn accept(metadata: &MetadataMap, span: &Span) {
    if let Some(Ok(traceparent)) = metadata.get(TRACEPARENT).map(|value| value.to_str()) {
        set_parent(span, traceparent);
    }
}

/// Links `span` to one of another trace; anything malformed is ignored.
pub fn link(span: &Span, traceparent: &str) {
    let context = extract(traceparent);
    let context: SpanContext = context.span().span_context().clone();
    if context.is_valid() {
        span.add_link(context);
    }
}

/// What `span` stands for did not succeed. `reason`: a stable word.
pub fn fail(span: &Span, reason: &str) {
    span.set_status(Status::error(reason.to_owned()));
}

/// A moment of `span`'s time that is worth a name.
pub fn mark(span: &Span, name: &'static str) {
    span.add_event(name, Vec::new());
}

/// The trace id of a span, for log lines; empty where there is none.
pub fn trace_id(span: &Span) -> String {
    let context = span.context();
    let span = context.span();
    if span.span_context().is_valid() {
        span.span_context().trace_id().to_string()
    } else {
        String::new()
    }
}

/// A gRPC client interceptor that adds the current `traceparent` to a request.
pub fn inject(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    let traceparent = traceparent();
    if !traceparent.is_empty()
        && let Ok(value) = traceparent.parse()
    {
        request.metadata_mut().insert(TRACEPARENT, value);
    }
    Ok(request)
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|_| TelemetryError::Filter {
            filter: filter.to_owned(),
        })
}

/// Gives spans of INFO and above their trace and span ids: for a subscriber that [`init`] does not set up.
pub fn spans<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    spans_of(&unexported())
}

/// Ids for log lines, and for the next process, which is told that nobody records.
fn unexported() -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOff)
        .build()
}

fn spans_of<S>(tracers: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("headwater"))
        // Only what somebody chose to say: neither lines of source nor threads.
        .with_location(false)
        .with_target(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(filter_fn(is_traced))
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && *metadata.level() <= Level::INFO
        && metadata.fields().field(LOG_ONLY).is_none()
}

fn extract(traceparent: &str) -> opentelemetry::Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // In an empty context: what is current must not stand in for what is malformed.
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &carrier)
}

#[cfg(test)]
mod tests {
    use tracing::{info_span, subscriber::with_default};

    use super::*;

    const OUTSIDE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_goes_from_one_process_to_the_next() {
        with_default(tracing_subscriber::registry().with(spans()), || {
            let sent = info_span!("edge").in_scope(|| {
                let request = inject(tonic::Request::new(())).unwrap();
                request.metadata().clone()
            });
            let span = info_span!("control");
            accept(&sent, &span);
            let header = sent.get(TRACEPARENT).unwrap().to_str().unwrap();
            assert_eq!(header.len(), OUTSIDE.len(), "{header}");
            assert!(header.contains(&trace_id(&span)), "{header}");
        });
    }

    #[test]
    fn a_parent_from_outside_is_kept_and_nonsense_is_ignored() {
        with_default(tracing_subscriber::registry().with(spans()), || {
            let span = info_span!("publish");
            set_parent(&span, OUTSIDE);
            assert_eq!(trace_id(&span), "4bf92f3577b34da6a3ce929d0e0e4736");
            span.in_scope(|| assert!(traceparent().starts_with("00-4bf92f3577b34da6")));

            for nonsense in ["", "00-0-0-0", "x".repeat(10_000).as_str(), "00-é"] {
                let span = info_span!("publish");
                set_parent(&span, nonsense);
                assert_eq!(trace_id(&span).len(), 32, "{nonsense:.20}");
            }
        });
    }

    #[test]
    fn without_a_span_there_is_no_traceparent() {
        assert_eq!(traceparent(), "");
        let request = inject(tonic::Request::new(())).unwrap();
        assert!(request.metadata().is_empty());
    }

    #[test]
    fn a_filter_must_parse() {
        assert!(parse("info,edge=debug").is_ok());
        assert!(matches!(
            parse("edge=nonsense"),
            Err(TelemetryError::Filter { .. })
        ));
    }
}
