//! Channels to gRPC servers that a URL names: `http://` plain, `https://` with the system's roots or those of a file.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// To reach the server, TLS included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel that connects at its first use and again after each loss; the roots are read each time.
pub(crate) fn lazy(url: &str, ca_file: Option<PathBuf>) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url:?} is not a URL"))?
        .connect_timeout(CONNECT_TIMEOUT);
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint.connect_lazy());
    }
    let connect = tower::service_fn(move |uri: Uri| {
        let tls = tls_connector(ca_file.as_deref());
        async move { connect_with_tls(uri, tls.map_err(io::Error::other)?).await }
    });
    Ok(endpoint.connect_with_connector_lazy(connect))
}

pub(crate) async fn connect_with_tls(
    uri: Uri,
    tls: TlsConnector,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default();
    // A URL writes IPv6 addresses in brackets, certificates and resolvers do not.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    Ok(TokioIo::new(tls.connect(name, socket).await?))
}

/// With the certificates of a file, or the system's.
pub(crate) fn tls_connector(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let certificates = ca_file.map(|path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read certificates from {}", path.display()))
    });
    Ok(connector(certificates.transpose()?))
}

/// With these certificates, or the system's.
pub(crate) fn connector(certificates: Option<Vec<CertificateDer<'static>>>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    // Those of the system that cannot be read are no concern while others can.
    roots.add_parsable_certificates(
        certificates.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs),
    );
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}
