//! `kubectl headwater status`: clusters with their conditions, pods and applications.

use operator::{
    api::{ClusterStatus, Condition, ConditionType},
    inspect::{Cluster, PodState, clusters},
};
use serde_json::{Value, json};

use crate::{cli::DeskArguments, output};

/// Prints the clusters of a namespace, or one.
pub(crate) async fn run(arguments: &DeskArguments, name: Option<&str>) -> anyhow::Result<()> {
    let desk = super::open(arguments).await?;
    let clusters = clusters(&desk, name).await?;
    if arguments.format.json() {
        output::json(&clusters.iter().map(to_json).collect());
        return Ok(());
    }
    if clusters.is_empty() {
        output::line(format_args!(
            "No IngestCluster in namespace {}.",
            desk.namespace()
        ));
        return Ok(());
    }
    let texts: Vec<String> = clusters.iter().map(text).collect();
    output::line(texts.join("\n\n"));
    Ok(())
}

fn text(cluster: &Cluster) -> String {
    let name = cluster.resource.metadata.name.clone().unwrap_or_default();
    let mut lines = vec![format!("IngestCluster {name}")];
    match &cluster.resource.status {
        Some(status) => lines.extend(overview(status)),
        None => lines.push("  no operator has looked at it yet".to_owned()),
    }
    lines.push("  pods".to_owned());
    lines.extend(cluster.pods.iter().map(pod));
    lines.push("  applications".to_owned());
    for application in &cluster.applications {
        let accepted = application
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .find(|condition| condition.condition_type == ConditionType::Accepted);
        let state = accepted.map_or_else(
            || "not looked at yet".to_owned(),
            |condition| match condition.status.as_str() {
                "True" => "accepted".to_owned(),
                _ => format!("{:?}: {}", condition.reason, condition.message),
            },
        );
        lines.push(format!("    {}  {state}", application.spec.app));
    }
    let lines: Vec<String> = lines.into_iter().map(output::printable).collect();
    lines.join("\n")
}

fn overview(status: &ClusterStatus) -> Vec<String> {
    let mut lines = vec![format!(
        "  version {}  edges {}  origins {}  control {}  sessions {}",
        status.version.as_deref().unwrap_or("-"),
        status.edge.summary,
        status.origin.summary,
        status.control.summary,
        status.sessions.as_ref().map_or_else(
            || "-".to_owned(),
            |sessions| sessions.publishing.to_string()
        ),
    )];
    for endpoint in &status.endpoints {
        lines.push(format!(
            "  {} {}:{}",
            endpoint.endpoint_type, endpoint.host, endpoint.port
        ));
    }
    if let Some(certificate) = &status.certificates.public {
        lines.push(format!(
            "  RTMPS certificate until {}",
            certificate.not_after
        ));
    }
    if let Some(certificate) = &status.certificates.internal {
        lines.push(format!(
            "  internal certificates until {}",
            certificate.not_after
        ));
    }
    lines.push("  conditions".to_owned());
    lines.extend(status.conditions.iter().map(condition));
    lines
}

fn condition(condition: &Condition) -> String {
    let (kind, reason) = (condition.condition_type, condition.reason);
    format!(
        "    {:<20} {:<7} {:<22} {}",
        format!("{kind:?}"),
        condition.status,
        format!("{reason:?}"),
        condition.message
    )
    .trim_end()
    .to_owned()
}

fn pod(pod: &PodState) -> String {
    let state = match (pod.draining, pod.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let mut line = format!("    {:<44} {state:<9} {}", pod.name, pod.node);
    if pod.restarts > 0 {
        line = format!("{line}  {} restarts", pod.restarts);
    }
    if let Some(trouble) = &pod.trouble {
        line = format!("{line}  {trouble}");
    }
    line.trim_end().to_owned()
}

fn to_json(cluster: &Cluster) -> Value {
    let pods: Vec<Value> = cluster
        .pods
        .iter()
        .map(|pod| {
            json!({
                "name": pod.name,
                "component": pod.component.as_str(),
                "node": pod.node,
                "ready": pod.ready,
                "draining": pod.draining,
                "restarts": pod.restarts,
                "revision": pod.revision,
                "trouble": pod.trouble,
            })
        })
        .collect();
    json!({
        "name": cluster.resource.metadata.name,
        "namespace": cluster.resource.metadata.namespace,
        "status": cluster.resource.status,
        "pods": pods,
        "applications": cluster.applications.iter().map(|application| json!({
            "name": application.metadata.name,
            "app": application.spec.app,
            "status": application.status,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use operator::names::Component;

    use super::*;

    #[test]
    fn a_cluster_is_shown_with_what_is_wrong() {
        let resource = serde_json::from_value(json!({
            "apiVersion": "headwater.dev/v1alpha1",
            "kind": "IngestCluster",
            "metadata": { "name": "live" },
            "spec": {
                "control": { "database": { "sqlite": {} } },
                "redis": { "standalone": { "host": "redis" } },
                "tls": { "selfSigned": {} },
            },
            "status": {
                "edge": { "summary": "1/2" },
                "conditions": [{
                    "type": "Ready", "status": "False", "reason": "EdgeBelowMinimum",
                    "message": "1 of 2 edges", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap();
        let cluster = Cluster {
            resource,
            applications: Vec::new(),
            pods: vec![PodState {
                component: Component::Edge,
                name: "live-edge-1".to_owned(),
                node: "node1".to_owned(),
                ready: false,
                draining: false,
                restarts: 2,
                revision: None,
                trouble: Some("CrashLoopBackOff".to_owned()),
            }],
        };
        let text = text(&cluster);
        assert!(text.contains("edges 1/2"), "{text}");
        assert!(
            text.contains("Ready                False   EdgeBelowMinimum       1 of 2 edges"),
            "{text}"
        );
        assert!(
            text.contains("not ready node1  2 restarts  CrashLoopBackOff"),
            "{text}"
        );
    }
}
