//! An OpenTelemetry collector that keeps every span it is sent: OTLP over gRPC, with or without TLS.

use std::{path::Path, sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, Status as SpanStatus},
};
use parking_lot::Mutex;
use runtime::{
    grpc::{self, Listener},
    shutdown::Shutdown,
    tls::{CertificateFiles, ReloadingCertificate, ensure_self_signed},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::wait::wait_for;

/// For spans to come: batches leave once a second.
const EXPORTED: Duration = Duration::from_secs(20);

/// The running collector; it goes on until the test ends.
pub struct Collector {
    /// `http://…` or `https://…`.
    pub url: String,
    requests: Requests,
}

type Requests = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// One span and whose it is.
#[derive(Clone, Debug)]
pub struct Exported {
    /// `service.name` of the process.
    pub service: String,
    /// All attributes of the process.
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(url, Listener::Plaintext(listener))
    }

    /// With TLS; makes `collector.pem`, which clients must trust, in this directory.
    pub async fn start_with_tls(directory: &Path) -> Self {
        let files = CertificateFiles {
            certificate: directory.join("collector.pem"),
            private_key: directory.join("collector.key"),
        };
        ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
        let certificate = ReloadingCertificate::load(&files).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://localhost:{port}");
        Self::serve(url, Listener::Public(listener, certificate))
    }

    fn serve(url: String, listener: Listener) -> Self {
        let requests = Requests::default();
        let router = grpc::server().add_service(TraceServiceServer::new(Service(requests.clone())));
        tokio::spawn(grpc::serve(router, listener, Shutdown::default()));
        Self { url, requests }
    }

    /// Everything so far.
    pub fn spans(&self) -> Vec<Exported> {
        let requests = self.requests.lock();
        let mut spans = Vec::new();
        for of_process in requests.iter().flat_map(|request| &request.resource_spans) {
            let resource = of_process.resource.clone().unwrap_or_default().attributes;
            let service = text(&resource, "service.name").unwrap_or_default();
            for span in of_process.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Exported {
                    service: service.clone(),
                    resource: resource.clone(),
                    span: span.clone(),
                });
            }
        }
        spans
    }

    /// Everything so far, as text: what must not be there is searched for in this.
    pub fn dump(&self) -> String {
        format!("{:?}", self.requests.lock())
    }

    /// Waits for the one span of this name, service and session.
    pub async fn span(&self, service: &str, name: &str, session_id: &str) -> Exported {
        let what = format!("{name} of {service} for {session_id}");
        wait_for(&what, EXPORTED, async || {
            let mut spans = self.spans().into_iter();
            spans.find(|exported| {
                let session = exported.text("session_id");
                exported.service == service
                    && exported.span.name == name
                    && session.as_deref() == Some(session_id)
            })
        })
        .await
    }

    /// Waits for the one child of a span that this service has under this name.
    pub async fn child(&self, parent: &Exported, service: &str, name: &str) -> Exported {
        let what = format!("{name} of {service} below {}", parent.span.name);
        wait_for(&what, EXPORTED, async || {
            let mut spans = self.spans().into_iter();
            spans.find(|exported| {
                exported.service == service
                    && exported.span.name == name
                    && exported.span.trace_id == parent.span.trace_id
                    && exported.span.parent_span_id == parent.span.span_id
            })
        })
        .await
    }
}

impl Exported {
    /// An attribute of the span.
    pub fn text(&self, name: &str) -> Option<String> {
        text(&self.span.attributes, name)
    }

    /// An attribute of the process.
    pub fn resource(&self, name: &str) -> Option<String> {
        text(&self.resource, name)
    }

    /// Why it is an error, where it is one.
    pub fn error(&self) -> Option<&str> {
        let SpanStatus { code, message } = self.span.status.as_ref()?;
        // STATUS_CODE_ERROR
        (*code == 2).then_some(message)
    }

    /// As log lines write it.
    pub fn trace_id(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.span.trace_id)
    }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    let value = attribute.value.as_ref()?.value.as_ref()?;
    Some(if let Value::StringValue(text) = value {
        text.clone()
    } else {
        format!("{value:?}")
    })
}

struct Service(Requests);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
