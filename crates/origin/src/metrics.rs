//! What an origin counts. No label carries a stream, a key or an address.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use runtime::budget::Budget;

/// An origin's metrics. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct OriginMetrics {
    pub(crate) streams: Gauge,
    pub(crate) publishers: Gauge,
    pub(crate) followed_streams: Gauge,
    pub(crate) follow_opens: Family<OpenLabels, Counter>,
    pub(crate) follow_switch_seconds: Histogram,
    pub(crate) owner_lookups: Family<OpenLabels, Counter>,
    pub(crate) subscribers: Family<OutputLabels, Gauge>,
    pub(crate) subscribers_waiting: Gauge,
    pub(crate) opens: Family<OpenLabels, Counter>,
    pub(crate) epoch_rejections: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Family<OutputLabels, Counter>,
    pub(crate) duplicate_frames: Counter,
    pub(crate) gaps: Family<OutputLabels, Counter>,
    pub(crate) splice_gap_seconds: Histogram,
    pub(crate) backed_up_streams: Gauge,
    pub(crate) switches: Family<SwitchLabels, Counter>,
}

/// Which way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutputLabels {
    output: &'static str,
}

impl OutputLabels {
    /// Another origin's readers.
    pub(crate) const FOLLOW: Self = Self { output: "follow" };
    pub(crate) const FLV: Self = Self { output: "flv" };
    pub(crate) const GRPC: Self = Self { output: "grpc" };
    pub(crate) const RTMP: Self = Self { output: "rtmp" };
}

/// How an open, or a question, was answered: `accepted`, or the refusal's reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OpenLabels {
    pub(crate) outcome: &'static str,
}

/// Why another publisher of the stream came on air.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SwitchLabels {
    pub(crate) reason: &'static str,
}

impl OriginMetrics {
    pub(crate) fn register(metrics: &runtime::metrics::Metrics, budget: &Budget) -> Self {
        let own = Self::new();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("origin");
            registry.register("streams_active", "Streams held", own.streams.clone());
            own.register_follows(registry);
            own.register_backups(registry);
            registry.register(
                "publishers_active",
                "Publish RPCs open",
                own.publishers.clone(),
            );
            registry.register(
                "subscribers_active",
                "Subscribers attached, by output",
                own.subscribers.clone(),
            );
            registry.register(
                "subscribers_waiting",
                "Subscribers that wait for a stream to start",
                own.subscribers_waiting.clone(),
            );
            registry.register(
                "opens",
                "Publish RPCs, by how their open was answered",
                own.opens.clone(),
            );
            registry.register(
                "epoch_rejections",
                "Publishes refused or ended because of a higher fencing token",
                own.epoch_rejections.clone(),
            );
            registry.register(
                "received_bytes",
                "Bytes of bodies received",
                own.received_bytes.clone(),
            );
            registry.register(
                "sent_bytes",
                "Bytes of bodies sent, by output",
                own.sent_bytes.clone(),
            );
            registry.register(
                "duplicate_frames",
                "Frames that a reopened publish repeated",
                own.duplicate_frames.clone(),
            );
            registry.register(
                "gaps",
                "Gaps that subscribers were told of, by output",
                own.gaps.clone(),
            );
            registry.register(
                "splice_gap_seconds",
                "From the loss of a stream's publisher to the next one",
                own.splice_gap_seconds.clone(),
            );
            registry.register(
                "budget_used_bytes",
                "Media in memory, as charged to the process budget",
                budget.gauge(),
            );
            registry.register(
                "budget_limit_bytes",
                "The process budget; new streams are refused at nine tenths of it",
                limit(budget),
            );
        });
        own
    }

    /// What is read here and owned by another origin.
    fn register_follows(&self, registry: &mut Registry) {
        registry.register(
            "followed_streams_active",
            "Streams of other origins that are read here",
            self.followed_streams.clone(),
        );
        registry.register(
            "follow_opens",
            "Follow RPCs to other origins, by how their open was answered",
            self.follow_opens.clone(),
        );
        registry.register(
            "follow_switch_seconds",
            "From the loss of a followed stream's owner to the next one",
            self.follow_switch_seconds.clone(),
        );
        registry.register(
            "owner_lookups",
            "Questions to the registry who owns a stream that is not here, by answer",
            self.owner_lookups.clone(),
        );
    }

    /// Streams with two publishers.
    fn register_backups(&self, registry: &mut Registry) {
        registry.register(
            "backed_up_streams_active",
            "Streams that have both publishers here, one on air and one on standby",
            self.backed_up_streams.clone(),
        );
        registry.register(
            "switches",
            "Switches of a stream from one publisher to the other, by reason",
            self.switches.clone(),
        );
    }

    fn new() -> Self {
        Self {
            streams: Gauge::default(),
            publishers: Gauge::default(),
            followed_streams: Gauge::default(),
            follow_opens: Family::default(),
            follow_switch_seconds: Histogram::new(exponential_buckets(0.05, 2.0, 10)),
            owner_lookups: Family::default(),
            subscribers: Family::default(),
            subscribers_waiting: Gauge::default(),
            opens: Family::default(),
            epoch_rejections: Counter::default(),
            received_bytes: Counter::default(),
            sent_bytes: Family::default(),
            duplicate_frames: Counter::default(),
            gaps: Family::default(),
            splice_gap_seconds: Histogram::new(exponential_buckets(0.05, 2.0, 10)),
            backed_up_streams: Gauge::default(),
            switches: Family::default(),
        }
    }
}

/// What a budget allows, as a metric.
fn limit(budget: &Budget) -> Gauge {
    let limit = Gauge::default();
    limit.set(i64::try_from(budget.bytes_max()).unwrap_or(i64::MAX));
    limit
}
