//! `headwater tokens`: who may call the gRPC API, over the gRPC API.

use std::path::Path;

use proto::v1::{
    CreateTokenRequest, GetTokenRequest, ListTokensRequest, RevokeTokenRequest, RotateTokenRequest,
    Token, token_service_client::TokenServiceClient,
};
use serde_json::{Value, json};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{ServerArguments, TokensCommand},
    files, output,
};

type Client = TokenServiceClient<ApiChannel>;

/// Runs one of the commands.
pub(crate) async fn run(arguments: &ServerArguments, command: TokensCommand) -> anyhow::Result<()> {
    let server = Server::find(arguments)?;
    let mut client = Client::new(server.connect().await?);
    let json = arguments.format.json();
    match command {
        TokensCommand::Create {
            tenant,
            scope,
            description,
            expires_in,
            secret_file,
        } => {
            let request = CreateTokenRequest {
                tenant,
                description,
                scopes: scope,
                expire_time: expires_in.map(api::expire_time),
            };
            let answer = client.create_token(request).await;
            let answer = answer.map_err(|status| explain(&status))?.into_inner();
            show(answer.token, &answer.secret, secret_file.as_deref(), json)
        }
        TokensCommand::Get { id } => {
            let token = client.get_token(GetTokenRequest { id }).await;
            let token = token.map_err(|status| explain(&status))?.into_inner();
            print(vec![token], json);
            Ok(())
        }
        TokensCommand::List { tenant, all } => list(&mut client, tenant, all, json).await,
        TokensCommand::Revoke { id } => revoke(&mut client, id, json).await,
        TokensCommand::Rotate {
            id,
            overlap,
            secret_file,
        } => {
            let request = RotateTokenRequest {
                id,
                overlap: Some(api::duration(overlap, "--overlap")?),
            };
            let answer = client.rotate_token(request).await;
            let answer = answer.map_err(|status| explain(&status))?.into_inner();
            show(answer.token, &answer.secret, secret_file.as_deref(), json)
        }
    }
}

/// A new secret, where it is to be: in a file, or here this once.
fn show(
    token: Option<Token>,
    secret: &str,
    secret_file: Option<&Path>,
    json: bool,
) -> anyhow::Result<()> {
    let token = token.unwrap_or_default();
    if let Some(path) = secret_file {
        files::write_private(path, secret.as_bytes())?;
    }
    if json {
        let mut value = to_json(&token);
        if secret_file.is_none()
            && let Some(fields) = value.as_object_mut()
        {
            fields.insert("secret".to_owned(), secret.into());
        }
        output::json(&value);
        return Ok(());
    }
    let what = format!(
        "Token {} of tenant {} may {}.",
        token.id,
        token.tenant,
        token.scopes.join(", ")
    );
    match secret_file {
        Some(path) => output::line(format_args!("{what} It is in {}", path.display())),
        None => output::line(format_args!(
            "{what} Send it as bearer token; it is not shown again:\n\n    {secret}\n"
        )),
    }
    Ok(())
}

async fn list(client: &mut Client, tenant: String, all: bool, json: bool) -> anyhow::Result<()> {
    let mut tokens = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTokensRequest {
            page_size: api::PAGE_ITEMS,
            page_token,
            tenant: tenant.clone(),
            include_revoked: all,
        };
        let page = client.list_tokens(request).await;
        let page = page.map_err(|status| explain(&status))?.into_inner();
        tokens.extend(page.tokens);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if json {
        output::json(&tokens.iter().map(to_json).collect());
    } else {
        print(tokens, false);
    }
    Ok(())
}

async fn revoke(client: &mut Client, id: String, json: bool) -> anyhow::Result<()> {
    let token = client.revoke_token(RevokeTokenRequest { id }).await;
    let token = token.map_err(|status| explain(&status))?.into_inner();
    if json {
        output::json(&to_json(&token));
    } else {
        output::line(format_args!(
            "Token {} is revoked; it is refused from now on.",
            token.id
        ));
    }
    Ok(())
}

/// One as JSON, or all as a table.
fn print(tokens: Vec<Token>, json: bool) {
    if json {
        tokens
            .iter()
            .map(to_json)
            .for_each(|token| output::json(&token));
        return;
    }
    let row = |token: Token| {
        let times = [
            &token.create_time,
            &token.expire_time,
            &token.revoke_time,
            &token.last_use_time,
        ];
        let [created, expires, revoked, last_use] = times.map(|time| api::time(time.as_ref()));
        let scopes = token.scopes.join(",");
        [
            token.id,
            token.tenant,
            scopes,
            created,
            expires,
            revoked,
            last_use,
            token.creator,
            token.description,
        ]
    };
    let rows: Vec<_> = tokens.into_iter().map(row).collect();
    output::table(
        [
            "ID",
            "TENANT",
            "SCOPES",
            "CREATED",
            "EXPIRES",
            "REVOKED",
            "LAST USE",
            "CREATOR",
            "DESCRIPTION",
        ],
        &rows,
    );
}

fn to_json(token: &Token) -> Value {
    let time = |time: &Option<prost_types::Timestamp>| api::json_time(time.as_ref());
    json!({
        "id": token.id,
        "tenant": token.tenant,
        "scopes": token.scopes,
        "description": token.description,
        "creator": token.creator,
        "create_time": time(&token.create_time),
        "expire_time": time(&token.expire_time),
        "revoke_time": time(&token.revoke_time),
        "last_use_time": time(&token.last_use_time),
    })
}
