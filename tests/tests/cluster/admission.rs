//! Applications whose keys the platform makes: signed ones, and ones that its backend is asked about. FFmpeg publishes.

use std::{fs, path::Path, process::Command, time::Duration};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tests::{
    backend::{Asked, Backend},
    binary,
    cluster::{Cluster, Layout},
    ffmpeg::{self, Pace},
    fixture,
    process::Process,
    secrets::Needle,
    signing::{AUDIENCE, ISSUER, Signer},
    turn,
    wait::{wait_for, wait_until},
};

const LIVE: Duration = Duration::from_secs(30);
const PUBLISHED: Duration = Duration::from_secs(60);
const SIGNED: &str = "events";
const ASKED: &str = "studio";
/// Longer than any test.
const LOOPS: u32 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_publishes_with_keys_of_the_platforms_making() {
    let _turn = turn().await;
    let directory = tempfile::tempdir().unwrap();
    let mut backend = Backend::new(directory.path(), answer);
    backend.up().await;
    let signer = Signer::generate();
    let webhook_secret = format!("whsec_{}", BASE64.encode(&SECRET));
    let applications = applications(directory.path(), &signer, &webhook_secret, &backend);
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        log_filter: "trace".to_owned(),
        control: vec![
            ("CONTROL__APPLICATIONS", applications),
            ("CONTROL__EGRESS", backend.egress.clone()),
        ],
        ..Layout::default()
    })
    .await;
    cluster.redis.monitor().await;

    let mut secrets = vec![webhook_secret.clone()];
    secrets.extend(signed_keys(&cluster, &signer).await);
    secrets.extend(asked_keys(&cluster).await);
    let asked = backend.asked();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.is_signed(&webhook_secret)));
    for node in cluster.nodes() {
        let log = node.process().log();
        assert!(log.contains("TRACE"), "{} logs everything", node.name());
        absent(&secrets, &format!("the log of {}", node.name()), &log);
        let metrics = node.metrics().await.unwrap();
        absent(
            &secrets,
            &format!("the metrics of {}", node.name()),
            &metrics,
        );
    }
    // The search finds what is there.
    let of_ffmpeg = fs::read(cluster.directory.path().join("ffmpeg-alone.log")).unwrap();
    let used = Needle::of_end(&secrets[1]);
    assert!(!used.found_in(&of_ffmpeg).is_empty(), "the encoder's own");
    absent(
        &secrets,
        "Redis's commands",
        &cluster.redis.commands().await,
    );
}

/// Both ways to show one, then revoked, then forged; all keys that were used.
async fn signed_keys(cluster: &Cluster, signer: &Signer) -> Vec<String> {
    let alone = signer.sign("alone", "j1");
    let mut as_key = publish(cluster, "alone", SIGNED, &alone);
    assert_eq!(live(cluster, "alone").await, "jti:default:events:j1");
    let behind = signer.sign("behind", "j2");
    let name = format!("behind?token={behind}");
    let mut as_token = publish(cluster, "behind", SIGNED, &name);
    assert_eq!(live(cluster, "behind").await, "jti:default:events:j2");

    revoke(cluster, "j1");
    let status = as_key.exit(PUBLISHED).await;
    assert!(!status.success(), "{}", as_key.log());
    wait_for("its session to be over", LIVE, async || {
        let session = cluster.deployment.api.session_of("alone").await;
        session.is_none().then_some(())
    })
    .await;
    // The other one goes on.
    assert!(as_token.ended().is_none(), "{}", as_token.log());
    assert!(cluster.deployment.api.session_of("behind").await.is_some());
    let forged = Signer::generate().sign("alone", "j3");
    for (name, key) in [("revoked", &alone), ("forged", &forged)] {
        let mut refused = publish(cluster, name, SIGNED, key);
        is_told(&mut refused, "Stream key not accepted").await;
    }
    vec![alone, behind, forged]
}

