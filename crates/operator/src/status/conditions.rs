//! What is said of each part of a cluster.

use super::{Seen, Stated, tiers::wanted_edges};
use crate::{
    api::{ClusterStatus, ConditionType, Reason},
    apply::is_fully_available,
};

/// Every condition, in no order.
pub(super) fn all(seen: &Seen<'_>, status: &ClusterStatus) -> Vec<Stated> {
    let mut all = vec![
        config_accepted(seen),
        version_supported(seen),
        certificates_ready(seen),
        origin_available(status),
        control_available(status),
        edge_available(seen, status),
        rollout_progressing(seen, status),
    ];
    all.extend(autoscaling_active(seen));
    let ready = ready(seen, &all);
    all.extend(reconciling(seen, status));
    all.extend(stalled(seen));
    all.push(ready);
    all
}

fn stated(about: ConditionType, holds: bool, reason: Reason, message: impl Into<String>) -> Stated {
    Stated {
        about,
        holds: Some(holds),
        reason,
        message: message.into(),
    }
}

fn config_accepted(seen: &Seen<'_>) -> Stated {
    let about = ConditionType::ConfigAccepted;
    if let Err(problems) = seen.validated {
        let reason = problems
            .first()
            .map_or(Reason::InvalidConfig, |problem| problem.reason);
        let all = problems.iter();
        let all: Vec<String> = all
            .map(|one| format!("{}: {}", one.path, one.message))
            .collect();
        return stated(about, false, reason, all.join("; "));
    }
    faults_about(seen, about)
        .unwrap_or_else(|| stated(about, true, Reason::Valid, "the specification makes sense"))
}

fn version_supported(seen: &Seen<'_>) -> Stated {
    let about = ConditionType::VersionSupported;
    let problems = seen.validated.err().unwrap_or_default();
    let unsupported = problems
        .iter()
        .find(|one| one.reason == Reason::UnsupportedVersion);
    match unsupported {
        Some(problem) => stated(about, false, problem.reason, problem.message.clone()),
        None => stated(about, true, Reason::Valid, "the operator knows the version"),
    }
}

fn certificates_ready(seen: &Seen<'_>) -> Stated {
    let about = ConditionType::CertificatesReady;
    if let Some(fault) = faults_about(seen, about) {
        return fault;
    }
    if seen.cluster.spec.tls.self_signed.is_some() {
        let message =
            "certificates are valid; encoders see a self-signed one: for trying things out";
        return stated(about, true, Reason::SelfSigned, message);
    }
    if seen.public_not_after.is_none() {
        let message = "the certificate that encoders see is not there yet";
        return stated(about, false, Reason::CertificatePending, message);
    }
    stated(
        about,
        true,
        Reason::CertificatesValid,
        "certificates are valid",
    )
}

fn faults_about(seen: &Seen<'_>, about: ConditionType) -> Option<Stated> {
    let faults: Vec<_> = seen
        .faults
        .iter()
        .filter(|fault| fault.about == about)
        .collect();
    let first = faults.first()?;
    let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    Some(stated(about, false, first.reason, messages.join("; ")))
}

fn origin_available(status: &ClusterStatus) -> Stated {
    let (about, tier) = (ConditionType::OriginAvailable, &status.origin);
    let message = format!("{} origins are ready", tier.summary);
    if tier.ready_replicas > 0 {
        stated(about, true, Reason::AllReplicasReady, message)
    } else {
        stated(about, false, Reason::OriginUnavailable, message)
    }
}

fn control_available(status: &ClusterStatus) -> Stated {
    let (about, tier) = (ConditionType::ControlAvailable, &status.control);
    let message = format!("{} controls are ready", tier.summary);
    if tier.ready_replicas > 0 {
        stated(about, true, Reason::AllReplicasReady, message)
    } else {
        stated(about, false, Reason::ControlUnavailable, message)
    }
}

/// A quarter of the edges may be missing, but never all of them.
fn edge_available(seen: &Seen<'_>, status: &ClusterStatus) -> Stated {
    let about = ConditionType::EdgeAvailable;
    let wanted = wanted_edges(&seen.workloads, seen.cluster);
    let missing_max = (wanted / 4).max(1);
    let needed = (wanted - missing_max).max(1);
    let message = format!(
        "{} edges are ready; {needed} are needed",
        status.edge.summary
    );
    if status.edge.ready_replicas >= needed {
        stated(about, true, Reason::AllReplicasReady, message)
    } else {
        stated(about, false, Reason::EdgeBelowMinimum, message)
    }
}

/// Draining pods count here, and nowhere else.
fn rollout_progressing(seen: &Seen<'_>, status: &ClusterStatus) -> Stated {
    let about = ConditionType::RolloutProgressing;
    let draining = seen.workloads.draining;
    if let Some(message) = unfinished(seen, status) {
        return stated(about, true, Reason::RolloutInProgress, message);
    }
    if draining > 0 {
        let message = format!("{draining} edges end when their sessions have");
        return stated(about, true, Reason::RolloutInProgress, message);
    }
    let message = "every pod has the present template";
    stated(about, false, Reason::RolloutComplete, message)
}

