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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proto::internal::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
    use runtime::{grpc::Listener, shutdown::Shutdown};
    use serde_json::json;
    use tokio::net::TcpListener;
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::certificates::{Pair, Subject};

    struct Fake;

    #[tonic::async_trait]
    impl ClusterService for Fake {
        async fn get_state(
            &self,
            _: Request<GetStateRequest>,
        ) -> Result<Response<GetStateResponse>, Status> {
            Ok(Response::new(GetStateResponse {
                live_config_hash: "h".to_owned(),
                sessions: Some(7),
                ..GetStateResponse::default()
            }))
        }
    }

    fn cluster() -> Cluster {
        Cluster {
            trust_domain: "cluster.local".to_owned(),
            namespace: "media".to_owned(),
            name: "live".to_owned(),
        }
    }

    fn identity(authority: &Pair, role: Role) -> Identity {
        let subject = Subject::Role(cluster().uri(role));
        let pair = authority.issue(&subject, Timestamp::now()).unwrap();
        Identity {
            certificate: pair.certificate,
            private_key: pair.private_key,
            bundle: authority.certificate.clone(),
        }
    }

    fn slice(address: &str, port: u16, ready: bool) -> EndpointSlice {
        serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {},
            "ports": [{ "name": "internal", "port": port }],
            "endpoints": [{ "addresses": [address], "conditions": { "ready": ready } }],
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_control_that_answers_is_heard_and_the_others_have_loaded_nothing() {
        let authority = Pair::new_authority("media/live", Timestamp::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = load(&identity(&authority, Role::Control), cluster()).unwrap();
        let listener = Listener::Internal(listener, tls, vec![Role::Operator]);
        let router = grpc::server().add_service(ClusterServiceServer::new(Fake));
        tokio::spawn(grpc::serve(router, listener, Shutdown::default()));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = closed.local_addr().unwrap().port();
        drop(closed);

        let slices = [
            slice("127.0.0.1", port, true),
            slice("127.0.0.1", nobody, true),
            slice("127.0.0.9", port, false),
        ];
        let operator = identity(&authority, Role::Operator);
        let controls = ask(&slices, Some(&operator), cluster()).await;
        assert_eq!(controls.len(), 2, "{controls:?}");
        let heard: Vec<_> = controls
            .iter()
            .filter_map(|one| one.state.as_ref())
            .collect();
        assert_eq!(heard.len(), 1, "{controls:?}");
        assert_eq!(
            (heard[0].live_config_hash.as_str(), heard[0].sessions),
            ("h", Some(7))
        );

        // An edge's certificate does not open it.
        let edge = identity(&authority, Role::Edge);
        let controls = ask(&slices[..1], Some(&edge), cluster()).await;
        assert_eq!(controls[0].state, None);
        assert_eq!(ask(&slices[..1], None, cluster()).await[0].state, None);
    }
}
