//! The operator process: from a kubeconfig to running controllers.

use std::{sync::Arc, time::Duration};

use futures_util::future;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt as _, client::ClientBuilder};
use runtime::{admin::Readiness, metrics::Metrics, shutdown::Shutdown};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::{CRD_REVISION, CRD_REVISION_ANNOTATION},
    controller::{self, Context},
    crd,
    discovery::Served,
    leader::{Election, LeaderError},
    metrics::OperatorMetrics,
    validate::Defaults,
};

/// Kinds of other operators are looked for this often.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(5 * 60);
/// For passes that run to finish at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);
/// Readiness: this process watches, or stands by for the one that does.
const WATCHING: &str = "kubernetes";
/// Bytes of randomness in an identity.
const IDENTITY_BYTES: usize = 8;

/// What the operator is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which namespaces.
    pub watch: Namespaces,
    /// Where the Lease is; `None`: the operator's own namespace.
    pub lease_namespace: Option<String>,
    /// For clusters that do not say.
    pub defaults: Defaults,
    /// What this process is called in the Lease, before a random part; such as the pod's name.
    pub name: String,
}

/// Namespaces that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Every one.
    All,
    /// The operator's own.
    Own,
    /// These.
    Some(Vec<String>),
}

/// The process's handles.
pub struct Process {
    /// To be registered with.
    pub metrics: Metrics,
    /// To be met once this process watches, or stands by.
    pub readiness: Readiness,
    /// When to end.
    pub shutdown: Shutdown,
}

/// The operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No way to Kubernetes.
    #[error("Kubernetes cannot be reached: neither a ServiceAccount nor a kubeconfig works")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Kubernetes does not answer as it should.
    #[error("Kubernetes refused a request")]
    Kube(#[from] kube::Error),
    /// The definitions are older than this operator, or not there.
    #[error(
        "the CustomResourceDefinition {name} {fault}: upgrade with `headwater crds | kubectl apply --server-side -f -` or the chart \
         headwater-crds of this version, then start the operator again"
    )]
    Definition {
        /// Of the definition.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Another operator may act.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

/// Runs until a drain is asked for, or the Lease is lost.
pub async fn run(config: Config, process: Process) -> Result<(), OperatorError> {
    let Process {
        metrics,
        readiness,
        shutdown,
    } = process;
    readiness.expect(WATCHING, "not connected yet");
    let metrics = OperatorMetrics::register(&metrics);
    let client = connect(&metrics).await?;
    check_definitions(&client).await?;
    let identity = format!("{}-{}", config.name, random());
    let own = client.default_namespace().to_owned();
    let lease_namespace = config.lease_namespace.clone().unwrap_or_else(|| own.clone());
    let mut election = Election::enter(client.clone(), &lease_namespace, identity.clone()).await?;
    readiness.met(WATCHING);
    info!(identity, namespaces = ?config.watch, "standing by");
    let ended = tokio::select! {
        won = election.won() => won.map(|()| true),
        () = shutdown.draining() => Ok(false),
    };
    let ended = match ended {
        Ok(true) => {
            metrics.lead(true);
            readiness.unmet(WATCHING, "the first lists are being read");
            let served = Served::discover(&client).await?;
            let (sender, receiver) = watch::channel(served);
            let context = Context::new(
                client.clone(),
                config.defaults,
                &identity,
                metrics.clone(),
                receiver,
            );
            let acting = Acting {
                context: Arc::new(context),
                scopes: scopes(config.watch, own),
                served: sender,
                readiness,
            };
            acting.run(&mut election, &shutdown).await
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    metrics.lead(false);
    match ended {
        Ok(()) => {
            election.leave().await;
            Ok(())
        }
        // It is another's by now, or soon.
        Err(error) => Err(error.into()),
    }
}

/// Namespaces to run controllers for; `None` is all of them at once.
fn scopes(watch: Namespaces, own: String) -> Vec<Option<String>> {
    match watch {
        Namespaces::All => vec![None],
        Namespaces::Own => vec![Some(own)],
        Namespaces::Some(mut namespaces) => {
            namespaces.sort();
            namespaces.dedup();
            namespaces.into_iter().map(Some).collect()
        }
    }
}

/// The operator that acts.
struct Acting {
    context: Arc<Context>,
    scopes: Vec<Option<String>>,
    served: watch::Sender<Served>,
    readiness: Readiness,
}

impl Acting {
    async fn run(self, election: &mut Election, shutdown: &Shutdown) -> Result<(), LeaderError> {
        let Self {
            context,
            scopes,
            served,
            readiness,
        } = self;
        let stop = CancellationToken::new();
        let left = Arc::new(std::sync::atomic::AtomicUsize::new(scopes.len()));
        let controllers = scopes.into_iter().map(|namespace| {
            let (left, readiness) = (left.clone(), readiness.clone());
            controller::run(context.clone(), namespace, stop.clone(), move || {
                // The last one to have listed.
                if left.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1 {
                    readiness.met(WATCHING);
                }
            })
        });
        let mut controllers = Box::pin(future::join_all(controllers));
        let finished = tokio::select! {
            _ = &mut controllers => true,
            () = election.lost() => return Err(LeaderError::Lost),
            () = rediscover(&context.client, &served) => false,
            () = shutdown.draining() => false,
        };
        stop.cancel();
        if !finished {
            // Still the leader while passes finish: the Lease goes on.
            tokio::select! {
                _ = controllers => {}
                () = election.lost() => return Err(LeaderError::Lost),
                () = tokio::time::sleep(FINISH_TIMEOUT) => warn!("a pass did not finish in time"),
            }
        }
        Ok(())
    }
}

/// Looks for kinds of other operators, for ever.
async fn rediscover(client: &Client, served: &watch::Sender<Served>) {
    loop {
        tokio::time::sleep(DISCOVERY_PERIOD).await;
        match Served::discover(client).await {
            Ok(now) => {
                served.send_if_modified(|before| std::mem::replace(before, now) != now);
            }
            Err(error) => warn!(%error, "kinds of other operators cannot be looked for"),
        }
    }
}

async fn connect(metrics: &OperatorMetrics) -> Result<Client, OperatorError> {
    let config = kube::Config::infer().await;
    let config = config.map_err(|error| OperatorError::Config(Box::new(error)))?;
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&metrics.count_writes()).build())
}

/// An older definition would silently drop fields that this operator relies on.
async fn check_definitions(client: &Client) -> Result<(), OperatorError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for expected in crd::crds() {
        let name = expected.name_any();
        let fault = match api.get_opt(&name).await {
            Ok(Some(present)) => {
                let revision = present.annotations().get(CRD_REVISION_ANNOTATION);
                let revision = revision.and_then(|revision| revision.parse::<u32>().ok());
                match revision {
                    Some(revision) if revision >= CRD_REVISION => continue,
                    Some(revision) => format!("has revision {revision}, and {CRD_REVISION} is needed"),
                    None => format!("says no revision, and {CRD_REVISION} is needed"),
                }
            }
            Ok(None) => "is not installed".to_owned(),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                warn!(name, "the CustomResourceDefinition cannot be read: its revision is not checked");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        error!(name, fault, "the CustomResourceDefinition does not fit");
        return Err(OperatorError::Definition { name, fault });
    }
    Ok(())
}

/// Two processes of one pod's name are two.
fn random() -> String {
    let mut bytes = [0; IDENTITY_BYTES];
    // Without randomness the name alone has to do.
    aws_lc_rs::rand::fill(&mut bytes).ok();
    data_encoding::HEXLOWER.encode(&bytes)
}
