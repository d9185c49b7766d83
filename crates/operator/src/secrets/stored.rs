//! A Secret, read and written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Existing, Plan, Write};
use crate::{
    api::{CLUSTER_LABEL, DeletionPolicy, ROTATE_ANNOTATION},
    validate::ValidatedCluster,
};

/// Which request of [`ROTATE_ANNOTATION`] has been answered.
pub(super) const ROTATED: &str = "headwater.dev/rotated";
/// How far a rotation is.
pub(super) const ROTATION: &str = "headwater.dev/rotation";
/// Since when it is there.
pub(super) const ROTATION_SINCE: &str = "headwater.dev/rotation-since";
/// Since when `ca.crt` is as it is.
pub(super) const BUNDLE_SINCE: &str = "headwater.dev/bundle-since";
/// Until when an old CA is still trusted.
pub(super) const PREVIOUS_UNTIL: &str = "headwater.dev/previous-until";

/// What the operator alone writes; everything else on a Secret is left as it is.
const OURS: [&str; 5] = [
    ROTATED,
    ROTATION,
    ROTATION_SINCE,
    BUNDLE_SINCE,
    PREVIOUS_UNTIL,
];

/// A Secret as it is to be.
pub(super) struct Draft {
    pub(super) name: String,
    /// `app.kubernetes.io/component`.
    pub(super) component: &'static str,
    pub(super) tls: bool,
    pub(super) data: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<&'static str, String>,
}

/// A value as text.
pub(super) fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let bytes = secret.data.as_ref()?.get(key)?;
    std::str::from_utf8(&bytes.0).ok()
}

/// An annotation.
pub(super) fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// An annotation that is a time.
pub(super) fn time(secret: &Secret, key: &str) -> Option<Timestamp> {
    annotation(secret, key)?.parse().ok()
}

/// A request for a rotation that was not answered yet.
pub(super) fn requested(secret: &Secret) -> Option<&str> {
    let request = annotation(secret, ROTATE_ANNOTATION)?;
    (!request.is_empty() && annotation(secret, ROTATED) != Some(request)).then_some(request)
}

impl Draft {
    /// With what the operator wrote on it so far.
    pub(super) fn of(name: String, component: &'static str, existing: Option<&Secret>) -> Self {
        let kept = OURS.into_iter().filter_map(|key| {
            let value = annotation(existing?, key)?;
            Some((key, value.to_owned()))
        });
        Self {
            name,
            component,
            tls: false,
            data: BTreeMap::new(),
            annotations: kept.collect(),
        }
    }

    /// Plans a write where the Secret is not like this.
    pub(super) fn plan(
        self,
        cluster: &ValidatedCluster,
        existing: &Existing,
        plan: &mut Plan,
    ) -> bool {
        let present = existing.get(&self.name);
        let secret = self.over(cluster, present);
        match present {
            None => plan.writes.push(Write::Create(Box::new(secret))),
            Some(present) if *present != secret => {
                plan.writes.push(Write::Replace(Box::new(secret)));
            }
            Some(_) => return false,
        }
        true
    }

    fn over(self, cluster: &ValidatedCluster, present: Option<&Secret>) -> Secret {
        let mut secret = present.cloned().unwrap_or_default();
        let metadata = &mut secret.metadata;
        metadata.name = Some(self.name);
        metadata.namespace = Some(cluster.namespace.clone());
        let labels = metadata.labels.get_or_insert_default();
        labels.extend(labels_of(cluster, self.component));
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.retain(|key, _| !OURS.contains(&key.as_str()));
        let ours = self.annotations.into_iter();
        annotations.extend(ours.map(|(key, value)| (key.to_owned(), value)));
        if annotations.is_empty() {
            metadata.annotations = None;
        }
        own(metadata, cluster);
        // The type cannot be changed.
        if present.is_none() {
            let tls = "kubernetes.io/tls".to_owned();
            secret.type_ = Some(if self.tls { tls } else { "Opaque".to_owned() });
        }
        let data = self.data.into_iter();
        let data = data.map(|(key, value)| (key, ByteString(value.into_bytes())));
        // The API server leaves out what is empty.
        secret.data = Some(data.collect()).filter(|data: &BTreeMap<_, _>| !data.is_empty());
        secret
    }
}

/// With the policy `Retain` there is no owner reference: the garbage collector would take the Secret with the cluster.
fn own(metadata: &mut ObjectMeta, cluster: &ValidatedCluster) {
    let owners = metadata.owner_references.get_or_insert_default();
    owners.retain(|owner| owner.uid != cluster.owner.uid);
    match cluster.spec.deletion_policy {
        DeletionPolicy::DeleteAll => owners.push(cluster.owner.clone()),
        DeletionPolicy::Retain => {}
    }
    if owners.is_empty() {
        metadata.owner_references = None;
    }
}

fn labels_of(cluster: &ValidatedCluster, component: &str) -> [(String, String); 6] {
    [
        ("app.kubernetes.io/name", "headwater"),
        ("app.kubernetes.io/instance", cluster.names.cluster()),
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/managed-by", "headwater-operator"),
        ("app.kubernetes.io/part-of", "headwater"),
        (CLUSTER_LABEL, cluster.names.cluster()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}
