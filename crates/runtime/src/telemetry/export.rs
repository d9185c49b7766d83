//! Spans to a collector, OTLP over gRPC: a bounded queue, batches, and a count of what did not get there.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::rand;
use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState},
};
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult,
        SdkTracerProvider, ShouldSample, Span, SpanData, SpanExporter, SpanProcessor,
    },
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::{runtime::Handle, time::timeout};
use tonic::transport::Channel;
use tracing::{info, warn};

use super::TelemetryError;
use crate::metrics::Metrics;

/// Ended spans that wait for the collector, or are on their way; more are dropped.
pub const QUEUE_SPANS_MAX: usize = 2_048;
/// Spans of one request.
const BATCH_SPANS_MAX: usize = 512;
/// Between two requests where the batch does not fill before.
const BATCH_PERIOD: Duration = Duration::from_secs(1);
/// For the collector to take one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// For what is left at the end of the process.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Where spans go, which, and as whose.
pub struct Export {
    /// To the collector.
    pub collector: Channel,
    /// The share of the traces that begin here, 0 to 1. A trace that began elsewhere was decided on there.
    pub sample_ratio: f64,
    /// `service.name`.
    pub service: String,
    /// `service.version`.
    pub version: &'static str,
    /// More attributes of this process; they replace ours of the same name.
    pub resource_attributes: BTreeMap<String, String>,
    /// Where exported and dropped spans are counted.
    pub metrics: Metrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    reason: &'static str,
}

/// What the queue and the exporter share.
#[derive(Debug, Default)]
struct Ledger {
    queued: AtomicUsize,
    /// The collector did not take the last batch.
    failing: AtomicBool,
    exported: Counter,
    dropped: Family<Dropped, Counter>,
}

impl Export {
    /// Must be called inside a tokio runtime, which sends.
    pub(super) fn into_provider(self) -> Result<SdkTracerProvider, TelemetryError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(self.collector)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let ours = BTreeMap::from([
            ("service.name".to_owned(), self.service),
            ("service.version".to_owned(), self.version.to_owned()),
            ("service.instance.id".to_owned(), instance_id()),
        ]);
        let attributes = ours.into_iter().chain(self.resource_attributes);
        let resource = Resource::builder_empty()
            .with_attributes(attributes.map(|(name, value)| KeyValue::new(name, value)))
            .build();
        Ok(SdkTracerProvider::builder()
            .with_sampler(FollowLinks(Sampler::ParentBased(Box::new(
                Sampler::TraceIdRatioBased(self.sample_ratio),
            ))))
            .with_resource(resource)
            .with_span_processor(Queue::new(exporter, Ledger::register(&self.metrics)))
            .build())
    }
}

/// New with each start.
fn instance_id() -> String {
    let mut random = [0; 16];
    match rand::fill(&mut random) {
        Ok(()) => format!("{:032x}", u128::from_be_bytes(random)),
        Err(_unavailable) => std::process::id().to_string(),
    }
}

impl Ledger {
    fn register(metrics: &Metrics) -> Arc<Self> {
        let this = Self::default();
        metrics.register(|registry| {
            registry.register(
                "spans_exported",
                "Spans that the trace collector took",
                this.exported.clone(),
            );
            registry.register(
                "spans_dropped",
                "Spans that the trace collector did not get",
                this.dropped.clone(),
            );
        });
        Arc::new(this)
    }

    fn drop_spans(&self, reason: &'static str, spans: usize) {
        self.dropped
            .get_or_create(&Dropped { reason })
            .inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }
}

/// Takes ended spans without ever waiting: where the queue is full, the span is dropped and counted.
#[derive(Debug)]
struct Queue {
    batches: BatchSpanProcessor,
    ledger: Arc<Ledger>,
}

impl Queue {
    fn new<E: SpanExporter + 'static>(exporter: E, ledger: Arc<Ledger>) -> Self {
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_PERIOD)
            .build();
        let sender = Sender {
            exporter: Arc::new(exporter),
            ledger: ledger.clone(),
            runtime: Handle::current(),
        };
        Self {
            batches: BatchSpanProcessor::new(sender, config),
            ledger,
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.ledger.queued.fetch_add(1, Ordering::Relaxed) >= QUEUE_SPANS_MAX {
            self.ledger.queued.fetch_sub(1, Ordering::Relaxed);
            self.ledger.drop_spans("queue_full", 1);
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// The batches' own thread waits here; the work is done by the process's runtime.
struct Sender<E> {
    exporter: Arc<E>,
    ledger: Arc<Ledger>,
    runtime: Handle,
}

impl<E> fmt::Debug for Sender<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<E: SpanExporter + 'static> SpanExporter for Sender<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exporter = self.exporter.clone();
        let exporting = async move { timeout(EXPORT_TIMEOUT, exporter.export(batch)).await };
        let outcome = match self.runtime.spawn(exporting).await {
            Ok(Ok(outcome)) => outcome.map_err(|error| error.to_string()),
            Ok(Err(_elapsed)) => Err("no answer in time".to_owned()),
            Err(lost) => Err(lost.to_string()),
        };
        self.ledger.queued.fetch_sub(spans, Ordering::Relaxed);
        match &outcome {
            Ok(()) => {
                let exported = u64::try_from(spans).unwrap_or(u64::MAX);
                self.ledger.exported.inc_by(exported);
                if self.ledger.failing.swap(false, Ordering::Relaxed) {
                    info!("the trace collector takes spans again");
                }
            }
            Err(reason) => {
                self.ledger.drop_spans("export_failed", spans);
                if !self.ledger.failing.swap(true, Ordering::Relaxed) {
                    warn!(
                        reason,
                        "the trace collector does not take spans: they are dropped"
                    );
                }
            }
        }
        outcome.map_err(OTelSdkError::InternalFailure)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Before the first export nobody else holds it.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// A span that begins a trace of its own, linked to another (a session's end to its publish), is exported where that
/// one is: one without the other tells nothing.
#[derive(Clone, Debug)]
struct FollowLinks(Sampler);

impl ShouldSample for FollowLinks {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let has_parent = parent.is_some_and(|parent| parent.span().span_context().is_valid());
        if has_parent || links.is_empty() {
            return self
                .0
                .should_sample(parent, trace_id, name, kind, attributes, links);
        }
        let sampled = links.iter().any(|link| link.span_context.is_sampled());
        SamplingResult {
            decision: if sampled {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            },
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

#[cfg(test)]
mod tests;
