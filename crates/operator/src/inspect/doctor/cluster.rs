//! One cluster: what the operator says, what the pods say, what encoders meet.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use tokio::{net::TcpStream, time::timeout};

use super::{Report, certificates};
use crate::{
    api::{ConditionType, ServiceType},
    inspect::{Cluster, Desk, PodState},
    names::{Component, Names},
};

/// From a desk to a load balancer.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn examine(desk: &Desk, cluster: &Cluster, report: &mut Report) {
    report.subject = cluster.resource.name_any();
    conditions(cluster, report);
    for component in Component::ALL {
        tier(desk, cluster, component, report).await;
    }
    certificates::examine(desk, &cluster.resource, report).await;
    entrance(desk, cluster, report).await;
    applications(cluster, report);
}

fn conditions(cluster: &Cluster, report: &mut Report) {
    let Some(status) = &cluster.resource.status else {
        return report.fail(
            "status",
            "the operator has not looked at it",
            "does an operator watch this namespace?",
        );
    };
    let generation = cluster.resource.metadata.generation.unwrap_or_default();
    if status.observed_generation < generation {
        report.warn(
            "status",
            format!(
                "speaks of generation {}, the specification is at {generation}",
                status.observed_generation
            ),
            "the operator is behind or gone: see its checks above",
        );
    }
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.condition_type == ConditionType::Ready);
    match ready {
        Some(ready) if ready.status == "True" => report.ok("Ready", ready.message.clone()),
        Some(ready) => report.fail(
            "Ready",
            format!("{:?}: {}", ready.reason, ready.message),
            "the checks below say where",
        ),
        None => report.fail("Ready", "not known yet", "wait, or look at the operator"),
    }
    for condition in &status.conditions {
        let abnormal = match condition.condition_type {
            ConditionType::Reconciling | ConditionType::Stalled => condition.status == "True",
            ConditionType::RolloutProgressing | ConditionType::Ready => false,
            ConditionType::Accepted
            | ConditionType::AutoscalingActive
            | ConditionType::CertificatesReady
            | ConditionType::ConfigAccepted
            | ConditionType::ControlAvailable
            | ConditionType::EdgeAvailable
            | ConditionType::OriginAvailable
            | ConditionType::VersionSupported => condition.status == "False",
        };
        if abnormal {
            report.warn(
                "condition",
                format!(
                    "{:?} {:?}: {}",
                    condition.condition_type, condition.reason, condition.message
                ),
                "",
            );
        }
    }
}

/// Pods that are not ready tell by themselves what they lack: Redis, control, an origin, the database, a certificate.
async fn tier(desk: &Desk, cluster: &Cluster, component: Component, report: &mut Report) {
    let name = component.as_str();
    let pods: Vec<&PodState> = cluster
        .pods
        .iter()
        .filter(|pod| pod.component == component)
        .collect();
    let serving = pods.iter().filter(|pod| pod.ready && !pod.draining).count();
    let draining = pods.iter().filter(|pod| pod.draining).count();
    let mut finding = format!("{serving} ready of {}", pods.len() - draining);
    if draining > 0 {
        finding = format!("{finding}, {draining} draining");
    }
    if serving == 0 {
        report.fail(name, finding, format!("no {name} serves: see its pods"));
    } else {
        report.ok(name, finding);
    }
    for pod in pods {
        if pod.draining {
            continue;
        }
        if let Some(trouble) = &pod.trouble {
            let remedy = format!("kubectl -n {} describe pod {}", desk.namespace, pod.name);
            if pod.ready {
                report.warn(name, format!("{}: {trouble}", pod.name), remedy);
            } else {
                report.fail(name, format!("{}: {trouble}", pod.name), remedy);
            }
        } else if !pod.ready {
            let reason = match desk.readiness(&pod.name).await {
                Ok(()) => "says that it is ready; Kubernetes has not noticed yet".to_owned(),
                Err(reason) => reason,
            };
            report.fail(
                name,
                format!("{}: {reason}", pod.name),
                format!("kubectl -n {} logs {} --tail=50", desk.namespace, pod.name),
            );
        }
    }
}

/// The way in: the edge's Service, and whether it can be reached from here.
async fn entrance(desk: &Desk, cluster: &Cluster, report: &mut Report) {
    let name = Names::new(&cluster.resource).tier(Component::Edge);
    let service = match desk.api::<Service>().get_opt(&name).await {
        Ok(Some(service)) => service,
        Ok(None) => {
            return report.fail(
                "service",
                format!("Service {name} does not exist"),
                "the operator makes it",
            );
        }
        Err(error) => return report.unknown("service", &error),
    };
    let wanted = cluster.resource.spec.edge.service.service_type;
    if wanted != ServiceType::LoadBalancer {
        return report.ok("service", format!("{name}, type {wanted:?}"));
    }
    let ingress = service
        .status
        .and_then(|status| status.load_balancer)
        .and_then(|balancer| balancer.ingress)
        .unwrap_or_default();
    let addresses: Vec<String> = ingress
        .into_iter()
        .filter_map(|ingress| ingress.hostname.or(ingress.ip))
        .collect();
    if addresses.is_empty() {
        return report.fail(
            "load balancer",
            format!("Service {name} has no address"),
            format!(
                "does this Kubernetes have a load balancer? kubectl -n {} describe service {name}; or edge.service.type NodePort",
                desk.namespace
            ),
        );
    }
    let port = cluster.resource.spec.edge.service.port;
    for address in addresses {
        reach(report, &format!("{address}:{port}")).await;
    }
}

async fn reach(report: &mut Report, address: &str) {
    match timeout(REACH_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => report.ok("load balancer", format!("{address} takes connections")),
        Ok(Err(error)) => report.warn(
            "load balancer",
            format!("{address} cannot be reached from here: {error}"),
            "DNS, a firewall, loadBalancerSourceRanges, or no ready edge behind it",
        ),
        Err(_) => report.warn(
            "load balancer",
            format!(
                "{address} does not answer within {} s from here",
                REACH_TIMEOUT.as_secs()
            ),
            "a firewall, loadBalancerSourceRanges, or no ready edge behind it",
        ),
    }
}

fn applications(cluster: &Cluster, report: &mut Report) {
    if cluster.applications.is_empty() {
        return report.warn(
            "applications",
            "none: every publish is refused",
            "create an IngestApplication (chart value applications)",
        );
    }
    for application in &cluster.applications {
        let name = application.name_any();
        let app = &application.spec.app;
        let accepted = application.status.as_ref().and_then(|status| {
            status
                .conditions
                .iter()
                .find(|condition| condition.condition_type == ConditionType::Accepted)
        });
        match accepted {
            Some(condition) if condition.status == "True" => {
                report.ok("application", format!("{name}: {app}"));
            }
            Some(condition) => report.fail(
                "application",
                format!(
                    "{name}: {app}: {:?}: {}",
                    condition.reason, condition.message
                ),
                "",
            ),
            None => report.warn(
                "application",
                format!("{name}: {app}: not looked at yet"),
                "",
            ),
        }
    }
}
