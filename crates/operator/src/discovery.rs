//! Kinds of other operators: whether they are served. Users install those later too, so this is looked at again.

use kube::Client;
use tracing::info;

use crate::build::Observed;

/// Which kinds are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) cert_manager: bool,
    pub(crate) pod_monitors: bool,
}

impl Served {
    /// Asks the API server.
    pub(crate) async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let served = Self {
            cert_manager: is_served(client, "cert-manager.io/v1", "Certificate").await?,
            pod_monitors: is_served(client, "monitoring.coreos.com/v1", "PodMonitor").await?,
        };
        info!(?served, "kinds of other operators");
        Ok(served)
    }

    /// For the build steps.
    pub(crate) fn observed(self, edge_replicas: Option<i32>) -> Observed {
        Observed {
            cert_manager: self.cert_manager,
            pod_monitors: self.pod_monitors,
            edge_replicas,
        }
    }
}

async fn is_served(client: &Client, version: &str, kind: &str) -> Result<bool, kube::Error> {
    match client.list_api_group_resources(version).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == kind)),
        // By the code: of a group that nobody serves, the answer is text and gives no reason.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
