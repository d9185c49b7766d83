use std::time::Instant;

use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;

/// A collector that takes, refuses, or does not answer.
#[derive(Clone, Debug)]
struct Collector {
    taken: Arc<Mutex<Vec<SpanData>>>,
    refuses: Arc<AtomicBool>,
    answers: Arc<Semaphore>,
}

impl Collector {
    fn new() -> Self {
        Self {
            taken: Arc::default(),
            refuses: Arc::default(),
            answers: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    fn taken(&self) -> Vec<String> {
        let taken = self.taken.lock();
        taken.iter().map(|span| span.name.to_string()).collect()
    }
}

impl SpanExporter for Collector {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        self.answers.acquire().await.unwrap().forget();
        if self.refuses.load(Ordering::Relaxed) {
            return Err(OTelSdkError::InternalFailure("not today".to_owned()));
        }
        self.taken.lock().append(&mut batch);
        Ok(())
    }
}

/// A provider that exports everything to a collector.
fn provider(collector: &Collector, metrics: &Metrics, sample_ratio: f64) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_sampler(FollowLinks(Sampler::ParentBased(Box::new(
            Sampler::TraceIdRatioBased(sample_ratio),
        ))))
        .with_span_processor(Queue::new(collector.clone(), Ledger::register(metrics)))
        .build()
}

async fn flush(provider: &SdkTracerProvider) -> OTelSdkResult {
    let provider = provider.clone();
    let flushing = tokio::task::spawn_blocking(move || provider.force_flush());
    flushing.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_collector_does_not_take_is_counted() {
    let (collector, metrics) = (Collector::new(), Metrics::default());
    let provider = provider(&collector, &metrics, 1.0);
    let tracer = provider.tracer("test");
    tracer.start("taken").end();
    flush(&provider).await.unwrap();
    collector.refuses.store(true, Ordering::Relaxed);
    tracer.start("lost").end();
    tracer.start("lost as well").end();
    flush(&provider).await.unwrap_err();
    collector.refuses.store(false, Ordering::Relaxed);
    tracer.start("taken again").end();
    flush(&provider).await.unwrap();

    assert_eq!(collector.taken(), ["taken", "taken again"]);
    let text = metrics.encode();
    for line in [
        "headwater_spans_exported_total 2",
        "headwater_spans_dropped_total{reason=\"export_failed\"} 2",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_costs_spans_and_no_time() {
    let (collector, metrics) = (Collector::new(), Metrics::default());
    collector.answers.forget_permits(Semaphore::MAX_PERMITS);
    let provider = provider(&collector, &metrics, 1.0);
    let tracer = provider.tracer("test");
    let started = Instant::now();
    for _ in 0..QUEUE_SPANS_MAX + 100 {
        tracer.start("waiting").end();
    }
    assert!(started.elapsed() < EXPORT_TIMEOUT, "nobody waited");
    let text = metrics.encode();
    let full = "headwater_spans_dropped_total{reason=\"queue_full\"} 100";
    assert!(text.contains(full), "{full} in {text}");

    // The end of the process waits no longer than it says.
    let started = Instant::now();
    let ending = tokio::task::spawn_blocking(move || {
        provider.shutdown_with_timeout(Duration::from_millis(200))
    });
    ending.await.unwrap().unwrap_err();
    assert!(
        started.elapsed() < EXPORT_TIMEOUT,
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linked_span_is_exported_where_the_other_one_is() {
    let (collector, metrics) = (Collector::new(), Metrics::default());
    let all = provider(&collector, &metrics, 1.0);
    let none = provider(&collector, &Metrics::default(), 0.0);
    let exported = all.tracer("test").start("publish");
    let unexported = none.tracer("test").start("publish");
    for publish in [&exported, &unexported] {
        let sampled = publish.span_context().is_sampled();
        let name = format!("end of {sampled}");
        for provider in [&all, &none] {
            let tracer = provider.tracer("test");
            let end = tracer
                .span_builder(name.clone())
                .with_links(vec![Link::with_context(publish.span_context().clone())]);
            tracer.build_with_context(end, &Context::new()).end();
        }
    }
    drop((exported, unexported));
    flush(&all).await.unwrap();
    flush(&none).await.unwrap();
    let mut taken = collector.taken();
    taken.sort();
    assert_eq!(taken, ["end of true", "end of true", "publish"]);
}
