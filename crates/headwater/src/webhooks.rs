//! `headwater webhooks`: who has events posted, over the gRPC API.

use std::path::Path;

use proto::{
    cloud_events,
    v1::{
        CreateWebhookRequest, DeadLetter, DeleteWebhookRequest, EventType, GetWebhookRequest,
        ListDeadLettersRequest, ListWebhooksRequest, ReplayWebhookRequest, Webhook,
        event_service_client::EventServiceClient,
    },
};
use serde_json::{Value, json};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{ServerArguments, WebhooksCommand},
    events::sentence,
    files, output,
};

type Client = EventServiceClient<ApiChannel>;

/// Runs one of the commands.
pub(crate) async fn run(
    arguments: &ServerArguments,
    command: WebhooksCommand,
) -> anyhow::Result<()> {
    let mut client = Client::new(Server::find(arguments)?.connect().await?);
    let json = arguments.format.json();
    match command {
        WebhooksCommand::Create {
            url,
            types,
            description,
            tenant,
            secret_file,
        } => {
            let request = CreateWebhookRequest {
                url,
                types: types.into_iter().map(Into::into).collect(),
                description,
                tenant,
            };
            create(&mut client, request, secret_file.as_deref(), json).await
        }
        WebhooksCommand::List { tenant } => list(&mut client, tenant, json).await,
        WebhooksCommand::Get { id } => {
            let webhook = client.get_webhook(GetWebhookRequest { id }).await;
            let webhook = webhook.map_err(|status| explain(&status))?.into_inner();
            if json {
                output::json(&to_json(&webhook));
            } else {
                output::table(HEADING, &[row(&webhook)]);
            }
            Ok(())
        }
        WebhooksCommand::Delete { id } => {
            let request = DeleteWebhookRequest { id: id.clone() };
            let deleted = client.delete_webhook(request).await;
            deleted.map_err(|status| explain(&status))?;
            if json {
                output::json(&json!({ "id": id }));
            } else {
                output::line(format_args!("Webhook {id} is deleted."));
            }
            Ok(())
        }
        WebhooksCommand::DeadLetters { id } => dead_letters(&mut client, id, json).await,
        WebhooksCommand::Replay { id, since } => {
            let request = ReplayWebhookRequest {
                webhook_id: id,
                since: since.map(Into::into),
            };
            let replayed = client.replay_webhook(request).await;
            let events = replayed
                .map_err(|status| explain(&status))?
                .into_inner()
                .events;
            if json {
                output::json(&json!({ "events": events }));
            } else {
                output::line(format_args!("{events} events are delivered again."));
            }
            Ok(())
        }
    }
}

async fn create(
    client: &mut Client,
    request: CreateWebhookRequest,
    secret_file: Option<&Path>,
    json: bool,
) -> anyhow::Result<()> {
    let created = client.create_webhook(request).await;
    let created = created.map_err(|status| explain(&status))?.into_inner();
    let webhook = created.webhook.unwrap_or_default();
    if let Some(path) = secret_file {
        files::write_private(path, created.secret.as_bytes())?;
    }
    if json {
        let mut answer = to_json(&webhook);
        if secret_file.is_none() {
            answer["secret"] = created.secret.into();
        }
        output::json(&answer);
        return Ok(());
    }
    output::line(format_args!("Webhook  {}", webhook.id));
    match secret_file {
        Some(path) => output::line(format_args!(
            "The secret, which signs what is delivered, is in {}",
            path.display()
        )),
        None => {
            output::line(format_args!("Secret   {}", created.secret));
            output::line("The secret signs what is delivered. It is not shown again.");
        }
    }
    Ok(())
}

async fn list(client: &mut Client, tenant: String, json: bool) -> anyhow::Result<()> {
    let mut webhooks = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListWebhooksRequest {
            page_size: api::PAGE_ITEMS,
            page_token,
            tenant: tenant.clone(),
        };
        let page = client.list_webhooks(request).await;
        let page = page.map_err(|status| explain(&status))?.into_inner();
        webhooks.extend(page.webhooks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if json {
        output::json(&webhooks.iter().map(to_json).collect());
    } else {
        let rows: Vec<_> = webhooks.iter().map(row).collect();
        output::table(HEADING, &rows);
    }
    Ok(())
}

fn row(webhook: &Webhook) -> [String; 8] {
    let state = if webhook.disable_time.is_some() {
        "disabled"
    } else if webhook.last_error.is_empty() {
        "good"
    } else {
        &webhook.last_error
    };
    let types = names(webhook).join(",");
    [
        webhook.id.clone(),
        webhook.tenant.clone(),
        webhook.url.clone(),
        if types.is_empty() {
            "all".to_owned()
        } else {
            types
        },
        webhook.pending.to_string(),
        webhook.dead.to_string(),
        api::time(webhook.last_success_time.as_ref()),
        state.to_owned(),
    ]
}

fn names(webhook: &Webhook) -> Vec<&'static str> {
    let types = webhook.types.iter();
    types
        .filter_map(|event_type| EventType::try_from(*event_type).ok())
        .map(cloud_events::short_name)
        .collect()
}

async fn dead_letters(client: &mut Client, id: String, json: bool) -> anyhow::Result<()> {
    let mut page_token = String::new();
    loop {
        let request = ListDeadLettersRequest {
            webhook_id: id.clone(),
            page_size: api::PAGE_ITEMS,
            page_token,
        };
        let page = client.list_dead_letters(request).await;
        let page = page.map_err(|status| explain(&status))?.into_inner();
        for dead in page.dead_letters {
            print_dead(dead, json);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

/// One line each: there may be many.
fn print_dead(dead: DeadLetter, json: bool) {
    let event = dead.event.unwrap_or_default();
    if json {
        output::line(json!({
            "event": cloud_events::json(&event),
            "attempts": dead.attempts,
            "last_error": dead.last_error,
        }));
    } else {
        let sentence = sentence(&event);
        let line = format!("{sentence}  ({} tries: {})", dead.attempts, dead.last_error);
        output::line(output::printable(line));
    }
}

fn to_json(webhook: &Webhook) -> Value {
    json!({
        "id": webhook.id,
        "tenant": webhook.tenant,
        "url": webhook.url,
        "types": names(webhook),
        "description": webhook.description,
        "create_time": api::json_time(webhook.create_time.as_ref()),
        "last_error": webhook.last_error,
        "last_success_time": api::json_time(webhook.last_success_time.as_ref()),
        "disable_time": api::json_time(webhook.disable_time.as_ref()),
        "pending": webhook.pending,
        "dead": webhook.dead,
    })
}

const HEADING: [&str; 8] = [
    "ID",
    "TENANT",
    "URL",
    "TYPES",
    "PENDING",
    "DEAD",
    "DELIVERED",
    "STATE",
];
