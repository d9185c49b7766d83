//! What decides on the publishers of an application.

use std::sync::Arc;

use runtime::{egress::Egress, reload::FileError};
use tonic::Status;

use super::{Refusal, signed::Signed, webhook::Webhook};
use crate::{
    Shared, config::AdmissionSource, database::Refused, metrics::ControlMetrics, policy::Terms,
};

/// One application's.
pub(crate) enum Source {
    /// Stream keys in our database.
    Managed,
    /// Keys that the platform signs.
    Signed(Signed),
    /// The platform's backend.
    Webhook(Webhook),
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
            AdmissionSource::Webhook(config) => Source::Webhook(Webhook::open(config, self)?),
        };
        Ok(Arc::new(source))
    }
}

impl Shared {
    /// Why a credential that is no row of ours is refused, where it is.
    pub(super) async fn refused_credential(
        &self,
        id: &str,
        now_ms: i64,
    ) -> Result<Option<Refusal>, Status> {
        let refused = self.database.refused(id, now_ms).await?;
        Ok(refused.map(|refused| match refused {
            Refused::HeldOff => Refusal::HeldOff,
            Refused::Revoked => Refusal::Revoked,
        }))
    }

    /// A stream belongs to one tenant, whoever names it: a refusal where that is another one.
    pub(super) async fn claim_stream(&self, terms: &Terms) -> Result<Option<Refusal>, Status> {
        let claimed = self
            .database
            .claim_stream(&terms.app, &terms.stream, &terms.tenant);
        Ok((!claimed.await?).then_some(Refusal::StreamOfAnotherTenant))
    }
}
