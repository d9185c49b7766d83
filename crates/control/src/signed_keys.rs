//! Signed keys are not ours; what is ours is to refuse one from now on.

use proto::{
    error::status,
    v1::{EventType, KeyEvent, RevokeSignedKeyRequest, RevokeSignedKeyResponse},
};
use tonic::{Code, Request, Status};

use crate::{
    admission::{LIFETIME_MAX, Source, credential_id, jti},
    caller::{Caller, Scope},
    database::NewEvent,
    field::{self, Violations, now_ms},
    jwt::LEEWAY,
    keys::StreamKeys,
};

impl StreamKeys {
    pub(crate) async fn revoke_signed(
        &self,
        request: Request<RevokeSignedKeyRequest>,
    ) -> Result<RevokeSignedKeyResponse, Status> {
        let caller = self.0.caller(&request, Scope::KeysWrite).await?;
        let request = request.into_inner();
        let now_ms = now_ms();
        let mut violations = Violations::default();
        violations.check("app", field::app(&request.app));
        violations.check("jti", jti(&request.jti));
        violations.check("reason", field::reason(&request.reason));
        let expire_ms = request
            .expire_time
            .map(|time| field::future_ms(time, now_ms));
        let expire_ms = violations.check("expire_time", expire_ms.transpose());
        violations.finish()?;

        let tenant = self.tenant_of(&caller, &request)?;
        let ms = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        // No key that is good now lives longer, whatever the caller says.
        let longest_ms = now_ms
            .saturating_add(ms(LIFETIME_MAX))
            .saturating_add(ms(LEEWAY));
        let expire_ms = expire_ms.flatten().unwrap_or(longest_ms).min(longest_ms);
        let id = credential_id(&tenant, &request.app, &request.jti);
        let event = KeyEvent {
            stream_key_id: id.clone(),
            app: request.app.clone(),
            actor: caller.name.clone(),
            reason: request.reason.clone(),
            ..KeyEvent::default()
        };
        let event = NewEvent::of_key(EventType::KeyRevoked, &tenant, now_ms, event);
        // It is taken until its expiry and the leeway.
        let until_ms = expire_ms.saturating_add(ms(LEEWAY));
        let revoked = self
            .0
            .database
            .revoke_credential(&id, until_ms, &event, &request.reason);
        if revoked.await? {
            self.0.tell_of_revocation(id.clone());
            self.0.metrics.admin_action("revoke_signed_key");
            tracing::info!(
                action = "revoke_signed_key",
                tenant,
                stream_key_id = id,
                app = request.app,
                actor = caller.name,
                client_address = caller.address,
                reason = request.reason,
                "signed key revoked"
            );
        }
        Ok(RevokeSignedKeyResponse {})
    }

    /// Whose key it is. An application of another tenant is not there.
    fn tenant_of(
        &self,
        caller: &Caller,
        request: &RevokeSignedKeyRequest,
    ) -> Result<String, Status> {
        let missing = || {
            let description = "no such application with signed keys";
            status(Code::NotFound, "APP_NOT_FOUND", description)
        };
        let source = self.0.live.source(&request.app).ok_or_else(missing)?;
        let Source::Signed(signed) = &*source else {
            return Err(missing());
        };
        let named = caller
            .tenant(&request.tenant)
            .map_err(|description| field::invalid("tenant", description));
        match signed.tenant() {
            None => Ok(named?.as_ref().to_owned()),
            Some(fixed)
                if caller.sees(fixed) && (request.tenant.is_empty() || request.tenant == fixed) =>
            {
                Ok(fixed.to_owned())
            }
            Some(_) => Err(missing()),
        }
    }
}
