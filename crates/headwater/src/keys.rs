//! `headwater keys`: stream keys, over the gRPC API.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use proto::v1::{
    CreateStreamKeyRequest, ListStreamKeysRequest, RevokeStreamKeyRequest, StreamKey,
    TakeoverPolicy, stream_key_service_client::StreamKeyServiceClient,
};
use serde_json::{Value, json};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{KeysCommand, ServerArguments, Takeover},
    files, output,
};

type Client = StreamKeyServiceClient<ApiChannel>;

/// Runs one of the commands.
pub(crate) async fn run(arguments: &ServerArguments, command: KeysCommand) -> anyhow::Result<()> {
    let server = Server::find(arguments)?;
    run_at(server.connect().await?, command, arguments.json).await
}

/// The same, at a server that is connected already.
pub(crate) async fn run_at(
    server: ApiChannel,
    command: KeysCommand,
    json: bool,
) -> anyhow::Result<()> {
    let mut client = Client::new(server);
    match command {
        KeysCommand::Create {
            app,
            stream,
            description,
            expires_in,
            takeover,
            client_certificate,
            adobe,
            secret_file,
        } => {
            let request = CreateStreamKeyRequest {
                app,
                stream,
                description,
                expire_time: expires_in.map(expire_time),
                takeover_policy: policy(takeover).into(),
                tenant: String::new(),
                client_certificate: client_certificate.unwrap_or_default(),
                adobe,
                ..CreateStreamKeyRequest::default()
            };
            create(&mut client, request, secret_file.as_deref(), json).await
        }
        KeysCommand::List { app, all } => list(&mut client, app, all, json).await,
        KeysCommand::Revoke { id, reason } => {
            let request = RevokeStreamKeyRequest { id, reason };
            revoke(&mut client, request, json).await
        }
    }
}

async fn create(
    client: &mut Client,
    request: CreateStreamKeyRequest,
    secret_file: Option<&Path>,
    json: bool,
) -> anyhow::Result<()> {
    let response = client
        .create_stream_key(request)
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    let stream_key = response.stream_key.unwrap_or_default();
    if let Some(path) = secret_file {
        files::write_private(path, response.secret.as_bytes())?;
    }
    if json {
        let mut value = to_json(&stream_key);
        if secret_file.is_none()
            && let Some(fields) = value.as_object_mut()
        {
            if let Some(password) = password(&stream_key, &response.secret) {
                fields.insert("user".to_owned(), stream_key.id.clone().into());
                fields.insert("password".to_owned(), password.into());
            }
            fields.insert("secret".to_owned(), response.secret.into());
        }
        output::json(&value);
        return Ok(());
    }
    if let Some(path) = secret_file {
        output::line(format_args!(
            "Stream key {} publishes {}/{}. Its secret is in {}",
            stream_key.id,
            stream_key.app,
            stream_key.stream,
            path.display()
        ));
        if stream_key.adobe {
            output::line(format_args!(
                "User and password: the id, and what stands behind it in the secret. {PASSWORD_COST}"
            ));
        }
        return Ok(());
    }
    output::line(format_args!(
        "Stream key {} publishes {}/{}. Enter this in the encoder as stream key; it is not shown again:\n\n    {}\n",
        stream_key.id, stream_key.app, stream_key.stream, response.secret
    ));
    if let Some(password) = password(&stream_key, &response.secret) {
        output::line(format_args!(
            "An encoder that insists on user and password takes these instead, with /{}/_adobe_ in its URL and {} as \
             stream name:\n\n    user      {}\n    password  {password}\n\n{PASSWORD_COST}\n",
            stream_key.app, stream_key.stream, stream_key.id
        ));
    }
    Ok(())
}

/// What --adobe costs.
const PASSWORD_COST: &str = "For this, control stores a form of the password that is as good as the password itself (encrypted with the pepper).";

/// What an encoder enters beside the id, if the key was created for that.
fn password<'a>(stream_key: &StreamKey, secret: &'a str) -> Option<&'a str> {
    let (_, password) = secret.rsplit_once('_')?;
    stream_key.adobe.then_some(password)
}

async fn list(client: &mut Client, app: String, all: bool, json: bool) -> anyhow::Result<()> {
    let mut stream_keys = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListStreamKeysRequest {
            app: app.clone(),
            page_size: api::PAGE_ITEMS,
            page_token,
            include_revoked: all,
            ..ListStreamKeysRequest::default()
        };
        let page = client
            .list_stream_keys(request)
            .await
            .map_err(|status| explain(&status))?
            .into_inner();
        stream_keys.extend(page.stream_keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if json {
        output::json(&stream_keys.iter().map(to_json).collect());
        return Ok(());
    }
    let rows: Vec<_> = stream_keys
        .into_iter()
        .map(|stream_key| {
            let created = api::time(stream_key.create_time.as_ref());
            let expires = api::time(stream_key.expire_time.as_ref());
            let revoked = api::time(stream_key.revoke_time.as_ref());
            let StreamKey {
                id,
                app,
                stream,
                description,
                adobe,
                ..
            } = stream_key;
            let login = if adobe { "key, password" } else { "key" };
            let login = login.to_owned();
            [
                id,
                app,
                stream,
                created,
                expires,
                revoked,
                login,
                description,
            ]
        })
        .collect();
    output::table(
        [
            "ID",
            "APP",
            "STREAM",
            "CREATED",
            "EXPIRES",
            "REVOKED",
            "LOGIN",
            "DESCRIPTION",
        ],
        &rows,
    );
    Ok(())
}

async fn revoke(
    client: &mut Client,
    request: RevokeStreamKeyRequest,
    json: bool,
) -> anyhow::Result<()> {
    let stream_key = client
        .revoke_stream_key(request)
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    if json {
        output::json(&to_json(&stream_key));
    } else {
        output::line(format_args!(
            "Stream key {} of {}/{} is revoked; its live sessions end.",
            stream_key.id, stream_key.app, stream_key.stream
        ));
    }
    Ok(())
}

fn to_json(stream_key: &StreamKey) -> Value {
    let takeover = stream_key
        .takeover_policy()
        .as_str_name()
        .trim_start_matches("TAKEOVER_POLICY_")
        .to_lowercase();
    let time = |timestamp: Option<&prost_types::Timestamp>| {
        timestamp.map_or(Value::Null, |timestamp| api::time(Some(timestamp)).into())
    };
    json!({
        "id": stream_key.id,
        "tenant": stream_key.tenant,
        "app": stream_key.app,
        "stream": stream_key.stream,
        "description": stream_key.description,
        "create_time": time(stream_key.create_time.as_ref()),
        "expire_time": time(stream_key.expire_time.as_ref()),
        "revoke_time": time(stream_key.revoke_time.as_ref()),
        "takeover_policy": takeover,
        "client_certificate": stream_key.client_certificate,
        "adobe": stream_key.adobe,
    })
}

fn policy(takeover: Takeover) -> TakeoverPolicy {
    match takeover {
        Takeover::Always => TakeoverPolicy::Takeover,
        Takeover::IfStale => TakeoverPolicy::TakeoverIfStale,
        Takeover::Never => TakeoverPolicy::Reject,
    }
}

fn expire_time(expires_in: Duration) -> prost_types::Timestamp {
    // Far enough: what lies beyond what a clock can say does not expire in anybody's lifetime.
    let expires_in = expires_in.min(Duration::from_secs(u32::MAX.into()));
    (SystemTime::now() + expires_in).into()
}
