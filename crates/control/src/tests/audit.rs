//! What changes something is in the log: who did it, from where, what, and whose it is; and no secret.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use proto::v1::{
    CreateStreamKeyRequest, CreateStreamKeyResponse, CreateTokenRequest, CreateTokenResponse,
    CreateWebhookRequest, CreateWebhookResponse, DeleteWebhookRequest, GetTokenRequest,
    ReplayWebhookRequest, RevokeSignedKeyRequest, RotateStreamKeyResponse, RotateTokenResponse,
    SetQuotaRequest, StreamKey, TerminateSessionRequest, UpdateStreamKeyRequest,
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use super::{
    access::{Served, methods, token},
    edges::edge,
    fixture::Fixture,
    session_service::publish,
    signed_keys::{APP, signing},
};
use crate::{caller::EVERY, field::mentions_stream_key};

/// The lines of the log, by their fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

#[derive(Clone, Debug, Default)]
struct Line(BTreeMap<&'static str, String>);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().push(line);
    }
}

impl Lines {
    /// Those of the audit log since the last look. None of all lines may hold a secret.
    fn audited(&self, secrets: &[String]) -> Vec<Line> {
        let lines = std::mem::take(&mut *self.0.lock());
        for text in lines.iter().flat_map(|line| line.0.values()) {
            let secret = secrets.iter().find(|secret| text.contains(*secret));
            assert!(
                secret.is_none() && !mentions_stream_key(text) && !text.contains("whsec_"),
                "a secret in the log"
            );
        }
        let mut audited = lines;
        audited.retain(|line| line.0.contains_key("action"));
        audited
    }
}

/// A caller's credential, and what it made for the next call to change.
struct Acme {
    control: Served,
    credential: String,
    token_id: String,
}

impl Acme {
    async fn call(&self, service: &str, method: &str, message: Vec<u8>) -> Bytes {
        let path = format!("/headwater.v1.{service}/{method}");
        let credential = if is_everybodys(service) {
            OPERATOR
        } else {
            &self.credential
        };
        let call = self.control.call(&path, Some(credential), message);
        let answer = call
            .await
            .unwrap_or_else(|status| panic!("{path}: {status}"));
        answer.unwrap_or_default()
    }

    async fn key(&self, stream: &str) -> String {
        let message = create_key(stream).encode_to_vec();
        let created = self
            .call("StreamKeyService", "CreateStreamKey", message)
            .await;
        let created = CreateStreamKeyResponse::decode(created).unwrap();
        created.stream_key.unwrap().id
    }

    async fn token(&self) -> String {
        let message = create_token().encode_to_vec();
        let created = self.call("TokenService", "CreateToken", message).await;
        let created = CreateTokenResponse::decode(created).unwrap();
        created.token.unwrap().id
    }

    async fn webhook(&self) -> String {
        let message = create_webhook().encode_to_vec();
        let created = self.call("EventService", "CreateWebhook", message).await;
        let created = CreateWebhookResponse::decode(created).unwrap();
        created.webhook.unwrap().id
    }

    /// A request that changes something, made ready for; `None` of a method that nobody thought about.
    async fn request(&self, method: &str, fixture: &Fixture) -> Option<Vec<u8>> {
        // Those that take nothing else are one message: field 1 is a text.
        let id = |id| GetTokenRequest { id }.encode_to_vec();
        Some(match method {
            "CreateStreamKey" => create_key("created").encode_to_vec(),
            "DeleteStreamKey" | "RevokeStreamKey" | "RotateStreamKey" => id(self.key(method).await),
            "UpdateStreamKey" => {
                let stream_key = StreamKey {
                    id: self.key(method).await,
                    description: "another".to_owned(),
                    ..StreamKey::default()
                };
                let request = UpdateStreamKeyRequest {
                    stream_key: Some(stream_key),
                    update_mask: Some(prost_types::FieldMask {
                        paths: vec!["description".to_owned()],
                    }),
                    ..UpdateStreamKeyRequest::default()
                };
                request.encode_to_vec()
            }
            "RevokeSignedKey" => {
                let request = RevokeSignedKeyRequest {
                    app: APP.to_owned(),
                    jti: "j1".to_owned(),
                    ..RevokeSignedKeyRequest::default()
                };
                request.encode_to_vec()
            }
            "TerminateSession" => {
                publish(fixture, "session-a", "acme", "live", "").await;
                let request = TerminateSessionRequest {
                    id: "session-a".to_owned(),
                    ..TerminateSessionRequest::default()
                };
                request.encode_to_vec()
            }
            "DrainEdge" | "UndrainEdge" => {
                let edge = edge("edge-a");
                fixture.registry.announce_edge(&edge).await.unwrap();
                id(edge.name.to_string())
            }
            "CreateWebhook" => create_webhook().encode_to_vec(),
            "DeleteWebhook" => {
                let id = self.webhook().await;
                DeleteWebhookRequest { id }.encode_to_vec()
            }
            "ReplayWebhook" => {
                let request = ReplayWebhookRequest {
                    webhook_id: self.webhook().await,
                    ..ReplayWebhookRequest::default()
                };
                request.encode_to_vec()
            }
            "SetQuota" => SetQuotaRequest::default().encode_to_vec(),
            "CreateToken" => create_token().encode_to_vec(),
            "RevokeToken" | "RotateToken" => id(self.token().await),
            _ => return None,
        })
    }
}

