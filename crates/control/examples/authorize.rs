//! Fills a new database with stream keys and measures how fast they are checked and revoked:
//! `cargo run --release -p control --features benchmark --example authorize -- DATABASE [KEYS]`, where the database is a
//! file's path (SQLite) or a `postgres://` URL.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::error::Error;

use control::{
    Config, DatabaseConfig,
    benchmark::{self, Load},
    encode_grant_key, generate_pepper_file,
};
use proto::grant::GrantSigner;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let database = arguments.next().ok_or("DATABASE is missing")?;
    let keys = arguments.next().map_or(Ok(KEYS), |keys| keys.parse())?;
    let database = if database.starts_with("postgres:") {
        DatabaseConfig::Postgres {
            url: database,
            password_file: None,
            connections: control::POSTGRES_CONNECTIONS,
        }
    } else {
        DatabaseConfig::Sqlite {
            path: database.into(),
        }
    };
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    let config = Config::new(database, path("pepper"), path("grant"), path("token"));
    let pkcs8 = GrantSigner::generate_pkcs8()?;
    std::fs::write(&config.grant_key_file, encode_grant_key(&pkcs8).as_bytes())?;
    let pepper = generate_pepper_file().ok_or("no random bytes")?;
    std::fs::write(&config.pepper_file, pepper.as_bytes())?;
    std::fs::write(&config.api_token_file, benchmark::API_TOKEN)?;
    let load = Load {
        keys,
        checks: keys.min(CHECKS),
        revocations: REVOCATIONS,
    };
    // One thread: the figures are of one core, beside SQLite's own threads or PostgreSQL's processes.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(benchmark::run(config, load))?;
    println!("{keys} keys\n{figures}");
    Ok(())
}

const KEYS: u32 = 1_000_000;
const CHECKS: u32 = 50_000;
const REVOCATIONS: u32 = 1_000;
