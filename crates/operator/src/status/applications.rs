//! What is said of an application.

use jiff::Timestamp;

use super::{Stated, conditions};
use crate::{
    api::{ApplicationStatus, ConditionType, IngestApplication, Reason},
    controls::Control,
    status::is_loaded,
    validate::Acceptance,
};

/// What became of an application on its cluster.
pub(crate) enum Outcome<'a> {
    /// There is no such cluster.
    ClusterMissing,
    /// The cluster cannot be built.
    ClusterRefused,
    /// As the cluster's own rules say; and what its controls run with.
    Considered {
        acceptance: &'a Acceptance,
        controls: &'a [Control],
        live_hash: &'a str,
    },
}

/// The status now.
pub(crate) fn application_status(
    application: &IngestApplication,
    outcome: &Outcome<'_>,
    now: Timestamp,
) -> ApplicationStatus {
    let (holds, reason, message) = judge(application, outcome);
    let stated = |about| Stated {
        about,
        holds: Some(holds),
        reason,
        message: message.clone(),
    };
    let previous = application.status.clone().unwrap_or_default();
    let generation = application.metadata.generation.unwrap_or_default();
    let both = vec![stated(ConditionType::Accepted), stated(ConditionType::Ready)];
    ApplicationStatus {
        observed_generation: generation,
        conditions: conditions(both, &previous.conditions, generation, now),
    }
}

fn judge(application: &IngestApplication, outcome: &Outcome<'_>) -> (bool, Reason, String) {
    match outcome {
        Outcome::ClusterMissing => {
            let name = &application.spec.cluster_ref.name;
            let message = format!("there is no IngestCluster {name} in this namespace");
            (false, Reason::ClusterMissing, message)
        }
        Outcome::ClusterRefused => {
            let message = "the cluster's specification was not accepted".to_owned();
            (false, Reason::InvalidConfig, message)
        }
        Outcome::Considered {
            acceptance: Acceptance::Conflict { with },
            ..
        } => {
            let message = format!("the older IngestApplication {with} has this app");
            (false, Reason::Conflict, message)
        }
        Outcome::Considered {
            acceptance: Acceptance::Invalid { message },
            ..
        } => (false, Reason::InvalidConfig, message.clone()),
        Outcome::Considered {
            acceptance: Acceptance::Accepted,
            controls,
            live_hash,
        } => {
            if controls.is_empty() {
                let message = "no control is ready".to_owned();
                return (false, Reason::ControlUnavailable, message);
            }
            if is_loaded(controls, live_hash) {
                let message = "every control has loaded it".to_owned();
                return (true, Reason::Loaded, message);
            }
            let message = "not every control has loaded it yet".to_owned();
            (false, Reason::AwaitingControl, message)
        }
    }
}
