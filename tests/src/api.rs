//! A product backend's view: the public gRPC API with its bearer token.

use std::{net::SocketAddr, path::Path};

use hyper_util::rt::TokioIo;
use proto::v1::{
    CreateStreamKeyRequest, CreateWebhookRequest, DrainEdgeRequest, Edge, EventType,
    ListEdgesRequest, ListSessionsRequest, MediaLimits, PublishPolicy, RevokeStreamKeyRequest,
    Session, StreamKey, TakeoverPolicy, TerminateSessionRequest, UndrainEdgeRequest,
    UpdateStreamKeyRequest, WatchEventsRequest, edge_service_client::EdgeServiceClient,
    event::Subject, event_service_client::EventServiceClient,
    playback_service_client::PlaybackServiceClient, session_service_client::SessionServiceClient,
    stream_key_service_client::StreamKeyServiceClient,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::tls;

/// A channel that presents a token.
pub type BearerChannel = InterceptedService<Channel, Bearer>;

/// Presents a token.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self.0.clone();
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// Control, as its clients see it.
#[derive(Clone)]
pub struct Api {
    edges: EdgeServiceClient<BearerChannel>,
    events: EventServiceClient<BearerChannel>,
    keys: StreamKeyServiceClient<BearerChannel>,
    sessions: SessionServiceClient<BearerChannel>,
}

/// A stream key that was issued.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedKey {
    pub id: String,
    /// What goes into the encoder.
    pub secret: String,
    pub app: String,
    pub stream: String,
}

impl IssuedKey {
    /// What goes with the id into an encoder that logs in (Adobe authentication).
    pub fn password(&self) -> &str {
        self.secret.rsplit_once('_').expect("hw_<id>_<password>").1
    }
}

