//! Which applications a cluster takes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use crate::api::{IngestApplication, IngestCluster};

/// Longest name of an application.
const APP_BYTES_MAX: usize = 63;

/// What becomes of an application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Acceptance {
    /// Encoders may publish to it.
    Accepted,
    /// An older one has the same `app`.
    Conflict {
        /// Its name.
        with: String,
    },
    /// Its `app` cannot be one.
    Invalid {
        /// Why.
        message: String,
    },
}

/// The applications of a cluster, oldest first, and what becomes of each. Those of other clusters and those that are
/// being deleted are left out; the oldest of an `app` has it, and of two as old the first by name.
pub fn accept_applications<'a>(
    cluster: &IngestCluster,
    applications: &'a [IngestApplication],
) -> Vec<(&'a IngestApplication, Acceptance)> {
    let mut ours: Vec<&IngestApplication> = applications
        .iter()
        .filter(|application| {
            application.spec.cluster_ref.name == cluster.name_any()
                && application.namespace() == cluster.namespace()
                && application.metadata.deletion_timestamp.is_none()
        })
        .collect();
    ours.sort_by_key(|application| seniority(application));
    let mut accepted: Vec<&IngestApplication> = Vec::new();
    ours.into_iter()
        .map(|application| {
            let app = &application.spec.app;
            let owner = accepted.iter().find(|owner| owner.spec.app == *app);
            let acceptance = match (check_app(app), owner) {
                (Err(message), _) => Acceptance::Invalid { message },
                (Ok(()), Some(owner)) => Acceptance::Conflict {
                    with: owner.name_any(),
                },
                (Ok(()), None) => {
                    accepted.push(application);
                    Acceptance::Accepted
                }
            };
            (application, acceptance)
        })
        .collect()
}

/// One without a time was not made by an API server yet: it is the youngest.
fn seniority(application: &IngestApplication) -> (bool, Option<Time>, String) {
    let created = application.creation_timestamp();
    (created.is_none(), created, application.name_any())
}

/// As the CRD's schema has it.
fn check_app(app: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = app.len() <= APP_BYTES_MAX
        && app.starts_with(|first: char| first.is_ascii_alphanumeric())
        && app.bytes().all(inner);
    if valid {
        Ok(())
    } else {
        Err(format!(
            "{app:?} is not an application: at most {APP_BYTES_MAX} letters, digits, . _ -, the first a letter or a digit"
        ))
    }
}
