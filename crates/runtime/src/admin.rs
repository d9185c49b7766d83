//! The admin port: `/livez`, `/readyz`, `/metrics`. Read-only.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::{
    http::{self, HttpLimits},
    metrics::Metrics,
    shutdown::{DrainState, Shutdown},
};

/// A scraper, probes, and a person or two.
const LIMITS: HttpLimits = HttpLimits {
    connections_max: 64,
    request_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(10),
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The condition that a drain does not meet. A role that has more to say of one than the process has says it under this
/// name, and then the process says nothing.
pub const DRAIN: &str = "drain";

/// Named conditions, all of which must hold. A cheap handle.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<std::collections::BTreeMap<&'static str, Result<(), String>>>>,
}

impl Readiness {
    /// Declares a condition as not met yet. `/readyz` fails until every declared condition is met.
    pub fn expect(&self, condition: &'static str, reason: impl Into<String>) {
        self.conditions.lock().insert(condition, Err(reason.into()));
    }

    /// The condition holds.
    pub fn met(&self, condition: &'static str) {
        self.conditions.lock().insert(condition, Ok(()));
    }

    /// The condition does not hold (any more).
    pub fn unmet(&self, condition: &'static str, reason: impl Into<String>) {
        self.conditions.lock().insert(condition, Err(reason.into()));
    }

    /// The conditions that do not hold, `name: reason`; empty when ready.
    pub fn missing(&self) -> Vec<String> {
        self.conditions
            .lock()
            .iter()
            .filter_map(|(condition, state)| match state {
                Ok(()) => None,
                Err(reason) => Some(format!("{condition}: {reason}")),
            })
            .collect()
    }
}

/// Serves until `shutdown` says stop; from its notice on, `/readyz` fails and the rest still answers.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let stop = shutdown.clone();
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&readiness, &shutdown)))
        .route("/metrics", get(async move || exposition(&metrics)));
    http::serve(listener, router, LIMITS, stop.stopping(), stop.stopping()).await;
}

/// Binds the admin port.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn ready(readiness: &Readiness, shutdown: &Shutdown) -> (StatusCode, String) {
    let mut missing = readiness.missing();
    let of_the_process = match shutdown.state() {
        DrainState::Serving => None,
        DrainState::Noticed => Some("leaving"),
        DrainState::Draining | DrainState::Stopping => Some("draining"),
    };
    let told = format!("{DRAIN}: ");
    if let Some(state) = of_the_process
        && !missing.iter().any(|missing| missing.starts_with(&told))
    {
        missing.push(told + state);
    }
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let text = missing.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

fn exposition(metrics: &Metrics) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, OPENMETRICS)], metrics.encode())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn readyz_names_every_missing_condition_and_a_drain() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, shutdown) = (Readiness::default(), Shutdown::default());
        readiness.expect("registry", "not connected yet");
        readiness.expect("database", "not open yet");
        let server = tokio::spawn(serve(
            listener,
            readiness.clone(),
            Metrics::default(),
            shutdown.clone(),
        ));

        let response = request(address, "/readyz").await;
        assert!(response.starts_with("HTTP/1.1 503"), "{response}");
        assert!(
            response.ends_with("\r\n\r\ndatabase: not open yet\nregistry: not connected yet\n"),
            "{response}"
        );

        readiness.met("database");
        readiness.met("registry");
        let response = request(address, "/readyz").await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        readiness.unmet("registry", "connection lost");
        assert!(
            request(address, "/readyz")
                .await
                .ends_with("\r\n\r\nregistry: connection lost\n")
        );
        readiness.met("registry");

        shutdown.give_notice();
        let response = request(address, "/readyz").await;
        assert!(response.starts_with("HTTP/1.1 503"), "{response}");
        assert!(response.ends_with("drain: leaving\n"), "{response}");
        shutdown.drain();
        let response = request(address, "/readyz").await;
        assert!(response.starts_with("HTTP/1.1 503"), "{response}");
        assert!(response.ends_with("drain: draining\n"), "{response}");
        assert!(request(address, "/livez").await.starts_with("HTTP/1.1 200"));

        shutdown.stop();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_with_the_prefix() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        metrics.register(|registry| registry.register("things", "Things", counter.clone()));
        counter.inc();
        tokio::spawn(serve(
            listener,
            Readiness::default(),
            metrics,
            Shutdown::default(),
        ));
        let response = request(address, "/metrics").await;
        assert!(
            response.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{response}"
        );
        assert!(
            response.contains("headwater_things_total 1\n"),
            "{response}"
        );
        assert!(response.ends_with("# EOF\n"), "{response}");
    }
}
