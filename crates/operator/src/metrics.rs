//! The operator's metrics, and the layer that counts what it writes.

use std::time::Duration;

use http::{Method, Request, Uri};
use kube::client::Body;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use runtime::metrics::Metrics;
use tower::util::MapRequestLayer;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct OperatorMetrics {
    reconciles: Family<Reconciled, Counter>,
    duration: Family<Of, Histogram>,
    writes: Family<Written, Counter>,
    leader: Gauge,
    watch_errors: Family<Of, Counter>,
}

/// A kind of custom resource.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Of {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Reconciled {
    kind: &'static str,
    outcome: &'static str,
}

/// A write, by the resource's plural name.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Written {
    kind: String,
    verb: &'static str,
}

impl OperatorMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            reconciles: Family::default(),
            duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.01, 2.0, 12))
            }),
            writes: Family::default(),
            leader: Gauge::default(),
            watch_errors: Family::default(),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("operator");
            registry.register(
                "reconciles",
                "Passes over an object, by how they ended",
                this.reconciles.clone(),
            );
            registry.register(
                "reconcile_duration_seconds",
                "How long a pass took",
                this.duration.clone(),
            );
            registry.register(
                "api_writes",
                "Requests to Kubernetes that change something, by resource and verb",
                this.writes.clone(),
            );
            registry.register(
                "leader",
                "1 where this process is the one that acts",
                this.leader.clone(),
            );
            registry.register(
                "watch_errors",
                "Watches that failed and were begun again",
                this.watch_errors.clone(),
            );
        });
        this
    }

    pub(crate) fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconciled { kind, outcome }).inc();
        self.duration.get_or_create(&Of { kind }).observe(took.as_secs_f64());
    }

    pub(crate) fn lead(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&Of { kind }).inc();
    }

    /// Counts every write that goes through a client.
    pub(crate) fn count_writes(
        &self,
    ) -> MapRequestLayer<impl Fn(Request<Body>) -> Request<Body> + Clone + use<>> {
        let writes = self.writes.clone();
        MapRequestLayer::new(move |request: Request<Body>| {
            if let Some(verb) = verb(request.method()) {
                let kind = resource(request.uri());
                writes.get_or_create(&Written { kind, verb }).inc();
            }
            request
        })
    }
}

fn verb(method: &Method) -> Option<&'static str> {
    match method.as_str() {
        "POST" => Some("create"),
        "PUT" => Some("update"),
        "PATCH" => Some("patch"),
        "DELETE" => Some("delete"),
        _ => None,
    }
}

/// `deployments`, `ingestclusters/status`: of `/apis/<group>/<version>/namespaces/<ns>/<plural>[/<name>[/<subresource>]]`.
fn resource(uri: &Uri) -> String {
    let mut segments = uri.path().split('/').filter(|segment| !segment.is_empty());
    // `/api/v1` or `/apis/group/version`.
    let versions = match segments.next() {
        Some("api") => 1,
        Some(_) | None => 2,
    };
    let mut segments: Vec<&str> = segments.skip(versions).collect();
    if segments.len() > 2 && segments.first() == Some(&"namespaces") {
        segments.drain(..2);
    }
    match segments[..] {
        [plural, _, subresource, ..] => format!("{plural}/{subresource}"),
        [plural, ..] => plural.to_owned(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_apart_by_resource() {
        for (path, expected) in [
            ("/api/v1/namespaces/a/secrets", "secrets"),
            ("/api/v1/namespaces/a/secrets/b", "secrets"),
            ("/apis/apps/v1/namespaces/a/deployments/b?x=y", "deployments"),
            (
                "/apis/headwater.dev/v1alpha1/namespaces/a/ingestclusters/b/status",
                "ingestclusters/status",
            ),
            ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x", "customresourcedefinitions"),
            ("/api/v1/namespaces/a", "namespaces"),
            ("/", ""),
        ] {
            assert_eq!(resource(&path.parse().unwrap()), expected, "{path}");
        }
        assert_eq!(verb(&Method::GET), None);
        assert_eq!(verb(&Method::PATCH), Some("patch"));
    }
}
