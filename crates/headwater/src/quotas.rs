//! `headwater quotas`: what a tenant may have, over the gRPC API.

use proto::v1::{
    GetQuotasRequest, Quota, QuotaUse, SetQuotaRequest, TenantQuotas,
    tenant_service_client::TenantServiceClient,
};
use serde_json::{Value, json};

use crate::{
    api::{Server, explain},
    cli::{QuotasCommand, ServerArguments},
    output,
};

/// Runs one of the commands.
pub(crate) async fn run(arguments: &ServerArguments, command: QuotasCommand) -> anyhow::Result<()> {
    let server = Server::find(arguments)?;
    let mut client = TenantServiceClient::new(server.connect().await?);
    let json = arguments.format.json();
    let quotas = match command {
        QuotasCommand::Get { tenant } => client.get_quotas(GetQuotasRequest { tenant }).await,
        QuotasCommand::Set(arguments) => {
            let quota = Quota {
                max_keys: arguments.max_keys,
                max_sessions: arguments.max_sessions,
                max_bitrate_bps: arguments.max_bitrate,
            };
            let request = SetQuotaRequest {
                tenant: arguments.tenant,
                group: arguments.group,
                quota: (!arguments.remove).then_some(quota),
            };
            client.set_quota(request).await
        }
    };
    let quotas = quotas.map_err(|status| explain(&status))?.into_inner();
    if json {
        output::json(&to_json(&quotas));
    } else {
        print(quotas);
    }
    Ok(())
}

fn print(quotas: TenantQuotas) {
    let mut rows = vec![row(
        quotas.tenant,
        String::new(),
        quotas.quota,
        quotas.r#use,
    )];
    for group in quotas.groups {
        rows.push(row(String::new(), group.group, group.quota, group.r#use));
    }
    output::table(["TENANT", "GROUP", "KEYS", "SESSIONS", "BITRATE"], &rows);
}

fn row(tenant: String, group: String, quota: Option<Quota>, used: Option<QuotaUse>) -> [String; 5] {
    let (quota, used) = (quota.unwrap_or_default(), used.unwrap_or_default());
    let of = |used: u64, most: u64| match most {
        0 => used.to_string(),
        most => format!("{used} of {most}"),
    };
    let bitrate = of(used.bitrate_bps / 1000, quota.max_bitrate_bps / 1000);
    [
        tenant,
        group,
        of(used.keys.into(), quota.max_keys.into()),
        of(used.sessions.into(), quota.max_sessions.into()),
        format!("{bitrate} kb/s"),
    ]
}

fn to_json(quotas: &TenantQuotas) -> Value {
    let both = |quota: Option<Quota>, used: Option<QuotaUse>| {
        let (quota, used) = (quota.unwrap_or_default(), used.unwrap_or_default());
        json!({
            "quota": {
                "max_keys": quota.max_keys,
                "max_sessions": quota.max_sessions,
                "max_bitrate_bps": quota.max_bitrate_bps,
            },
            "use": {
                "keys": used.keys,
                "sessions": used.sessions,
                "bitrate_bps": used.bitrate_bps,
            },
        })
    };
    let mut value = both(quotas.quota, quotas.r#use);
    value["tenant"] = quotas.tenant.clone().into();
    let groups = quotas.groups.iter().map(|group| {
        let mut value = both(group.quota, group.r#use);
        value["group"] = group.group.clone().into();
        value
    });
    value["groups"] = groups.collect();
    value
}
