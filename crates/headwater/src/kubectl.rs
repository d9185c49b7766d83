//! `headwater kubectl …`, `kubectl headwater …` and `headwater doctor`: an installation on Kubernetes, seen from a desk.

pub(crate) mod doctor;
mod status;

use std::{ffi::OsString, io, path::Path, time::Duration};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use kubernetes::{ApiAccess, Desk, Tunnel};
use operator::{inspect as kubernetes, names::Names};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio_rustls::TlsConnector;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Endpoint, Uri},
};

use crate::{
    api::{ApiChannel, Bearer, REQUEST_TIMEOUT},
    channel,
    cli::{
        ClusterArgument, DeskArguments, EdgesCommand, EdgesRequest, KubectlCommand, SessionFilter,
        SessionsCommand, UsageError,
    },
    edges, keys, sessions,
};

/// Through the API server and a kubelet to a pod, TLS included.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(10);
/// kubectl runs a program of this name for `kubectl headwater`.
const PLUGIN: &str = "kubectl-headwater";

/// The command line, with `kubectl` put in where this program was called as kubectl's plugin.
pub(crate) fn arguments(called: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = called.collect();
    let plugin = arguments
        .first()
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == PLUGIN);
    if plugin {
        arguments.insert(1, "kubectl".into());
    }
    arguments
}

/// Runs one of the commands.
pub(crate) async fn run(arguments: &DeskArguments, command: KubectlCommand) -> anyhow::Result<()> {
    match command {
        KubectlCommand::Doctor { name } => doctor::run(arguments, name.as_deref()).await,
        KubectlCommand::Drain { cluster, command } => {
            let server = connect(arguments, &cluster).await?;
            let request = EdgesRequest::Drain(command);
            edges::run_at(server, request, arguments.format.json()).await
        }
        KubectlCommand::Edges { cluster, command } => {
            let server = connect(arguments, &cluster).await?;
            let request = command.unwrap_or(EdgesCommand::List);
            edges::run_at(server, request, arguments.format.json()).await
        }
        KubectlCommand::Keys { cluster, command } => {
            let server = connect(arguments, &cluster).await?;
            keys::run_at(server, command, arguments.format.json()).await
        }
        KubectlCommand::Status { name } => status::run(arguments, name.as_deref()).await,
        KubectlCommand::Streams { cluster, command } => {
            let server = connect(arguments, &cluster).await?;
            let command =
                command.unwrap_or_else(|| SessionsCommand::List(SessionFilter::default()));
            sessions::run_at(server, command, arguments.format.json()).await
        }
        KubectlCommand::Undrain { cluster, edge } => {
            let server = connect(arguments, &cluster).await?;
            let request = EdgesRequest::Undrain { edge };
            edges::run_at(server, request, arguments.format.json()).await
        }
    }
}

async fn open(arguments: &DeskArguments) -> anyhow::Result<Desk> {
    let desk = Desk::open(
        arguments.kubeconfig.as_deref(),
        arguments.context.as_deref(),
        arguments.namespace.as_deref(),
    );
    Ok(desk.await?)
}

/// The gRPC API of a cluster; of the namespace's only one where none is named.
async fn connect(
    arguments: &DeskArguments,
    cluster: &ClusterArgument,
) -> anyhow::Result<ApiChannel> {
    let desk = open(arguments).await?;
    let clusters = kubernetes::clusters(&desk, cluster.name.as_deref()).await?;
    let [cluster] = clusters.as_slice() else {
        let message = if clusters.is_empty() {
            format!("no IngestCluster in namespace {:?}", desk.namespace())
        } else {
            "there are several clusters here; --cluster NAME takes one".to_owned()
        };
        return Err(UsageError(message).into());
    };
    reach(
        &desk,
        &cluster.resource.metadata.name.clone().unwrap_or_default(),
    )
    .await
}

async fn reach(desk: &Desk, cluster: &str) -> anyhow::Result<ApiChannel> {
    let access = ApiAccess::find(desk, &Names::of(cluster)).await?;
    let bearer = Bearer::new(&access.token)?;
    let tls = tls(access.ca.as_deref())?;
    let endpoint = Endpoint::from_shared(format!("https://{}", access.server_name))
        .context("the name of control's Service is not a host name")?
        .connect_timeout(TUNNEL_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        // A pod that is gone with its node says nothing, and the API server does not notice.
        .http2_keep_alive_interval(TUNNEL_TIMEOUT)
        .keep_alive_timeout(TUNNEL_TIMEOUT);
    let tunnel = access.tunnel;
    let connector = tower::service_fn(move |uri: Uri| through(tunnel.clone(), uri, tls.clone()));
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .context("cannot reach control through the API server")?;
    Ok(InterceptedService::new(channel, bearer))
}

async fn through(
    tunnel: Tunnel,
    uri: Uri,
    tls: TlsConnector,
) -> io::Result<TokioIo<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>> {
    let name = uri.host().unwrap_or_default().to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = tunnel.connect().await.map_err(io::Error::other)?;
    Ok(TokioIo::new(tls.connect(name, stream).await?))
}

fn tls(ca: Option<&[u8]>) -> anyhow::Result<TlsConnector> {
    let certificates = ca.map(|pem| {
        CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .context("the API's CA certificates are damaged")
    });
    Ok(channel::connector(certificates.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str]) -> Vec<OsString> {
        arguments(words.iter().map(OsString::from))
    }

    #[test]
    fn as_a_plugin_every_command_is_of_kubectl() {
        assert_eq!(
            called(&["/usr/local/bin/kubectl-headwater", "status", "-n", "live"]),
            [
                "/usr/local/bin/kubectl-headwater",
                "kubectl",
                "status",
                "-n",
                "live"
            ]
        );
        assert_eq!(called(&["headwater", "edge"]), ["headwater", "edge"]);
    }
}