/// What of the rollout is not done yet, draining left out.
fn unfinished(seen: &Seen<'_>, status: &ClusterStatus) -> Option<String> {
    let workloads = &seen.workloads;
    if seen.validated.is_err() {
        return None;
    }
    let current = |name: &str| {
        let mut edges = workloads.edges.iter();
        edges.find(|edge| edge.metadata.name.as_deref() == Some(name))
    };
    let Some(edge) = current(&workloads.edge) else {
        return Some("the edges' Deployment is not there yet".to_owned());
    };
    if !is_fully_available(edge) {
        let summary = &status.edge.summary;
        return Some(format!(
            "{summary} edges are ready; the present revision's are not all available"
        ));
    }
    if workloads.edges.len() > 1 {
        return Some("edges of an old revision are still there".to_owned());
    }
    let Some(origin) = &workloads.origin else {
        return Some("the origins' StatefulSet is not there yet".to_owned());
    };
    let of_origin = origin.status.clone().unwrap_or_default();
    let wanted = origin
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    if of_origin.observed_generation < origin.metadata.generation
        || of_origin.updated_replicas.unwrap_or_default() < wanted
        || of_origin.ready_replicas.unwrap_or_default() < wanted
    {
        return Some(format!(
            "{} origins are ready and up to date",
            status.origin.summary
        ));
    }
    match &workloads.control {
        Some(control) if is_fully_available(control) => None,
        Some(_) => Some(format!(
            "{} controls are ready and up to date",
            status.control.summary
        )),
        None => Some("control's Deployment is not there yet".to_owned()),
    }
}

fn autoscaling_active(seen: &Seen<'_>) -> Option<Stated> {
    seen.cluster.spec.edge.autoscaling.as_ref()?;
    let about = ConditionType::AutoscalingActive;
    let autoscaler = seen.workloads.autoscaler.as_ref();
    let conditions = autoscaler.and_then(|one| one.status.as_ref()?.conditions.as_ref());
    let find = |name: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|condition| condition.type_ == name)
    };
    let message = |condition: Option<
        &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition,
    >| {
        condition
            .and_then(|condition| condition.message.clone())
            .unwrap_or_default()
    };
    let active = find("ScalingActive");
    let limited = find("ScalingLimited");
    Some(match active.map(|condition| condition.status.as_str()) {
        Some("True") if limited.is_some_and(|condition| condition.status == "True") => {
            stated(about, true, Reason::ScalingLimited, message(limited))
        }
        Some("True") => stated(about, true, Reason::ScalingActive, message(active)),
        Some(_) => stated(about, false, Reason::MetricsUnavailable, message(active)),
        None => Stated {
            about,
            holds: None,
            reason: Reason::MetricsUnavailable,
            message: "the HorizontalPodAutoscaler has not said anything yet".to_owned(),
        },
    })
}

/// Encoders can publish. A certificate that ends soon is no reason why they could not, nor one of many that cannot be
/// used.
fn ready(seen: &Seen<'_>, all: &[Stated]) -> Stated {
    let about = ConditionType::Ready;
    let needed = [
        ConditionType::ConfigAccepted,
        ConditionType::CertificatesReady,
        ConditionType::OriginAvailable,
        ConditionType::ControlAvailable,
        ConditionType::EdgeAvailable,
    ];
    let failed = needed.iter().find_map(|needed| {
        let mut all = all.iter();
        all.find(|one| {
            one.about == *needed
                && one.holds != Some(true)
                && one.reason != Reason::CertificateExpiringSoon
                && one.reason != Reason::CertificateUnusable
        })
    });
    match failed {
        Some(failed) => stated(about, false, failed.reason, failed.message.clone()),
        None if seen.cluster.spec.paused => stated(
            about,
            true,
            Reason::Paused,
            "every tier is available; the operator is paused",
        ),
        None => stated(
            about,
            true,
            Reason::AllTiersAvailable,
            "every tier is available",
        ),
    }
}

fn reconciling(seen: &Seen<'_>, status: &ClusterStatus) -> Option<Stated> {
    let about = ConditionType::Reconciling;
    if let Some(error) = &seen.error {
        return Some(stated(about, true, Reason::ReconcileFailed, error.clone()));
    }
    if seen.validated.is_err() || seen.cluster.spec.paused {
        return None;
    }
    let unfinished = unfinished(seen, status);
    unfinished.map(|message| stated(about, true, Reason::RolloutInProgress, message))
}

fn stalled(seen: &Seen<'_>) -> Option<Stated> {
    let about = ConditionType::Stalled;
    if seen.validated.is_err() {
        let accepted = config_accepted(seen);
        return Some(stated(about, true, accepted.reason, accepted.message));
    }
    let damaged = seen
        .faults
        .iter()
        .find(|fault| fault.reason == Reason::SecretDamaged);
    damaged.map(|fault| stated(about, true, fault.reason, fault.message.clone()))
}
