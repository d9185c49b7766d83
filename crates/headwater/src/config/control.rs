//! The section `control`.

use std::{net::SocketAddr, path::PathBuf};

use control::{ApiAccess, DatabaseConfig, Quota};
use runtime::{
    egress::EgressConfig,
    tls::{CertificateFiles, ClientCertificates},
};
use serde::Deserialize;

use super::{
    access::{self, IssuerSection, SubjectSection},
    applications,
    check::Check,
    client_certificates::ClientCertificatesSection,
    scalar::{Address, Count, Network, OneOrMany, Time},
    shared,
};

/// What a control process needs beside [`shared::Shared`].
#[derive(Debug)]
pub(crate) struct ControlConfig {
    pub(crate) control: control::Config,
    pub(crate) internal_listen: SocketAddr,
    pub(crate) public_certificate: CertificateFiles,
    pub(crate) public_client_certificates: ClientCertificates,
    pub(crate) public_listen: SocketAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Section {
    api_token_file: Option<PathBuf>,
    applications: Option<OneOrMany<applications::Written>>,
    client_certificates: Option<Vec<Option<SubjectSection>>>,
    database: Option<DatabaseSection>,
    egress: Option<EgressSection>,
    grant_key_file: Option<PathBuf>,
    grant_lifetime: Option<Time>,
    hold_off: Option<Time>,
    internal: Option<InternalSection>,
    oidc: Option<Vec<Option<IssuerSection>>>,
    pepper_file: Option<PathBuf>,
    public: Option<PublicSection>,
    quotas: Option<QuotasSection>,
    tenant: Option<String>,
}

/// Whom webhooks and key sets may be asked of.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EgressSection {
    allow: Option<OneOrMany<Network>>,
    ca_file: Option<OneOrMany<PathBuf>>,
}

