use std::time::Instant;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};

use super::{super::ensure_self_signed, *};
use crate::tls::{ClientCertificate, ClientCertificateFiles, client_certificate_reason};

/// Five times what a change of a file takes to be in service at most.
const DEADLINE: Duration = Duration::from_secs(10);

/// An authority, and what it issues.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, files: &CertificateFiles, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let (certificate, key) = self.issue(&CertificateParams::new(names).unwrap());
        std::fs::create_dir_all(files.certificate.parent().unwrap()).unwrap();
        std::fs::write(&files.private_key, key).unwrap();
        std::fs::write(&files.certificate, certificate).unwrap();
    }

    fn revoke(&self, serials: &[u64], next_update: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn trusting(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }
}

fn pair(directory: &Path, name: &str) -> CertificateFiles {
    CertificateFiles {
        certificate: directory.join(format!("{name}.crt")),
        private_key: directory.join(format!("{name}.key")),
    }
}

/// A handshake and a byte from the server; its own view of the connection.
async fn greet(
    tls: &EncoderTls,
    client: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<tokio::io::DuplexStream>> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = async {
        let mut stream = TlsConnector::from(client.clone())
            .connect(name, near)
            .await?;
        stream.read_u8().await
    };
    let server = async {
        let mut stream = TlsAcceptor::from(tls.server_config()).accept(far).await?;
        stream.write_u8(b's').await?;
        stream.flush().await?;
        Ok(stream)
    };
    let (server, client): (std::io::Result<_>, std::io::Result<u8>) = tokio::join!(server, client);
    let stream = server?;
    client?;
    Ok(stream)
}

async fn until_served(tls: &EncoderTls, client: &Arc<ClientConfig>, name: &str, wanted: bool) {
    until(&format!("{name}: {wanted}"), async || {
        greet(tls, client, name).await.is_ok() == wanted
    })
    .await;
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < DEADLINE, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{what} after {:?}", started.elapsed());
}

#[tokio::test]
async fn certificates_come_change_and_go_with_their_files() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let default = pair(root.path(), "default");
    old.write(&default, &["localhost"]);
    let directory = root.path().join("others");
    let nested = CertificateFiles {
        certificate: directory.join("nested/tls.crt"),
        private_key: directory.join("nested/tls.key"),
    };
    old.write(&nested, &["nested.example"]);
    let tls = EncoderTls::load(EncoderTlsFiles {
        others: Some(directory.clone()),
        ..EncoderTlsFiles::of(default.clone())
    })
    .unwrap();
    let trusting = |authority: &Authority| Arc::new(authority.trusting().with_no_client_auth());
    let (of_old, of_new) = (trusting(&old), trusting(&new));
    greet(&tls, &of_old, "localhost").await.unwrap();
    greet(&tls, &of_old, "nested.example").await.unwrap();
    assert_eq!(tls.name_match(Some("nested.example")), NameMatch::Exact);

    let flat = pair(&directory, "flat");
    old.write(&flat, &["flat.example"]);
    until_served(&tls, &of_old, "flat.example", true).await;
    let names: Vec<_> = tls.ends().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["public", "flat", "nested"]);

    new.write(&nested, &["nested.example"]);
    new.write(&default, &["localhost"]);
    until_served(&tls, &of_new, "nested.example", true).await;
    until_served(&tls, &of_new, "localhost", true).await;
    greet(&tls, &of_old, "flat.example").await.unwrap();

    std::fs::write(&flat.certificate, "nonsense").unwrap();
    until("noticed", async || tls.unusable() == 1).await;
    greet(&tls, &of_old, "flat.example").await.unwrap();

    std::fs::remove_file(&flat.certificate).unwrap();
    until_served(&tls, &of_old, "flat.example", false).await;
    assert_eq!(tls.name_match(Some("flat.example")), NameMatch::Unknown);
    assert_eq!((tls.unusable(), tls.ends().len()), (0, 2));
}

