use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{generate::role_params, *};
use crate::identity::{Cluster, Role};

/// Five times what a reload takes at most.
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);

fn files(directory: &Path, name: &str) -> CertificateFiles {
    CertificateFiles {
        certificate: directory.join(format!("{name}.pem")),
        private_key: directory.join(format!("{name}.key")),
    }
}

fn self_signed(directory: &Path, name: &str) -> CertificateFiles {
    let files = files(directory, name);
    ensure_self_signed(&files, &["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    files
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        trust_domain: "headwater.test".to_owned(),
        namespace: "media".to_owned(),
        name: name.to_owned(),
    }
}

fn internal(directory: &Path, cluster: &Cluster, role: Role) -> InternalTls {
    ensure_internal_ca(directory, cluster, &Role::ALL).unwrap();
    load(directory, &role.to_string(), cluster).unwrap()
}

fn load(directory: &Path, name: &str, cluster: &Cluster) -> Result<InternalTls, TlsError> {
    let files = InternalTlsFiles {
        identity: files(directory, name),
        ca: directory.join("ca.pem"),
    };
    InternalTls::load(&files, cluster.clone())
}

/// A handshake and one byte each way: in TLS 1.3 the client is done before the server has looked at its certificate.
async fn talk(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (io::Result<u8>, io::Result<u8>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_u8(b's').await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let client = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_u8(b'c').await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    tokio::join!(server, client)
}

fn trusting(certificate: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate).unwrap())
        .unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[derive(Debug)]
struct CountTickets {
    inner: ClientSessionMemoryCache,
    tickets: AtomicUsize,
}

impl ClientSessionStore for CountTickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: rustls::NamedGroup) {
        self.inner.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.inner.kx_hint(name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.tickets.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[tokio::test]
async fn encoders_get_no_ticket_and_no_session_to_resume() {
    let directory = tempfile::tempdir().unwrap();
    let files = self_signed(directory.path(), "server");
    let tls = EncoderTls::load(EncoderTlsFiles::of(files.clone())).unwrap();
    let tickets = Arc::new(CountTickets {
        inner: ClientSessionMemoryCache::new(8),
        tickets: AtomicUsize::new(0),
    });
    let mut client = trusting(&files.certificate);
    client.resumption = Resumption::store(tickets.clone());
    let server = tls.server_config();
    let (received, answered) = talk(server.clone(), Arc::new(client.clone())).await;
    assert_eq!((received.unwrap(), answered.unwrap()), (b'c', b's'));
    assert_eq!(tickets.tickets.load(Ordering::Relaxed), 0);

    // The canary: with rustls' default the same client sees tickets.
    let mut careless = ServerConfig::clone(&server);
    careless.send_tls13_tickets = 2;
    careless.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    let (received, _) = talk(Arc::new(careless), Arc::new(client)).await;
    received.unwrap();
    assert_eq!(tickets.tickets.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_new_config() {
    let directory = tempfile::tempdir().unwrap();
    let files = self_signed(directory.path(), "server");
    let certificate = ReloadingCertificate::load(&files).unwrap();
    let server = certificate.server_config().unwrap();
    let old = Arc::new(trusting(&files.certificate));
    talk(server.clone(), old.clone()).await.1.unwrap();

    let next = self_signed(directory.path(), "next");
    std::fs::copy(&next.private_key, &files.private_key).unwrap();
    std::fs::copy(&next.certificate, &files.certificate).unwrap();
    let new = Arc::new(trusting(&next.certificate));
    let started = std::time::Instant::now();
    while talk(server.clone(), new.clone()).await.1.is_err() {
        assert!(started.elapsed() < RELOAD_DEADLINE, "not reloaded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("reloaded after {:?}", started.elapsed());
    talk(server, old).await.1.unwrap_err();
}

#[tokio::test]
async fn each_side_of_an_internal_connection_demands_the_role() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster("one");
    let edge = internal(directory.path(), &cluster, Role::Edge);
    let origin = internal(directory.path(), &cluster, Role::Origin);
    let control = internal(directory.path(), &cluster, Role::Control);

    let (received, answered) = talk(
        origin.server_config(&[Role::Edge]),
        edge.client_config(Role::Origin),
    )
    .await;
    assert_eq!((received.unwrap(), answered.unwrap()), (b'c', b's'));

    let (received, _) = talk(
        origin.server_config(&[Role::Edge]),
        control.client_config(Role::Origin),
    )
    .await;
    let error = refusal(&received.unwrap_err()).unwrap();
    assert!(error.contains("role control is not admitted"), "{error}");

    let (_, answered) = talk(
        control.server_config(&[Role::Edge]),
        edge.client_config(Role::Origin),
    )
    .await;
    let error = refusal(&answered.unwrap_err()).unwrap();
    assert!(error.contains("role control is not admitted"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused_under_the_same_ca() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (cluster("one"), cluster("two"));
    let origin = internal(directory.path(), &one, Role::Origin);
    sign(
        directory.path(),
        "foreign",
        role_params(&two, Role::Edge).unwrap(),
    );
    let foreign = load(directory.path(), "foreign", &two).unwrap();

    let (_, answered) = talk(
        origin.server_config(&[Role::Edge]),
        foreign.client_config(Role::Origin),
    )
    .await;
    let error = refusal(&answered.unwrap_err()).unwrap();
    assert!(
        error.ends_with(
            "not of this cluster: spiffe://headwater.test/ns/media/cluster/one/role/origin"
        ),
        "{error}"
    );

    // The server's own check, with a client that does not look.
    let mut client = trusting_ca(directory.path(), "foreign");
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (received, _) = talk(origin.server_config(&[Role::Edge]), Arc::new(client)).await;
    let error = refusal(&received.unwrap_err()).unwrap();
    assert!(
        error.contains(
            "not of this cluster: spiffe://headwater.test/ns/media/cluster/two/role/edge"
        ),
        "{error}"
    );
    assert!(load(directory.path(), "foreign", &one).is_err());
}

#[tokio::test]
async fn another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = cluster("one");
    let origin = internal(ours.path(), &cluster, Role::Origin);
    let stranger = internal(theirs.path(), &cluster, Role::Edge);
    let (_, answered) = talk(
        origin.server_config(&[Role::Edge]),
        stranger.client_config(Role::Origin),
    )
    .await;
    let error = refusal(&answered.unwrap_err()).unwrap();
    assert!(error.contains("BadSignature"), "{error}");

    // Trusts our CA, but has its certificate from theirs.
    let mut client = trusting_ca(ours.path(), "edge");
    client.client_auth_cert_resolver = trusting_ca(theirs.path(), "edge").client_auth_cert_resolver;
    let (received, _) = talk(origin.server_config(&[Role::Edge]), Arc::new(client)).await;
    let error = refusal(&received.unwrap_err()).unwrap();
    assert!(error.contains("BadSignature"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster("one");
    let origin = internal(directory.path(), &cluster, Role::Origin);
    for role in [Role::Edge, Role::Origin] {
        let mut params = role_params(&cluster, role).unwrap();
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        sign(directory.path(), &format!("expired-{role}"), params);
    }
    let edge = load(directory.path(), "expired-edge", &cluster).unwrap();
    assert_eq!(edge.not_after(), 1_009_843_200);
    let (received, _) = talk(
        origin.server_config(&[Role::Edge]),
        edge.client_config(Role::Origin),
    )
    .await;
    let error = received.unwrap_err().to_string();
    assert!(error.contains("certificate expired"), "{error}");

    let expired = load(directory.path(), "expired-origin", &cluster).unwrap();
    let edge = internal(directory.path(), &cluster, Role::Edge);
    let (_, answered) = talk(
        expired.server_config(&[Role::Edge]),
        edge.client_config(Role::Origin),
    )
    .await;
    let error = answered.unwrap_err().to_string();
    assert!(error.contains("certificate expired"), "{error}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let origin = internal(directory.path(), &cluster("one"), Role::Origin);
    let (received, _) = talk(
        origin.server_config(&[Role::Edge]),
        Arc::new(anonymous(directory.path())),
    )
    .await;
    let error = received.unwrap_err().to_string();
    assert!(error.contains("no certificates"), "{error}");
}

#[tokio::test]
async fn a_second_role_identity_makes_the_certificate_worthless() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster("one");
    internal(directory.path(), &cluster, Role::Origin);
    let mut params = role_params(&cluster, Role::Edge).unwrap();
    params.subject_alt_names.extend(
        role_params(&cluster, Role::Origin)
            .unwrap()
            .subject_alt_names,
    );
    sign(directory.path(), "greedy", params);
    let error = load(directory.path(), "greedy", &cluster).unwrap_err();
    assert!(error.to_string().contains("no role identity"), "{error}");
}

#[test]
fn generated_files_stay_what_they_are_and_keys_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster("one");
    ensure_internal_ca(directory.path(), &cluster, &[Role::Edge]).unwrap();
    let ca = std::fs::read(directory.path().join("ca.pem")).unwrap();
    let edge = std::fs::read(directory.path().join("edge.pem")).unwrap();
    // A role that comes later is signed by the same CA.
    ensure_internal_ca(directory.path(), &cluster, &[Role::Edge, Role::Origin]).unwrap();
    assert_eq!(std::fs::read(directory.path().join("ca.pem")).unwrap(), ca);
    assert_eq!(
        std::fs::read(directory.path().join("edge.pem")).unwrap(),
        edge
    );
    for key in ["ca.key", "edge.key", "origin.key"] {
        let mode = std::fs::metadata(directory.path().join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    std::fs::remove_file(directory.path().join("edge.key")).unwrap();
    ensure_internal_ca(directory.path(), &cluster, &[Role::Edge]).unwrap_err();
}

/// Signs with the directory's CA.
fn sign(directory: &Path, name: &str, params: CertificateParams) {
    let ca_key = std::fs::read_to_string(directory.join("ca.key")).unwrap();
    let issuer = Issuer::new(
        generate::authority(&cluster("one")),
        KeyPair::from_pem(&ca_key).unwrap(),
    );
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let files = files(directory, name);
    std::fs::write(files.certificate, certificate.pem()).unwrap();
    std::fs::write(files.private_key, key.serialize_pem()).unwrap();
}

/// A client that checks nothing of the server but its chain, with a directory's certificate.
fn trusting_ca(directory: &Path, name: &str) -> ClientConfig {
    let files = files(directory, name);
    let mut config = anonymous(directory);
    let chain = vec![CertificateDer::from_pem_file(files.certificate).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(files.private_key).unwrap();
    let certified = CertifiedKey::from_der(chain, key, &provider()).unwrap();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

fn anonymous(directory: &Path) -> ClientConfig {
    let roots = CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyNameOf(roots)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[derive(Debug)]
struct AnyNameOf(CertificateDer<'static>);

impl rustls::client::danger::ServerCertVerifier for AnyNameOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.clone())?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &rustls::server::ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
