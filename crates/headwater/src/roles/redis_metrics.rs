//! What the registry's connection to Redis counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use registry::RedisEvent;
use runtime::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Command {
    command: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconnect {
    cause: &'static str,
}

/// Registers the metrics; what it returns takes the events.
pub(super) fn observer(metrics: &Metrics) -> impl Fn(RedisEvent) + Send + Sync + 'static {
    let seconds = Family::<Command, Histogram>::new_with_constructor(|| {
        Histogram::new(exponential_buckets(0.000_25, 2.0, 14))
    });
    let reconnects = Family::<Reconnect, Counter>::default();
    let unreplicated = Counter::<u64>::default();
    let skew = Gauge::<f64, AtomicU64>::default();
    metrics.register(|registry| {
        registry.register(
            "redis_command_duration_seconds",
            "From the registry's call to the answer of Redis",
            seconds.clone(),
        );
        registry.register(
            "redis_reconnects",
            "Connections to Redis that were given up and rebuilt",
            reconnects.clone(),
        );
        registry.register(
            "redis_unreplicated_claims",
            "Claims granted that no replica of Redis was known to have seconds later",
            unreplicated.clone(),
        );
        registry.register(
            "redis_clock_skew_seconds",
            "How far the clock of Redis is ahead of this process's; of several servers, the furthest off",
            skew.clone(),
        );
    });
    move |event| match event {
        RedisEvent::Command {
            command,
            outcome,
            duration,
        } => seconds
            .get_or_create(&Command { command, outcome })
            .observe(duration.as_secs_f64()),
        RedisEvent::Reconnect { cause } => {
            reconnects.get_or_create(&Reconnect { cause }).inc();
        }
        RedisEvent::ClockSkew { seconds } => {
            skew.set(seconds);
        }
        RedisEvent::Unreplicated { claims } => {
            unreplicated.inc_by(claims);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn commands_and_reconnects_are_counted() {
        let metrics = Metrics::default();
        let observe = observer(&metrics);
        observe(RedisEvent::Command {
            command: "claim",
            outcome: "ok",
            duration: Duration::from_millis(1),
        });
        observe(RedisEvent::Reconnect { cause: "closed" });
        observe(RedisEvent::ClockSkew { seconds: -1.5 });
        observe(RedisEvent::Unreplicated { claims: 3 });
        let text = metrics.encode();
        for line in [
            "headwater_redis_command_duration_seconds_count{command=\"claim\",outcome=\"ok\"} 1",
            "headwater_redis_reconnects_total{cause=\"closed\"} 1",
            "headwater_redis_clock_skew_seconds -1.5",
            "headwater_redis_unreplicated_claims_total 3",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