#[tokio::test]
async fn one_certificate_that_cannot_be_used_costs_itself_alone() {
    let root = tempfile::tempdir().unwrap();
    let default = pair(root.path(), "default");
    ensure_self_signed(&default, &["localhost".to_owned()]).unwrap();
    let directory = root.path().join("others");
    std::fs::create_dir(&directory).unwrap();
    let authority = Authority::new("ca");
    authority.write(&pair(&directory, "good"), &["good.example"]);
    // Whoever has no name, no key, or nothing at all.
    authority.write(&pair(&directory, "nameless"), &["192.0.2.1"]);
    std::fs::write(directory.join("keyless.crt"), "nonsense").unwrap();
    std::fs::create_dir(directory.join("empty")).unwrap();
    let files = EncoderTlsFiles {
        others: Some(directory.clone()),
        ..EncoderTlsFiles::of(default)
    };
    let tls = EncoderTls::load(files.clone()).unwrap();
    assert_eq!(tls.unusable(), 3);
    let client = Arc::new(authority.trusting().with_no_client_auth());
    greet(&tls, &client, "good.example").await.unwrap();

    let missing = EncoderTlsFiles {
        others: Some(root.path().join("nowhere")),
        ..files.clone()
    };
    EncoderTls::load(missing).unwrap_err();
    let missing = EncoderTlsFiles::of(pair(root.path(), "nowhere"));
    EncoderTls::load(missing).unwrap_err();
}

