//! What control is told at its start. Finished values; the binary reads files and environment.

use std::{path::PathBuf, time::Duration};

use runtime::egress::EgressConfig;

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
    pub applications: Vec<String>,
    /// Whom webhooks and key sets may be asked of.
    pub egress: EgressConfig,
    /// The tenant that is meant where a request names none and its caller has none.
    pub default_tenant: String,
    /// For how long a terminated session's stream key is refused.
    pub hold_off: Duration,
    /// For how long a grant opens a Publish RPC.
    pub grant_lifetime: Duration,
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
            applications: vec!["live".to_owned()],
            egress: EgressConfig::default(),
            default_tenant: "default".to_owned(),
            hold_off: HOLD_OFF,
            grant_lifetime: GRANT_LIFETIME,
        }
    }
}

/// OBS reconnects after 2 s, with a growing pause: this outlasts its first tries.
pub const HOLD_OFF: Duration = Duration::from_secs(30);
/// Long enough for a few origins to be tried.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(60);
