//! The internal CA and its succession.
//!
//! ```text
//! ca                     issues, is trusted
//! ca + next              issues by ca; both are trusted           until everybody trusts next
//! ca + previous          issues by ca (the former next)           until the last leaf of previous ended
//! ca
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::{
    AUTHORITY_RENEWAL, DISTRIBUTION, Existing, Fault, Plan, SecretsError, leaves,
    stored::{self, BUNDLE_SINCE, Draft, PREVIOUS_UNTIL, ROTATED},
};
use crate::{
    api::ConditionType,
    certificates::{self, Facts, LEAF_LIFETIME, Pair},
    validate::ValidatedCluster,
};

/// After the end of its last leaf, for clocks that are behind.
const PREVIOUS_MARGIN: Duration = Duration::from_secs(24 * 3600);
/// Old CAs that are trusted at a time; a further rotation has to wait.
const PREVIOUS_MAX: usize = 4;

/// Who issues, and who is to be trusted.
pub(super) struct Trust {
    /// Issues.
    pub(super) authority: Pair,
    /// PEM of every CA that is trusted, in a stable order.
    pub(super) bundle: String,
}

/// What the Secret holds.
struct State {
    current: Pair,
    next: Option<Pair>,
    previous: Vec<String>,
}

/// Plans the CA's Secret; `None` where there is no CA to go on with.
pub(super) fn step(
    cluster: &ValidatedCluster,
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<Option<Trust>, SecretsError> {
    let name = cluster.names.internal_ca();
    let present = existing.get(&name);
    let label = format!("{}/{}", cluster.namespace, cluster.names.cluster());
    let new_authority = || Pair::new_authority(&label, now);
    let mut draft = Draft::of(name.clone(), "operator", present);
    let state = match present {
        None if in_use(cluster, existing, now) => {
            plan.faults.push(Fault::missing(ConditionType::CertificatesReady, format!(
                "Secret {name} (the internal CA) is missing while certificates of it are in use: restore it from a \
                 backup; or, to begin with a new CA, delete the Secrets {}-internal-* too, which cuts the tiers off \
                 from one another until every process has its new certificate",
                cluster.names.cluster()
            )));
            return Ok(None);
        }
        None => State {
            current: new_authority()?,
            next: None,
            previous: Vec::new(),
        },
        Some(secret) => match State::read(secret) {
            Ok(state) => {
                let step = Succession {
                    cluster,
                    existing,
                    secret,
                    now,
                };
                step.advance(state, &mut draft, plan, new_authority)?
            }
            Err(reason) => {
                plan.faults.push(Fault::damaged(ConditionType::CertificatesReady, format!(
                    "Secret {name} (the internal CA) is damaged: {reason}; restore it from a backup"
                )));
                return Ok(None);
            }
        },
    };
    draft
        .data
        .insert("ca.crt".to_owned(), state.current.certificate.clone());
    draft
        .data
        .insert("ca.key".to_owned(), state.current.private_key.clone());
    if let Some(next) = &state.next {
        draft
            .data
            .insert("next.crt".to_owned(), next.certificate.clone());
        draft
            .data
            .insert("next.key".to_owned(), next.private_key.clone());
    }
    if !state.previous.is_empty() {
        draft
            .data
            .insert("previous.crt".to_owned(), state.previous.concat());
    }
    let bundle = state.bundle();
    draft.plan(cluster, existing, plan);
    Ok(Some(Trust {
        authority: state.current,
        bundle,
    }))
}

/// The step from one state to the next.
struct Succession<'a> {
    cluster: &'a ValidatedCluster,
    existing: &'a Existing,
    secret: &'a Secret,
    now: Timestamp,
}

