//! Certificates that change under live sessions, and certificates that encoders show.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber};
use runtime::tls::{ClientCertificateFiles, ClientCertificates};
use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::{
    encoder::{Encoder, Said, connect_tls, trusting_everyone},
    harness::{Harness, in_time, logged, until},
    neighbour::Neighbour,
};

const CERTIFICATES: u64 = 200;
const SESSIONS: usize = 300;
/// Between two frames of one session.
const FRAME_PERIOD: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(20);
/// From the last file that was written to the last new certificate in a handshake; asserted at five times that.
const ROTATION_GOAL: Duration = Duration::from_secs(2);

fn host(number: u64) -> String {
    format!("host-{number}.example")
}

/// One certificate per host, with serial numbers from `first` on.
fn write_certificates(directory: &Path, first: u64) {
    for number in 0..CERTIFICATES {
        let mut params = CertificateParams::new(vec![host(number)]).unwrap();
        params.serial_number = Some(SerialNumber::from(first + number));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        // As the operator's Secret is mounted: a pair's files are swapped, not written to.
        for (extension, text) in [("key", key.serialize_pem()), ("crt", certificate.pem())] {
            let path = directory.join(format!("{}.{extension}", host(number)));
            let new = directory.join(format!(".{}.{extension}", host(number)));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, path).unwrap();
        }
    }
}

/// The serial number that a new connection is shown.
async fn serial(harness: &Harness, host: &str, config: &Arc<ClientConfig>) -> u64 {
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let tls = connect_tls(socket, host, config.clone()).await.unwrap();
    let certificates = tls.get_ref().1.peer_certificates().unwrap();
    serial_of(&certificates[0])
}

/// Of DER whose serial number has at most seven bytes: version, then that.
fn serial_of(certificate: &[u8]) -> u64 {
    let version = [0xa0, 3, 2, 1, 2, 2];
    let at = certificate
        .windows(version.len())
        .position(|window| window == version)
        .unwrap()
        + version.len();
    let bytes = usize::from(certificate[at]);
    certificate[at + 1..at + 1 + bytes]
        .iter()
        .fold(0, |serial, byte| serial << 8 | u64::from(*byte))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_certificates_rotate_under_three_hundred_sessions() {
    let directory = TempDir::new().unwrap();
    write_certificates(directory.path(), 1000);
    let harness = Harness::start_with_tls(1, |config, tls| {
        tls.others = Some(directory.path().to_owned());
        // Everything is in this process, and more than the cores of the machine: patience is not what is tested.
        config.relay.authorize_timeout = PATIENCE;
        config.relay.open_timeout = PATIENCE;
        config.relay.start_timeout = PATIENCE;
        config.relay.stall_timeout = PATIENCE;
    })
    .await;
    let config = Arc::new(trusting_everyone());
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        // As an origin does all the time: what it announced must not expire on a slow machine.
        let announcement = harness.origins[0].announcement();
        harness.registry.announce(&announcement).await.unwrap();
        let socket = TcpStream::connect(harness.address).await.unwrap();
        let number = u64::try_from(number).unwrap();
        let tls = connect_tls(socket, &host(number % CERTIFICATES), config.clone()).await;
        let name = format!("session-{number}");
        let mut encoder = Encoder::speaking(tls.unwrap(), "live", &format!("good-{name}"));
        assert_eq!(in_time("start", encoder.said()).await, Said::Started);
        sessions.push(Neighbour::with(encoder, &name, FRAME_PERIOD));
    }
    assert_eq!(serial(&harness, &host(7), &config).await, 1007);
    let exact = "headwater_tls_handshakes_total{version=\"1.3\",cipher=\"TLS13_AES_256_GCM_SHA384\",\
                 server_name=\"exact\",client_certificate=\"none\"}";
    assert!(harness.metric(exact) > 0, "{}", harness.metrics.encode());

    write_certificates(directory.path(), 2000);
    let written = Instant::now();
    let mut old: BTreeSet<u64> = (0..CERTIFICATES).collect();
    while !old.is_empty() {
        for number in old.clone() {
            if serial(&harness, &host(number), &config).await == 2000 + number {
                old.remove(&number);
            }
        }
        let after = written.elapsed();
        assert!(after < 5 * ROTATION_GOAL, "{} are still old", old.len());
    }
    println!(
        "{CERTIFICATES} certificates rotated under {SESSIONS} sessions: the last one was served {:?} after it was written (goal {ROTATION_GOAL:?})",
        written.elapsed()
    );
    let mut messages = 0;
    for session in sessions {
        messages += session.lost_nothing(&harness).await;
    }
    println!("{messages} messages of {SESSIONS} sessions, none lost");
    harness.no_lease().await;
    assert_eq!(
        harness.metric("headwater_sessions_ended_total{reason=\"client_close\"}"),
        i64::try_from(SESSIONS).unwrap()
    );
}

