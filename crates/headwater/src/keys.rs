//! `headwater keys`: stream keys, over the gRPC API.

mod settings;
mod show;

use std::path::Path;

use proto::v1::{
    CreateStreamKeyRequest, DeleteStreamKeyRequest, GetStreamKeyRequest, ListStreamKeysRequest,
    RevokeSignedKeyRequest, RevokeStreamKeyRequest, RotateStreamKeyRequest, StreamKey,
    StreamKeyState, UpdateStreamKeyRequest, stream_key_service_client::StreamKeyServiceClient,
};

use self::{
    settings::{Settings, settings},
    show::{HEADING, print, row, to_json},
};
use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{
        CreateArguments, KeyState, KeysCommand, ListArguments, RevokeSignedArguments,
        ServerArguments, UpdateArguments, UsageError,
    },
    files, output,
};

type Client = StreamKeyServiceClient<ApiChannel>;

/// Runs one of the commands.
pub(crate) async fn run(arguments: &ServerArguments, command: KeysCommand) -> anyhow::Result<()> {
    let server = Server::find(arguments)?;
    run_at(server.connect().await?, command, arguments.format.json()).await
}

/// The same, at a server that is connected already.
pub(crate) async fn run_at(
    server: ApiChannel,
    command: KeysCommand,
    json: bool,
) -> anyhow::Result<()> {
    let mut client = Client::new(server);
    match command {
        KeysCommand::Create(arguments) => create(&mut client, *arguments, json).await,
        KeysCommand::Get { id } => {
            let key = client.get_stream_key(GetStreamKeyRequest { id }).await;
            let key = key.map_err(|status| explain(&status))?.into_inner();
            if json {
                output::json(&to_json(&key));
            } else {
                print(&key);
            }
            Ok(())
        }
        KeysCommand::List(arguments) => list(&mut client, arguments, json).await,
        KeysCommand::Update(arguments) => update(&mut client, *arguments, json).await,
        KeysCommand::Rotate {
            id,
            overlap,
            once,
            etag,
            secret_file,
        } => {
            let request = RotateStreamKeyRequest {
                id,
                overlap: Some(api::duration(overlap, "--overlap")?),
                etag,
                request_id: once.request_id,
            };
            let rotated = client.rotate_stream_key(request).await;
            let rotated = rotated.map_err(|status| explain(&status))?.into_inner();
            let key = rotated.stream_key.unwrap_or_default();
            show_secret(&key, &rotated.secret, secret_file.as_deref(), json)
        }
        KeysCommand::Revoke { id, reason } => {
            let request = RevokeStreamKeyRequest { id, reason };
            revoke(&mut client, request, json).await
        }
        KeysCommand::RevokeSigned(arguments) => revoke_signed(&mut client, arguments, json).await,
        KeysCommand::Delete { id, reason, etag } => {
            let request = DeleteStreamKeyRequest {
                id: id.clone(),
                etag,
                reason,
            };
            let deleted = client.delete_stream_key(request).await;
            deleted.map_err(|status| explain(&status))?;
            if json {
                output::json(&serde_json::json!({ "id": id }));
            } else {
                output::line(format_args!(
                    "Stream key {id} is deleted; its live sessions end."
                ));
            }
            Ok(())
        }
    }
}

async fn create(client: &mut Client, arguments: CreateArguments, json: bool) -> anyhow::Result<()> {
    let Settings { stream_key, .. } = settings(arguments.settings)?;
    let request = CreateStreamKeyRequest {
        app: arguments.app,
        stream: arguments.stream,
        tenant: arguments.tenant,
        description: stream_key.description,
        expire_time: stream_key.expire_time,
        takeover_policy: stream_key.takeover_policy,
        client_certificate: stream_key.client_certificate,
        policy: stream_key.policy,
        labels: stream_key.labels,
        adobe: arguments.adobe,
        request_id: arguments.once.request_id,
    };
    let response = client
        .create_stream_key(request)
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    let stream_key = response.stream_key.unwrap_or_default();
    let secret_file = arguments.secret_file.as_deref();
    show_secret(&stream_key, &response.secret, secret_file, json)
}

