//! What changes while the processes run: the live configuration, secrets, and the process's own end.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use data_encoding::{BASE64, HEXLOWER};
use proto::{
    grant::GrantSigner,
    internal::v1::{
        AuthorizeRequest, GetStateRequest, GetStateResponse,
        admission_service_client::AdmissionServiceClient,
        cluster_service_client::ClusterServiceClient,
    },
    v1::{CreateStreamKeyRequest, StreamKey},
};
use runtime::{
    grpc::{self, Target},
    identity::{Cluster as Identity, Role},
    tls::{CertificateFiles, InternalTls, InternalTlsFiles, ensure_internal_ca},
};
use tests::{
    api::{Api, IssuedKey},
    cluster::{Cluster, Layout, Node},
    deployment::APP,
    http,
    mounted::Mounted,
    turn,
    wait::wait_for,
    witness::{Witness, publish_when_free},
};
use tonic::{Code, Status};

/// For a change to be seen: many times what it takes.
const SEEN: Duration = Duration::from_secs(20);
const LIVE: &str = "live.yaml";
/// Longer than it takes to publish and to change a key.
const EXPIRES_IN: Duration = Duration::from_secs(8);

/// A cluster whose processes follow one live file.
async fn start(live: &Mounted, path: &Path) -> Cluster {
    live.write(LIVE, "control: { applications: [live] }\n");
    let common = vec![
        ("LIVE_FILE", path.join(LIVE).display().to_string()),
        ("LIVE_POLL_PERIOD", "200ms".to_owned()),
    ];
    Cluster::start(Layout {
        origins: 1,
        common,
        ..Layout::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_configuration_takes_effect_without_a_restart() {
    let _turn = turn().await;
    let directory = tempfile::tempdir().unwrap();
    let live = Mounted::new(directory.path(), LIVE, "");
    let cluster = start(&live, directory.path()).await;
    let witness_key = cluster.deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&cluster.deployment, witness_key).await;

    let studio = applications_change(&cluster, &live).await;
    a_broken_version_changes_nothing(&cluster, &live, &studio).await;
    the_log_filter_changes(&cluster, &live).await;
    connection_limits_change(&cluster, &live).await;

    witness.is_alive().await;
    witness.finish().await;
    for node in cluster.nodes() {
        assert!(node.metrics().await.is_some(), "{} runs", node.name());
    }
}

/// A key's expiry is put off while its session is live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_the_expiry_that_its_key_had() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    let api = &cluster.deployment.api;
    let expires = SystemTime::now() + EXPIRES_IN;
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: "longer".to_owned(),
        expire_time: Some(expires.into()),
        ..CreateStreamKeyRequest::default()
    };
    let key = api.try_create_key(request).await.unwrap();
    let later = StreamKey {
        id: key.id.clone(),
        expire_time: Some((expires + Duration::from_secs(3600)).into()),
        ..StreamKey::default()
    };
    let witness = Witness::start(&cluster.deployment, key).await;
    api.update_key(later, "expire_time").await.unwrap();
    wait_for("the expiry that was", EXPIRES_IN * 2, async || {
        (SystemTime::now() > expires + Duration::from_secs(1)).then_some(())
    })
    .await;
    witness.is_alive().await;
    witness.finish().await;
}

async fn try_create(api: &Api, app: &str) -> Result<IssuedKey, Status> {
    let request = CreateStreamKeyRequest {
        app: app.to_owned(),
        stream: "main".to_owned(),
        ..CreateStreamKeyRequest::default()
    };
    api.try_create_key(request).await
}

/// An application that is added can be published to; gives a key of it.
async fn applications_change(cluster: &Cluster, live: &Mounted) -> IssuedKey {
    let api = &cluster.deployment.api;
    let refused = try_create(api, "studio").await.err().unwrap();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let text = "control: { applications: [studio, live] }\n";
    live.write(LIVE, text);
    let key = wait_for("the application", SEEN, async || {
        try_create(api, "studio").await.ok()
    })
    .await;
    publishes(cluster, &key).await;

    let state = state(cluster, Role::Operator).await.unwrap();
    assert_eq!(state.applications, ["live", "studio"]);
    assert_eq!(state.live_config_hash, sha256(text));
    assert!(state.sessions.is_some(), "Redis answers");
    let refused = state_as_edge(cluster).await;
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    key
}

