//! Follows control's log of revocations, terminations and changed terms, and does to live sessions what it says.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::rand;
use proto::internal::v1::{
    WatchRevocationsRequest, WatchRevocationsResponse,
    admission_service_client::AdmissionServiceClient, revocation,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Status;
use tracing::{info, warn};

use crate::{
    Context, commands,
    live::{Order, Target},
};

/// How far this edge has read the log.
pub(crate) struct Revocations {
    position: watch::Sender<Option<u64>>,
}

/// The first pause before the watch is opened again; doubles up to [`PAUSE_MAX`], half of it random.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Control gives a sign of life every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(12);

impl Revocations {
    pub(crate) fn new() -> Self {
        Self {
            position: watch::Sender::new(None),
        }
    }

    /// Waits until the log is followed: a publish that was authorized before could miss its own revocation.
    pub(crate) async fn followed(&self) {
        // The sender is `self`: the channel cannot close here.
        self.position
            .subscribe()
            .wait_for(Option::is_some)
            .await
            .ok();
    }
}

/// Follows the log for as long as the edge runs.
pub(crate) async fn follow(context: Arc<Context>) {
    let mut pause = PAUSE;
    let mut reported = false;
    loop {
        let before = *context.revocations.position.borrow();
        let ended = watch_once(&context).await;
        if *context.revocations.position.borrow() != before {
            pause = PAUSE;
            reported = false;
        }
        if !reported {
            match &ended {
                Ok(()) => info!("control closed the revocation watch, trying another"),
                Err(status) => {
                    warn!(code = ?status.code(), error = status.message(), "the revocation watch broke");
                }
            }
            reported = true;
        }
        context.metrics.revocation_watch_restarts.inc();
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn watch_once(context: &Context) -> Result<(), Status> {
    let after = *context.revocations.position.borrow();
    // As a call, so that a control that cannot be reached is tried last the next time.
    let edge = &context.edge;
    let watch = context.admission.control().call(|channel| async move {
        let edge = edge.to_string();
        AdmissionServiceClient::new(channel)
            .watch_revocations(WatchRevocationsRequest { after, edge })
            .await
    });
    let mut responses = watch.await?.into_inner();
    while let Some(response) = in_time(responses.message()).await? {
        apply(context, response);
    }
    Ok(())
}

/// A control that hangs with its connections open would hide revocations.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match timeout(SILENCE_MAX, answer).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Status::deadline_exceeded("the watch is silent")),
    }
}

fn apply(context: &Context, response: WatchRevocationsResponse) {
    let WatchRevocationsResponse {
        position,
        revocations,
        truncated,
        commands: told,
    } = response;
    for command in told {
        commands::pushed(context, command);
    }
    if truncated {
        warn!(
            "revocations that this edge has not seen were pruned; sessions of revoked keys may go on"
        );
    }
    for revocation in revocations {
        let order = match revocation.target {
            Some(revocation::Target::SessionId(session_id)) => {
                Order::Revoke(Target::Session(session_id))
            }
            Some(revocation::Target::StreamKeyId(stream_key_id)) => {
                Order::Revoke(Target::StreamKey(stream_key_id))
            }
            Some(revocation::Target::Change(change)) => Order::Change(Arc::new(change)),
            // Of a control of a later version.
            None => continue,
        };
        let what = match order {
            Order::Change(_) => "other terms",
            Order::Revoke(_) => "revoked",
        };
        let sessions = context.live.obey(order);
        if sessions > 0 {
            info!(sessions, position = revocation.position, reason = ?revocation.reason, "{what}");
        }
    }
    context.revocations.position.send_replace(Some(position));
    context.readiness.met(READY);
}

/// The readiness condition: revocations are followed.
pub(crate) const READY: &str = "edge-control";

/// Between half of a pause and all of it.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is merely in step with others.
    rand::fill(&mut random).ok();
    let [random] = random;
    pause / 2 + pause / 2 * u32::from(random) / 255
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proto::internal::v1::{
        AuthorizeRequest, AuthorizeResponse, ReportSessionsRequest, ReportSessionsResponse,
        admission_service_server::{AdmissionService, AdmissionServiceServer},
    };
    use runtime::{
        grpc::{self, Endpoints},
        identity::Role,
        shutdown::Shutdown,
    };
    use tokio_stream::Pending;
    use tonic::{Request, Response};

    use super::*;
    use crate::session::tests::context;

    /// Takes watches and never says anything.
    #[derive(Clone, Default)]
    struct Hung {
        watches: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl AdmissionService for Hung {
        async fn authorize(
            &self,
            _: Request<AuthorizeRequest>,
        ) -> Result<Response<AuthorizeResponse>, Status> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn report_sessions(
            &self,
            _: Request<ReportSessionsRequest>,
        ) -> Result<Response<ReportSessionsResponse>, Status> {
            Ok(Response::new(ReportSessionsResponse {}))
        }

        type WatchRevocationsStream = Pending<Result<WatchRevocationsResponse, Status>>;

        async fn watch_revocations(
            &self,
            _: Request<WatchRevocationsRequest>,
        ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
            self.watches.fetch_add(1, Ordering::Relaxed);
            Ok(Response::new(tokio_stream::pending()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_that_hangs_is_left() {
        let control = Hung::default();
        let (listener, target) = grpc::in_process(Role::Edge);
        let router = grpc::server().add_service(AdmissionServiceServer::new(control.clone()));
        let listener = grpc::Listener::InProcess(listener);
        tokio::spawn(grpc::serve(router, listener, Shutdown::default()));
        let control_endpoints = Endpoints::new(vec![grpc::Target::InProcess(target)]);
        let context = context(Shutdown::default(), control_endpoints);
        let following = tokio::spawn(follow(context));
        sleep(SILENCE_MAX * 3).await;
        following.abort();
        assert!(control.watches.load(Ordering::Relaxed) >= 2);
    }

    #[test]
    fn a_jittered_pause_stays_within_its_half() {
        for _ in 0..1000 {
            let pause = jittered(PAUSE);
            assert!(pause >= PAUSE / 2 && pause <= PAUSE, "{pause:?}");
        }
    }
}
