//! FFmpeg that shows a certificate, as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::v1::CreateStreamKeyRequest;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tests::{
    api::IssuedKey,
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    fixture,
    http::metric,
    process::{self, Process},
    turn,
    wait::wait_for,
};

const STARTED: Duration = Duration::from_secs(20);
pub(crate) const NAME: &str = "camera-7.example";
const REVOKED: u64 = 66;
/// Of the revocation lists, in Unix seconds: the first day of 2026.
const NEXT_UPDATE: f64 = 1_767_225_600.0;

/// Issues certificates of encoders, as files.
pub(crate) struct Encoders {
    pub(crate) directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Encoders {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        fs::create_dir(&directory).unwrap();
        let mut params = CertificateParams::default();
        // The same for all: FFmpeg shows no certificate whose issuer the server does not name.
        params
            .distinguished_name
            .push(DnType::CommonName, "encoders");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        let this = Self {
            directory,
            issuer: Issuer::new(params, key),
        };
        this.write_revocations();
        this
    }

    fn write_revocations(&self) {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2026, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(REVOKED),
                revocation_time: date_time_ymd(2025, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap();
        fs::write(self.directory.join("ca.crl"), list.der()).unwrap();
    }

    /// What FFmpeg is told of it.
    pub(crate) fn issue(&self, name: &str, serial: u64, end: i32) -> Vec<String> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(end, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |extension| {
            let name = format!("{serial}-{end}.{extension}");
            self.directory.join(name)
        };
        fs::write(file("crt"), certificate.pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            "-cert_file".to_owned(),
            text(file("crt")),
            "-key_file".to_owned(),
            text(file("key")),
        ]
    }
}

/// FFmpeg on the fixture, with what it is told of certificates.
fn publish(deployment: &Deployment, name: &str, key: &IssuedKey, shown: &[String]) -> Process {
    let mut command = process::command("ffmpeg");
    command
        .args(["-hide_banner", "-loglevel", "info", "-nostats", "-re", "-i"])
        .arg(fixture("source.flv"))
        .args(["-map", "0", "-c", "copy", "-f", "flv"])
        .args(shown)
        .arg(format!("{}/{}", deployment.rtmps_url(&key.app), key.secret));
    Process::spawn(name, &mut command, &deployment.logs)
}

pub(crate) async fn bound_key(deployment: &Deployment) -> IssuedKey {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: "bound".to_owned(),
        client_certificate: NAME.to_owned(),
        ..CreateStreamKeyRequest::default()
    };
    deployment.api.try_create_key(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_publishes_with_the_certificate_that_its_key_is_bound_to() {
    let _turn = turn().await;
    let files = tempfile::tempdir().unwrap();
    let ours = Encoders::new(files.path(), "ours");
    let theirs = Encoders::new(files.path(), "theirs");
    let directory = ours.directory.display();
    let cluster = Cluster::start(Layout {
        origins: 1,
        edge: vec![(
            "EDGE__CLIENT_CERTIFICATES",
            format!("{{ mode: optional, ca: {directory}/ca.pem, crls: [{directory}/ca.crl] }}"),
        )],
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let key = bound_key(deployment).await;

    let good = publish(deployment, "good", &key, &ours.issue(NAME, 7, 2100));
    wait_for("the session", STARTED, async || {
        deployment.api.session_of("bound").await
    })
    .await;
    drop(good);

    for (name, shown, told) in [
        (
            "none",
            Vec::new(),
            "This stream key needs its client certificate",
        ),
        (
            "another",
            ours.issue("camera-8.example", 8, 2100),
            "This stream key belongs to another client certificate",
        ),
    ] {
        let mut refused = publish(deployment, name, &key, &shown);
        assert!(!refused.exit(STARTED).await.success());
        assert!(refused.log().contains(told), "{}", refused.log());
    }
    let edge = cluster.edge.process();
    for (name, shown, reason) in [
        ("revoked", ours.issue(NAME, REVOKED, 2100), "revoked"),
        ("expired", ours.issue(NAME, 9, 2021), "expired"),
        ("stranger", theirs.issue(NAME, 7, 2100), "unknown_issuer"),
    ] {
        let mut refused = publish(deployment, name, &key, &shown);
        assert!(!refused.exit(STARTED).await.success());
        let reason = format!("reason=\"client_certificate_{reason}\"");
        edge.log_line(&[&reason], STARTED).await;
    }

    // The list is past its next update: what it revokes was refused all the same.
    let metrics = cluster.edge.metrics().await.unwrap();
    let name = "headwater_revocation_list_next_update_timestamp_seconds";
    let next_update = metric(&metrics, name, &["list=\"ca.crl\""]);
    assert!((next_update - NEXT_UPDATE).abs() < 1.0, "{next_update}");
    edge.log_line(&["past its next update", "ca.crl"], STARTED)
        .await;

    // Who has no certificate publishes with a key that needs none.
    let free = deployment.api.create_key(APP, "free").await;
    let _free = publish(deployment, "free", &free, &[]);
    wait_for("the session", STARTED, async || {
        deployment.api.session_of("free").await
    })
    .await;
}
