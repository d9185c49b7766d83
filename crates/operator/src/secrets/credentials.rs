//! Pepper, grant key and tokens, in the files' forms that the roles read.

use std::time::Duration;

use aws_lc_rs::rand;
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use proto::grant::GrantSigner;

use super::{
    DISTRIBUTION, Existing, Fault, GRANT_OVERLAP, InUse, Plan, SecretsError, TOKEN_OVERLAP,
    stored::{self, Draft, ROTATED, ROTATION, ROTATION_SINCE},
};
use crate::{api::ConditionType, certificates::end, validate::ValidatedCluster};

/// Of a pepper and of a token, before they are written as hexadecimal digits.
const RANDOM_BYTES: usize = 32;
/// Those who check know the new one.
const ADDED: &str = "Added";
/// Those who prove use the new one.
const PROMOTED: &str = "Promoted";

/// Plans all of them.
pub(super) fn plan(
    cluster: &ValidatedCluster,
    in_use: InUse,
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), SecretsError> {
    pepper(cluster, in_use, existing, plan)?;
    grant(cluster, in_use, existing, now, plan)?;
    for (name, component) in [
        (cluster.names.api_token(), "control"),
        (cluster.names.playback_token(), "origin"),
    ] {
        token(cluster, (name, component), existing, now, plan)?;
    }
    Ok(())
}

fn pepper(
    cluster: &ValidatedCluster,
    in_use: InUse,
    existing: &Existing,
    plan: &mut Plan,
) -> Result<(), SecretsError> {
    let name = cluster.names.pepper();
    let present = existing.get(&name);
    let text = match present {
        None if in_use.control => {
            plan.faults.push(Fault::missing(ConditionType::ConfigAccepted, format!(
                "Secret {name} is missing, and without it every stream key is void: restore it from a backup; or, to \
                 begin anew, create it with the key `pepper` holding `1:` and 64 hexadecimal digits"
            )));
            return Ok(());
        }
        None => format!("1:{}\n", random_hex()?),
        Some(secret) => match stored::text(secret, "pepper") {
            Some(text) if is_pepper(text) => text.to_owned(),
            Some(_) | None => {
                plan.faults.push(Fault::damaged(ConditionType::ConfigAccepted, format!(
                    "Secret {name} is damaged: its key `pepper` holds no line `<version>:<64 hexadecimal digits>`; \
                     restore it from a backup"
                )));
                return Ok(());
            }
        },
    };
    let mut draft = Draft::of(name, "control", present);
    draft.data.insert("pepper".to_owned(), text);
    draft.plan(cluster, existing, plan);
    Ok(())
}

fn is_pepper(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let good = |line: &str| {
        line.split_once(':').is_some_and(|(version, digits)| {
            let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes());
            version.parse::<u32>().is_ok() && bytes.is_ok_and(|bytes| bytes.len() == RANDOM_BYTES)
        })
    };
    lines.next().is_some_and(good) && lines.all(good)
}

fn grant(
    cluster: &ValidatedCluster,
    in_use: InUse,
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), SecretsError> {
    let name = cluster.names.grant();
    let present = existing.get(&name);
    let mut draft = Draft::of(name.clone(), "control", present);
    let keys = match present {
        None if in_use.control || in_use.origin => {
            plan.faults.push(Fault::missing(ConditionType::ConfigAccepted, format!(
                "Secret {name} is missing while grants of its key are in use: restore it from a backup; or, to begin \
                 anew, create it with the key `grant.key` holding an Ed25519 private key (PKCS#8, PEM)"
            )));
            return Ok(());
        }
        None => GrantKeys::new()?,
        Some(secret) => match GrantKeys::read(secret) {
            Some(keys) => keys.advance(secret, now, &mut draft, plan)?,
            None => {
                plan.faults.push(Fault::damaged(ConditionType::ConfigAccepted, format!(
                    "Secret {name} is damaged: `grant.key` (or `next.key`) holds no Ed25519 private key (PKCS#8, PEM); \
                     restore it from a backup"
                )));
                return Ok(());
            }
        },
    };
    draft.data.insert("grant.key".to_owned(), keys.private);
    draft
        .data
        .insert("grant.pub".to_owned(), keys.public.join("\n") + "\n");
    if let Some(next) = keys.next {
        draft.data.insert("next.key".to_owned(), next);
    }
    draft.plan(cluster, existing, plan);
    Ok(())
}

/// What the Secret of grants holds.
struct GrantKeys {
    /// Control's.
    private: String,
    /// Control's after the rotation.
    next: Option<String>,
    /// Origins'.
    public: Vec<String>,
}

impl GrantKeys {
    fn new() -> Result<Self, SecretsError> {
        let (private, public) = new_grant_key()?;
        Ok(Self {
            private,
            next: None,
            public: vec![public],
        })
    }

