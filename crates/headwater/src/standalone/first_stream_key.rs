//! The first stream key: made through the same API as any other, and kept in a file for convenience.

use std::path::Path;

use anyhow::Context as _;
use proto::v1::{
    CreateStreamKeyRequest, GetStreamKeyRequest, ListStreamKeysRequest,
    stream_key_service_client::StreamKeyServiceClient,
};
use tonic::Code;

use crate::{
    api::{ApiChannel, Server, explain},
    files,
};

/// What it publishes.
pub(super) const APP: &str = "live";
/// What it publishes.
pub(super) const STREAM: &str = "main";

/// The stream key in the file. Where there is no key at all yet, a new one; `None` where there are keys but no file
/// (somebody has deleted it), or where the file's key is revoked.
pub(super) async fn ensure(server: &Server, file: &Path) -> anyhow::Result<Option<String>> {
    let mut client = StreamKeyServiceClient::new(server.connect().await?);
    if let Some(kept) = files::read_if_there(file)? {
        let kept = kept.trim();
        if is_good(&mut client, kept).await? {
            return Ok(Some(kept.to_owned()));
        }
    }
    let keys = client
        .list_stream_keys(ListStreamKeysRequest {
            page_size: 1,
            include_revoked: true,
            ..ListStreamKeysRequest::default()
        })
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    if !keys.stream_keys.is_empty() {
        return Ok(None);
    }
    let created = client
        .create_stream_key(CreateStreamKeyRequest {
            app: APP.to_owned(),
            stream: STREAM.to_owned(),
            description: "made on the first start".to_owned(),
            ..CreateStreamKeyRequest::default()
        })
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    files::write_private(file, format!("{}\n", created.secret).as_bytes())?;
    Ok(Some(created.secret))
}

/// Whether the database still takes it: it may have been revoked, or be another database's.
async fn is_good(
    client: &mut StreamKeyServiceClient<ApiChannel>,
    stream_key: &str,
) -> anyhow::Result<bool> {
    // hw_<id>_<secret>
    let id = stream_key.split('_').nth(1);
    let id = id
        .context("the file does not hold a stream key")?
        .to_owned();
    match client.get_stream_key(GetStreamKeyRequest { id }).await {
        Ok(known) => Ok(known.into_inner().revoke_time.is_none()),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(explain(&status)),
    }
}
