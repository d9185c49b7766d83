//! What Headwater stands on: the API server, the CRDs, the rights, the operator.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
        },
        coordination::v1::Lease,
        core::v1::Namespace,
        discovery::v1::EndpointSlice,
        storage::v1::StorageClass,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use super::Report;
use crate::{
    api::{CRD_REVISION, CRD_REVISION_ANNOTATION},
    crd,
    inspect::{Desk, InspectError},
};

/// Below this minor version, the API server does not know what the objects use.
const MINOR_MIN: u32 = 33;
/// The operator's Lease is renewed every few seconds.
const LEASE_AGE_MAX_SECONDS: i64 = 60;
/// The name of the operator's Lease, and the label of its pods.
const OPERATOR: &str = "headwater-operator";
const OPERATOR_SELECTOR: &str = "app.kubernetes.io/name=headwater-operator";
const DNS_NAMESPACE: &str = "kube-system";
const DNS_SELECTOR: &str = "kubernetes.io/service-name=kube-dns";
const STORAGE_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Whether the CRDs are there: without them, there is nothing more to look at.
pub(super) async fn examine(desk: &Desk, report: &mut Report) -> Result<bool, InspectError> {
    version(desk, report).await?;
    let groups = groups(desk).await?;
    let installed = crds(desk, report, &groups).await;
    namespace(desk, report).await;
    rights(desk, report, installed).await;
    let optional = [
        (
            "cert-manager",
            "cert-manager.io",
            "tls.issuerRef needs it; tls.secretName does not",
        ),
        (
            "prometheus operator",
            "monitoring.coreos.com",
            "PodMonitors and alert rules are made where it is there",
        ),
        (
            "metrics server",
            "metrics.k8s.io",
            "edge.autoscaling needs it",
        ),
    ];
    for (name, group, purpose) in optional {
        if groups.contains(group) {
            report.ok(name, format!("{group} is served"));
        } else {
            report.note(name, format!("{group} is not served"), purpose);
        }
    }
    storage(desk, report).await;
    dns(desk, report).await;
    Ok(installed)
}

/// Edges find control and origins by name.
async fn dns(desk: &Desk, report: &mut Report) {
    let api: Api<EndpointSlice> = Api::namespaced(desk.client.clone(), DNS_NAMESPACE);
    let slices = match api.list(&ListParams::default().labels(DNS_SELECTOR)).await {
        Ok(slices) => slices.items,
        Err(error) => return report.unknown("DNS", &error),
    };
    let ready = slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready) != Some(false)
        })
        .count();
    match (slices.is_empty(), ready) {
        (true, _) => report.note(
            "DNS",
            format!("no Service kube-dns in {DNS_NAMESPACE}"),
            "whatever resolves Service names here cannot be looked at",
        ),
        (false, 0) => report.fail(
            "DNS",
            "kube-dns has no ready server: nobody finds anybody",
            format!("kubectl -n {DNS_NAMESPACE} get pods -l k8s-app=kube-dns"),
        ),
        (false, ready) => report.ok("DNS", format!("kube-dns has {ready} ready addresses")),
    }
}

async fn version(desk: &Desk, report: &mut Report) -> Result<(), InspectError> {
    let version = desk
        .client
        .apiserver_version()
        .await
        .map_err(InspectError::kubernetes("for its version"))?;
    // Some providers write `33+`.
    let digits: String = version
        .minor
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let minor: u32 = digits.parse().unwrap_or_default();
    if version.major == "1" && minor < MINOR_MIN {
        report.fail(
            "kubernetes",
            format!("{} is too old", version.git_version),
            format!("Headwater needs 1.{MINOR_MIN} or later"),
        );
    } else {
        report.ok("kubernetes", version.git_version);
    }
    Ok(())
}

async fn groups(desk: &Desk) -> Result<BTreeSet<String>, InspectError> {
    let groups = desk
        .client
        .list_api_groups()
        .await
        .map_err(InspectError::kubernetes("for its API groups"))?;
    Ok(groups.groups.into_iter().map(|group| group.name).collect())
}

async fn crds(desk: &Desk, report: &mut Report, groups: &BTreeSet<String>) -> bool {
    const UPGRADE: &str = "helm upgrade --install headwater-crds charts/headwater-crds";
    if !groups.contains(crate::api::GROUP) {
        report.fail(
            "CRDs",
            "headwater.dev is not served: not installed yet",
            UPGRADE,
        );
        return false;
    }
    let api: Api<CustomResourceDefinition> = Api::all(desk.client.clone());
    for wanted in crd::crds() {
        let name = wanted.name_any();
        match api.get_opt(&name).await {
            Ok(Some(crd)) => {
                let revision: u32 = crd
                    .annotations()
                    .get(CRD_REVISION_ANNOTATION)
                    .and_then(|revision| revision.parse().ok())
                    .unwrap_or_default();
                if revision < CRD_REVISION {
                    report.fail(
                        "CRDs",
                        format!(
                            "{name} is of revision {revision}, this program knows {CRD_REVISION}"
                        ),
                        UPGRADE,
                    );
                } else {
                    report.ok("CRDs", format!("{name} revision {revision}"));
                }
            }
            Ok(None) => report.fail("CRDs", format!("{name} is missing"), UPGRADE),
            Err(error) => report.unknown("CRDs", &error),
        }
    }
    true
}

