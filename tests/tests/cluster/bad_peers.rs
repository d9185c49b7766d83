//! Inside the cluster network: a peer must prove its role, and what it brings must be what control allowed.

use std::{net::SocketAddr, path::Path, time::Duration};

use proto::{
    error,
    grant::GrantSigner,
    internal::v1::{
        AuthorizeRequest, Grant, PublishOpen, PublishRequest,
        admission_service_client::AdmissionServiceClient, publish_request::Request,
        relay_service_client::RelayServiceClient,
    },
};
use runtime::{
    grpc::{self, Target},
    identity::{Cluster as Identity, Role},
    tls::{CertificateFiles, InternalTls, InternalTlsFiles, ensure_internal_ca},
};
use tests::{
    cluster::{Cluster, Layout},
    deployment::APP,
    tls, turn,
    witness::Witness,
};
use tonic::{Code, Status};

const LOGGED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_admits_only_who_and_what_it_should() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    let key = cluster.deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&cluster.deployment, key).await;

    wrong_roles_are_refused(&cluster).await;
    another_clusters_certificate_is_refused(&cluster).await;
    plaintext_is_refused(&cluster).await;
    a_forged_grant_is_refused(&cluster).await;
    an_expired_grant_is_refused(&cluster).await;
    a_grant_of_another_stream_is_refused(&cluster).await;

    witness.is_alive().await;
    witness.finish().await;
}

/// An edge may publish at an origin and ask control; nobody else may.
async fn wrong_roles_are_refused(cluster: &Cluster) {
    for role in [Role::Control, Role::Origin] {
        let certificate = internal_tls(&internal_directory(cluster), &identity(), role);
        publish(cluster, certificate.clone(), PublishOpen::default())
            .await
            .expect_err("an origin admits edges alone");
        authorize(cluster, certificate)
            .await
            .expect_err("control admits edges alone");
    }
    let origin = cluster.origins[0].process();
    origin
        .log_line(&["role control is not admitted here"], LOGGED)
        .await;
    let control = cluster.controls[0].process();
    control
        .log_line(&["role origin is not admitted here"], LOGGED)
        .await;
    let edge = internal_tls(&internal_directory(cluster), &identity(), Role::Edge);
    let answer = authorize(cluster, edge).await.unwrap_err();
    // To a request without a credential: the edge itself was let in.
    assert_eq!(answer.code(), Code::InvalidArgument, "{answer}");
}

async fn another_clusters_certificate_is_refused(cluster: &Cluster) {
    // The same names, signed by another CA.
    let directory = tempfile::tempdir().unwrap();
    ensure_internal_ca(directory.path(), &identity(), &[Role::Edge]).unwrap();
    let stranger = internal_tls(directory.path(), &identity(), Role::Edge);
    publish(cluster, stranger, PublishOpen::default())
        .await
        .expect_err("another CA's certificate");
}

async fn plaintext_is_refused(cluster: &Cluster) {
    let address: SocketAddr = cluster.origins[0].text("relay").parse().unwrap();
    let connection = tls::connect_plain(address).await.unwrap();
    let mut encoder = tests::encoder::Encoder::new(connection);
    encoder
        .send_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .ok();
    encoder.until_closed(LOGGED).await;
}

async fn a_forged_grant_is_refused(cluster: &Cluster) {
    let forger = GrantSigner::from_pkcs8(&GrantSigner::generate_pkcs8().unwrap()).unwrap();
    let status = publish_with_grant(cluster, &forger, grant("forged", 60_000)).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(error::reason(&status).as_deref(), Some("GRANT_INVALID"));
    let origin = cluster.origins[0].process();
    origin.log_line(&["GRANT_INVALID"], LOGGED).await;
}

async fn an_expired_grant_is_refused(cluster: &Cluster) {
    let control = control_signer(cluster);
    let status = publish_with_grant(cluster, &control, grant("expired", -120_000)).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(error::reason(&status).as_deref(), Some("GRANT_INVALID"));
}

async fn a_grant_of_another_stream_is_refused(cluster: &Cluster) {
    let control = control_signer(cluster);
    let mut open = open(&control, &grant("one", 60_000));
    open.stream_id = grant("another", 60_000).stream_id;
    let edge = internal_tls(&internal_directory(cluster), &identity(), Role::Edge);
    let status = publish(cluster, edge, open).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(error::reason(&status).as_deref(), Some("GRANT_INVALID"));
}

/// A grant for a stream, good for this many milliseconds from now.
fn grant(stream: &str, milliseconds: i64) -> Grant {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    Grant {
        tenant: "default".to_owned(),
        app: APP.to_owned(),
        stream: stream.to_owned(),
        stream_id: tests::stream_id("default", APP, stream),
        session_id: "0190a6f0-0000-7000-8000-000000000000".to_owned(),
        issued_ms: (now - 200_000).unsigned_abs(),
        expires_ms: (now + milliseconds).unsigned_abs(),
        ..Grant::default()
    }
}

fn open(signer: &GrantSigner, grant: &Grant) -> PublishOpen {
    PublishOpen {
        signed_grant: signer.sign(grant),
        stream_id: grant.stream_id.clone(),
        session_id: grant.session_id.clone(),
        epoch: grant.issued_ms,
        attempt: 1,
        broadcast_id: "0190a6f0000070008000000000000001".to_owned(),
        ..PublishOpen::default()
    }
}

async fn publish_with_grant(cluster: &Cluster, signer: &GrantSigner, grant: Grant) -> Status {
    let edge = internal_tls(&internal_directory(cluster), &identity(), Role::Edge);
    let result = publish(cluster, edge, open(signer, &grant)).await;
    result.expect_err("the origin refuses the grant")
}

/// The refusal of a publish at the first origin; `Ok` where it is accepted.
async fn publish(cluster: &Cluster, tls: InternalTls, open: PublishOpen) -> Result<(), Status> {
    let target = Target::Internal(cluster.origins[0].text("relay"), tls, Role::Origin);
    let request = PublishRequest {
        request: Some(Request::Open(open)),
    };
    // Stays open behind its first request, as a relay does.
    let requests = tokio_stream::StreamExt::chain(
        tokio_stream::once(request),
        tokio_stream::pending::<PublishRequest>(),
    );
    let mut client = RelayServiceClient::new(grpc::channel(&target));
    let mut responses = client.publish(requests).await?.into_inner();
    responses.message().await.map(|_accepted| ())
}

async fn authorize(cluster: &Cluster, tls: InternalTls) -> Result<(), Status> {
    let target = Target::Internal(cluster.controls[0].text("internal"), tls, Role::Control);
    let mut client = AdmissionServiceClient::new(grpc::channel(&target));
    client.authorize(AuthorizeRequest::default()).await?;
    Ok(())
}

fn internal_tls(directory: &Path, cluster: &Identity, role: Role) -> InternalTls {
    let files = InternalTlsFiles {
        identity: CertificateFiles {
            certificate: directory.join(format!("{role}.pem")),
            private_key: directory.join(format!("{role}.key")),
        },
        ca: directory.join("ca.pem"),
    };
    InternalTls::load(&files, cluster.clone()).unwrap()
}

fn internal_directory(cluster: &Cluster) -> std::path::PathBuf {
    cluster.base().join("internal")
}

/// As `headwater bootstrap` names the cluster.
fn identity() -> Identity {
    Identity {
        trust_domain: "headwater.local".to_owned(),
        namespace: "default".to_owned(),
        name: "dev".to_owned(),
    }
}

fn control_signer(cluster: &Cluster) -> GrantSigner {
    tests::grant_signer(&cluster.base().join("grant.key"))
}
