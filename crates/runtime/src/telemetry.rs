//! Logs, and the trace context that goes edge → control → origin.
//!
//! Spans get W3C trace ids in every process, so that log lines of one publish can be joined across roles; nothing is
//! exported from here.

use std::{collections::HashMap, io::IsTerminal};

use opentelemetry::{
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tonic::metadata::MetadataMap;
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The header and gRPC metadata key of W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";

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
    /// Twice in one process.
    #[error("logging is set up already")]
    Twice,
}

/// Logs to standard error; W3C trace context is the propagator. Once per process.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = parse(filter)?;
    // Each layer has a filter of its own: a quiet log must not cut traces.
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Json => log.json().flatten_event(true).boxed(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(spans())
        .try_init()
        .map_err(|_| TelemetryError::Twice)
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
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let parent = TraceContextPropagator::new().extract(&carrier);
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
    let tracer = SdkTracerProvider::builder().build().tracer("headwater");
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_filter(LevelFilter::INFO)
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