/// Of a service that one tenant may not call.
fn is_everybodys(service: &str) -> bool {
    service == "EdgeService"
}

/// Good for every tenant.
const OPERATOR: &str = "a token for tests";

fn create_key(stream: &str) -> CreateStreamKeyRequest {
    CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: stream.to_owned(),
        adobe: true,
        ..CreateStreamKeyRequest::default()
    }
}

fn create_token() -> CreateTokenRequest {
    CreateTokenRequest {
        scopes: vec!["keys:read".to_owned()],
        ..CreateTokenRequest::default()
    }
}

fn create_webhook() -> CreateWebhookRequest {
    CreateWebhookRequest {
        url: "https://backend.test/".to_owned(),
        ..CreateWebhookRequest::default()
    }
}

/// What an answer shows once.
fn secret(method: &str, answer: Bytes) -> Option<String> {
    Some(match method {
        "CreateStreamKey" => CreateStreamKeyResponse::decode(answer).unwrap().secret,
        "RotateStreamKey" => RotateStreamKeyResponse::decode(answer).unwrap().secret,
        "CreateToken" => CreateTokenResponse::decode(answer).unwrap().secret,
        "RotateToken" => RotateTokenResponse::decode(answer).unwrap().secret,
        "CreateWebhook" => CreateWebhookResponse::decode(answer).unwrap().secret,
        _ => return None,
    })
}

/// `CreateStreamKey` as the log has it.
fn action(method: &str) -> String {
    let mut action = String::new();
    for letter in method.chars() {
        if letter.is_uppercase() && !action.is_empty() {
            action.push('_');
        }
        action.push(letter.to_ascii_lowercase());
    }
    action
}

/// On one thread: the subscriber is this thread's.
#[tokio::test]
async fn every_change_is_a_line_of_the_log() {
    let lines = Lines::default();
    // Where there is one subscriber alone, tracing asks the thread that comes first to a line whether anybody wants it, and
    // that may be another test's.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let mut fixture = Fixture::sqlite();
    signing(&mut fixture, Some("acme"));
    let (control, shared) = Served::start(&fixture).await;
    let (token_id, credential) = token(&shared, "acme", &[EVERY]).await;
    let (_, stranger) = token(&shared, "other", &[EVERY]).await;
    let acme = Acme {
        control,
        credential,
        token_id,
    };
    let mut secrets = vec![acme.credential.clone(), stranger.clone()];
    let reads = ["Get", "List", "Watch"];
    for path in methods() {
        let (service, method) = path.rsplit_once('/').unwrap();
        let service = service.rsplit_once('.').unwrap().1;
        if reads.iter().any(|reads| method.starts_with(reads)) {
            continue;
        }
        let request = acme.request(method, &fixture).await;
        let request = request.unwrap_or_else(|| panic!("{path}: say here how it is called"));
        // What made it ready is in the log as well.
        lines.audited(&secrets);
        if !method.starts_with("Create") && method != "SetQuota" {
            let refused = acme
                .control
                .call(&path, Some(&stranger), request.clone())
                .await;
            assert!(refused.is_err(), "{path}");
            let audited = lines.audited(&secrets);
            assert!(audited.is_empty(), "{path} changed nothing: {audited:?}");
        }
        let answer = acme.call(service, method, request).await;
        secrets.extend(secret(method, answer));
        let audited = lines.audited(&secrets);
        let [Line(line)] = &audited[..] else {
            panic!("{path}: {audited:?}");
        };
        let told = |name: &str| line.get(name).map(String::as_str);
        assert_eq!(told("action"), Some(action(method).as_str()));
        let (tenant, actor) = if is_everybodys(service) {
            (EVERY, "API token file".to_owned())
        } else {
            ("acme", format!("token {}", acme.token_id))
        };
        assert_eq!(told("tenant"), Some(tenant), "{path}");
        assert_eq!(told("actor"), Some(actor.as_str()), "{path}");
        assert!(told("client_address").is_some(), "{path}");
        // As done: "stream key changed".
        assert!(
            told("message").is_some_and(|what| what.ends_with("ed")),
            "{path}"
        );
    }
}
