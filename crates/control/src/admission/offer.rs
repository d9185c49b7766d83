//! What a platform allows, as it writes it: in the claims of a signed key, or in the answer to a webhook.

use proto::{internal::v1::AuthorizeRequest, v1::TakeoverPolicy};
use serde::Deserialize;

use super::{Refusal, certified};
use crate::{
    client_certificate::CertificateBinding,
    field::{self, Violations},
    policy::{Policy, Terms},
};

/// Of one publisher; nothing in it was checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) stream: String,
    pub(super) tenant: Option<String>,
    pub(super) policy: Policy,
    pub(super) takeover_policy: Takeover,
    pub(super) client_certificate: Option<String>,
}

/// As `headwater.v1.TakeoverPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Takeover {
    #[serde(rename = "takeover")]
    Always,
    #[default]
    #[serde(rename = "takeover_if_stale")]
    IfStale,
    #[serde(rename = "reject")]
    Never,
    #[serde(rename = "priority")]
    Priority,
    #[serde(rename = "same_address")]
    SameAddress,
}

/// An offer in which every value is in its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) stream: String,
    pub(super) tenant: String,
    policy: Policy,
    takeover_policy: TakeoverPolicy,
    client_certificate: Option<CertificateBinding>,
}

impl Offer {
    /// `None` where something in it cannot be. `fixed` is the tenant that an application belongs to as a whole; where it
    /// belongs to none and the offer names none, `default` is meant.
    pub(super) fn check(self, fixed: Option<&str>, default: &str) -> Option<Checked> {
        if let (Some(fixed), Some(named)) = (fixed, self.tenant.as_deref())
            && fixed != named
        {
            return None;
        }
        let tenant = self.tenant.as_deref().or(fixed).unwrap_or(default);
        let binding = self.client_certificate.as_deref();
        let binding = binding.map(CertificateBinding::parse).transpose();
        let mut violations = Violations::default();
        violations.check("stream", field::stream(&self.stream));
        violations.check("tenant", field::tenant(tenant));
        let binding = violations.check("client_certificate", binding);
        self.policy.check(&mut violations);
        violations.finish().ok()?;
        Some(Checked {
            tenant: tenant.to_owned(),
            stream: self.stream,
            policy: self.policy,
            takeover_policy: match self.takeover_policy {
                Takeover::Never => TakeoverPolicy::Reject,
                Takeover::Priority => TakeoverPolicy::Priority,
                Takeover::SameAddress => TakeoverPolicy::SameAddress,
                Takeover::Always => TakeoverPolicy::Takeover,
                Takeover::IfStale => TakeoverPolicy::TakeoverIfStale,
            },
            client_certificate: binding.flatten(),
        })
    }
}

impl Checked {
    /// What this encoder gets of it, or what it lacks.
    pub(super) fn terms(
        self,
        credential_id: String,
        expire_ms: Option<i64>,
        request: &AuthorizeRequest,
    ) -> Result<Terms, Refusal> {
        certified(self.client_certificate.as_ref(), request)?;
        Ok(Terms {
            tenant: self.tenant,
            app: request.app.clone(),
            stream: self.stream,
            credential_id,
            takeover_policy: self.takeover_policy.into(),
            expire_ms,
            policy: self.policy,
        })
    }
}
