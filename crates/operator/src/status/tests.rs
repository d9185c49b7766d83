use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use proto::internal::v1::GetStateResponse;
use serde_json::json;

use super::*;
use crate::{
    api::{IngestApplication, IngestClusterSpec},
    validate::{Acceptance, Defaults, validate},
};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn cluster() -> IngestCluster {
    let spec: IngestClusterSpec = serde_json::from_value(json!({
        "edge": { "replicas": 2 },
        "origin": { "replicas": 1 },
        "control": { "replicas": 1, "database": { "sqlite": {} } },
        "redis": { "standalone": { "host": "redis" } },
        "tls": { "selfSigned": {} },
    }))
    .unwrap();
    let mut cluster = IngestCluster::new("live", spec);
    cluster.metadata.namespace = Some("media".to_owned());
    cluster.metadata.uid = Some("1".to_owned());
    cluster.metadata.generation = Some(1);
    cluster
}

fn validated(cluster: &IngestCluster) -> ValidatedCluster {
    let defaults = Defaults {
        image_repository: "headwater".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
    };
    validate(cluster, &[], &defaults).unwrap()
}

fn deployment(name: &str, wanted: i32, ready: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": name, "generation": 3 },
        "spec": { "replicas": wanted, "selector": {}, "template": {} },
        "status": {
            "observedGeneration": 3, "replicas": wanted, "updatedReplicas": wanted,
            "readyReplicas": ready, "availableReplicas": ready,
        },
    }))
    .unwrap()
}

fn workloads() -> Workloads {
    let origin: StatefulSet = serde_json::from_value(json!({
        "metadata": { "name": "live-origin", "generation": 1 },
        "spec": { "replicas": 1, "selector": {}, "template": {}, "serviceName": "live-origin" },
        "status": { "observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1 },
    }))
    .unwrap();
    Workloads {
        edges: vec![deployment("live-edge-b", 2, 2)],
        origin: Some(origin),
        control: Some(deployment("live-control", 1, 1)),
        edge: "live-edge-b".to_owned(),
        revision: "b".to_owned(),
        ..Workloads::default()
    }
}

fn control(hash: &str, sessions: Option<u32>) -> Control {
    Control {
        address: "10.0.0.1:7445".to_owned(),
        state: Some(GetStateResponse {
            live_config_hash: hash.to_owned(),
            sessions,
            ..GetStateResponse::default()
        }),
    }
}

fn status_of(cluster: &IngestCluster, change: impl FnOnce(&mut Seen<'_>)) -> ClusterStatus {
    let validated = validated(cluster);
    let controls = [control("h", None)];
    let mut seen = Seen {
        cluster,
        validated: Ok(&validated),
        faults: &[],
        public_not_after: Some(now()),
        internal_not_after: Some(now()),
        workloads: workloads(),
        live_hash: "h".to_owned(),
        controls: &controls,
        sessions: None,
        error: None,
    };
    change(&mut seen);
    cluster_status(&seen, now())
}

fn find(status: &ClusterStatus, about: ConditionType) -> Option<(&str, Reason)> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.condition_type == about)?;
    Some((&condition.status, condition.reason))
}

#[test]
fn a_cluster_that_is_as_it_should_be_is_ready_and_nothing_else() {
    let status = status_of(&cluster(), |_| {});
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("True", Reason::AllTiersAvailable))
    );
    assert_eq!(find(&status, ConditionType::Reconciling), None);
    assert_eq!(find(&status, ConditionType::Stalled), None);
    assert_eq!(
        find(&status, ConditionType::CertificatesReady),
        Some(("True", Reason::SelfSigned))
    );
    assert!(status.live_configuration.loaded);
    assert_eq!(status.edge.summary, "2/2");
}

#[test]
fn draining_edges_are_told_of_and_do_not_hold_readiness() {
    let status = status_of(&cluster(), |seen| seen.workloads.draining = 3);
    assert_eq!(status.edge.summary, "2/2 +3 draining");
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("True", Reason::AllTiersAvailable))
    );
    assert_eq!(find(&status, ConditionType::Reconciling), None);
    assert_eq!(
        find(&status, ConditionType::RolloutProgressing),
        Some(("True", Reason::RolloutInProgress))
    );
}

#[test]
fn an_old_revision_serves_while_the_new_one_comes_up() {
    let status = status_of(&cluster(), |seen| {
        seen.workloads.edges = vec![
            deployment("live-edge-a", 2, 2),
            deployment("live-edge-b", 2, 0),
        ];
    });
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("True", Reason::AllTiersAvailable))
    );
    assert_eq!(
        find(&status, ConditionType::Reconciling),
        Some(("True", Reason::RolloutInProgress))
    );
}

#[test]
fn readiness_has_the_reason_of_what_is_missing() {
    let status = status_of(&cluster(), |seen| seen.workloads.origin = None);
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("False", Reason::OriginUnavailable))
    );
    let status = status_of(&cluster(), |seen| seen.workloads.edges.clear());
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("False", Reason::EdgeBelowMinimum))
    );
    let faults = [Fault {
        about: ConditionType::CertificatesReady,
        reason: Reason::SecretDamaged,
        message: "damaged".to_owned(),
    }];
    let cluster = cluster();
    let validated = validated(&cluster);
    let seen = Seen {
        cluster: &cluster,
        validated: Ok(&validated),
        faults: &faults,
        public_not_after: None,
        internal_not_after: None,
        workloads: workloads(),
        live_hash: String::new(),
        controls: &[],
        sessions: None,
        error: None,
    };
    let status = cluster_status(&seen, now());
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("False", Reason::SecretDamaged))
    );
    assert_eq!(
        find(&status, ConditionType::Stalled),
        Some(("True", Reason::SecretDamaged))
    );
}

