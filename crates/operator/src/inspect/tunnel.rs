//! A connection to control's gRPC API from a desk: through the API server's port forwarding, so that nothing has to be exposed, with the
//! token and the certificates from the cluster's Secrets.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Desk, InspectError, installation};
use crate::names::{Component, Names};

/// Control's public port.
const API_PORT: u16 = 7443;

/// What a client of the gRPC API needs.
pub struct ApiAccess {
    /// A bearer token.
    pub token: String,
    /// Certificates (PEM) that control's is checked against; `None`: the system's.
    pub ca: Option<Vec<u8>>,
    /// The name in control's certificate.
    pub server_name: String,
    /// How to get there.
    pub tunnel: Tunnel,
}

/// Opens connections to one control pod.
#[derive(Clone)]
pub struct Tunnel {
    client: Client,
    namespace: String,
    pod: String,
}

impl ApiAccess {
    /// Finds a ready control of a cluster, and the credentials of its API.
    pub async fn find(desk: &Desk, names: &Names) -> Result<Self, InspectError> {
        let pods = installation::pods(desk, names.cluster()).await?;
        let pod = pods
            .into_iter()
            .find(|pod| pod.component == Component::Control && pod.ready)
            .ok_or_else(|| {
                InspectError::Missing(format!(
                    "no control of {} is ready; `headwater doctor` says why",
                    names.cluster()
                ))
            })?;
        let token = secret(desk, &names.api_token()).await?;
        let token = value(&token, "token")
            .and_then(|token| {
                // The newest is first.
                let text = String::from_utf8(token).ok()?;
                let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
                Some(line.to_owned())
            })
            .ok_or_else(|| {
                InspectError::Missing(format!("Secret {} holds no token", names.api_token()))
            })?;
        let certificate = secret(desk, &names.public_certificate(Component::Control)).await?;
        let tier = names.tier(Component::Control);
        Ok(Self {
            token,
            ca: value(&certificate, "ca.crt").filter(|ca| !ca.is_empty()),
            server_name: format!("{tier}.{}.svc", desk.namespace),
            tunnel: Tunnel {
                client: desk.client.clone(),
                namespace: desk.namespace.clone(),
                pod: pod.name,
            },
        })
    }
}

impl Tunnel {
    /// A new connection to the pod's API port.
    pub async fn connect(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, InspectError> {
        let tunnel = |reason: String| InspectError::Tunnel {
            pod: self.pod.clone(),
            reason,
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut forwarder = pods
            .portforward(&self.pod, &[API_PORT])
            .await
            .map_err(|error| tunnel(error.to_string()))?;
        forwarder
            .take_stream(API_PORT)
            .ok_or_else(|| tunnel("the port is not forwarded".to_owned()))
    }
}

async fn secret(desk: &Desk, name: &str) -> Result<Secret, InspectError> {
    desk.api::<Secret>()
        .get(name)
        .await
        .map_err(InspectError::kubernetes(format!("for Secret {name}")))
}

fn value(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    Some(secret.data.as_ref()?.get(key)?.0.clone())
}