/// The one time that a secret is shown, or written to a file.
fn show_secret(
    stream_key: &StreamKey,
    secret: &str,
    secret_file: Option<&Path>,
    json: bool,
) -> anyhow::Result<()> {
    if let Some(path) = secret_file {
        files::write_private(path, secret.as_bytes())?;
    }
    if json {
        let mut value = to_json(stream_key);
        if secret_file.is_none()
            && let Some(fields) = value.as_object_mut()
        {
            if let Some(password) = password(stream_key, secret) {
                fields.insert("user".to_owned(), stream_key.id.clone().into());
                fields.insert("password".to_owned(), password.into());
            }
            fields.insert("secret".to_owned(), secret.into());
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
        stream_key.id, stream_key.app, stream_key.stream, secret
    ));
    if let Some(password) = password(stream_key, secret) {
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

async fn list(client: &mut Client, arguments: ListArguments, json: bool) -> anyhow::Result<()> {
    let mut stream_keys = Vec::new();
    let mut request = ListStreamKeysRequest {
        app: arguments.app,
        stream: arguments.stream,
        tenant: arguments.tenant,
        labels: arguments.label.into_iter().collect(),
        states: arguments.state.into_iter().map(state).collect(),
        page_size: api::PAGE_ITEMS,
        page_token: String::new(),
        include_revoked: arguments.all,
    };
    loop {
        let page = client
            .list_stream_keys(request.clone())
            .await
            .map_err(|status| explain(&status))?
            .into_inner();
        stream_keys.extend(page.stream_keys);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if json {
        output::json(&stream_keys.iter().map(to_json).collect());
        return Ok(());
    }
    let rows: Vec<_> = stream_keys.into_iter().map(row).collect();
    output::table(HEADING, &rows);
    Ok(())
}

fn state(state: KeyState) -> i32 {
    match state {
        KeyState::Active => StreamKeyState::Active,
        KeyState::Pending => StreamKeyState::Pending,
        KeyState::Expired => StreamKeyState::Expired,
        KeyState::Revoked => StreamKeyState::Revoked,
    }
    .into()
}

async fn update(client: &mut Client, arguments: UpdateArguments, json: bool) -> anyhow::Result<()> {
    let Settings {
        mut stream_key,
        mut paths,
    } = settings(arguments.settings)?;
    for field in arguments.clear {
        // What is not given has the value that takes it away.
        if field.paths().iter().any(|path| paths.contains(path)) {
            let message = format!("{field:?} is both given and cleared");
            return Err(UsageError(message).into());
        }
        paths.extend(field.paths());
    }
    if paths.is_empty() {
        let message = "nothing to change: see headwater keys update --help";
        return Err(UsageError(message.to_owned()).into());
    }
    stream_key.id = arguments.id;
    let request = UpdateStreamKeyRequest {
        stream_key: Some(stream_key),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.into_iter().map(str::to_owned).collect(),
        }),
        etag: arguments.etag,
    };
    let updated = client.update_stream_key(request).await;
    let updated = updated.map_err(|status| explain(&status))?.into_inner();
    if json {
        output::json(&to_json(&updated));
    } else {
        print(&updated);
    }
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

async fn revoke_signed(
    client: &mut Client,
    arguments: RevokeSignedArguments,
    json: bool,
) -> anyhow::Result<()> {
    let RevokeSignedArguments {
        app,
        jti,
        expires,
        reason,
        tenant,
    } = arguments;
    let request = RevokeSignedKeyRequest {
        app: app.clone(),
        jti: jti.clone(),
        expire_time: expires.map(|time| std::time::SystemTime::from(time).into()),
        reason,
        tenant,
    };
    let revoked = client.revoke_signed_key(request).await;
    revoked.map_err(|status| explain(&status))?;
    if json {
        output::json(&serde_json::json!({ "app": app, "jti": jti }));
    } else {
        output::line(format_args!(
            "Signed key {jti} of {app} is revoked; its live sessions end."
        ));
    }
    Ok(())
}
