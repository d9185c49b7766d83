//! Client sides of TLS, and the one byte stream that everything here speaks through.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

/// A connection, encrypted or not.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Trusts the certificates of one PEM file and nothing else.
pub fn trusting(ca_file: &Path, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = trusting_over(ca_file, rustls::ALL_VERSIONS);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// The same over these versions of TLS alone.
pub fn trusting_over(
    ca_file: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Connects with TLS, as `localhost`.
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<Box<dyn Connection>> {
    encrypt(TcpStream::connect(address).await?, config).await
}

/// As [`connect`], from an address of ours.
pub async fn connect_from(
    local: IpAddr,
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<Box<dyn Connection>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(local, 0))?;
    encrypt(socket.connect(address).await?, config).await
}

async fn encrypt(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Box<dyn Connection>> {
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(config).connect(name, socket).await?;
    Ok(Box::new(stream))
}

/// Connects without TLS.
pub async fn connect_plain(address: SocketAddr) -> io::Result<Box<dyn Connection>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(Box::new(socket))
}
