//! Control as an edge sees it: decides by what the stream key says, and keeps a log of revocations.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::{
    grant::GrantSigner,
    internal::v1::{
        AdobeChallenge, AdobeResponse, AuthorizeRequest, AuthorizeResponse, Denial, DenialReason,
        EdgeCommand, Grant, KeyChange, ReportSessionsRequest, ReportSessionsResponse, Revocation,
        SessionReport, WatchRevocationsRequest, WatchRevocationsResponse,
        admission_service_server::{AdmissionService, AdmissionServiceServer},
        authorize_request::Credential,
        authorize_response::Decision,
        revocation::Target,
    },
    v1::{EventType, MediaLimits, SessionEvent, TakeoverPolicy},
};
use registry::StreamId;
use runtime::{
    grpc::{self, Endpoints, Target as GrpcTarget},
    identity::Role,
    shutdown::Shutdown,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct FakeControl {
    shared: Arc<Shared>,
}

struct Shared {
    signer: GrantSigner,
    log: watch::Sender<Vec<Target>>,
    commands: watch::Sender<Vec<EdgeCommand>>,
    requests: Mutex<Vec<AuthorizeRequest>>,
    traceparents: Mutex<Vec<String>>,
    /// Called for each decision, before it is answered.
    before_answer: Mutex<Option<Target>>,
    /// What a key waits for that is decided on slowly.
    decided: Notify,
    /// Of every grant.
    terms: Mutex<(MediaLimits, u64)>,
    reports: Mutex<Vec<SessionReport>>,
    /// How many requests with reports are answered in this way first.
    refuse_reports: Mutex<(usize, Code)>,
}

/// The response to every challenge.
pub(crate) const RIGHT: &str = "canaryResp0nse==";

fn challenge_for(user: &str) -> Response<AuthorizeResponse> {
    let challenge = AdobeChallenge {
        salt: format!("salt-of-{user}"),
        challenge: "00000001".to_owned(),
        opaque: "opaque".to_owned(),
    };
    Response::new(AuthorizeResponse {
        decision: Some(Decision::AdobeChallenge(challenge)),
    })
}

/// `good-NAME` may publish NAME, `reject-NAME` and `takeover-NAME` with that policy; `hang-…` is never answered, `slow-NAME`
/// may publish NAME once [`FakeControl::decide`] is called.
pub(crate) const DENIED: &str = "This stream key is not accepted";

impl FakeControl {
    /// Serves in process.
    pub(crate) fn start() -> (Self, Endpoints, Shutdown) {
        let signer = GrantSigner::from_pkcs8(&GrantSigner::generate_pkcs8().unwrap()).unwrap();
        let this = Self {
            shared: Arc::new(Shared {
                signer,
                log: watch::Sender::new(Vec::new()),
                commands: watch::Sender::new(Vec::new()),
                requests: Mutex::default(),
                traceparents: Mutex::default(),
                before_answer: Mutex::default(),
                decided: Notify::new(),
                terms: Mutex::default(),
                reports: Mutex::default(),
                refuse_reports: Mutex::new((0, Code::Unavailable)),
            }),
        };
        let (listener, target) = grpc::in_process(Role::Edge);
        let shutdown = Shutdown::default();
        let router = grpc::server().add_service(AdmissionServiceServer::new(this.clone()));
        tokio::spawn(grpc::serve(
            router,
            grpc::Listener::InProcess(listener),
            shutdown.clone(),
        ));
        let endpoints = Endpoints::new(vec![GrpcTarget::InProcess(target)]);
        (this, endpoints, shutdown)
    }

    /// Tells the edge that watches.
    pub(crate) fn command(&self, command: EdgeCommand) {
        self.shared.commands.send_modify(|all| all.push(command));
    }

    /// Answers the question that waits for it, `slow-…`, or the next one.
    pub(crate) fn decide(&self) {
        self.shared.decided.notify_one();
    }

    pub(crate) fn revoke_stream_key(&self, stream_key_id: &str) {
        let target = Target::StreamKeyId(stream_key_id.to_owned());
        self.shared.log.send_modify(|log| log.push(target));
    }

    /// Sessions of the key go on under other terms.
    pub(crate) fn change(&self, change: KeyChange) {
        self.shared
            .log
            .send_modify(|log| log.push(Target::Change(change)));
    }

    /// What grants say from now on: limits, and when sessions are to end.
    pub(crate) fn grant_with(&self, limits: MediaLimits, session_until_ms: u64) {
        *self.shared.terms.lock() = (limits, session_until_ms);
    }

    /// Answers so many requests with reports with an error.
    pub(crate) fn refuse_reports(&self, requests: usize, code: Code) {
        *self.shared.refuse_reports.lock() = (requests, code);
    }

    /// What was reported, by its type; an event that was reported twice is one.
    pub(crate) fn reports(&self, event_type: EventType) -> Vec<SessionEvent> {
        let reports = self.shared.reports.lock().clone();
        let mut seen = BTreeSet::new();
        reports
            .into_iter()
            .filter(|report| report.r#type() == event_type && report.time_ms > 0)
            .filter(|report| seen.insert(report.event_id.clone()))
            .filter_map(|report| report.session)
            .collect()
    }

    pub(crate) fn terminate(&self, session_id: &str) {
        let target = Target::SessionId(session_id.to_owned());
        self.shared.log.send_modify(|log| log.push(target));
    }

    /// The next grant is overtaken by this revocation.
    pub(crate) fn revoke_before_the_next_answer(&self, stream_key_id: &str) {
        *self.shared.before_answer.lock() = Some(Target::StreamKeyId(stream_key_id.to_owned()));
    }

    pub(crate) fn requests(&self) -> Vec<AuthorizeRequest> {
        self.shared.requests.lock().clone()
    }

    /// What came with each request.
    pub(crate) fn traceparents(&self) -> Vec<String> {
        self.shared.traceparents.lock().clone()
    }

    fn grant(&self, request: &AuthorizeRequest, policy: TakeoverPolicy, name: &str) -> Vec<u8> {
        let now_ms = unix_ms();
        let (limits, session_until_ms) = self.shared.terms.lock().clone();
        self.shared.signer.sign(&Grant {
            tenant: "default".to_owned(),
            app: request.app.clone(),
            stream: name.to_owned(),
            stream_id: StreamId::derive("default", &request.app, name)
                .as_bytes()
                .to_vec(),
            slot: 0,
            session_id: request.session_id.clone(),
            stream_key_id: format!("key-of-{name}"),
            issued_ms: now_ms,
            expires_ms: now_ms + 30_000,
            session_until_ms,
            takeover_policy: i32::from(policy).try_into().unwrap(),
            reconnect_window_ms: None,
            limits: Some(limits),
            ..Grant::default()
        })
    }
}

#[tonic::async_trait]
impl AdmissionService for FakeControl {
    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        let traceparent = request.metadata().get("traceparent");
        let traceparent = traceparent.map_or("", |value| value.to_str().unwrap());
        let traceparent = traceparent.to_owned();
        self.shared.traceparents.lock().push(traceparent);
        let request = request.into_inner();
        self.shared.requests.lock().push(request.clone());
        let stream_key = match &request.credential {
            Some(Credential::StreamKey(stream_key)) => stream_key.as_str(),
            Some(Credential::Adobe(credential)) => match &credential.response {
                None => return Ok(challenge_for(&credential.user)),
                Some(AdobeResponse { response, name, .. }) if response == RIGHT => name,
                Some(_) => "wrong",
            },
            None => return Err(Status::invalid_argument("no credential")),
        };
        let (policy, name) = match stream_key.split_once('-') {
            Some(("good", name)) => (TakeoverPolicy::TakeoverIfStale, name),
            Some(("slow", name)) => {
                self.shared.decided.notified().await;
                (TakeoverPolicy::TakeoverIfStale, name)
            }
            Some(("reject", name)) => (TakeoverPolicy::Reject, name),
            Some(("takeover", name)) => (TakeoverPolicy::Takeover, name),
            Some(("hang", _)) => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                return Err(Status::aborted("late"));
            }
            _ => {
                let denial = Denial {
                    reason: DenialReason::KeyNotAccepted.into(),
                    description: DENIED.to_owned(),
                    retryable: false,
                };
                return Ok(Response::new(AuthorizeResponse {
                    decision: Some(Decision::Denial(denial)),
                }));
            }
        };
        let grant = self.grant(&request, policy, name);
        let overtaking = self.shared.before_answer.lock().take();
        if let Some(target) = overtaking {
            self.shared.log.send_modify(|log| log.push(target));
            // Long enough for the watch to arrive first.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(Response::new(AuthorizeResponse {
            decision: Some(Decision::SignedGrant(grant)),
        }))
    }

    async fn report_sessions(
        &self,
        request: Request<ReportSessionsRequest>,
    ) -> Result<Response<ReportSessionsResponse>, Status> {
        let (left, code) = *self.shared.refuse_reports.lock();
        if left > 0 {
            self.shared.refuse_reports.lock().0 -= 1;
            return Err(Status::new(code, "not now"));
        }
        let reports = request.into_inner().reports;
        self.shared.reports.lock().extend(reports);
        Ok(Response::new(ReportSessionsResponse {}))
    }

    type WatchRevocationsStream = ReceiverStream<Result<WatchRevocationsResponse, Status>>;

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let mut log = self.shared.log.subscribe();
        let now = log.borrow().len();
        let mut position = request
            .into_inner()
            .after
            .map_or(now, |after| usize::try_from(after).unwrap());
        let mut commands = self.shared.commands.subscribe();
        let mut told = commands.borrow().len();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let commands_now = commands.borrow_and_update().clone();
                let revocations: Vec<Revocation> = log
                    .borrow_and_update()
                    .iter()
                    .enumerate()
                    .skip(position)
                    .map(|(index, target)| Revocation {
                        position: index as u64 + 1,
                        target: Some(target.clone()),
                        reason: "test".to_owned(),
                    })
                    .collect();
                position += revocations.len();
                let response = WatchRevocationsResponse {
                    position: position as u64,
                    revocations,
                    truncated: false,
                    commands: commands_now[told..].to_vec(),
                };
                told = commands_now.len();
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
                tokio::select! {
                    _ = log.changed() => {}
                    _ = commands.changed() => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
