//! Measures what a webhook that hangs costs those who publish by another one, or by the same one with another key:
//! `cargo run --release -p control --features benchmark --example hung_source -- [ROUNDS]`.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

/// The platform's, as in the tests.
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "it is a test's: what it cannot do ends the benchmark"
)]
#[path = "../src/tests/backend.rs"]
mod backend;

use std::{error::Error, time::Duration};

use backend::{Asked, Backend, Reply};
use control::{
    AdmissionSource, Application, Config, DatabaseConfig, Webhook,
    benchmark::{self, Rounds},
    encode_grant_key, generate_pepper_file,
};
use proto::grant::GrantSigner;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args().nth(1);
    let rounds = rounds.map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    // One thread, with the backend: what waits for it costs the others nothing unless it is asked.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(rounds))
}

async fn run(rounds: u32) -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = |name| directory.path().join(name);
    let backend = Backend::start(directory.path(), answer).await;
    let database = DatabaseConfig::Sqlite { path: path("db") };
    let mut config = Config::new(database, path("pepper"), path("grant"), path("token"));
    let pkcs8 = GrantSigner::generate_pkcs8()?;
    std::fs::write(&config.grant_key_file, encode_grant_key(&pkcs8).as_bytes())?;
    let pepper = generate_pepper_file().ok_or("no random bytes")?;
    std::fs::write(&config.pepper_file, pepper.as_bytes())?;
    std::fs::write(&config.api_token_file, benchmark::API_TOKEN)?;
    std::fs::write(path("secret"), SECRET)?;
    config.egress = backend.egress.clone();
    for name in ["hung", "others"] {
        config.applications.push(Application {
            name: name.to_owned(),
            admission: AdmissionSource::Webhook(Webhook {
                url: backend.url("/authorize"),
                secret_file: path("secret"),
                tenant: None,
                timeout: TIMEOUT,
                concurrency_max: control::WEBHOOK_CONCURRENCY,
            }),
        });
    }
    let load = Rounds {
        rounds,
        time: ROUND,
        concurrency_max: control::WEBHOOK_CONCURRENCY,
    };
    let hangs = async |requests| {
        while backend.hanging() != requests {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let figures = benchmark::beside_hung_source(config, load, hangs).await?;
    print!("{figures}");
    Ok(())
}

fn answer(asked: &Asked) -> Reply {
    let key = &asked.json()["data"]["stream_key"];
    if key.as_str().is_some_and(|key| key.starts_with("hung")) {
        return Reply::Hang;
    }
    let allowed = serde_json::json!({ "allow": true, "stream": key });
    Reply::Answer(200, allowed.to_string())
}

const ROUNDS: u32 = 5;
const ROUND: Duration = Duration::from_secs(2);
/// Longer than a round, and below the outbound client's own deadline.
const TIMEOUT: Duration = Duration::from_millis(4500);
const SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