async fn namespace(desk: &Desk, report: &mut Report) {
    let api: Api<Namespace> = Api::all(desk.client.clone());
    match api.get_opt(&desk.namespace).await {
        Ok(Some(namespace)) => match namespace.labels().get(POD_SECURITY) {
            Some(level) => report.ok(
                "namespace",
                format!("{} enforces Pod Security {level}", desk.namespace),
            ),
            None => report.note(
                "namespace",
                format!("{} enforces no Pod Security", desk.namespace),
                format!(
                    "every pod meets restricted: kubectl label namespace {} {POD_SECURITY}=restricted",
                    desk.namespace
                ),
            ),
        },
        Ok(None) => report.fail(
            "namespace",
            format!("{} does not exist", desk.namespace),
            format!("kubectl create namespace {}", desk.namespace),
        ),
        Err(error) => report.unknown("namespace", &error),
    }
}

/// What whoever asks may do here.
async fn rights(desk: &Desk, report: &mut Report, installed: bool) {
    let namespaced = [
        ("create", "headwater.dev", "ingestclusters"),
        ("get", "", "secrets"),
        ("create", "", "pods/portforward"),
    ];
    let mut denied = Vec::new();
    for (verb, group, resource) in namespaced {
        match may(desk, verb, group, resource, Some(&desk.namespace)).await {
            Ok(true) => {}
            Ok(false) => denied.push(format!("{verb} {resource}")),
            Err(error) => return report.unknown("your rights", &error),
        }
    }
    if !installed {
        let crds = "customresourcedefinitions";
        match may(desk, "create", "apiextensions.k8s.io", crds, None).await {
            Ok(true) => {}
            Ok(false) => denied.push(format!("create {crds}")),
            Err(error) => return report.unknown("your rights", &error),
        }
    }
    if denied.is_empty() {
        report.ok("your rights", "enough to install and to look");
    } else {
        report.warn(
            "your rights",
            format!("you may not: {}", denied.join(", ")),
            "somebody who may has to, or bind the ClusterRole headwater-edit to you",
        );
    }
}

async fn may(
    desk: &Desk,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
) -> Result<bool, kube::Error> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                namespace: namespace.map(str::to_owned),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(desk.client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn storage(desk: &Desk, report: &mut Report) {
    let api: Api<StorageClass> = Api::all(desk.client.clone());
    match api.list(&ListParams::default()).await {
        Ok(classes) => {
            let default = classes.items.iter().find(|class| {
                class
                    .annotations()
                    .get(STORAGE_DEFAULT)
                    .is_some_and(|value| value == "true")
            });
            match default {
                Some(class) => report.ok("storage", format!("default class {}", class.name_any())),
                None => report.note(
                    "storage",
                    "no default StorageClass",
                    "control.database.sqlite needs one, or storageClassName; PostgreSQL does not",
                ),
            }
        }
        Err(error) => report.unknown("storage", &error),
    }
}

/// The operator, wherever it is.
pub(super) async fn operator(desk: &Desk, report: &mut Report) {
    let selector = ListParams::default().labels(OPERATOR_SELECTOR);
    let everywhere: Api<Deployment> = Api::all(desk.client.clone());
    let deployments = match everywhere.list(&selector).await {
        Ok(found) => found.items,
        // Not everybody may look everywhere.
        Err(_) => match desk.api::<Deployment>().list(&selector).await {
            Ok(found) => found.items,
            Err(error) => return report.unknown("deployment", &error),
        },
    };
    let Some(deployment) = deployments.first() else {
        return report.fail(
            "deployment",
            "no operator runs: nothing is reconciled, what runs goes on",
            "helm install headwater-operator charts/headwater-operator -n headwater-system --create-namespace",
        );
    };
    let namespace = deployment.namespace().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or_default();
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let finding = format!(
        "{ready}/{wanted} ready in {namespace} ({})",
        deployment.name_any()
    );
    if ready == 0 {
        report.fail(
            "deployment",
            finding,
            format!("kubectl -n {namespace} describe pods -l {OPERATOR_SELECTOR}"),
        );
    } else if ready < wanted {
        report.warn(
            "deployment",
            finding,
            format!("kubectl -n {namespace} get pods -l {OPERATOR_SELECTOR}"),
        );
    } else {
        report.ok("deployment", finding);
    }
    lease(desk, report, &namespace).await;
}

async fn lease(desk: &Desk, report: &mut Report, namespace: &str) {
    let api: Api<Lease> = Api::namespaced(desk.client.clone(), namespace);
    let lease = match api.get_opt(OPERATOR).await {
        Ok(lease) => lease.and_then(|lease| lease.spec),
        Err(error) => return report.unknown("leader", &error),
    };
    let logs = format!("kubectl -n {namespace} logs -l {OPERATOR_SELECTOR} --tail=50");
    let Some(holder) = lease
        .as_ref()
        .and_then(|lease| lease.holder_identity.clone())
    else {
        return report.fail("leader", "no operator leads", logs);
    };
    let age = lease
        .and_then(|lease| lease.renew_time)
        .map(|renewed| Timestamp::now().as_second() - renewed.0.as_second());
    match age {
        Some(age) if age <= LEASE_AGE_MAX_SECONDS => {
            report.ok("leader", format!("{holder}, renewed {age} s ago"));
        }
        Some(age) => report.fail(
            "leader",
            format!("{holder} has not renewed for {age} s"),
            logs,
        ),
        None => report.fail("leader", format!("{holder} never renewed"), logs),
    }
}
