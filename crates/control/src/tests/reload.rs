//! Secrets that change while control runs.

use std::path::Path;

use proto::{
    grant::{GrantSigner, GrantVerifier},
    internal::v1::authorize_response::Decision,
};
use sqlx::{AssertSqlSafe, Connection as _};

use super::{
    admission_service::is_granted,
    fixture::{Fixture, Replica, bearing, until},
    postgres::PostgresServer,
};
use crate::{
    DatabaseConfig, POSTGRES_CONNECTIONS, caller::Scope, encode_grant_key, pepper::PepperError,
};

/// As Kubernetes does: all at once.
pub(super) fn replace(path: &Path, content: &str) {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, content).unwrap();
    std::fs::rename(unfinished, path).unwrap();
}

async fn granted(control: &Replica, secret: &str) -> bool {
    matches!(control.authorize("live", secret).await, Ok(answer) if is_granted(&answer))
}

#[tokio::test]
async fn an_api_token_that_was_replaced_is_refused() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let accepts = async |token: &str| {
        let request = bearing(token, ());
        control
            .shared
            .caller(&request, Scope::KeysRead)
            .await
            .is_ok()
    };
    assert!(accepts("a token for tests").await && !accepts("another").await);
    replace(
        &fixture.config.api_token_file,
        "another\na token for tests\n",
    );
    until("the new token", async || accepts("another").await).await;
    assert!(accepts("a token for tests").await, "both while they rotate");
    replace(&fixture.config.api_token_file, "another\n");
    until("the old token's end", async || {
        !accepts("a token for tests").await
    })
    .await;
    assert!(accepts("another").await);
}

#[tokio::test]
async fn grants_are_signed_with_the_key_that_is_in_the_file() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;
    let pkcs8 = GrantSigner::generate_pkcs8().unwrap();
    let new = GrantVerifier::new([GrantSigner::from_pkcs8(&pkcs8).unwrap().public_key()]);
    let verified = async |verifier: &GrantVerifier| {
        let answer = control.authorize("live", &secret).await.unwrap();
        let Some(Decision::SignedGrant(signed)) = answer.decision else {
            panic!("{answer:?}");
        };
        verifier.verify(&signed).is_ok()
    };
    assert!(verified(&fixture.verifier).await);
    replace(&fixture.config.grant_key_file, &encode_grant_key(&pkcs8));
    until("the new key", async || verified(&new).await).await;
    assert!(!verified(&fixture.verifier).await);
}

#[tokio::test]
async fn a_new_pepper_is_taken_and_one_that_is_needed_is_kept() {
    let fixture = Fixture::sqlite();
    let mut control = fixture.replica().await;
    let (_, old) = control.create("old").await;
    let path = &fixture.config.pepper_file;
    let first = std::fs::read_to_string(path).unwrap();
    let second = format!("2:{}\n", "5".repeat(64));

    // Keys of version 1 are still there.
    replace(path, &second);
    let refused = control.pepper_file.advance().await;
    assert!(
        matches!(refused, Err(PepperError::Missing { version: 1 })),
        "{refused:?}"
    );
    assert_eq!(control.shared.peppers.load().current(), 1);
    assert!(granted(&control, &old).await);

    replace(path, &format!("{first}{second}"));
    assert_eq!(control.pepper_file.advance().await.unwrap(), 2);
    assert_eq!(control.shared.peppers.load().current(), 2);
    let (_, new) = control.create("new").await;
    assert!(granted(&control, &old).await && granted(&control, &new).await);
    replace(path, "nonsense");
    let refused = control.pepper_file.advance().await;
    assert!(matches!(refused, Err(PepperError::File(_))), "{refused:?}");
    assert!(granted(&control, &old).await && granted(&control, &new).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_password_is_taken_for_new_connections() {
    let server = PostgresServer::start();
    let mut superuser = server.demand_password("rotating", "first").await;
    let mut fixture = Fixture::sqlite();
    let password_file = fixture.directory.path().join("password");
    replace(&password_file, "first\n");
    fixture.config.database = DatabaseConfig::Postgres {
        url: server.url_with_host("rotating", "postgres"),
        password_file: Some(password_file.clone()),
        connections: POSTGRES_CONNECTIONS,
    };
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;

    let mut execute = async |statement: &str| {
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement)
            .execute(&mut superuser)
            .await
            .unwrap();
    };
    execute("ALTER ROLE rotating PASSWORD 'second'").await;
    execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'")
        .await;
    until("the refusal", async || !granted(&control, &secret).await).await;
    replace(&password_file, "second\n");
    until("the new password", async || {
        granted(&control, &secret).await
    })
    .await;
    superuser.close().await.unwrap();
}