#[tokio::test]
async fn a_certificate_that_is_broken_is_counted_and_serves_on() {
    let directory = TempDir::new().unwrap();
    write_certificates(directory.path(), 1000);
    let harness = Harness::start_with_tls(1, |_, tls| {
        tls.others = Some(directory.path().to_owned());
    })
    .await;
    let config = Arc::new(trusting_everyone());
    std::fs::write(directory.path().join("host-3.example.key"), "nonsense").unwrap();
    until("the gauge", || {
        harness.metric("headwater_certificates_unusable") == 1
    })
    .await;
    assert_eq!(serial(&harness, &host(3), &config).await, 1003);
}

/// Issues certificates of encoders.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "encoders");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// A client that shows a certificate for this name.
    fn client(&self, name: &str) -> ClientConfig {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        with_certificate(chain, key)
    }
}

fn with_certificate(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> ClientConfig {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified =
        rustls::sign::CertifiedKey::from_der(chain, key, &CryptoProvider::clone(&provider))
            .unwrap();
    let mut config = trusting_everyone();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

#[tokio::test]
async fn control_hears_of_a_client_certificate_that_was_verified() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &authority.1).unwrap();
    let harness = Harness::start_with_tls(1, |_, tls| {
        tls.client_certificates = ClientCertificates::Optional(ClientCertificateFiles {
            ca,
            crls: Vec::new(),
        });
    })
    .await;
    let neighbour = Neighbour::start(&harness, "without").await;
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let config = Arc::new(authority.client("camera-7.example"));
    let tls = connect_tls(socket, "localhost", config).await.unwrap();
    let mut encoder = Encoder::speaking(tls, "live", "good-with");
    assert_eq!(in_time("start", encoder.said()).await, Said::Started);
    let requests = harness.control.requests();
    assert!(requests[0].client_certificate.is_none());
    let shown = requests[1].client_certificate.clone().unwrap();
    assert_eq!(shown.subject, "camera-7.example");
    assert_eq!(shown.sans, ["dns:camera-7.example"]);
    assert_eq!(shown.sha256.len(), 32);

    // Another authority's: refused in the handshake, where the client reads why.
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let config = Arc::new(Authority::new().client("camera-7.example"));
    let refused = match connect_tls(socket, "localhost", config).await {
        Ok(mut tls) => tls.read_u8().await.map(|_| ()),
        Err(error) => Err(error),
    };
    println!("{:?}", refused.unwrap_err());
    until("the reason", || {
        let reason = "client_certificate_unknown_issuer";
        let sample = format!("headwater_connections_rejected_total{{reason=\"{reason}\"}}");
        harness.metric(&sample) == 1
    })
    .await;
    encoder.finish().await;
    neighbour.lost_nothing(&harness).await;
    harness.no_lease().await;
}

#[tokio::test]
async fn a_name_that_no_certificate_has_gets_the_default_and_is_told_of() {
    let harness = Harness::start(1).await;
    let name = "elsewhere.example";
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let stream = connect_tls(socket, name, trusting_everyone().into()).await;
    assert!(stream.unwrap().get_ref().1.peer_certificates().is_some());
    let unknown = "headwater_tls_handshakes_total{version=\"1.3\",cipher=\"TLS13_AES_256_GCM_SHA384\",\
                   server_name=\"unknown\",client_certificate=\"none\"}";
    until("the count", || harness.metric(unknown) == 1).await;
    let log = logged();
    let told = log.lines().find(|line| line.contains(name)).unwrap();
    assert!(
        told.contains("no certificate has the server name"),
        "{told}"
    );
    assert!(told.contains("DEBUG"), "{told}");
}