/// Allowed, allowed less than it sends, and refused; all keys that were used.
async fn asked_keys(cluster: &Cluster) -> Vec<String> {
    let mut allowed = publish(cluster, "allowed", ASKED, ALLOWED);
    let credential = live(cluster, "allowed").await;
    assert!(credential.starts_with("webhook:"), "{credential}");
    assert!(allowed.ended().is_none(), "{}", allowed.log());
    let mut limited = publish(cluster, "limited", ASKED, LIMITED);
    let told = "Picture of 320x180 above this key's limit of 100 in height";
    is_told(&mut limited, told).await;
    let mut refused = publish(cluster, "refused", ASKED, REFUSED);
    is_told(&mut refused, PLATFORM_SAYS).await;
    [ALLOWED, LIMITED, REFUSED].map(str::to_owned).to_vec()
}

/// What the platform's backend decides.
fn answer(asked: &Asked) -> (u16, String) {
    let asked = asked.json();
    let answer = match asked["data"]["stream_key"].as_str().unwrap() {
        ALLOWED => json!({"allow": true, "stream": "allowed"}),
        LIMITED => {
            json!({"allow": true, "stream": "limited", "policy": {"limits": {"max_height": 100}}})
        }
        _ => json!({"allow": false, "reason": PLATFORM_SAYS}),
    };
    (200, answer.to_string())
}

fn applications(directory: &Path, signer: &Signer, secret: &str, backend: &Backend) -> String {
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let signed = json!({
        "issuer": ISSUER, "audience": AUDIENCE, "jwks_file": file("jwks.json", &signer.jwks()),
    });
    let webhook =
        json!({"url": backend.url("/publish"), "secret_file": file("webhook-secret", secret)});
    json!([
        {"name": SIGNED, "admission": {"signed": signed}},
        {"name": ASKED, "admission": {"webhook": webhook}},
    ])
    .to_string()
}

fn publish(cluster: &Cluster, name: &str, app: &str, key: &str) -> Process {
    let deployment = &cluster.deployment;
    let url = format!("{}/{key}", deployment.rtmps_url(app));
    let (name, file) = (format!("ffmpeg-{name}"), fixture("source.flv"));
    ffmpeg::publish_named(&name, &file, LOOPS, Pace::RealTime, &url, &deployment.logs)
}

/// The credential of the stream's session, once there is one.
async fn live(cluster: &Cluster, stream: &str) -> String {
    let what = format!("{stream} to be live");
    let session = wait_for(&what, LIVE, async || {
        cluster.deployment.api.session_of(stream).await
    });
    session.await.stream_key_id
}

async fn is_told(ffmpeg: &mut Process, text: &str) {
    wait_until(text, PUBLISHED, || ffmpeg.log().contains(text)).await;
    let status = ffmpeg.exit(PUBLISHED).await;
    assert!(!status.success(), "{}", ffmpeg.log());
}

/// As an operator does.
fn revoke(cluster: &Cluster, jti: &str) {
    let base = cluster.base();
    let output = Command::new(binary::headwater())
        .args(["keys", "revoke-signed", "--app", SIGNED, "--jti", jti])
        .args(["--reason", "leaked", "-o", "json"])
        .arg("--server")
        .arg(format!("https://{}", cluster.controls[0].text("public")))
        .arg("--token-file")
        .arg(base.join("api-token"))
        .arg("--ca-file")
        .arg(base.join("public.pem"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json!({"app": SIGNED, "jti": jti}));
}

fn absent(secrets: &[String], place: &str, text: &str) {
    for secret in secrets {
        Needle::of_end(secret).assert_absent(place, text.as_bytes());
    }
}

const PLATFORM_SAYS: &str = "Your plan has ended";
const SECRET: [u8; 32] = [
    0x3b, 0x51, 0x0e, 0x92, 0xd7, 0x60, 0xaf, 0x18, 0x84, 0xc9, 0x27, 0x6d, 0xf3, 0x1a, 0xbe, 0x45,
    0x70, 0x9c, 0xe8, 0x03, 0x5f, 0xb6, 0x2c, 0xd1, 0x99, 0x4a, 0x06, 0xe5, 0x7d, 0x33, 0xc0, 0x8b,
];
const ALLOWED: &str = "platform-key-qv3k8zt1m6xw2r9h4ybn7cdf5gjp";
const LIMITED: &str = "platform-key-wz7p2hn9c4kt6bq1rxd8ymvg3fj5";
const REFUSED: &str = "platform-key-bt5m9xk3rq7wz1cv8hp2nyd6gfj4";
