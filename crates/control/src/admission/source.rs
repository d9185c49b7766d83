//! What decides on the publishers of an application.

use std::sync::Arc;

use runtime::{egress::Egress, reload::FileError};
use tonic::Status;

use super::{Refusal, offer::Checked, signed::Signed, webhook::Webhook};
use crate::{
    Shared,
    config::AdmissionSource,
    database::{Refused, Standing},
    metrics::ControlMetrics,
    policy::Terms,
};

/// One application's.
pub(crate) enum Source {
    /// Stream keys in our database.
    Managed,
    /// Keys that the platform signs.
    Signed(Signed),
    /// The platform's backend.
    Webhook(Box<Webhook>),
}

/// Makes sources.
pub(crate) struct Sources {
    pub(crate) egress: Egress,
    pub(crate) metrics: ControlMetrics,
    pub(crate) default_tenant: String,
}

impl Sources {
    pub(crate) fn open(&self, config: &AdmissionSource) -> Result<Arc<Source>, FileError> {
        let source = match config {
            AdmissionSource::Managed => Source::Managed,
            AdmissionSource::Signed(config) => {
                Source::Signed(Signed::open(config, &self.egress, &self.default_tenant)?)
            }
            AdmissionSource::Webhook(config) => {
                Source::Webhook(Box::new(Webhook::open(config, self)?))
            }
        };
        Ok(Arc::new(source))
    }
}

impl Shared {
    /// Why a credential that is no row of ours may not publish, or may not what it offers (where that is known already);
    /// else whether the stream has yet to be claimed. A stream belongs to one tenant, whoever names it.
    pub(super) async fn standing(
        &self,
        id: &str,
        app: &str,
        offer: Option<&Checked>,
        now_ms: i64,
    ) -> Result<Result<bool, Refusal>, Status> {
        let stream = offer.map(|offer| offer.stream.as_str());
        let Standing { refused, owner } = self.database.standing(id, app, stream, now_ms).await?;
        Ok(match (refused, owner, offer) {
            (Some(Refused::HeldOff), _, _) => Err(Refusal::HeldOff),
            (Some(Refused::Revoked), _, _) => Err(Refusal::Revoked),
            (None, Some(owner), Some(offer)) if owner != offer.tenant => {
                Err(Refusal::StreamOfAnotherTenant)
            }
            (None, owner, _) => Ok(owner.is_none()),
        })
    }

    /// Gives the stream to the tenant: a refusal where another one has it.
    pub(super) async fn claim_stream(&self, terms: &Terms) -> Result<Option<Refusal>, Status> {
        let claimed = self
            .database
            .claim_stream(&terms.app, &terms.stream, &terms.tenant);
        Ok((!claimed.await?).then_some(Refusal::StreamOfAnotherTenant))
    }
}
