//! What the controls of a cluster run with: each of them is asked, over mutual TLS, as the role `operator`.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proto::internal::v1::{
    GetStateRequest, GetStateResponse, cluster_service_client::ClusterServiceClient,
};
use runtime::{
    grpc::{self, Target},
    identity::{Cluster, Role},
    tls::{InternalTls, TlsError},
};
use tracing::debug;

use crate::secrets::Identity;

/// For one to answer, the connection included. One that does not answer has loaded nothing, as far as we know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Asked at a time.
const CONCURRENCY: usize = 16;
/// As many as a cluster can have.
const CONTROLS_MAX: usize = 50;

/// A control that is ready, as Kubernetes says, and what it answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Control {
    pub(crate) address: String,
    pub(crate) state: Option<GetStateResponse>,
}

/// Asks every control that is ready.
pub(crate) async fn ask(
    slices: &[EndpointSlice],
    identity: Option<&Identity>,
    cluster: Cluster,
) -> Vec<Control> {
    let addresses = ready(slices);
    let tls = identity.map(|identity| load(identity, cluster));
    let tls = match tls {
        Some(Ok(tls)) => Some(tls),
        Some(Err(error)) => {
            debug!(%error, "the operator's certificate cannot be used");
            None
        }
        None => None,
    };
    let asked = addresses.into_iter().map(|address| {
        let tls = tls.clone();
        async move {
            let state = match tls {
                Some(tls) => state(&address, tls).await,
                None => None,
            };
            Control { address, state }
        }
    });
    stream::iter(asked).buffered(CONCURRENCY).collect().await
}

fn load(identity: &Identity, cluster: Cluster) -> Result<InternalTls, TlsError> {
    let Identity {
        certificate,
        private_key,
        bundle,
    } = identity;
    InternalTls::from_pem(certificate, private_key, bundle, cluster)
}

async fn state(address: &str, tls: InternalTls) -> Option<GetStateResponse> {
    let channel = grpc::channel(&Target::Internal(address.to_owned(), tls, Role::Control));
    let mut client = ClusterServiceClient::new(channel);
    match tokio::time::timeout(ANSWER_TIMEOUT, client.get_state(GetStateRequest {})).await {
        Ok(Ok(answer)) => Some(answer.into_inner()),
        Ok(Err(status)) => {
            debug!(address, %status, "control does not say what it runs with");
            None
        }
        Err(_elapsed) => {
            debug!(address, "control does not answer in time");
            None
        }
    }
}

/// `address:port` of every endpoint that is ready.
fn ready(slices: &[EndpointSlice]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for slice in slices {
        let mut ports = slice.ports.iter().flatten();
        let Some(port) = ports.find_map(|port| port.port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|conditions| conditions.ready);
            let Some(address) = endpoint.addresses.first() else {
                continue;
            };
            if is_ready.unwrap_or(true) {
                all.push(if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                });
            }
        }
    }
    all.sort();
    all.dedup();
    all.truncate(CONTROLS_MAX);
    all
}
