//! What this role counts. Labels never carry a stream, a key or an address.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
};
use runtime::{budget::Budget, metrics::Metrics};

/// Handles to the role's metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EdgeMetrics {
    pub(crate) connections_active: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_rejected: Family<Reason, Counter>,
    pub(crate) tls_handshake_seconds: Family<Outcome, Histogram, Latency>,
    pub(crate) tls_handshakes: Family<Handshake, Counter>,
    pub(crate) plain_connections: Counter,
    pub(crate) certificates_unusable: Gauge,
    pub(crate) round_trip_seconds: Histogram,
    pub(crate) publish_attempts: Family<PublishAttempt, Counter>,
    pub(crate) publish_start_seconds: Histogram,
    pub(crate) publishers_active: Family<App, Gauge>,
    pub(crate) sessions_ended: Family<Reason, Counter>,
    pub(crate) session_seconds: Histogram,
    pub(crate) received_bytes: Counter,
    pub(crate) forwarded_bytes: Counter,
    pub(crate) relay_reopens: Family<ReopenLabels, Counter>,
    pub(crate) not_replayable: Counter,
    pub(crate) timestamp_discontinuities: Counter,
    pub(crate) frames_corrected: Family<Reason, Counter>,
    pub(crate) frames_dropped: Family<Reason, Counter>,
    pub(crate) claims: Family<Outcome, Counter>,
    pub(crate) renewals: Family<Outcome, Counter>,
    pub(crate) fenced: Counter,
    pub(crate) revocation_watch_restarts: Counter,
    pub(crate) session_reports: Family<Outcome, Counter>,
    pub(crate) drain_remaining_sessions: Gauge,
    pub(crate) drain_phase: Gauge,
    pub(crate) reconnect_requests: Family<Outcome, Counter>,
    pub(crate) commands: Family<CommandLabels, Counter>,
}

/// Why, as a stable word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// How it went, as a stable word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) outcome: &'static str,
}

/// What a TLS handshake agreed on. Each label has a handful of values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Handshake {
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    pub(crate) server_name: &'static str,
    pub(crate) client_certificate: &'static str,
}

/// An application as a grant names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct App {
    pub(crate) app: String,
}

/// One publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PublishAttempt {
    /// Empty where no grant named it: what an encoder sends is not a label.
    pub(crate) app: String,
    pub(crate) outcome: &'static str,
    pub(crate) reason: &'static str,
}

/// One search for another origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReopenLabels {
    pub(crate) reason: &'static str,
    pub(crate) outcome: &'static str,
}

/// One command to this edge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabels {
    pub(crate) kind: &'static str,
    pub(crate) outcome: &'static str,
}

/// Makes histograms for what takes milliseconds to seconds.
#[derive(Clone)]
pub(crate) struct Latency;

impl MetricConstructor<Histogram> for Latency {
    fn new_metric(&self) -> Histogram {
        // 1.5 s is the objective for the start of a publish.
        Histogram::new([
            0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0,
        ])
    }
}

impl EdgeMetrics {
    pub(crate) fn register(metrics: &Metrics, budget: &Budget) -> Self {
        let this = Self::new();
        metrics.register(|registry| {
            let mut register_gauge = |name: &str, help: &str, gauge: &Gauge| {
                registry.register(name, help, gauge.clone());
            };
            register_gauge(
                "connections_active",
                "Connections of encoders",
                &this.connections_active,
            );
            register_gauge(
                "forward_queue_bytes",
                "Memory of all replay rings",
                &budget.gauge(),
            );
            register_gauge(
                "forward_queue_limit_bytes",
                "What they may have together; new publishes are refused at nine tenths of it",
                &limit(budget),
            );
            let mut register_counter = |name: &str, help: &str, counter: &Counter| {
                registry.register(name, help, counter.clone());
            };
            register_counter(
                "connections_accepted",
                "Connections accepted",
                &this.connections_accepted,
            );
            register_counter(
                "received_bytes",
                "Bytes received from encoders, TLS taken off",
                &this.received_bytes,
            );
            register_counter(
                "forwarded_bytes",
                "Bytes of bodies sent to origins, replays included",
                &this.forwarded_bytes,
            );
            register_counter(
                "replay_not_replayable",
                "Times a group of pictures outgrew its ring",
                &this.not_replayable,
            );
            register_counter(
                "timestamp_discontinuities",
                "Jumps of encoders' timestamps",
                &this.timestamp_discontinuities,
            );
            register_counter("ownership_fenced", "Sessions fenced", &this.fenced);
            register_counter(
                "revocation_watch_restarts",
                "Times the revocation watch had to be opened again",
                &this.revocation_watch_restarts,
            );
        });
        this.register_drain(metrics);
        this.register_tls(metrics);
        this.register_labelled(metrics);
        this
    }