impl Api {
    /// For `https://host:port` or `http://host:port`; connects at the first call.
    pub fn new(url: &str, ca_file: &Path, token: &str) -> Self {
        let channel = channel(url, ca_file, token);
        Self {
            edges: EdgeServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            keys: StreamKeyServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel),
        }
    }

    /// A key with the default policy.
    pub async fn create_key(&self, app: &str, stream: &str) -> IssuedKey {
        self.create_key_with(app, stream, TakeoverPolicy::Unspecified)
            .await
    }

    pub async fn create_key_with(
        &self,
        app: &str,
        stream: &str,
        policy: TakeoverPolicy,
    ) -> IssuedKey {
        let request = CreateStreamKeyRequest {
            app: app.to_owned(),
            stream: stream.to_owned(),
            takeover_policy: policy.into(),
            ..CreateStreamKeyRequest::default()
        };
        self.try_create_key(request).await.unwrap()
    }

    pub async fn try_create_key(
        &self,
        request: CreateStreamKeyRequest,
    ) -> Result<IssuedKey, Status> {
        let (app, stream) = (request.app.clone(), request.stream.clone());
        let response = self.keys.clone().create_stream_key(request).await?;
        let response = response.into_inner();
        Ok(IssuedKey {
            id: response.stream_key.unwrap().id,
            secret: response.secret,
            app,
            stream,
        })
    }

    /// Gives a key other limits.
    pub async fn set_limits(&self, id: &str, limits: MediaLimits) -> Result<(), Status> {
        let stream_key = StreamKey {
            id: id.to_owned(),
            policy: Some(PublishPolicy {
                limits: Some(limits),
                ..PublishPolicy::default()
            }),
            ..StreamKey::default()
        };
        self.update_key(stream_key, "policy.limits").await
    }

    /// Changes what the path names.
    pub async fn update_key(&self, stream_key: StreamKey, path: &str) -> Result<(), Status> {
        let request = UpdateStreamKeyRequest {
            stream_key: Some(stream_key),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![path.to_owned()],
            }),
            etag: String::new(),
        };
        self.keys.clone().update_stream_key(request).await?;
        Ok(())
    }

    pub async fn revoke_key(&self, id: &str, reason: &str) -> Result<(), Status> {
        let request = RevokeStreamKeyRequest {
            id: id.to_owned(),
            reason: reason.to_owned(),
        };
        self.keys.clone().revoke_stream_key(request).await?;
        Ok(())
    }

    /// Has every event posted there; what the deliveries are signed with.
    pub async fn create_webhook(&self, url: &str) -> String {
        let request = CreateWebhookRequest {
            url: url.to_owned(),
            ..CreateWebhookRequest::default()
        };
        let created = self.events.clone().create_webhook(request).await.unwrap();
        created.into_inner().secret
    }

    /// Waits until an event of a session of this stream is in the log.
    pub async fn logs(&self, event_type: EventType, stream: &str) -> Result<(), Status> {
        let request = WatchEventsRequest {
            since: Some(prost_types::Timestamp::default()),
            types: vec![event_type.into()],
            ..WatchEventsRequest::default()
        };
        let mut answers = self
            .events
            .clone()
            .watch_events(request)
            .await?
            .into_inner();
        while let Some(answer) = answers.message().await? {
            let mut subjects = answer.events.into_iter().filter_map(|event| event.subject);
            if subjects
                .any(|subject| matches!(subject, Subject::Session(of) if of.stream == stream))
            {
                return Ok(());
            }
        }
        Err(Status::unavailable("the watch ended"))
    }

    /// The live sessions, up to 1000 of them.
    pub async fn sessions(&self) -> Result<Vec<Session>, Status> {
        let request = ListSessionsRequest {
            page_size: 1000,
            ..ListSessionsRequest::default()
        };
        let response = self.sessions.clone().list_sessions(request).await?;
        Ok(response.into_inner().sessions)
    }

    /// The live session of a stream, where there is one.
    pub async fn session_of(&self, stream: &str) -> Option<Session> {
        let sessions = self.sessions().await.unwrap();
        sessions
            .into_iter()
            .find(|session| session.stream == stream)
    }

    pub async fn edges(&self) -> Result<Vec<Edge>, Status> {
        let edges = self.edges.clone().list_edges(ListEdgesRequest {}).await?;
        Ok(edges.into_inner().edges)
    }

    /// Orders an edge to drain within its own time.
    pub async fn drain(&self, name: &str) -> Result<(), Status> {
        let request = DrainEdgeRequest {
            name: name.to_owned(),
            ..DrainEdgeRequest::default()
        };
        self.edges.clone().drain_edge(request).await.map(drop)
    }

    /// Orders an edge to serve again.
    pub async fn undrain(&self, name: &str) -> Result<(), Status> {
        let name = name.to_owned();
        let request = UndrainEdgeRequest { name };
        self.edges.clone().undrain_edge(request).await.map(drop)
    }

    pub async fn terminate(&self, id: &str, reason: &str) -> Result<(), Status> {
        let request = TerminateSessionRequest {
            id: id.to_owned(),
            reason: reason.to_owned(),
            ..TerminateSessionRequest::default()
        };
        self.sessions.clone().terminate_session(request).await?;
        Ok(())
    }
}

/// A playback client of one origin.
pub fn playback(url: &str, ca_file: &Path, token: &str) -> PlaybackServiceClient<BearerChannel> {
    PlaybackServiceClient::new(channel(url, ca_file, token))
}

fn channel(url: &str, ca_file: &Path, token: &str) -> BearerChannel {
    let (scheme, authority) = url.split_once("://").expect("scheme://host:port");
    let address: SocketAddr = authority
        .trim_end_matches('/')
        .replace("localhost", "127.0.0.1")
        .parse()
        .unwrap();
    let encryption = (scheme == "https").then(|| tls::trusting(ca_file, &[b"h2"]));
    let connector = service_fn(move |_uri: http::Uri| {
        let encryption = encryption.clone();
        async move {
            let connection = match encryption {
                Some(config) => tls::connect(address, config).await?,
                None => tls::connect_plain(address).await?,
            };
            Ok::<_, std::io::Error>(TokioIo::new(connection))
        }
    });
    let channel = Endpoint::from_shared(format!("http://{authority}"))
        .unwrap()
        .connect_with_connector_lazy(connector);
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().unwrap();
    bearer.set_sensitive(true);
    InterceptedService::new(channel, Bearer(bearer))
}
