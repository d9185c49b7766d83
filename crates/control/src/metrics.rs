//! What control counts. No label carries a stream, a key or an address.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Unit,
};
use tonic::{Response, Status};

use crate::database::Outdated;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct ControlMetrics(Arc<Families>);

/// Names and values.
type Labels<const N: usize> = [(&'static str, &'static str); N];

struct Families {
    key_checks: Family<Labels<2>, Counter>,
    admin_actions: Family<Labels<1>, Counter>,
    revocation_propagation: Histogram,
    watches: Gauge,
    webhook_answers: Family<Labels<2>, Counter>,
    webhook_duration: Histogram,
    breakers_open: Gauge,
    pepper_rewrites: Family<Labels<1>, Counter>,
    pepper_outdated: Family<Labels<1>, Gauge>,
    rpc_duration: Family<Labels<2>, Histogram, fn() -> Histogram>,
}

impl Families {
    fn register_peppers(&self, metrics: &runtime::metrics::Metrics) {
        metrics.register(|registry| {
            registry.register(
                "pepper_rewrites",
                "What was stored under an old pepper and is under the newest now",
                self.pepper_rewrites.clone(),
            );
            registry.register(
                "pepper_outdated",
                "What is stored under a pepper before the newest",
                self.pepper_outdated.clone(),
            );
        });
    }
}

impl ControlMetrics {
    pub(crate) fn register(metrics: &runtime::metrics::Metrics) -> Self {
        let families = Families {
            key_checks: Family::default(),
            admin_actions: Family::default(),
            // 2 s is the objective.
            revocation_propagation: Histogram::new([
                0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0,
            ]),
            watches: Gauge::default(),
            webhook_answers: Family::default(),
            // 2 s is the longest deadline.
            webhook_duration: Histogram::new([
                0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5,
            ]),
            breakers_open: Gauge::default(),
            pepper_rewrites: Family::default(),
            pepper_outdated: Family::default(),
            rpc_duration: Family::new_with_constructor(|| {
                // 0.1 s is the objective.
                Histogram::new([
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
                ])
            }),
        };
        metrics.register(|registry| {
            registry.register(
                "key_checks",
                "Stream keys checked",
                families.key_checks.clone(),
            );
            registry.register(
                "admin_actions",
                "Changes made through the API",
                families.admin_actions.clone(),
            );
            registry.register_with_unit(
                "key_revocation_propagation",
                "From a revocation to this process's log tail",
                Unit::Seconds,
                families.revocation_propagation.clone(),
            );
            registry.register(
                "revocation_watches",
                "Open WatchRevocations calls",
                families.watches.clone(),
            );
            registry.register(
                "admission_webhook_answers",
                "Questions to admission webhooks, by outcome and by where the answer came from",
                families.webhook_answers.clone(),
            );
            registry.register_with_unit(
                "admission_webhook_duration",
                "From a question to an admission webhook's answer, or to none",
                Unit::Seconds,
                families.webhook_duration.clone(),
            );
            registry.register(
                "admission_webhook_breakers_open",
                "Applications whose admission webhook is left alone",
                families.breakers_open.clone(),
            );
            registry.register_with_unit(
                "rpc_server_duration",
                "Unary calls served",
                Unit::Seconds,
                families.rpc_duration.clone(),
            );
        });
        families.register_peppers(metrics);
        Self(Arc::new(families))
    }

    /// `source`: what the outcome was decided with, `request` (nobody was asked), `database`, `signature`, `registry`,
    /// `webhook` or `cache`.
    pub(crate) fn key_check(&self, outcome: &'static str, source: &'static str) {
        self.0
            .key_checks
            .get_or_create(&[("outcome", outcome), ("source", source)])
            .inc();
    }

    /// A webhook answered, or failed to.
    pub(crate) fn webhook_asked(&self, outcome: &'static str, duration: Duration) {
        self.webhook_answer(outcome, "webhook");
        self.0.webhook_duration.observe(duration.as_secs_f64());
    }

    /// It was spared.
    pub(crate) fn webhook_cached(&self, outcome: &'static str) {
        self.webhook_answer(outcome, "cache");
    }

    fn webhook_answer(&self, outcome: &'static str, source: &'static str) {
        self.0
            .webhook_answers
            .get_or_create(&[("outcome", outcome), ("source", source)])
            .inc();
    }

    pub(crate) fn breaker_opened(&self) {
        self.0.breakers_open.inc();
    }

    pub(crate) fn breaker_closed(&self) {
        self.0.breakers_open.dec();
    }

    /// `stream_key` (its secret was shown), `password` (of a key), `webhook` or `credential_key`.
    pub(crate) fn pepper_rewritten(&self, kind: &'static str) {
        let rewrites = &self.0.pepper_rewrites;
        rewrites.get_or_create(&[("kind", kind)]).inc();
    }

    /// How much needs an old pepper.
    pub(crate) fn pepper_outdated(&self, outdated: &Outdated) {
        for (kind, count) in [
            ("stream_key", outdated.stream_keys),
            ("previous_secret", outdated.previous_secrets),
            ("webhook", outdated.webhooks),
            ("answer", outdated.answers),
            ("credential_key", outdated.credential_keys),
        ] {
            let gauge = &self.0.pepper_outdated;
            gauge.get_or_create(&[("kind", kind)]).set(count);
        }
    }

    pub(crate) fn admin_action(&self, action: &'static str) {
        self.0
            .admin_actions
            .get_or_create(&[("action", action)])
            .inc();
    }

    pub(crate) fn revocation_seen(&self, age_seconds: f64) {
        self.0.revocation_propagation.observe(age_seconds);
    }

    /// Counts a watch for as long as the guard lives.
    pub(crate) fn watch_opened(&self) -> OpenWatch {
        self.0.watches.inc();
        OpenWatch(self.clone())
    }

    /// Runs a unary call under a stopwatch.
    pub(crate) async fn timed<T>(
        &self,
        rpc: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let started = Instant::now();
        let result = call.await;
        let code = result
            .as_ref()
            .map_or_else(|status| code_name(status.code()), |_answer| "OK");
        let duration = started.elapsed().as_secs_f64();
        self.0
            .rpc_duration
            .get_or_create(&[("method", rpc), ("code", code)])
            .observe(duration);
        result.map(Response::new)
    }
}

pub(crate) struct OpenWatch(ControlMetrics);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.0.watches.dec();
    }
}

/// The codes that control answers with.
fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::Cancelled
        | tonic::Code::DataLoss
        | tonic::Code::DeadlineExceeded
        | tonic::Code::Internal
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::Unknown => "OTHER",
    }
}
