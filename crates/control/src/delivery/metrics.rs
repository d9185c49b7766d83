//! What deliveries count. No label carries a webhook or its tenant.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

/// A cheap handle.
#[derive(Clone, Default)]
pub(crate) struct DeliveryMetrics {
    deliveries: Family<[(&'static str, &'static str); 1], Counter>,
    pending: Gauge,
    overdue: Gauge,
    failing: Gauge,
}

/// What one webhook adds to the gauges; taken away when it is dropped.
pub(super) struct Share {
    metrics: DeliveryMetrics,
    pending: i64,
    overdue: i64,
    failing: bool,
}

impl DeliveryMetrics {
    pub(crate) fn register(metrics: &runtime::metrics::Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            registry.register(
                "webhook_deliveries",
                "Tries to deliver an event to a webhook",
                this.deliveries.clone(),
            );
            registry.register(
                "webhook_deliveries_pending",
                "Events on their way to webhooks that this process delivers to",
                this.pending.clone(),
            );
            registry.register(
                "webhook_deliveries_overdue",
                "Of the pending ones those that wait for more than 15 minutes",
                this.overdue.clone(),
            );
            registry.register(
                "webhooks_failing",
                "Webhooks that this process delivers to and that took nothing lately",
                this.failing.clone(),
            );
        });
        this
    }

    /// `delivered`, `failed` (to be tried again), `dead` (given up) or `gone` (the webhook is disabled).
    pub(super) fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(super) fn share(&self) -> Share {
        Share {
            metrics: self.clone(),
            pending: 0,
            overdue: 0,
            failing: false,
        }
    }
}

impl Share {
    pub(super) fn set(&mut self, pending: usize, overdue: usize, failing: bool) {
        let [pending, overdue] =
            [pending, overdue].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let metrics = &self.metrics;
        for (gauge, now, before) in [
            (&metrics.pending, pending, self.pending),
            (&metrics.overdue, overdue, self.overdue),
            (&metrics.failing, failing.into(), self.failing.into()),
        ] {
            gauge.inc_by(now.saturating_sub(before));
        }
        (self.pending, self.overdue, self.failing) = (pending, overdue, failing);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0, false);
    }
}
