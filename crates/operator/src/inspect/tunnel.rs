//! A connection to control's gRPC API from a desk: through the API server's port forwarding, so that nothing has to be exposed, with the
//! token and the certificates from the cluster's Secrets.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::core::v1::{Pod, Secret};
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

/// Opens connections to control, each to a pod that is ready by then: pods come and go while somebody waits.
#[derive(Clone)]
pub struct Tunnel {
    desk: Desk,
    cluster: String,
    /// Pods take turns: one that is gone may pass for ready for a while.
    turn: Arc<AtomicUsize>,
}

impl ApiAccess {
    /// Finds a ready control of a cluster, and the credentials of its API.
    pub async fn find(desk: &Desk, names: &Names) -> Result<Self, InspectError> {
        let tunnel = Tunnel {
            desk: desk.clone(),
            cluster: names.cluster().to_owned(),
            turn: Arc::default(),
        };
        tunnel.pod().await?;
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
            tunnel,
        })
    }
}

impl Tunnel {
    /// A new connection to a pod's API port.
    pub async fn connect(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, InspectError> {
        let pod = self.pod().await?;
        let tunnel = |reason: String| InspectError::Tunnel {
            pod: pod.clone(),
            reason,
        };
        let mut forwarder = self
            .desk
            .api::<Pod>()
            .portforward(&pod, &[API_PORT])
            .await
            .map_err(|error| tunnel(error.to_string()))?;
        forwarder
            .take_stream(API_PORT)
            .ok_or_else(|| tunnel("the port is not forwarded".to_owned()))
    }

    /// The ready control whose turn it is.
    async fn pod(&self) -> Result<String, InspectError> {
        let mut pods = installation::pods(&self.desk, &self.cluster).await?;
        pods.retain(|pod| pod.component == Component::Control && pod.ready && !pod.draining);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let pod = pods.into_iter().cycle().nth(turn);
        pod.map(|pod| pod.name).ok_or_else(|| {
            InspectError::Missing(format!(
                "no control of {} is ready; `headwater doctor` says why",
                self.cluster
            ))
        })
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
