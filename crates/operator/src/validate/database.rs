//! The database of stream keys.

use http::Uri;

use super::{ValidatedDatabase, problems::Problems};
use crate::{
    api::{Control, Postgres},
    build::POSTGRES_CA_FILE,
};

/// Where PostgreSQL listens unless told otherwise.
const POSTGRES_PORT: u16 = 5432;
/// Modes of `sslmode` that use a CA.
const VERIFYING_MODES: [&str; 2] = ["verify-ca", "verify-full"];

pub(super) fn resolve(control: &Control, problems: &mut Problems) -> Option<ValidatedDatabase> {
    const PATH: &str = "spec.control.database";
    match (&control.database.sqlite, &control.database.postgres) {
        (Some(sqlite), None) => {
            if control.replicas > 1 {
                problems.add(
                    "spec.control.replicas",
                    "SQLite is one process's; use database.postgres for more than one",
                );
            }
            let size = format!("{PATH}.sqlite.size");
            match crate::quantity::bytes(&sqlite.size) {
                Some(1..) => {}
                Some(0) | None => {
                    problems.add(
                        size,
                        format!("{:?} is not a size (such as 1Gi)", sqlite.size.0),
                    );
                }
            }
            if let Some(class) = &sqlite.storage_class_name {
                problems.object_name(&format!("{PATH}.sqlite.storageClassName"), class);
            }
            Some(ValidatedDatabase::Sqlite(sqlite.clone()))
        }
        (None, Some(postgres)) => resolve_postgres(postgres, problems),
        (None, None) | (Some(_), Some(_)) => {
            problems.add(PATH, "exactly one of sqlite and postgres");
            None
        }
    }
}

fn resolve_postgres(postgres: &Postgres, problems: &mut Problems) -> Option<ValidatedDatabase> {
    const PATH: &str = "spec.control.database.postgres";
    let password = &postgres.password_secret_ref;
    problems.object_name(&format!("{PATH}.passwordSecretRef.name"), &password.name);
    problems.secret_key(&format!("{PATH}.passwordSecretRef.key"), &password.key);
    if let Some(ca) = &postgres.ca_secret_ref {
        problems.object_name(&format!("{PATH}.caSecretRef.name"), &ca.name);
        problems.secret_key(&format!("{PATH}.caSecretRef.key"), &ca.key);
    }

    // What is wrong with the URL is said without repeating it: it may hold a password.
    let path = format!("{PATH}.url");
    let url = postgres.url.as_str();
    let uri = url.parse::<Uri>().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    let scheme = uri.as_ref().and_then(Uri::scheme_str);
    let (Some(uri), Some(authority), Some("postgres" | "postgresql")) = (&uri, authority, scheme)
    else {
        problems.add(
            path,
            "is not of the form postgres://user@host:port/database",
        );
        return None;
    };
    let query: Vec<(&str, &str)> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
    let secret = user.is_some_and(|user| user.contains(':'))
        || query.iter().any(|(name, _)| *name == "password");
    if secret {
        problems.add(
            path.clone(),
            "holds a password; it belongs in passwordSecretRef",
        );
    }
    if user.is_none_or(str::is_empty) {
        problems.add(path.clone(), "names no user");
    }
    Some(ValidatedDatabase::Postgres {
        url: match &postgres.ca_secret_ref {
            Some(_) => with_ca(url, uri, &query, &path, problems),
            None => url.to_owned(),
        },
        port: authority.port_u16().unwrap_or(POSTGRES_PORT),
        connections: postgres.connections,
    })
}

/// The server's certificate and name are checked, unless the URL asks for the certificate alone.
fn with_ca(
    url: &str,
    uri: &Uri,
    query: &[(&str, &str)],
    path: &str,
    problems: &mut Problems,
) -> String {
    let parameter = |wanted: &str| query.iter().find(|(name, _)| *name == wanted);
    if parameter("sslrootcert").is_some() {
        problems.add(path, "sslrootcert: leave it out, caSecretRef sets it");
    }
    let mut url = url.to_owned();
    let mut separator = if uri.query().is_some() { '&' } else { '?' };
    match parameter("sslmode") {
        Some((_, mode)) if VERIFYING_MODES.contains(mode) => {}
        Some(_) => problems.add(
            path,
            "sslmode: verify-full or verify-ca with caSecretRef, which the others do not look at",
        ),
        None => {
            url.push(separator);
            url.push_str("sslmode=verify-full");
            separator = '&';
        }
    }
    url.push(separator);
    url.push_str("sslrootcert=");
    url.push_str(POSTGRES_CA_FILE);
    url
}