    fn read(secret: &Secret) -> Option<Self> {
        let private = stored::text(secret, "grant.key")?.to_owned();
        let next = stored::text(secret, "next.key").map(str::to_owned);
        let lines = lines(stored::text(secret, "grant.pub").unwrap_or_default());
        let valid = |line: &String| {
            let key = HEXLOWER_PERMISSIVE.decode(line.as_bytes());
            key.is_ok_and(|key| key.len() == RANDOM_BYTES)
        };
        let mut public: Vec<String> = lines.into_iter().filter(valid).collect();
        // Public keys follow from private ones.
        for private in std::iter::once(&private).chain(&next) {
            let needed = public_of(private)?;
            if !public.iter().any(|key| key.eq_ignore_ascii_case(&needed)) {
                public.push(needed);
            }
        }
        Some(Self {
            private,
            next,
            public,
        })
    }

    fn advance(
        mut self,
        secret: &Secret,
        now: Timestamp,
        draft: &mut Draft,
        plan: &mut Plan,
    ) -> Result<Self, SecretsError> {
        let step = Step::of(secret, now, GRANT_OVERLAP);
        match step {
            Step::Rest => {}
            Step::Add(request) => {
                let (private, public) = new_grant_key()?;
                self.next = Some(private);
                self.public.push(public);
                mark(draft, ADDED, now);
                draft.annotations.insert(ROTATED, request.to_owned());
            }
            Step::Promote => {
                if let Some(next) = self.next.take() {
                    self.private = next;
                }
                mark(draft, PROMOTED, now);
                plan.renewed.push("grant key".to_owned());
            }
            Step::Drop => {
                self.public = public_of(&self.private).into_iter().collect();
                unmark(draft);
            }
        }
        Ok(self)
    }
}

fn token(
    cluster: &ValidatedCluster,
    (name, component): (String, &'static str),
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), SecretsError> {
    let present = existing.get(&name);
    let mut draft = Draft::of(name.clone(), component, present);
    let held = present.and_then(|secret| stored::text(secret, "token"));
    let mut tokens = lines(held.unwrap_or_default());
    let text = match (present, held) {
        (Some(secret), Some(held)) if !tokens.is_empty() => {
            match Step::of(secret, now, TOKEN_OVERLAP) {
                Step::Rest => held.to_owned(),
                step @ (Step::Add(_) | Step::Promote | Step::Drop) => {
                    match step {
                        Step::Rest => {}
                        Step::Add(request) => {
                            tokens.push(random_hex()?);
                            mark(&mut draft, ADDED, now);
                            draft.annotations.insert(ROTATED, request.to_owned());
                        }
                        Step::Promote => {
                            tokens.rotate_right(1);
                            mark(&mut draft, PROMOTED, now);
                            plan.renewed.push(format!("Secret {name}"));
                        }
                        Step::Drop => {
                            tokens.truncate(1);
                            unmark(&mut draft);
                        }
                    }
                    tokens.join("\n") + "\n"
                }
            }
        }
        _ => random_hex()? + "\n",
    };
    draft.data.insert("token".to_owned(), text);
    draft.plan(cluster, existing, plan);
    Ok(())
}

/// What a rotation does next.
enum Step<'a> {
    Rest,
    /// Those who check are to know a new one; with the request's value.
    Add(&'a str),
    /// Those who prove are to use it.
    Promote,
    /// The old one goes.
    Drop,
}

impl<'a> Step<'a> {
    fn of(secret: &'a Secret, now: Timestamp, overlap: Duration) -> Self {
        let since = stored::time(secret, ROTATION_SINCE).unwrap_or(now);
        match stored::annotation(secret, ROTATION) {
            Some(ADDED) if now >= end(since, DISTRIBUTION) => Self::Promote,
            Some(PROMOTED) if now >= end(since, overlap) => Self::Drop,
            Some(ADDED | PROMOTED) => Self::Rest,
            Some(_) | None => stored::requested(secret).map_or(Self::Rest, Self::Add),
        }
    }
}

fn mark(draft: &mut Draft, phase: &str, now: Timestamp) {
    draft.annotations.insert(ROTATION, phase.to_owned());
    draft.annotations.insert(ROTATION_SINCE, now.to_string());
}

fn unmark(draft: &mut Draft) {
    draft.annotations.remove(ROTATION);
    draft.annotations.remove(ROTATION_SINCE);
}

fn new_grant_key() -> Result<(String, String), SecretsError> {
    let pkcs8 = GrantSigner::generate_pkcs8().map_err(|_unavailable| SecretsError::Random)?;
    let body = BASE64.encode(&pkcs8);
    let private = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    let public = public_of(&private).ok_or(SecretsError::Random)?;
    Ok((private, public))
}

/// 64 hexadecimal digits.
fn public_of(private: &str) -> Option<String> {
    let body: String = lines(private)
        .into_iter()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let pkcs8 = BASE64.decode(body.as_bytes()).ok()?;
    let signer = GrantSigner::from_pkcs8(&pkcs8).ok()?;
    Some(HEXLOWER.encode(&signer.public_key()))
}

fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

fn random_hex() -> Result<String, SecretsError> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes).map_err(|_unavailable| SecretsError::Random)?;
    Ok(HEXLOWER.encode(&bytes))
}
