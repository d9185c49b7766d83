//! What every process shows of itself, whatever its role; read at each scrape.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use super::Metrics;
use crate::shutdown::{DrainState, Shutdown};

/// Shows version, drain state and the ends of certificates. A cheap handle.
#[derive(Clone)]
pub struct ProcessMetrics {
    shared: Arc<Shared>,
}

struct Shared {
    version: &'static str,
    shutdown: Shutdown,
    certificates: Mutex<Vec<Ends>>,
    revocation_lists: Mutex<Vec<Ends>>,
}

/// Names of certificates or revocation lists, each with its end.
type Ends = Box<dyn Fn() -> Vec<(String, i64)> + Send + Sync>;

/// The collector of the registry.
#[derive(Debug)]
struct Collecting(ProcessMetrics);

impl ProcessMetrics {
    /// Registers them, once per process.
    pub fn register(metrics: &Metrics, version: &'static str, shutdown: &Shutdown) -> Self {
        let this = Self {
            shared: Arc::new(Shared {
                version,
                shutdown: shutdown.clone(),
                certificates: Mutex::default(),
                revocation_lists: Mutex::default(),
            }),
        };
        let collector = Box::new(Collecting(this.clone()));
        metrics.register(|registry| registry.register_collector(collector));
        this
    }

    /// Shows a certificate from now on, as `public`, `internal` or `redis`. `not_after`: its end, in seconds since the Unix
    /// epoch.
    pub fn certificate(
        &self,
        certificate: &'static str,
        not_after: impl Fn() -> i64 + Send + Sync + 'static,
    ) {
        self.certificates(move || vec![(certificate.to_owned(), not_after())]);
    }

    /// Shows certificates that come and go from now on, each by its name with its end.
    pub fn certificates(&self, ends: impl Fn() -> Vec<(String, i64)> + Send + Sync + 'static) {
        self.shared.certificates.lock().push(Box::new(ends));
    }

    /// Shows revocation lists that come and go from now on, each by its name with its `nextUpdate`.
    pub fn revocation_lists(&self, ends: impl Fn() -> Vec<(String, i64)> + Send + Sync + 'static) {
        self.shared.revocation_lists.lock().push(Box::new(ends));
    }
}

impl fmt::Debug for ProcessMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessMetrics")
    }
}

impl Collector for Collecting {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shared = &self.0.shared;
        let labels = [("version", shared.version)];
        let mut build_info = encoder.encode_descriptor(
            "build_info",
            "The program that runs here",
            None,
            MetricType::Gauge,
        )?;
        gauge(&mut build_info, &labels, 1)?;
        let drain_state = encoder.encode_descriptor(
            "drain_state",
            "0 serving, 1 noticed (not ready, still accepting), 2 draining, 3 stopping",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(state_number(shared.shutdown.state())).encode(drain_state)?;
        let certificates = by_name(&shared.certificates.lock());
        if !certificates.is_empty() {
            let not_after = encoder.encode_descriptor(
                "certificate_not_after_timestamp",
                "End of the certificate in service",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            gauges(not_after, "certificate", &certificates)?;
        }
        let lists = by_name(&shared.revocation_lists.lock());
        if !lists.is_empty() {
            let next_update = encoder.encode_descriptor(
                "revocation_list_next_update_timestamp",
                "When the next version of the revocation list in service is due",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            gauges(next_update, "list", &lists)?;
        }
        Ok(())
    }
}

/// Two sources must not make one series twice.
fn by_name(sources: &[Ends]) -> BTreeMap<String, i64> {
    sources.iter().flat_map(|ends| ends()).collect()
}

fn gauges(
    mut encoder: MetricEncoder<'_>,
    label: &'static str,
    values: &BTreeMap<String, i64>,
) -> fmt::Result {
    for (name, value) in values {
        gauge(&mut encoder, &[(label, name)], *value)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut MetricEncoder<'_>,
    labels: &[(&'static str, &str); 1],
    value: i64,
) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_family(labels)?)
}

fn state_number(state: DrainState) -> i64 {
    match state {
        DrainState::Serving => 0,
        DrainState::Noticed => 1,
        DrainState::Draining => 2,
        DrainState::Stopping => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shows_what_it_is_and_how_long_it_lasts() {
        let (metrics, shutdown) = (Metrics::default(), Shutdown::default());
        let process = ProcessMetrics::register(&metrics, "1.2.3", &shutdown);
        let has = |line: &str| {
            let text = metrics.encode();
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        };
        has(r#"headwater_build_info{version="1.2.3"} 1"#);
        has("headwater_drain_state 0");
        assert!(!metrics.encode().contains("not_after"));
        process.certificate("public", || 17);
        process.certificates(|| vec![("internal".to_owned(), 18)]);
        has(r#"headwater_certificate_not_after_timestamp_seconds{certificate="internal"} 18"#);
        has(r#"headwater_certificate_not_after_timestamp_seconds{certificate="public"} 17"#);
        assert!(!metrics.encode().contains("revocation_list"));
        process.revocation_lists(|| vec![("ca.crl".to_owned(), 19)]);
        has(r#"headwater_revocation_list_next_update_timestamp_seconds{list="ca.crl"} 19"#);
        shutdown.give_notice();
        has("headwater_drain_state 1");
        shutdown.drain();
        has("headwater_drain_state 2");
        shutdown.stop();
        has("headwater_drain_state 3");
    }
}