    fn register_drain(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            registry.register(
                "drain_remaining_sessions",
                "Sessions that a drain waits for",
                self.drain_remaining_sessions.clone(),
            );
            registry.register(
                "edge_drain_phase",
                "0 serving, 1 noticed, 2 draining, 3 empty",
                self.drain_phase.clone(),
            );
            registry.register(
                "reconnect_requests",
                "Encoders that a drain wanted to connect elsewhere",
                self.reconnect_requests.clone(),
            );
            registry.register(
                "edge_commands",
                "Commands to this edge, however they came",
                self.commands.clone(),
            );
        });
    }

    fn register_tls(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            registry.register(
                "certificates_unusable",
                "Certificates and revocation lists whose files cannot be used as they are now",
                self.certificates_unusable.clone(),
            );
            registry.register(
                "plain_connections",
                "Connections taken in without TLS of ours",
                self.plain_connections.clone(),
            );
            registry.register(
                "tls_handshake_duration_seconds",
                "TLS handshakes",
                self.tls_handshake_seconds.clone(),
            );
            registry.register(
                "tls_handshakes",
                "TLS handshakes that succeeded, and what they agreed on",
                self.tls_handshakes.clone(),
            );
        });
    }

    fn register_labelled(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            registry.register(
                "connections_rejected",
                "Connections that never spoke RTMP",
                self.connections_rejected.clone(),
            );
            registry.register(
                "rtmp_round_trip_seconds",
                "From a ping to the encoder's answer",
                self.round_trip_seconds.clone(),
            );
            registry.register(
                "publish_attempts",
                "Publish commands",
                self.publish_attempts.clone(),
            );
            registry.register(
                "publish_start_duration_seconds",
                "From publish to NetStream.Publish.Start",
                self.publish_start_seconds.clone(),
            );
            registry.register(
                "publishers_active",
                "Live sessions",
                self.publishers_active.clone(),
            );
            registry.register(
                "sessions_ended",
                "Sessions that had started",
                self.sessions_ended.clone(),
            );
            registry.register(
                "session_duration_seconds",
                "Their length",
                self.session_seconds.clone(),
            );
            registry.register(
                "frames_corrected",
                "Frames that went on with what was wrong about them set right",
                self.frames_corrected.clone(),
            );
            registry.register(
                "frames_dropped",
                "Frames that no decoder could use",
                self.frames_dropped.clone(),
            );
            registry.register(
                "relay_reopens",
                "Searches for another origin",
                self.relay_reopens.clone(),
            );
            registry.register(
                "session_reports",
                "Reports of sessions for control's event log",
                self.session_reports.clone(),
            );
            registry.register(
                "ownership_claims",
                "Claims in the registry",
                self.claims.clone(),
            );
            registry.register(
                "ownership_renewals",
                "Renewals in the registry",
                self.renewals.clone(),
            );
        });
    }

    fn new() -> Self {
        Self {
            connections_active: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_rejected: Family::default(),
            tls_handshake_seconds: Family::new_with_constructor(Latency),
            tls_handshakes: Family::default(),
            plain_connections: Counter::default(),
            certificates_unusable: Gauge::default(),
            round_trip_seconds: Latency.new_metric(),
            publish_attempts: Family::default(),
            publish_start_seconds: Latency.new_metric(),
            publishers_active: Family::default(),
            sessions_ended: Family::default(),
            session_seconds: Histogram::new([
                1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0,
            ]),
            received_bytes: Counter::default(),
            forwarded_bytes: Counter::default(),
            relay_reopens: Family::default(),
            not_replayable: Counter::default(),
            timestamp_discontinuities: Counter::default(),
            frames_corrected: Family::default(),
            frames_dropped: Family::default(),
            claims: Family::default(),
            renewals: Family::default(),
            fenced: Counter::default(),
            revocation_watch_restarts: Counter::default(),
            session_reports: Family::default(),
            drain_remaining_sessions: Gauge::default(),
            drain_phase: Gauge::default(),
            reconnect_requests: Family::default(),
            commands: Family::default(),
        }
    }

    pub(crate) fn rejected(&self, reason: &'static str) {
        self.connections_rejected
            .get_or_create(&Reason { reason })
            .inc();
    }
}

/// What a budget allows, as a metric.
fn limit(budget: &Budget) -> Gauge {
    let limit = Gauge::default();
    limit.set(i64::try_from(budget.bytes_max()).unwrap_or(i64::MAX));
    limit
}
