use std::path::Path;

use tokio::time::timeout;
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_client::HealthClient, health_server::HealthServer,
};

use super::*;
use crate::{
    identity::Cluster,
    tls::{CertificateFiles, InternalTlsFiles, ensure_internal_ca},
};

const DEADLINE: Duration = Duration::from_secs(10);

fn internal(directory: &Path, role: Role) -> InternalTls {
    let cluster = Cluster {
        trust_domain: "headwater.test".to_owned(),
        namespace: "media".to_owned(),
        name: "one".to_owned(),
    };
    ensure_internal_ca(directory, &cluster, &Role::ALL).unwrap();
    let files = InternalTlsFiles {
        identity: CertificateFiles {
            certificate: directory.join(format!("{role}.pem")),
            private_key: directory.join(format!("{role}.key")),
        },
        ca: directory.join("ca.pem"),
    };
    InternalTls::load(&files, cluster).unwrap()
}

/// The health service is a probe that every test can call; `Watch` is a long-lived RPC. It says who called.
fn router() -> tonic::transport::server::Router {
    let (_, service) = tonic_health::server::health_reporter();
    let service =
        tonic::service::interceptor::InterceptedService::new(service, |request: Request<()>| {
            match request.extensions().get::<Peer>() {
                Some(peer) if peer.role == Some(Role::Edge) => Ok(request),
                other => Err(Status::permission_denied(format!("{other:?}"))),
            }
        });
    server().add_service(Named(service))
}

/// An intercepted service keeps no name.
#[derive(Clone)]
struct Named<S>(S);

impl<S> tonic::server::NamedService for Named<S> {
    const NAME: &'static str =
        <HealthServer<tonic_health::server::HealthService> as tonic::server::NamedService>::NAME;
}

impl<S, R> tower::Service<R> for Named<S>
where
    S: tower::Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

async fn run(tls: &InternalTls) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::default();
    let listener = Listener::Internal(listener, tls.clone(), vec![Role::Edge]);
    let task = tokio::spawn(serve(router(), listener, shutdown.clone()));
    Running {
        address,
        shutdown,
        task,
    }
}

async fn check(channel: Channel) -> Result<i32, Status> {
    let response = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await?;
    Ok(response.into_inner().status)
}

#[tokio::test]
async fn a_call_goes_in_process_with_the_trusted_role() {
    let (listener, target) = in_process(Role::Edge);
    let shutdown = Shutdown::default();
    let task = tokio::spawn(serve(
        router(),
        Listener::InProcess(listener),
        shutdown.clone(),
    ));
    assert_eq!(check(channel(&Target::InProcess(target))).await.unwrap(), 1);
    shutdown.stop();
    timeout(DEADLINE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_call_goes_over_mutual_tls_and_the_wrong_role_does_not_get_in() {
    let directory = tempfile::tempdir().unwrap();
    let running = run(&internal(directory.path(), Role::Origin)).await;
    let address = running.address.to_string();
    let edge = internal(directory.path(), Role::Edge);
    let target = |tls: &InternalTls, role| Target::Internal(address.clone(), tls.clone(), role);
    assert_eq!(
        check(channel(&target(&edge, Role::Origin))).await.unwrap(),
        1
    );

    // The client refuses a server of another role …
    let error = check(channel(&target(&edge, Role::Control)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    // … and the server a client of another role.
    let control = internal(directory.path(), Role::Control);
    check(channel(&target(&control, Role::Origin)))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn plaintext_and_public_callers_have_no_role() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        router(),
        Listener::Plaintext(listener),
        Shutdown::default(),
    ));
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let error = check(channel).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error:?}");
    assert!(error.message().contains("role: None"), "{error:?}");
}

#[tokio::test]
async fn three_hundred_open_rpcs_on_one_connection_do_not_hang() {
    let (listener, target) = in_process(Role::Edge);
    tokio::spawn(serve(
        router(),
        Listener::InProcess(listener),
        Shutdown::default(),
    ));
    let channel = channel(&Target::InProcess(target));
    let mut open = Vec::new();
    for number in 0..300 {
        let watch = HealthClient::new(channel.clone());
        let first = async move {
            let mut watch = watch;
            let mut updates = watch
                .watch(HealthCheckRequest::default())
                .await?
                .into_inner();
            updates.message().await?;
            Ok::<_, Status>(updates)
        };
        let updates = timeout(DEADLINE, first)
            .await
            .unwrap_or_else(|_| panic!("RPC {number} hangs"));
        open.push(updates.unwrap());
    }
}

#[tokio::test]
async fn a_drain_refuses_new_connections_and_stop_ends_open_rpcs_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let running = run(&internal(directory.path(), Role::Origin)).await;
    let edge = internal(directory.path(), Role::Edge);
    let target = Target::Internal(running.address.to_string(), edge, Role::Origin);
    let mut updates = HealthClient::new(channel(&target))
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    updates.message().await.unwrap().unwrap();

    running.shutdown.give_notice();
    assert_eq!(check(channel(&target)).await.unwrap(), 1, "still accepts");
    running.shutdown.drain();
    let refused = async { while check(channel(&target)).await.is_ok() {} };
    timeout(DEADLINE, refused).await.expect("still accepts");
    assert!(!running.task.is_finished(), "an RPC is open");

    running.shutdown.stop();
    let ended = timeout(DEADLINE, updates.message())
        .await
        .expect("still open");
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    timeout(DEADLINE, running.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_gone_costs_no_call() {
    let directory = tempfile::tempdir().unwrap();
    let control = internal(directory.path(), Role::Control);
    let edge = internal(directory.path(), Role::Edge);
    let (one, two) = (run(&control).await, run(&control).await);
    let target =
        |address: SocketAddr| Target::Internal(address.to_string(), edge.clone(), Role::Control);
    let endpoints = Endpoints::new(vec![target(one.address), target(two.address)]);
    for _ in 0..4 {
        assert_eq!(endpoints.call(check).await.unwrap(), 1);
    }
    one.shutdown.stop();
    timeout(DEADLINE, one.task).await.unwrap().unwrap().unwrap();
    for _ in 0..8 {
        assert_eq!(endpoints.call(check).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_left_in_time_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let control = internal(directory.path(), Role::Control);
    let edge = internal(directory.path(), Role::Edge);
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = run(&control).await;
    let target =
        |address: SocketAddr| Target::Internal(address.to_string(), edge.clone(), Role::Control);
    let endpoints = Endpoints::new(vec![
        target(silent.local_addr().unwrap()),
        target(good.address),
    ]);
    for _ in 0..4 {
        let started = std::time::Instant::now();
        assert_eq!(endpoints.call(check).await.unwrap(), 1);
        println!("answered after {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn an_answer_of_the_service_is_not_asked_for_twice() {
    let (listener, target) = in_process(Role::Edge);
    tokio::spawn(serve(
        router(),
        Listener::InProcess(listener),
        Shutdown::default(),
    ));
    let endpoints = Endpoints::new(vec![Target::InProcess(target)]);
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let error = endpoints
        .call(|channel| {
            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                HealthClient::new(channel)
                    .check(HealthCheckRequest {
                        service: "no such service".to_owned(),
                    })
                    .await
            }
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(calls.into_inner(), 1);
}

#[tokio::test]
async fn no_endpoint_is_unavailable() {
    let error = Endpoints::new(Vec::new()).call(check).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
