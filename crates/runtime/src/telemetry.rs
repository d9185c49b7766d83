//! Logs, and the trace context that goes edge → control → origin.

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
pub fn init(_format: LogFormat, _filter: &str) -> Result<(), TelemetryError> {
    todo!()
}

/// The current span's context as a W3C `traceparent`; empty where there is none.
pub fn traceparent() -> String {
    todo!()
}

/// Makes `span` a child of a `traceparent` that came from outside; anything malformed is ignored.
pub fn set_parent(_span: &tracing::Span, _traceparent: &str) {
    todo!()
}

/// The trace id of a span, for log lines; empty where there is none.
pub fn trace_id(_span: &tracing::Span) -> String {
    todo!()
}

/// A gRPC client interceptor that adds the current `traceparent` to a request.
pub fn inject(request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    Ok(request)
}
