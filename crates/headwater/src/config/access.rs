//! The fields of the section `control` that say who may call the API.

use std::{collections::BTreeMap, path::PathBuf};

use control::{ClaimOr, Permission, TokenIssuer, TokenPermissions, TokenVerification};
use serde::Deserialize;

use super::{
    check::Check,
    scalar::{HttpsUrl, OneOrMany},
};

/// Somebody who signs tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IssuerSection {
    audience: Option<String>,
    issuer: Option<String>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<HttpsUrl>,
    scopes: Option<OneOrMany<String>>,
    scopes_claim: Option<String>,
    subjects: Option<Vec<Option<SubjectSection>>>,
    tenant: Option<String>,
    tenant_claim: Option<String>,
    token_file: Option<PathBuf>,
    token_review_url: Option<HttpsUrl>,
}

/// Somebody by name: of a token's `sub`, or of a certificate.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SubjectSection {
    name: Option<String>,
    scopes: Option<OneOrMany<String>>,
    tenant: Option<String>,
}

impl IssuerSection {
    pub(super) fn finish(self, path: &str, check: &mut Check) -> Option<TokenIssuer> {
        let issuer = check.required(&format!("{path}.issuer"), self.issuer);
        let audience = check.required(&format!("{path}.audience"), self.audience);
        let token_file = check.optional_file(&format!("{path}.token_file"), self.token_file);
        let verification = match (self.jwks_file, self.jwks_url, self.token_review_url) {
            (Some(file), None, None) => {
                if token_file.is_some() {
                    check.mistake(format!("{path}.token_file"), "is for a URL");
                }
                let file = check.file(&format!("{path}.jwks_file"), Some(file));
                file.map(TokenVerification::KeySetFile)
            }
            (None, Some(HttpsUrl(url)), None) => {
                Some(TokenVerification::KeySetUrl { url, token_file })
            }
            (None, None, Some(HttpsUrl(url))) => {
                let token_file = check.required(&format!("{path}.token_file"), token_file);
                token_file.map(|token_file| TokenVerification::TokenReview { url, token_file })
            }
            _ => {
                check.mistake(
                    path,
                    "needs one of jwks_file, jwks_url and token_review_url",
                );
                None
            }
        };
        let reviewed = matches!(verification, Some(TokenVerification::TokenReview { .. }));
        let permissions = match self.subjects {
            Some(subjects) => {
                let claims = [
                    self.tenant.is_some(),
                    self.tenant_claim.is_some(),
                    self.scopes.is_some(),
                    self.scopes_claim.is_some(),
                ];
                if claims.contains(&true) {
                    check.mistake(path, "has subjects: each of them has its tenant and scopes");
                }
                let path = format!("{path}.subjects");
                let subjects = named(subjects, &path, check, |_name| Ok(()));
                Some(TokenPermissions::Subjects(subjects))
            }
            None if reviewed => {
                check.mistake(path, "needs subjects: a TokenReview knows no other claim");
                None
            }
            None => {
                let tenant = one_of(path, "tenant", self.tenant, self.tenant_claim, check);
                let scopes = self
                    .scopes
                    .map(|scopes| scopes.finish(&format!("{path}.scopes"), check));
                let scopes = one_of(path, "scopes", scopes, self.scopes_claim, check);
                tenant
                    .zip(scopes)
                    .map(|(tenant, scopes)| TokenPermissions::Claims { tenant, scopes })
            }
        };
        if let Some(Err(expected)) = permissions.as_ref().map(TokenPermissions::check) {
            check.mistake(path, format_args!("tenant or scopes: {expected}"));
        }
        Some(TokenIssuer {
            issuer: issuer?,
            audience: audience?,
            verification: verification?,
            permissions: permissions?,
        })
    }
}

fn one_of<T>(
    path: &str,
    name: &str,
    fixed: Option<T>,
    claim: Option<String>,
    check: &mut Check,
) -> Option<ClaimOr<T>> {
    match (fixed, claim) {
        (Some(fixed), None) => Some(ClaimOr::Fixed(fixed)),
        (None, Some(claim)) => Some(ClaimOr::Claim(claim)),
        (None, None) | (Some(_), Some(_)) => {
            let what = format!("needs one of {name} and {name}_claim, or subjects");
            check.mistake(path, what);
            None
        }
    }
}

/// What each may do, by its name.
pub(super) fn named(
    sections: Vec<Option<SubjectSection>>,
    path: &str,
    check: &mut Check,
    check_name: impl Fn(&str) -> Result<(), &'static str>,
) -> BTreeMap<String, Permission> {
    let mut subjects = BTreeMap::new();
    for (index, section) in sections.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(section) = check.required(&path, section) else {
            continue;
        };
        let name = check.required(&format!("{path}.name"), section.name);
        let tenant = check.required(&format!("{path}.tenant"), section.tenant);
        let scopes_path = format!("{path}.scopes");
        let scopes = check.required(&scopes_path, section.scopes);
        let scopes = scopes.map(|scopes| scopes.finish(&scopes_path, check));
        let (Some(name), Some(tenant), Some(scopes)) = (name, tenant, scopes) else {
            continue;
        };
        if let Err(expected) = check_name(&name) {
            check.mistake(
                format!("{path}.name"),
                format_args!("{name:?} is not {expected}"),
            );
        }
        let permission = Permission { tenant, scopes };
        if let Err(expected) = permission.check() {
            check.mistake(&path, format_args!("tenant or scopes: {expected}"));
        }
        if subjects.insert(name, permission).is_some() {
            check.mistake(format!("{path}.name"), "is there twice");
        }
    }
    subjects
}