async fn a_broken_version_changes_nothing(cluster: &Cluster, live: &Mounted, studio: &IssuedKey) {
    let before = state(cluster, Role::Operator).await.unwrap();
    live.write(
        LIVE,
        "control: { applications: [live, 'a b'] }\nlog: { level: info }\n",
    );
    for node in cluster.nodes() {
        let mistakes = [
            "WARN",
            "control.applications",
            "log.level",
            "last good version",
        ];
        node.process().log_line(&mistakes, SEEN).await;
        assert_eq!(reloads(node, "rejected").await, 1.0, "{}", node.name());
    }
    publishes(cluster, studio).await;
    let after = state(cluster, Role::Operator).await.unwrap();
    assert_eq!(
        (after.applications, after.live_config_hash),
        (before.applications, before.live_config_hash)
    );
}

async fn the_log_filter_changes(cluster: &Cluster, live: &Mounted) {
    let applications = "control: { applications: [live] }\n";
    live.write(LIVE, &format!("log: {{ filter: warn }}\n{applications}"));
    let control = &cluster.controls[0];
    wait_for("the quiet filter", SEEN, async || {
        (reloads(control, "applied").await >= 2.0).then_some(())
    })
    .await;
    let lines = || control.process().log().lines().count();
    let quiet = lines();
    cluster.deployment.api.create_key(APP, "quiet").await;
    assert_eq!(lines(), quiet, "a key is made without a line at info");
    live.write(LIVE, &format!("log: {{ filter: debug }}\n{applications}"));
    let process = control.process();
    process
        .log_line(
            &[&sha256(&format!(
                "log: {{ filter: debug }}\n{applications}"
            ))],
            SEEN,
        )
        .await;
    cluster.deployment.api.create_key(APP, "loud").await;
    process
        .log_line(&["stream key changed", "loud"], SEEN)
        .await;
}

/// The witness has one connection.
async fn connection_limits_change(cluster: &Cluster, live: &Mounted) {
    let of_one_address = |max: u32| {
        format!(
            "control: {{ applications: [live] }}\n\
             edge: {{ connections: {{ connections_per_address_max: {max} }} }}\n"
        )
    };
    let connects = async || cluster.deployment.try_encoder().await.is_ok();
    live.write(LIVE, &of_one_address(1));
    wait_for("the refusal", SEEN, async || {
        (!connects().await).then_some(())
    })
    .await;
    live.write(LIVE, &of_one_address(10));
    wait_for("room", SEEN, async || connects().await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_rotate_under_a_live_session() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let key = cluster.deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&cluster.deployment, key.clone()).await;
    the_api_token_rotates(&cluster).await;
    the_grant_key_rotates(&cluster).await;
    witness.is_alive().await;
    witness.finish().await;
}

async fn the_api_token_rotates(cluster: &Cluster) {
    let file = cluster.base().join("api-token");
    let old = fs::read_to_string(&file).unwrap();
    replace(&file, &format!("another-token\n{old}"));
    let control = cluster.controls[0].text("public");
    let ca_file = cluster.base().join("public.pem");
    let new = Api::new(&format!("https://{control}"), &ca_file, "another-token");
    wait_for("the new token", SEEN, async || new.sessions().await.ok()).await;
    let with_old = &cluster.deployment.api;
    with_old.sessions().await.expect("both while they rotate");
    replace(&file, "another-token\n");
    let refused = wait_for("the old token's end", SEEN, async || {
        with_old.sessions().await.err()
    })
    .await;
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    replace(&file, &format!("another-token\n{old}"));
    wait_for("the old token", SEEN, async || {
        with_old.sessions().await.ok()
    })
    .await;
}

