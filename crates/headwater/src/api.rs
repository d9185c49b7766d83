//! A client of control's public API: finds the server and its credential, connects, and puts refusals in plain words.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    channel::{CONNECT_TIMEOUT, connect_with_tls, tls_connector},
    cli::{ServerArguments, UsageError},
    files,
    standalone::DataDir,
};

/// For one answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How many items are asked for at a time.
pub(crate) const PAGE_ITEMS: u32 = 1000;

/// A channel that sends the credential along.
pub(crate) type ApiChannel = InterceptedService<Channel, Bearer>;

/// Adds the credential to each request.
#[derive(Clone)]
pub(crate) struct Bearer(AsciiMetadataValue);

impl Bearer {
    /// Fails for what no header can carry.
    pub(crate) fn new(token: &str) -> anyhow::Result<Self> {
        let mut bearer = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_unprintable| anyhow::anyhow!("this is no token"))?;
        bearer.set_sensitive(true);
        Ok(Self(bearer))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Where the server is and what it wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) token_file: PathBuf,
    pub(crate) ca_file: Option<PathBuf>,
}

/// What a standalone process leaves in its data directory for the commands that follow.
#[derive(Deserialize)]
struct StandaloneAddresses {
    grpc_url: String,
}

impl Server {
    /// As the command line, the environment or the data directory say.
    pub(crate) fn find(arguments: &ServerArguments) -> anyhow::Result<Self> {
        match (&arguments.data_dir, &arguments.server) {
            (None, Some(url)) => Ok(Self {
                url: url.clone(),
                token_file: arguments.token_file.clone().ok_or_else(|| {
                    UsageError("--server needs --token-file (or HEADWATER_TOKEN_FILE)".to_owned())
                })?,
                ca_file: arguments.ca_file.clone(),
            }),
            (Some(directory), _) => Self::of_standalone(directory),
            (None, None) => Self::of_standalone(Path::new(DataDir::DEFAULT)),
        }
    }

    fn of_standalone(directory: &Path) -> anyhow::Result<Self> {
        let data_dir = DataDir::new(directory);
        let Some(addresses) = files::read_if_there(&data_dir.addresses())? else {
            let message = format!(
                "no standalone process runs on {}; use --data-dir or --server",
                directory.display()
            );
            return Err(UsageError(message).into());
        };
        let addresses: StandaloneAddresses = serde_json::from_str(&addresses)
            .with_context(|| format!("{} is damaged", data_dir.addresses().display()))?;
        Ok(Self {
            url: addresses.grpc_url,
            token_file: data_dir.api_token(),
            ca_file: Some(data_dir.certificate().certificate),
        })
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> anyhow::Result<ApiChannel> {
        let token = files::read(&self.token_file)?;
        let bearer = Bearer::new(&token)
            .with_context(|| format!("{} holds no token", self.token_file.display()))?;
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|_malformed| UsageError(format!("{:?} is not a URL", self.url)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT);
        let channel = match endpoint.uri().scheme_str() {
            Some("http") => endpoint.connect().await,
            Some("https") => {
                let tls = tls_connector(self.ca_file.as_deref())?;
                let connect = tower::service_fn(move |uri: Uri| connect_with_tls(uri, tls.clone()));
                endpoint.connect_with_connector(connect).await
            }
            _ => {
                let message = format!("{:?} begins with neither https:// nor http://", self.url);
                return Err(UsageError(message).into());
            }
        };
        let channel =
            channel.with_context(|| format!("cannot reach {}; is it running?", self.url))?;
        Ok(InterceptedService::new(channel, bearer))
    }
}

/// A refusal, in plain words.
pub(crate) fn explain(status: &Status) -> anyhow::Error {
    let reason = proto::error::reason(status);
    let what = match status.code() {
        Code::Unauthenticated => "the server does not accept the token",
        Code::NotFound => "not found",
        Code::InvalidArgument => "the server does not accept this",
        Code::AlreadyExists => "exists already",
        Code::Unavailable => "the server cannot do this now, try again",
        Code::DeadlineExceeded | Code::Cancelled => "no answer in time",
        Code::Aborted
        | Code::DataLoss
        | Code::FailedPrecondition
        | Code::Internal
        | Code::Ok
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Unknown => "the server refused",
    };
    match reason {
        Some(reason) => anyhow::anyhow!("{what}: {} ({reason})", status.message()),
        None => anyhow::anyhow!("{what}: {}", status.message()),
    }
}

/// A time as RFC 3339 in UTC; `-` where there is none.
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    timestamp
        .and_then(|timestamp| jiff::Timestamp::from_second(timestamp.seconds).ok())
        .map_or_else(|| "-".to_owned(), |timestamp| timestamp.to_string())
}

/// The same in JSON, with `null` where there is none.
pub(crate) fn json_time(timestamp: Option<&prost_types::Timestamp>) -> Value {
    timestamp.map_or(Value::Null, |timestamp| time(Some(timestamp)).into())
}

/// When something expires that lasts so long from now on.
pub(crate) fn expire_time(expires_in: Duration) -> prost_types::Timestamp {
    // Far enough: what lies beyond what a clock can say does not expire in anybody's lifetime.
    let expires_in = expires_in.min(Duration::from_secs(u32::MAX.into()));
    (SystemTime::now() + expires_in).into()
}

/// A duration that was given on the command line.
pub(crate) fn duration(
    duration: Duration,
    argument: &str,
) -> Result<prost_types::Duration, UsageError> {
    duration
        .try_into()
        .map_err(|_long| UsageError(format!("{argument} is too long")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(data_dir: &Path) -> ServerArguments {
        ServerArguments {
            server: None,
            token_file: None,
            ca_file: None,
            data_dir: Some(data_dir.to_owned()),
            format: Default::default(),
        }
    }

    #[test]
    fn a_standalone_process_is_found_by_its_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Server::find(&arguments(directory.path())).unwrap_err();
        assert!(missing.is::<UsageError>(), "{missing:#}");

        let data_dir = DataDir::new(directory.path());
        files::write_private(
            &data_dir.addresses(),
            br#"{"grpc_url": "http://127.0.0.1:7"}"#,
        )
        .unwrap();
        let server = Server::find(&arguments(directory.path())).unwrap();
        assert_eq!(server.url, "http://127.0.0.1:7");
        assert_eq!(server.token_file, data_dir.api_token());
    }

    #[test]
    fn a_server_needs_a_token() {
        let arguments = ServerArguments {
            server: Some("https://control:7443".to_owned()),
            data_dir: None,
            ..arguments(Path::new("data"))
        };
        assert!(Server::find(&arguments).unwrap_err().is::<UsageError>());
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let status = proto::error::status(Code::NotFound, "KEY_NOT_FOUND", "no such stream key");
        assert_eq!(
            explain(&status).to_string(),
            "not found: no such stream key (KEY_NOT_FOUND)"
        );
    }
}
