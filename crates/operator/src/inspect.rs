//! What people ask of an installation from their desk: what is there, how it is, and what is wrong with it. Reads only.

mod doctor;
mod installation;
mod tunnel;

use std::time::Duration;

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
};

pub use self::{
    doctor::{Check, Outcome, Remedy, examine},
    installation::{Cluster, PodState, clusters},
    tunnel::{ApiAccess, Tunnel},
};
use crate::names::Component;

/// For one answer of the API server: people are waiting.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// To reach the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A Kubernetes cluster and a namespace of it, with the rights of whoever asks.
#[derive(Clone)]
pub struct Desk {
    client: Client,
    namespace: String,
}

/// The desk has no view.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is nothing to ask.
    #[error("{0}")]
    Missing(String),
    /// No kubeconfig, or a damaged one.
    #[error("the Kubernetes configuration cannot be used")]
    Configuration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server refused, or did not answer.
    #[error("Kubernetes does not answer {what}")]
    Kubernetes {
        /// What was asked for.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// No connection to a pod.
    #[error("no connection to pod {pod}: {reason}")]
    Tunnel {
        /// Which.
        pod: String,
        /// Why.
        reason: String,
    },
}

impl InspectError {
    fn kubernetes(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Kubernetes {
            what,
            source: Box::new(source),
        }
    }
}

impl Desk {
    /// As kubectl would: `context` and `namespace` over those of the kubeconfig; inside a pod, its ServiceAccount.
    pub async fn open(
        kubeconfig: Option<&std::path::Path>,
        context: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Self, InspectError> {
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let mut config = match (kubeconfig, context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path).map_err(configuration)?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(configuration)?
            }
            (None, Some(_)) => Config::from_kubeconfig(&options)
                .await
                .map_err(configuration)?,
            (None, None) => Config::infer().await.map_err(configuration)?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(REQUEST_TIMEOUT);
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config).map_err(configuration)?;
        Ok(Self { client, namespace })
    }

    /// The namespace that is looked at.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What a pod says of its readiness: `Ok` when ready, else the conditions that it misses. Through the API server, so that no port has
    /// to be open.
    async fn readiness(&self, pod: &str) -> Result<(), String> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{pod}:{ADMIN_PORT}/proxy/readyz",
            self.namespace
        );
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|error| error.to_string())?;
        match self.client.request_text(request).await {
            Ok(_) => Ok(()),
            // The body of a 503 is the list; it comes as the error's message.
            Err(kube::Error::Api(status)) => Err(status.message.trim().replace('\n', "; ")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Of every role: `/livez`, `/readyz`, `/metrics`.
const ADMIN_PORT: u16 = 9090;

/// Which tier a pod is of.
fn component_of(pod: &Pod) -> Option<Component> {
    let labels = pod.metadata.labels.as_ref()?;
    let name = labels.get("app.kubernetes.io/component")?;
    Component::ALL
        .into_iter()
        .find(|component| component.as_str() == name)
}

fn configuration(error: impl std::error::Error + Send + Sync + 'static) -> InspectError {
    InspectError::Configuration(Box::new(error))
}