/// The public half first, then the private one, then the old public half goes.
async fn the_grant_key_rotates(cluster: &Cluster) {
    let key = cluster.deployment.api.create_key(APP, "rotated").await;
    let (public, private) = (
        cluster.base().join("grant.pub"),
        cluster.base().join("grant.key"),
    );
    let old = fs::read_to_string(&public).unwrap();
    let pkcs8 = GrantSigner::generate_pkcs8().unwrap();
    let signer = GrantSigner::from_pkcs8(&pkcs8).unwrap();
    let new = HEXLOWER.encode(&signer.public_key());
    let reloaded = async |node: &Node, what: &str, times: usize| {
        wait_for("the reload", SEEN, async || {
            let log = node.process().log();
            let lines = log.lines().filter(|line| {
                line.contains("reloaded") && line.contains(&format!("what=\"{what}\""))
            });
            (lines.count() >= times).then_some(())
        })
        .await;
    };
    replace(&public, &format!("{new}\n{old}"));
    reloaded(&cluster.origins[0], "grant keys", 1).await;
    publishes(cluster, &key).await;
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        BASE64.encode(&pkcs8)
    );
    replace(&private, &pem);
    reloaded(&cluster.controls[0], "grant key", 1).await;
    publishes(cluster, &key).await;
    replace(&public, &format!("{new}\n"));
    reloaded(&cluster.origins[0], "grant keys", 2).await;
    publishes(cluster, &key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_was_given_notice_still_takes_publishers() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        edge: vec![
            ("DRAIN_NOTICE", "6s".to_owned()),
            ("DRAIN_TIMEOUT", "60s".to_owned()),
        ],
        ..Layout::default()
    })
    .await;
    let key = cluster.deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&cluster.deployment, key).await;
    let late = cluster.deployment.api.create_key(APP, "late").await;
    let drain_state = async |node: &Node| {
        let metrics = node.metrics().await.expect("the edge answers");
        http::metric(&metrics, "headwater_drain_state", &[])
    };
    assert_eq!(drain_state(&cluster.edge).await, 0.0);

    cluster.edge.process().signal("TERM");
    let url = format!("{}/readyz", cluster.edge.text("admin_url"));
    wait_for("the edge to be unready", SEEN, async || {
        let (status, text) = http::get(&url).await.ok()?;
        (!status.is_success() && text.contains("drain: leaving")).then_some(())
    })
    .await;
    assert_eq!(drain_state(&cluster.edge).await, 1.0);
    publishes(&cluster, &late).await;
    wait_for("the edge to drain", SEEN, async || {
        (drain_state(&cluster.edge).await >= 2.0).then_some(())
    })
    .await;
    assert!(
        cluster.deployment.try_encoder().await.is_err(),
        "a drain takes no publisher"
    );
    // The drain waits for the session, and for nothing else.
    witness.is_alive().await;
    witness.finish().await;
    let status = cluster.edge.process_mut().exit(SEEN).await;
    assert!(status.success(), "{status}");
}

async fn publishes(cluster: &Cluster, key: &IssuedKey) {
    let encoder = publish_when_free(&cluster.deployment, key, SEEN).await;
    encoder.finish(&key.secret).await.unwrap();
}

async fn reloads(node: &Node, outcome: &str) -> f64 {
    let metrics = node.metrics().await.expect("the process answers");
    let outcome = format!("outcome=\"{outcome}\"");
    http::metric(&metrics, "headwater_config_reloads_total", &[&outcome])
}

/// What control says of itself to a caller with the certificate of a role.
async fn state(cluster: &Cluster, role: Role) -> Result<GetStateResponse, Status> {
    let mut client = ClusterServiceClient::new(control_channel(cluster, role));
    Ok(client.get_state(GetStateRequest {}).await?.into_inner())
}

/// Neither role may call what is the other's.
async fn state_as_edge(cluster: &Cluster) -> Status {
    let mut admission = AdmissionServiceClient::new(control_channel(cluster, Role::Operator));
    let refused = admission.authorize(AuthorizeRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    state(cluster, Role::Edge).await.unwrap_err()
}

fn control_channel(cluster: &Cluster, role: Role) -> tonic::transport::Channel {
    // As `headwater bootstrap` names the cluster.
    let identity = Identity {
        trust_domain: "headwater.local".to_owned(),
        namespace: "default".to_owned(),
        name: "dev".to_owned(),
    };
    let directory = cluster.base().join("internal");
    ensure_internal_ca(&directory, &identity, &[role]).unwrap();
    let files = InternalTlsFiles {
        identity: CertificateFiles {
            certificate: directory.join(format!("{role}.pem")),
            private_key: directory.join(format!("{role}.key")),
        },
        ca: directory.join("ca.pem"),
    };
    let tls = InternalTls::load(&files, identity).unwrap();
    let address = cluster.controls[0].text("internal");
    grpc::channel(&Target::Internal(address, tls, Role::Control))
}

/// All at once.
fn replace(path: &Path, content: &str) {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, content).unwrap();
    fs::rename(unfinished, path).unwrap();
}

fn sha256(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    HEXLOWER.encode(hash.as_ref())
}
