//! An open belongs to the edge's trace; the session behind it does not.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use runtime::telemetry;
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

use super::*;

/// A trace and a span of an edge, sampled.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE_ID: &str = "trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"";

#[tokio::test]
async fn an_open_belongs_to_the_edges_trace_and_the_session_names_it() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(log.clone());
    let subscriber = tracing_subscriber::registry()
        .with(lines)
        .with(telemetry::spans());
    // The test's runtime has one thread, the origin's tasks included.
    let _subscriber = ::tracing::subscriber::set_default(subscriber);

    let origin = start(config()).await;
    let mut open = origin.open_request(&grant("traced", "s1"), 1, 1);
    open.traceparent = TRACEPARENT.to_owned();
    let publisher = origin.open(open).await.unwrap();
    publisher.close("client_close").await;
    for said in ["publish accepted", "publish closed"] {
        let text = log.text();
        let line = text.lines().find(|line| line.contains(said));
        assert!(line.is_some_and(|line| line.contains(TRACE_ID)), "{text}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