/// One of the two.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DatabaseSection {
    postgres: Option<PostgresSection>,
    sqlite: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PostgresSection {
    connections: Option<Count<u32>>,
    password_file: Option<PathBuf>,
    url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InternalSection {
    listen: Option<Address>,
}

/// Of tenants that have no quota of their own. What is not given, or 0, is not limited.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QuotasSection {
    max_bitrate_bps: u64,
    max_keys: u32,
    max_sessions: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PublicSection {
    certificate: Option<PathBuf>,
    client_certificates: Option<ClientCertificatesSection>,
    listen: Option<Address>,
    private_key: Option<PathBuf>,
}

impl Section {
    pub(super) fn finish(self, check: &mut Check) -> Option<ControlConfig> {
        let database = check.required("control.database", self.database);
        let database = database.and_then(|database| database.finish(check));
        let pepper_file = check.file("control.pepper_file", self.pepper_file);
        let grant_key_file = check.file("control.grant_key_file", self.grant_key_file);
        let api_token_file = check.file("control.api_token_file", self.api_token_file);
        let internal = self.internal.unwrap_or_default();
        let internal_listen = check.required("control.internal.listen", internal.listen);
        let public = self.public.unwrap_or_default();
        let public_listen = check.required("control.public.listen", public.listen);
        let public_certificate = shared::certificate(
            "control.public",
            public.certificate,
            public.private_key,
            check,
        );
        let clients = public.client_certificates.unwrap_or_default();
        let clients = clients.finish("control.public.client_certificates", check);
        // Of a section with a mistake that is said already, nothing more is said.
        let asked = !matches!(clients, Some(ClientCertificates::Off));
        let api_access = api_access(self.oidc, self.client_certificates, asked, check);
        let applications = self
            .applications
            .map(|given| applications::finish(given, check));
        if applications.as_ref().is_some_and(Vec::is_empty) {
            check.mistake("control.applications", "needs an application");
        }
        if let Some(tenant) = &self.tenant
            && let Err(expected) = control::check_tenant(tenant)
        {
            check.mistake(
                "control.tenant",
                format_args!("{tenant:?} is not a tenant: {expected}"),
            );
        }

        let egress = self.egress.unwrap_or_default().finish(check);

        let mut control =
            control::Config::new(database?, pepper_file?, grant_key_file?, api_token_file?);
        control.api_access = api_access;
        control.egress = egress;
        if let Some(applications) = applications {
            control.applications = applications;
        }
        if let Some(tenant) = self.tenant {
            control.default_tenant = tenant;
        }
        if let Some(quotas) = self.quotas {
            control.default_quota = Quota {
                max_keys: quotas.max_keys,
                max_sessions: quotas.max_sessions,
                max_bitrate_bps: quotas.max_bitrate_bps,
            };
        }
        if let Some(hold_off) = self.hold_off {
            control.hold_off = hold_off.0;
        }
        if let Some(grant_lifetime) = self.grant_lifetime {
            control.grant_lifetime = grant_lifetime.0;
        }
        Some(ControlConfig {
            control,
            internal_listen: internal_listen?.0,
            public_certificate: public_certificate?,
            public_client_certificates: clients?,
            public_listen: public_listen?.0,
        })
    }
}

/// Who may call the API beside whoever has a token; `asked`: whether the port asks for certificates.
fn api_access(
    oidc: Option<Vec<Option<IssuerSection>>>,
    certificates: Option<Vec<Option<SubjectSection>>>,
    asked: bool,
    check: &mut Check,
) -> ApiAccess {
    const CERTIFICATES: &str = "control.client_certificates";
    if certificates.is_some() && !asked {
        let what = "needs control.public.client_certificates: no certificate is asked for";
        check.mistake(CERTIFICATES, what);
    }
    let mut issuers = Vec::new();
    for (index, section) in oidc.into_iter().flatten().enumerate() {
        let path = format!("control.oidc[{index}]");
        let section = check.required(&path, section);
        issuers.extend(section.and_then(|section| section.finish(&path, check)));
    }
    let certificates = certificates.unwrap_or_default();
    let check_name = control::check_certificate_name;
    ApiAccess {
        issuers,
        certificates: access::named(certificates, CERTIFICATES, check, check_name),
    }
}

impl EgressSection {
    fn finish(self, check: &mut Check) -> EgressConfig {
        const CA_FILE: &str = "control.egress.ca_file";
        let allow = self
            .allow
            .map(|allow| allow.finish("control.egress.allow", check));
        let ca_files = self.ca_file.map(|files| files.finish(CA_FILE, check));
        let ca_files = ca_files.into_iter().flatten();
        let ca_files = ca_files.filter_map(|file| check.file(CA_FILE, Some(file)));
        let ca_files = ca_files.collect();
        EgressConfig {
            allow: allow
                .into_iter()
                .flatten()
                .map(|network| network.0)
                .collect(),
            roots: rustls_native_certs::load_native_certs().certs,
            ca_files,
        }
    }
}

impl DatabaseSection {
    fn finish(self, check: &mut Check) -> Option<DatabaseConfig> {
        match (self.sqlite, self.postgres) {
            (Some(path), None) => {
                let path = check.resolve(&path);
                let directory = path.parent().filter(|directory| directory.is_dir());
                if directory.is_none() {
                    let what = format!("the directory of {} does not exist", path.display());
                    check.mistake("control.database.sqlite", what);
                }
                Some(DatabaseConfig::Sqlite { path })
            }
            (None, Some(postgres)) => postgres.finish(check),
            (None, None) => {
                check.mistake("control.database", "needs sqlite or postgres");
                None
            }
            (Some(_), Some(_)) => {
                check.mistake("control.database", "has both sqlite and postgres");
                None
            }
        }
    }
}

impl PostgresSection {
    fn finish(self, check: &mut Check) -> Option<DatabaseConfig> {
        const URL: &str = "control.database.postgres.url";
        let connections = self
            .connections
            .map_or(control::POSTGRES_CONNECTIONS, |count| count.0);
        let allowed = control::POSTGRES_CONNECTIONS_MIN..=control::POSTGRES_CONNECTIONS_MAX;
        if !allowed.contains(&connections) {
            let (least, most) = allowed.into_inner();
            check.mistake(
                "control.database.postgres.connections",
                format_args!("is not between {least} and {most}"),
            );
        }
        let url = check.required(URL, self.url)?;
        let password_file = check.optional_file(
            "control.database.postgres.password_file",
            self.password_file,
        );
        // What is wrong with the URL is not printed: it may hold a password.
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"));
        let Some(rest) = rest else {
            check.mistake(URL, "does not begin with postgres://");
            return None;
        };
        let user = rest
            .split('/')
            .next()
            .and_then(|host| host.rsplit_once('@'));
        if user.is_some_and(|(user, _host)| user.contains(':')) || rest.contains("password=") {
            check.mistake(URL, "holds a password; it belongs in password_file");
        }
        Some(DatabaseConfig::Postgres {
            url,
            password_file,
            connections,
        })
    }
}
