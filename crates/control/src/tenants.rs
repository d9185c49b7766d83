//! `TenantService`: quotas.

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        GetQuotasRequest, GroupQuota, Quota as QuotaMessage, QuotaUse, SetQuotaRequest,
        TenantQuotas, tenant_service_server::TenantService,
    },
};
use tonic::{Code, Request, Response, Status};

use crate::{
    Shared,
    caller::{Caller, Scope},
    config::Quota,
    field::{self, Violations},
    policy::{self, BITRATE_BPS_MAX},
    sessions::registry_unavailable,
};

/// Serves one control process's tenants.
pub(crate) struct Tenants(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn get_quotas(
        &self,
        request: Request<GetQuotasRequest>,
    ) -> Result<Response<TenantQuotas>, Status> {
        self.0.metrics.timed("GetQuotas", self.get(request)).await
    }

    async fn set_quota(
        &self,
        request: Request<SetQuotaRequest>,
    ) -> Result<Response<TenantQuotas>, Status> {
        self.0.metrics.timed("SetQuota", self.set(request)).await
    }
}

impl Tenants {
    async fn get(&self, request: Request<GetQuotasRequest>) -> Result<TenantQuotas, Status> {
        let caller = self.0.caller(&request, Scope::TenantsRead).await?;
        let tenant = tenant(&caller, &request.into_inner().tenant)?;
        self.quotas(&tenant).await
    }

    async fn set(&self, request: Request<SetQuotaRequest>) -> Result<TenantQuotas, Status> {
        let caller = self.0.caller(&request, Scope::TenantsWrite).await?;
        let request = request.into_inner();
        let tenant = tenant(&caller, &request.tenant)?;
        let mut violations = Violations::default();
        violations.check("group", policy::quota_group(&request.group));
        let quota = request.quota.map(quota).transpose();
        let quota = violations.check("quota.max_bitrate_bps", quota).flatten();
        violations.finish()?;
        let set = self.0.database.set_quota(&tenant, &request.group, quota);
        if !set.await? {
            let description = "a tenant has a quota for at most 1000 groups";
            return Err(status(
                Code::ResourceExhausted,
                "TOO_MANY_GROUPS",
                description,
            ));
        }
        self.0.quotas.forget_limits(&tenant);
        self.0.metrics.admin_action("set_quota");
        let now = quota.unwrap_or_default();
        tracing::info!(
            action = "set_quota",
            tenant = &*tenant,
            group = request.group,
            removed = quota.is_none(),
            max_keys = now.max_keys,
            max_sessions = now.max_sessions,
            max_bitrate_bps = now.max_bitrate_bps,
            actor = caller.name,
            client_address = caller.address,
            "quota changed"
        );
        self.quotas(&tenant).await
    }

    async fn quotas(&self, tenant: &str) -> Result<TenantQuotas, Status> {
        let mut by_group = self.0.database.quotas(tenant).await?;
        let keys = self.0.database.key_counts(tenant).await?;
        let live = self.0.quotas.used(&self.0.leases, tenant).await;
        let live = live.ok_or_else(registry_unavailable)?;
        let used = |group: &str| {
            let live = live.get(group).copied().unwrap_or_default();
            QuotaUse {
                keys: keys.get(group).copied().unwrap_or_default(),
                sessions: live.sessions,
                bitrate_bps: live.bitrate_bps,
            }
        };
        let own = by_group.remove("");
        let own = own.unwrap_or_else(|| self.0.quotas.default_quota());
        Ok(TenantQuotas {
            tenant: tenant.to_owned(),
            quota: Some(message(own)),
            r#use: Some(used("")),
            groups: by_group
                .into_iter()
                .map(|(group, quota)| GroupQuota {
                    r#use: Some(used(&group)),
                    quota: Some(message(quota)),
                    group,
                })
                .collect(),
        })
    }
}

/// The tenant that is asked for. Another one than the caller's is not there.
fn tenant(caller: &Caller, named: &str) -> Result<Arc<str>, Status> {
    let named = field::named_tenant(named);
    let named = named.map_err(|expected| field::invalid("tenant", expected))?;
    caller
        .tenant(named)
        .map_err(|_another| status(Code::NotFound, "TENANT_NOT_FOUND", "no such tenant"))
}

fn quota(message: QuotaMessage) -> Result<Quota, &'static str> {
    if message.max_bitrate_bps > BITRATE_BPS_MAX {
        return Err("at most 1000000000000");
    }
    Ok(Quota {
        max_keys: message.max_keys,
        max_sessions: message.max_sessions,
        max_bitrate_bps: message.max_bitrate_bps,
    })
}

fn message(quota: Quota) -> QuotaMessage {
    QuotaMessage {
        max_keys: quota.max_keys,
        max_sessions: quota.max_sessions,
        max_bitrate_bps: quota.max_bitrate_bps,
    }
}
