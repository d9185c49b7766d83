//! FFmpeg 9 (OpenSSL) shows a client certificate, and names the server it means; no other encoder of these can show one.

use std::{fs, path::Path, time::Duration};

use proto::v1::CreateStreamKeyRequest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tests::{
    clients::{Address, Client},
    cluster::{Cluster, Layout},
    deployment::APP,
    turn,
};

const SEEN: Duration = Duration::from_secs(60);
const SECONDS: u32 = 2;
const NAME: &str = "camera-7.example";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_9_publishes_with_a_client_certificate_and_is_refused_without() {
    let _turn = turn().await;
    let files = tempfile::tempdir().unwrap();
    let ca = issue(files.path());
    let cluster = Cluster::start(Layout {
        origins: 1,
        edge: vec![(
            "EDGE__CLIENT_CERTIFICATES",
            format!("{{ mode: optional, ca: {ca} }}"),
        )],
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let key = deployment
        .api
        .try_create_key(CreateStreamKeyRequest {
            app: APP.to_owned(),
            stream: "bound".to_owned(),
            client_certificate: NAME.to_owned(),
            ..CreateStreamKeyRequest::default()
        })
        .await
        .unwrap();
    let address = Address::secure(deployment, &key.secret);
    let subscriber = deployment.subscribe(&key);
    let mut refused = Client::Ffmpeg9.publish(&address, SECONDS, &deployment.logs);
    assert!(!refused.finish().await.success());
    let told = "This stream key needs its client certificate";
    assert!(refused.said().contains(told), "{}", refused.said());

    let path = |name| files.path().join(name).to_str().unwrap().to_owned();
    let (certificate, private_key) = (path("client.pem"), path("client.key"));
    let shown = ["-cert_file", &certificate, "-key_file", &private_key];
    let mut publisher = Client::Ffmpeg9.publish_with(&shown, &address, SECONDS, &deployment.logs);
    let status = publisher.finish().await;
    assert!(status.success(), "{status}: {}", publisher.said());
    subscriber.finish(SEEN).await.assert_contiguous();
}

/// A CA's certificate (its path), and one of a client that it issued.
fn issue(directory: &Path) -> String {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "encoders");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let file = directory.join("ca.pem");
    fs::write(&file, ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, key);
    let client = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = client.signed_by(&key, &issuer).unwrap();
    fs::write(directory.join("client.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("client.key"), key.serialize_pem()).unwrap();
    file.to_str().unwrap().to_owned()
}
