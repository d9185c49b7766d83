//! Which applications a cluster takes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use runtime::egress::HttpsUrl;

use super::{cluster::check_key, problems::Problems};
use crate::api::{
    ApplicationAuth, AuthMode, IngestApplication, IngestCluster, SignedAuth, WebhookAuth,
};

/// Longest name of an application.
const APP_BYTES_MAX: usize = 63;

/// An application that encoders may publish to.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedApplication {
    /// As in the RTMPS URL's path.
    pub app: String,
    /// What decides on its publishers.
    pub auth: ValidatedAuth,
}

/// What decides on an application's publishers.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidatedAuth {
    /// Stream keys of the cluster's API.
    Managed,
    /// JWTs that a platform signs.
    Signed(SignedAuth),
    /// A platform's backend.
    Webhook(WebhookAuth),
}

impl ValidatedApplication {
    /// Of one that was accepted.
    pub(super) fn of(application: &IngestApplication) -> Option<Self> {
        let auth = application.spec.auth.clone();
        let auth = match auth.mode {
            AuthMode::Managed => ValidatedAuth::Managed,
            AuthMode::Signed => ValidatedAuth::Signed(auth.signed?),
            AuthMode::Webhook => ValidatedAuth::Webhook(auth.webhook?),
        };
        Some(Self {
            app: application.spec.app.clone(),
            auth,
        })
    }

    /// The port of what controls call for it, where they do.
    pub(crate) fn called_port(&self) -> Option<u16> {
        let url = match &self.auth {
            ValidatedAuth::Managed => None,
            ValidatedAuth::Signed(signed) => signed.jwks_url.as_ref(),
            ValidatedAuth::Webhook(webhook) => Some(&webhook.url),
        };
        Some(url?.parse::<HttpsUrl>().ok()?.port())
    }
}

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
            let checked = check_app(app).and_then(|()| check_auth(&application.spec.auth));
            let acceptance = match (checked, owner) {
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

/// As the CRD's rules have it.
fn check_auth(auth: &ApplicationAuth) -> Result<(), String> {
    let mut problems = Problems::default();
    match (auth.mode, &auth.signed, &auth.webhook) {
        (AuthMode::Managed, None, None) => {}
        (AuthMode::Signed, Some(signed), None) => check_signed(signed, &mut problems),
        (AuthMode::Webhook, None, Some(webhook)) => check_webhook(webhook, &mut problems),
        (AuthMode::Managed | AuthMode::Signed | AuthMode::Webhook, _, _) => problems.add(
            "spec.auth",
            "has signed with mode Signed, webhook with mode Webhook, and neither with Managed",
        ),
    }
    let problems = problems.into_vec();
    if problems.is_empty() {
        return Ok(());
    }
    let texts = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.path, problem.message));
    Err(texts.collect::<Vec<_>>().join("; "))
}

fn check_signed(signed: &SignedAuth, problems: &mut Problems) {
    const PATH: &str = "spec.auth.signed";
    problems.text(&format!("{PATH}.issuer"), &signed.issuer, TEXT_BYTES_MAX);
    problems.text(
        &format!("{PATH}.audience"),
        &signed.audience,
        TEXT_BYTES_MAX,
    );
    match (&signed.jwks_url, &signed.jwks_secret_ref) {
        (Some(url), None) => check_url(&format!("{PATH}.jwksUrl"), url, problems),
        (None, Some(secret)) => check_key(&format!("{PATH}.jwksSecretRef"), secret, problems),
        (None, None) | (Some(_), Some(_)) => {
            problems.add(PATH, "exactly one of jwksUrl and jwksSecretRef");
        }
    }
    check_tenant(
        &format!("{PATH}.tenant"),
        signed.tenant.as_deref(),
        problems,
    );
}

fn check_webhook(webhook: &WebhookAuth, problems: &mut Problems) {
    const PATH: &str = "spec.auth.webhook";
    check_url(&format!("{PATH}.url"), &webhook.url, problems);
    check_key(&format!("{PATH}.secretRef"), &webhook.secret_ref, problems);
    let timeout = webhook.timeout_milliseconds;
    problems.range(&format!("{PATH}.timeoutMilliseconds"), timeout, 100, 2000);
    let most = webhook.max_concurrency;
    problems.range(&format!("{PATH}.maxConcurrency"), most, 1, 1024);
    check_tenant(
        &format!("{PATH}.tenant"),
        webhook.tenant.as_deref(),
        problems,
    );
}

pub(super) fn check_url(path: &str, url: &str, problems: &mut Problems) {
    if let Err(error) = url.parse::<HttpsUrl>() {
        problems.add(path, error.to_string());
    }
}

pub(super) fn check_tenant(path: &str, tenant: Option<&str>, problems: &mut Problems) {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let valid = |tenant: &str| (1..=128).contains(&tenant.len()) && tenant.bytes().all(inner);
    if tenant.is_some_and(|tenant| !valid(tenant)) {
        problems.add(path, "is not a tenant: 1 to 128 letters, digits, _ . -");
    }
}

/// Of an issuer, and of an audience.
pub(super) const TEXT_BYTES_MAX: usize = 256;
