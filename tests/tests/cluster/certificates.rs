//! Certificates of the internal ports, against the running processes: who is refused and what is said of it, and that a
//! live session notices neither a new leaf nor a new CA.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use runtime::{
    identity::{Cluster as Identity, Role},
    tls::InternalTls,
};
use rustls::{ClientConfig, RootCertStore, client::ResolvesClientCert};
use rustls_pki_types::ServerName;
use tests::{
    authority::{Authority, Validity, bootstrapped_cluster, internal_tls},
    cluster::{Cluster, Layout, Node},
    deployment::APP,
    turn,
    wait::wait_until,
    witness::Witness,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const LOGGED: Duration = Duration::from_secs(10);
/// For files to be looked at again: many times what it takes.
const RELOADED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_certificate_is_refused_and_named_in_the_log() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let ours = bootstrapped_cluster();
    let theirs = Identity {
        name: "other".to_owned(),
        ..ours.clone()
    };
    let authority = Authority::bootstrapped(&internal(&cluster), &ours);
    let stranger = Authority::another(&ours);
    for (identity, signer, role, validity, said) in [
        (
            &ours,
            &authority,
            Role::Control,
            Validity::Now,
            "role control is not admitted here",
        ),
        (
            &theirs,
            &authority,
            Role::Edge,
            Validity::Now,
            "/cluster/other/role/edge",
        ),
        (
            &ours,
            &stranger,
            Role::Edge,
            Validity::Now,
            "invalid peer certificate",
        ),
        (
            &ours,
            &authority,
            Role::Edge,
            Validity::Expired,
            "certificate expired",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), &signer.pem).unwrap();
        signer
            .leaf(identity, role, validity)
            .write(directory.path(), role);
        let shown = internal_tls(directory.path(), identity, role).client_config(Role::Origin);
        is_refused(&cluster, &shown.client_auth_cert_resolver, said).await;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let nothing = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    is_refused(
        &cluster,
        &nothing.client_auth_cert_resolver,
        "no certificate",
    )
    .await;
}

/// At every internal port. The client trusts the server: what is tested is that the server does not trust the client.
async fn is_refused(cluster: &Cluster, shown: &Arc<dyn ResolvesClientCert>, said: &str) {
    for (node, port, role) in [
        (&cluster.origins[0], "relay", Role::Origin),
        (&cluster.controls[0], "internal", Role::Control),
    ] {
        let trusting = internal_tls(&internal(cluster), &bootstrapped_cluster(), Role::Edge);
        let mut config = (*trusting.client_config(role)).clone();
        config.client_auth_cert_resolver = shown.clone();
        let mut stream = connect(&node.text(port), config).await;
        // In TLS 1.3 the client is done before the server has looked at its certificate.
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .ok();
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        tokio::time::timeout(LOGGED, closed)
            .await
            .expect("the connection is closed")
            .expect_err("an alert, or a reset");
        node.process()
            .log_line(&["peer refused", said], LOGGED)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_session_notices_neither_a_new_leaf_nor_a_new_ca() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let (ours, directory) = (bootstrapped_cluster(), internal(&cluster));
    let deployment = &cluster.deployment;
    let key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(deployment, key).await;
    let old = Authority::bootstrapped(&directory, &ours);
    let first_edge = internal_tls(&copy(&cluster), &ours, Role::Edge);

    leaves_are_replaced(&cluster, &old).await;
    witness.is_alive().await;
    publishes(&cluster, "new-leaf").await;

    // The overlap: everybody trusts both before anybody shows the new one.
    let new = Authority::another(&ours);
    let both = format!("{}{}", old.pem, new.pem);
    reloaded(&cluster, || {
        fs::write(directory.join("ca.pem"), both).unwrap()
    })
    .await;
    leaves_are_replaced(&cluster, &new).await;
    witness.is_alive().await;
    publishes(&cluster, "new-ca").await;

    // The old CA goes, and who still shows its leaf is refused.
    let shown = first_edge.client_config(Role::Origin);
    let shown = &shown.client_auth_cert_resolver;
    let trusting = internal_tls(&directory, &ours, Role::Edge);
    let origin = &cluster.origins[0];
    assert!(admits(origin, &trusting, shown).await, "while both hold");
    reloaded(&cluster, || {
        fs::write(directory.join("ca.pem"), &new.pem).unwrap()
    })
    .await;
    assert!(
        !admits(origin, &trusting, shown).await,
        "the old CA is gone"
    );
    publishes(&cluster, "old-ca-gone").await;
    witness.is_alive().await;
    witness.finish().await;
}

/// New leaves for every role; returns once they are in use.
async fn leaves_are_replaced(cluster: &Cluster, authority: &Authority) {
    let (ours, directory) = (bootstrapped_cluster(), internal(cluster));
    let roles = [Role::Edge, Role::Control, Role::Origin];
    let leaves = roles.map(|role| (role, authority.leaf(&ours, role, Validity::Now)));
    reloaded(cluster, || {
        for (role, leaf) in &leaves {
            leaf.write(&directory, *role);
        }
    })
    .await;
    for (node, port, role) in [
        (&cluster.origins[0], "relay", Role::Origin),
        (&cluster.controls[0], "internal", Role::Control),
    ] {
        let expected = leaves.iter().find(|(of, _)| *of == role).unwrap();
        let client = internal_tls(&directory, &ours, Role::Edge).client_config(role);
        let stream = connect(&node.text(port), (*client).clone()).await;
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        assert_eq!(
            shown[0].as_ref(),
            expected.1.der,
            "{role} shows its new leaf"
        );
    }
}

/// Changes files, and returns once every process has them.
async fn reloaded(cluster: &Cluster, change: impl FnOnce()) {
    let reloads = |node: &Node| {
        let log = node.process().log();
        let lines = log.lines().filter(|line| line.contains("reloaded"));
        lines.filter(|line| line.contains("ca.pem")).count()
    };
    let before: Vec<usize> = cluster.nodes().map(reloads).collect();
    change();
    for (node, before) in cluster.nodes().zip(before) {
        let what = format!("{} to reload its certificate", node.name());
        wait_until(&what, RELOADED, || reloads(node) > before).await;
    }
}

/// Whether a node's internal port goes on behind the handshake.
async fn admits(node: &Node, trusting: &InternalTls, shown: &Arc<dyn ResolvesClientCert>) -> bool {
    let (port, role) = match node.name() {
        name if name.starts_with("origin") => ("relay", Role::Origin),
        _ => ("internal", Role::Control),
    };
    let mut config = (*trusting.client_config(role)).clone();
    config.client_auth_cert_resolver = shown.clone();
    let mut stream = connect(&node.text(port), config).await;
    // HTTP/2's preface and empty SETTINGS: the server answers with its own where it admits us.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.ok();
    stream.read_u8().await.is_ok()
}

async fn publishes(cluster: &Cluster, stream: &str) {
    let key = cluster.deployment.api.create_key(APP, stream).await;
    let encoder = cluster.deployment.publish(&key).await;
    encoder.finish(&key.secret).await.unwrap();
}

async fn connect(
    address: &str,
    config: ClientConfig,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("headwater").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, socket).await.unwrap()
}

fn internal(cluster: &Cluster) -> PathBuf {
    cluster.base().join("internal")
}

/// The internal certificates as they are now.
fn copy(cluster: &Cluster) -> PathBuf {
    let copy = cluster.directory.path().join("internal-copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(internal(cluster)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}
