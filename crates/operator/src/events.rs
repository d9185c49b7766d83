//! Events on an IngestCluster: one for each transition, never one for each pass.

use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tracing::debug;

use crate::{
    api::{ClusterStatus, Condition, ConditionType, FIELD_MANAGER, IngestCluster},
    apply::Changes,
};

/// Longest note that Kubernetes takes, in bytes.
const NOTE_BYTES_MAX: usize = 1000;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    reason: &'static str,
    warning: bool,
    note: String,
}

/// Writes events. A cheap handle.
#[derive(Clone)]
pub(crate) struct Events(Recorder);

pub(crate) fn normal(reason: &'static str, note: impl Into<String>) -> Happened {
    Happened {
        reason,
        warning: false,
        note: note.into(),
    }
}

pub(crate) fn warning(reason: &'static str, note: impl Into<String>) -> Happened {
    Happened {
        reason,
        warning: true,
        note: note.into(),
    }
}

impl Events {
    pub(crate) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self(Recorder::new(client, reporter))
    }

    /// An event that cannot be written is no reason to stop: a namespace that ends takes none.
    pub(crate) async fn publish(&self, cluster: &IngestCluster, happened: Vec<Happened>) {
        let reference = cluster.object_ref(&());
        for Happened {
            reason,
            warning,
            note,
        } in happened
        {
            let event = Event {
                type_: if warning { EventType::Warning } else { EventType::Normal },
                reason: reason.to_owned(),
                note: Some(shortened(note)),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.0.publish(&event, &reference).await {
                debug!(%error, reason, "an event cannot be written");
            }
        }
    }
}

/// What a pass changed.
pub(crate) fn of_changes(changes: &Changes) -> Vec<Happened> {
    let mut all = Vec::new();
    if let Some(name) = &changes.started {
        all.push(normal("RolloutStarted", format!("Deployment {name} takes over from the present edges")));
    }
    for name in &changes.finished {
        let note = format!("Deployment {name} was replaced; its edges end when their sessions have");
        all.push(normal("RolloutFinished", note));
    }
    if let Some((from, to)) = changes.scaled {
        let reason = if to > from { "ScaledOut" } else { "ScaledIn" };
        all.push(normal(reason, format!("edges: from {from} to {to}")));
    }
    all
}

/// What the status says now and did not say before.
pub(crate) fn of_status(before: Option<&ClusterStatus>, after: &ClusterStatus) -> Vec<Happened> {
    let rejected = |status: &ClusterStatus| {
        let mut conditions = status.conditions.iter();
        let is_it = |one: &&Condition| one.condition_type == ConditionType::ConfigAccepted;
        let condition = conditions.find(is_it)?;
        (condition.status == "False").then(|| condition.message.clone())
    };
    match (before.and_then(rejected), rejected(after)) {
        (before, Some(after)) if before.as_ref() != Some(&after) => {
            vec![warning("ConfigRejected", after)]
        }
        _ => Vec::new(),
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > NOTE_BYTES_MAX {
        let end = (0..=NOTE_BYTES_MAX).rev().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or_default());
    }
    note
}