#[test]
fn what_is_refused_stalls_and_keeps_what_was_said_of_what_runs() {
    let mut cluster = cluster();
    cluster.status = Some(status_of(&cluster, |_| {}));
    let problems = [Problem {
        reason: Reason::InvalidConfig,
        path: "spec.x".to_owned(),
        message: "is wrong".to_owned(),
    }];
    let seen = Seen {
        cluster: &cluster,
        validated: Err(&problems),
        faults: &[],
        public_not_after: None,
        internal_not_after: None,
        workloads: Workloads {
            edge: String::new(),
            revision: String::new(),
            ..workloads()
        },
        live_hash: String::new(),
        controls: &[],
        sessions: None,
        error: None,
    };
    let status = cluster_status(&seen, now());
    assert_eq!(
        find(&status, ConditionType::Stalled),
        Some(("True", Reason::InvalidConfig))
    );
    assert_eq!(
        find(&status, ConditionType::Ready),
        Some(("False", Reason::InvalidConfig))
    );
    assert_eq!(status.edge.revision, "b");
    assert_eq!(status.live_configuration.hash, "h");
}

#[test]
fn a_conditions_time_changes_with_its_value_alone() {
    let mut cluster = cluster();
    cluster.status = Some(status_of(&cluster, |_| {}));
    let later = now().checked_add(Duration::from_secs(100)).unwrap();
    let validated = validated(&cluster);
    let controls = [control("h", None)];
    let seen = |workloads| Seen {
        cluster: &cluster,
        validated: Ok(&validated),
        faults: &[],
        public_not_after: Some(now()),
        internal_not_after: Some(now()),
        workloads,
        live_hash: "h".to_owned(),
        controls: &controls,
        sessions: None,
        error: None,
    };
    assert_eq!(
        Some(cluster_status(&seen(workloads()), later)),
        cluster.status
    );
    let without = Workloads {
        origin: None,
        ..workloads()
    };
    let status = cluster_status(&seen(without), later);
    let time = |about| {
        let mut conditions = status.conditions.iter();
        let found = conditions.find(|condition| condition.condition_type == about);
        found.unwrap().last_transition_time
    };
    assert_eq!(time(ConditionType::Ready), later);
    assert_eq!(time(ConditionType::EdgeAvailable), now());
}

#[test]
fn a_configuration_is_loaded_when_every_control_has_it() {
    assert!(is_loaded(&[control("h", None), control("h", None)], "h"));
    assert!(!is_loaded(&[control("h", None), control("old", None)], "h"));
    assert!(!is_loaded(&[], "h"));
    let silent = Control {
        state: None,
        ..control("h", None)
    };
    assert!(!is_loaded(&[control("h", None), silent], "h"));
}

#[test]
fn an_application_is_accepted_once_it_is_loaded() {
    let mut application: IngestApplication = serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "IngestApplication",
        "metadata": { "name": "a", "generation": 1 },
        "spec": { "app": "live", "clusterRef": { "name": "live" } },
    }))
    .unwrap();
    let mut judge = |acceptance: Acceptance, controls: &[Control]| {
        let outcome = Outcome::Considered {
            acceptance: &acceptance,
            controls,
            live_hash: "h",
        };
        let status = application_status(&application, &outcome, now());
        application.status = Some(status.clone());
        let condition = &status.conditions[0];
        (condition.status.clone(), condition.reason)
    };
    let (accepted, loaded) = (Acceptance::Accepted, [control("h", None)]);
    assert_eq!(
        judge(accepted.clone(), &[]),
        ("False".to_owned(), Reason::ControlUnavailable)
    );
    assert_eq!(
        judge(accepted.clone(), &[control("x", None)]),
        ("False".to_owned(), Reason::AwaitingControl)
    );
    assert_eq!(
        judge(accepted, &loaded),
        ("True".to_owned(), Reason::Loaded)
    );
    let conflict = Acceptance::Conflict {
        with: "b".to_owned(),
    };
    assert_eq!(
        judge(conflict, &loaded),
        ("False".to_owned(), Reason::Conflict)
    );
}

#[test]
fn the_number_of_sessions_is_written_seldom() {
    let at = |seconds| Some(now().checked_sub(Duration::from_secs(seconds)).unwrap());
    let write = |written, at, counted| publishing(written, at, &[control("h", counted)], now());
    assert_eq!(write(None, None, Some(5)), Some(5));
    assert_eq!(
        write(Some(100), at(60), Some(105)),
        Some(100),
        "less than a tenth"
    );
    assert_eq!(write(Some(100), at(10), Some(200)), Some(100), "too soon");
    assert_eq!(write(Some(100), at(60), Some(200)), Some(200));
    assert_eq!(write(Some(0), at(60), Some(1)), Some(1));
    assert_eq!(write(Some(100), at(60), None), Some(100), "nobody knows");
}