impl Succession<'_> {
    fn advance(
        &self,
        mut state: State,
        draft: &mut Draft,
        plan: &mut Plan,
        new_authority: impl FnOnce() -> Result<Pair, certificates::CertificateError>,
    ) -> Result<State, SecretsError> {
        let not_after = Facts::read(&state.current.certificate)?.not_after;
        if self.now >= not_after {
            // Nobody verifies anything by it any more: there is nothing to keep working.
            plan.renewed
                .push("internal CA (the old one had ended)".to_owned());
            draft.annotations.remove(PREVIOUS_UNTIL);
            return Ok(State {
                current: state.next.take().map_or_else(new_authority, Ok)?,
                next: None,
                previous: Vec::new(),
            });
        }
        let until = stored::time(self.secret, PREVIOUS_UNTIL);
        if !state.previous.is_empty() && until.is_none_or(|until| self.now >= until) {
            if until.is_none() {
                // Somebody took the date away: count anew rather than drop too early.
                self.keep_previous(draft);
            } else {
                state.previous.clear();
                draft.annotations.remove(PREVIOUS_UNTIL);
            }
        }
        if state.next.is_none() {
            let request = stored::requested(self.secret);
            let due = self.now >= before(not_after, AUTHORITY_RENEWAL);
            if (due || request.is_some()) && state.previous.len() < PREVIOUS_MAX {
                state.next = Some(new_authority()?);
                if let Some(request) = request {
                    draft.annotations.insert(ROTATED, request.to_owned());
                }
            }
        } else if let Some(next) = state.next.take_if(|next| self.is_trusted_everywhere(next)) {
            let former = std::mem::replace(&mut state.current, next);
            state.previous.push(former.certificate);
            self.keep_previous(draft);
            plan.renewed.push("internal CA".to_owned());
        }
        Ok(state)
    }

    fn keep_previous(&self, draft: &mut Draft) {
        let until = certificates::end(self.now, LEAF_LIFETIME + PREVIOUS_MARGIN);
        draft.annotations.insert(PREVIOUS_UNTIL, until.to_string());
    }

    /// Every Secret that processes mount has had it for long enough.
    fn is_trusted_everywhere(&self, next: &Pair) -> bool {
        leaves::bundle_holders(self.cluster).iter().all(|name| {
            let Some(secret) = self.existing.get(name) else {
                return false;
            };
            let holds = stored::text(secret, "ca.crt")
                .is_some_and(|bundle| bundle.contains(next.certificate.trim()));
            let since = stored::time(secret, BUNDLE_SINCE);
            holds && since.is_some_and(|since| self.now >= certificates::end(since, DISTRIBUTION))
        })
    }
}

impl State {
    fn read(secret: &Secret) -> Result<Self, String> {
        let pair = |certificate: &str, private_key: &str| {
            let text = |key: &str| {
                let text = stored::text(secret, key).map(str::to_owned);
                text.ok_or_else(|| format!("{key} is missing"))
            };
            let pair = Pair {
                certificate: text(certificate)?,
                private_key: text(private_key)?,
            };
            let facts = pair
                .check()
                .map_err(|error| format!("{certificate}: {error}"))?;
            if !facts.authority {
                return Err(format!("{certificate} is not a CA's"));
            }
            // What we could not recognise as issued by it, we would issue for ever.
            if !certificates::signed_by(&pair.certificate, &pair.certificate) {
                return Err(format!("{certificate} is not an ECDSA P-256 root"));
            }
            Ok(pair)
        };
        let has = |key: &str| {
            secret
                .data
                .as_ref()
                .is_some_and(|data| data.contains_key(key))
        };
        let next = has("next.crt") || has("next.key");
        Ok(Self {
            current: pair("ca.crt", "ca.key")?,
            next: next.then(|| pair("next.crt", "next.key")).transpose()?,
            previous: split(stored::text(secret, "previous.crt").unwrap_or_default()),
        })
    }

    fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.certificate.clone());
        let mut all: Vec<String> = self.previous.iter().cloned().chain(next).collect();
        all.push(self.current.certificate.clone());
        // The same set is the same text, whatever each of them is at the moment.
        all.sort_by_cached_key(|pem| {
            let begin = Facts::read(pem).map(|facts| facts.not_before);
            (begin.unwrap_or(Timestamp::MIN), pem.clone())
        });
        all.dedup();
        all.concat()
    }
}

/// Leaves of an unknown CA are valid: somebody relies on it.
fn in_use(cluster: &ValidatedCluster, existing: &Existing, now: Timestamp) -> bool {
    leaves::ROLES.iter().any(|role| {
        let secret = existing.get(&cluster.names.internal_certificate(role.as_str()));
        let certificate = secret.and_then(|secret| stored::text(secret, "tls.crt"));
        let facts = certificate.and_then(|certificate| Facts::read(certificate).ok());
        facts.is_some_and(|facts| facts.not_after > now)
    })
}

fn split(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all = Vec::new();
    let mut rest = pem;
    while let Some(at) = rest.find(END) {
        let (one, after) = rest.split_at(at + END.len());
        all.push(format!("{}\n", one.trim()));
        rest = after;
    }
    all
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(Timestamp::MIN)
}