#[tokio::test]
async fn the_oldest_version_can_be_raised() {
    let root = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let default = pair(root.path(), "default");
    authority.write(&default, &["localhost"]);
    let of = |minimum_version| {
        EncoderTls::load(EncoderTlsFiles {
            minimum_version,
            ..EncoderTlsFiles::of(default.clone())
        })
        .unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    greet(&of(MinimumVersion::Tls12), &old, "localhost")
        .await
        .unwrap();
    greet(&of(MinimumVersion::Tls13), &old, "localhost")
        .await
        .unwrap_err();
}

/// A certificate of an encoder.
fn encoder(serial: u64, not_after: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Camera 7");
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(not_after, 1, 1);
    params.subject_alt_names = vec![
        SanType::DnsName("Camera-7.example".try_into().unwrap()),
        SanType::URI("spiffe://example/camera/7".try_into().unwrap()),
        SanType::Rfc822Name("camera@example".try_into().unwrap()),
    ];
    params
}

/// An edge's certificate, and the files of client certificates: number 66 is revoked.
struct Demanding {
    root: tempfile::TempDir,
    server: Authority,
    ours: Authority,
}

impl Demanding {
    fn new() -> Self {
        let this = Self {
            root: tempfile::tempdir().unwrap(),
            server: Authority::new("server"),
            ours: Authority::new("ours"),
        };
        this.server
            .write(&pair(this.root.path(), "default"), &["localhost"]);
        std::fs::write(this.root.path().join("ca.pem"), &this.ours.pem).unwrap();
        this.revoke(&[66]);
        this
    }

    fn revoke(&self, serials: &[u64]) {
        self.revoke_until(serials, 2100);
    }

    fn revoke_until(&self, serials: &[u64], next_update: i32) {
        let list = self.ours.revoke(serials, next_update);
        std::fs::write(self.root.path().join("crl.pem"), list).unwrap();
    }

    fn tls(&self, mode: impl FnOnce(ClientCertificateFiles) -> ClientCertificates) -> EncoderTls {
        let files = ClientCertificateFiles {
            ca: self.root.path().join("ca.pem"),
            crls: vec![self.root.path().join("crl.pem")],
        };
        EncoderTls::load(EncoderTlsFiles {
            client_certificates: mode(files),
            ..EncoderTlsFiles::of(pair(self.root.path(), "default"))
        })
        .unwrap()
    }

    fn client(&self, issuer: &Authority, params: &CertificateParams) -> Arc<ClientConfig> {
        let (certificate, key) = issuer.issue(params);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = self.server.trusting().with_client_auth_cert(chain, key);
        Arc::new(config.unwrap())
    }

    fn nobody(&self) -> Arc<ClientConfig> {
        Arc::new(self.server.trusting().with_no_client_auth())
    }
}

#[tokio::test]
async fn a_client_certificate_is_verified_and_read() {
    let fixture = Demanding::new();
    let required = fixture.tls(ClientCertificates::Required);
    let good = fixture.client(&fixture.ours, &encoder(7, 2100));
    let stream = greet(&required, &good, "localhost").await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    let read = ClientCertificate::read(&shown[0]);
    assert_eq!(read.subject, "Camera 7");
    assert_eq!(
        read.sans,
        [
            "dns:camera-7.example",
            "uri:spiffe://example/camera/7",
            "email:camera@example"
        ]
    );
    assert_ne!(read.sha256, [0; 32]);
    let optional = fixture.tls(ClientCertificates::Optional);
    let nobody = fixture.nobody();
    let anonymous = greet(&optional, &nobody, "localhost").await.unwrap();
    assert!(anonymous.get_ref().1.peer_certificates().is_none());

    let theirs = Authority::new("theirs");
    let (ours, old) = (&fixture.ours, encoder(8, 2021));
    for (client, reason) in [
        (fixture.nobody(), "missing"),
        (fixture.client(&theirs, &encoder(7, 2100)), "unknown_issuer"),
        (fixture.client(ours, &old), "expired"),
        (fixture.client(ours, &encoder(66, 2100)), "revoked"),
    ] {
        let error = greet(&required, &client, "localhost").await.unwrap_err();
        let error = error.get_ref().unwrap().downcast_ref().unwrap();
        let reason = format!("client_certificate_{reason}");
        assert_eq!(client_certificate_reason(error), Some(reason.as_str()));
    }
}

#[tokio::test]
async fn a_revocation_list_is_followed_and_a_broken_one_is_not() {
    let fixture = Demanding::new();
    let required = fixture.tls(ClientCertificates::Required);
    let client = fixture.client(&fixture.ours, &encoder(7, 2100));
    greet(&required, &client, "localhost").await.unwrap();
    fixture.revoke(&[7, 66]);
    until_served(&required, &client, "localhost", false).await;
    std::fs::write(fixture.root.path().join("crl.pem"), "nonsense").unwrap();
    until("noticed", async || required.unusable() == 1).await;
    greet(&required, &client, "localhost").await.unwrap_err();
}

#[tokio::test]
async fn a_revocation_list_past_its_next_update_goes_on_to_count() {
    let fixture = Demanding::new();
    let required = fixture.tls(ClientCertificates::Required);
    let list = |next_update| vec![("crl.pem".to_owned(), next_update)];
    assert_eq!(required.next_updates(), list(4_102_444_800));
    fixture.revoke_until(&[66], 2026);
    let (good, revoked) = (
        fixture.client(&fixture.ours, &encoder(7, 2100)),
        fixture.client(&fixture.ours, &encoder(66, 2100)),
    );
    until("the list", async || {
        required.next_updates() == list(1_767_225_600)
    })
    .await;
    greet(&required, &good, "localhost").await.unwrap();
    let error = greet(&required, &revoked, "localhost").await.unwrap_err();
    let error = error.get_ref().unwrap().downcast_ref().unwrap();
    let reason = client_certificate_reason(error);
    assert_eq!(reason, Some("client_certificate_revoked"));
}

#[test]
fn that_a_revocation_list_is_outdated_is_told_once_for_each_version() {
    let trust = |next_update| {
        let fixture = Demanding::new();
        fixture.revoke_until(&[], next_update);
        let files = ClientCertificateFiles {
            ca: fixture.root.path().join("ca.pem"),
            crls: vec![fixture.root.path().join("crl.pem")],
        };
        Clients::load(ClientCertificates::Required(files), &provider()).unwrap()
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_601);
    let (mut old, mut new) = (trust(2026), trust(2100));
    old.report_outdated(now - Duration::from_secs(1));
    assert!(old.outdated.is_empty(), "up to the very second");
    old.report_outdated(now);
    new.report_outdated(now);
    assert_eq!(old.outdated, BTreeSet::from(["crl.pem".to_owned()]));
    assert!(new.outdated.is_empty());
    old.trust = new.trust;
    old.report_outdated(now);
    assert!(old.outdated.is_empty(), "it was renewed");
}
