//! What control is told at its start. Finished values; the binary reads files and environment.

use std::{path::PathBuf, time::Duration};

use runtime::egress::{EgressConfig, HttpsUrl};

use crate::access::ApiAccess;

/// The configuration of a control process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where stream keys and the revocation log are.
    pub database: DatabaseConfig,
    /// Lines `<version>:<64 hex digits>`; the highest version makes new HMACs.
    pub pepper_file: PathBuf,
    /// Private key that signs grants: see [`encode_grant_key`](crate::encode_grant_key).
    pub grant_key_file: PathBuf,
    /// Who may call the public API beside whoever has a token.
    pub api_access: ApiAccess,
    /// Bearer tokens of the public API, one a line: good for everything, and for every tenant.
    pub api_token_file: PathBuf,
    /// Applications that may be published to.
    pub applications: Vec<Application>,
    /// Whom webhooks and key sets may be asked of.
    pub egress: EgressConfig,
    /// The tenant that is meant where a request names none and its caller has none.
    pub default_tenant: String,
    /// For how long a terminated session's stream key is refused.
    pub hold_off: Duration,
    /// For how long a grant opens a Publish RPC.
    pub grant_lifetime: Duration,
    /// Of a tenant that has no quota of its own.
    pub default_quota: Quota,
}

/// How much a tenant may have, or a group of its keys. 0: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Keys that are not revoked.
    pub max_keys: u32,
    /// Live at the same time.
    pub max_sessions: u32,
    /// Of all sessions together, in bits per second.
    pub max_bitrate_bps: u64,
}

/// What encoders may publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// As in the RTMPS URL's path.
    pub name: String,
    /// What decides who may publish.
    pub admission: AdmissionSource,
}

/// What decides who may publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionSource {
    /// Stream keys that control makes and keeps.
    Managed,
    /// Keys that a platform makes and signs.
    Signed(SignedKeys),
    /// A platform's backend.
    Webhook(Webhook),
}

/// Keys that a platform signs: JWTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedKeys {
    /// Where its public keys are.
    pub keys: KeySetLocation,
    /// The claim `iss`.
    pub issuer: String,
    /// One of the claim `aud`.
    pub audience: String,
    /// Whom all the application's streams belong to; `None`: the claim `tenant`, or the default tenant.
    pub tenant: Option<String>,
}

/// Where a JSON Web Key Set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySetLocation {
    /// Read again when it changes.
    File(PathBuf),
    /// Asked again and again.
    Url(HttpsUrl),
}

/// A backend that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where.
    pub url: HttpsUrl,
    /// Holds what requests are signed with: `whsec_` and base64.
    pub secret_file: PathBuf,
    /// Whom all the application's streams belong to; `None`: whom the answer names, or the default tenant.
    pub tenant: Option<String>,
    /// For one decision; at most [`WEBHOOK_TIMEOUT_MAX`].
    pub timeout: Duration,
    /// Requests at once; as many more wait. At most [`WEBHOOK_CONCURRENCY_MAX`].
    pub concurrency_max: usize,
}

impl Application {
    /// With stream keys that control keeps.
    pub fn managed(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            admission: AdmissionSource::Managed,
        }
    }
}

/// Which database.
#[derive(Clone, Debug)]
pub enum DatabaseConfig {
    /// For several control processes.
    Postgres {
        /// `postgres://user@host:port/database`, with `sslmode` and `sslrootcert` as libpq takes them.
        url: String,
        /// File that holds the password; `None`: the URL's, or none.
        password_file: Option<PathBuf>,
        /// Of this process at once, [`POSTGRES_CONNECTIONS_MIN`] to [`POSTGRES_CONNECTIONS_MAX`]; one more listens for
        /// revocations.
        connections: u32,
    },
    /// For one control process.
    Sqlite {
        /// Made where it does not exist; its directory must.
        path: PathBuf,
    },
}

impl Config {
    /// With one application, `live`, and the tenant `default`.
    pub fn new(
        database: DatabaseConfig,
        pepper_file: PathBuf,
        grant_key_file: PathBuf,
        api_token_file: PathBuf,
    ) -> Self {
        Self {
            database,
            pepper_file,
            grant_key_file,
            api_token_file,
            api_access: ApiAccess::default(),
            applications: vec![Application::managed("live")],
            egress: EgressConfig::default(),
            default_tenant: "default".to_owned(),
            hold_off: HOLD_OFF,
            grant_lifetime: GRANT_LIFETIME,
            default_quota: Quota::default(),
        }
    }
}

/// OBS reconnects after 2 s, with a growing pause: this outlasts its first tries.
pub const HOLD_OFF: Duration = Duration::from_secs(30);
/// Long enough for a few origins to be tried.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(60);
/// An edge waits 2.5 s for a decision.
pub const WEBHOOK_TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// What a webhook's deadline is where nobody says.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_millis(1500);
/// Requests to one webhook at once.
pub const WEBHOOK_CONCURRENCY_MAX: usize = 1024;
/// The same where nobody says.
pub const WEBHOOK_CONCURRENCY: usize = 32;
/// Connections to PostgreSQL where nobody says how many.
pub const POSTGRES_CONNECTIONS: u32 = 8;
/// One for whoever waits for a lock, one for the others.
pub const POSTGRES_CONNECTIONS_MIN: u32 = 2;
/// PostgreSQL takes 100 in all where nobody says; more than one per core of its own seldom helps.
pub const POSTGRES_CONNECTIONS_MAX: u32 = 64;
