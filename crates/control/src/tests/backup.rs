//! A copy of a database that is in use.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use runtime::error::chain;
use tempfile::TempDir;

use super::{admission_service::is_granted, fixture::Fixture};
use crate::{DatabaseConfig, database::backup};

fn path(fixture: &Fixture) -> &Path {
    match &fixture.config.database {
        DatabaseConfig::Sqlite { path } => path,
        DatabaseConfig::Postgres { .. } => panic!("these tests are about SQLite"),
    }
}

/// What is in a directory.
fn names(directory: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(directory.path()).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    entries.map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_that_starts_from_a_backup_knows_the_keys() {
    let mut fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;
    let (revoked, revoked_secret) = control.create("main").await;
    control.revoke(&revoked.id).await;
    let elsewhere = TempDir::new().unwrap();
    // A name that is no URL's, and that SQL would have to quote.
    let copy = elsewhere.path().join("it's 100%25 ?mode=ro.db");
    // Keys come and go meanwhile.
    let (bytes, ()) = tokio::join!(backup(path(&fixture), &copy), async {
        for _ in 0..50 {
            control.create("meanwhile").await;
        }
    });
    let bytes = bytes.unwrap();
    let (_, later) = control.create("later").await;

    let metadata = std::fs::metadata(&copy).unwrap();
    assert_eq!(
        (metadata.len(), metadata.permissions().mode() & 0o777),
        (bytes, 0o600)
    );
    assert_eq!(names(&elsewhere), ["it's 100%25 ?mode=ro.db"]);
    assert!(is_granted(
        &control.authorize("live", &later).await.unwrap()
    ));
    drop(control);

    fixture.config.database = DatabaseConfig::Sqlite { path: copy };
    let restored = fixture.replica().await;
    let granted =
        async |secret: &str| is_granted(&restored.authorize("live", secret).await.unwrap());
    assert!(granted(&secret).await);
    assert!(!granted(&revoked_secret).await && !granted(&later).await);
    restored.create("new").await;
}

#[tokio::test]
async fn a_database_that_nobody_uses_is_copied() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    control.create("main").await;
    control.shared.database.close().await;
    drop(control);
    let elsewhere = TempDir::new().unwrap();
    backup(path(&fixture), &elsewhere.path().join("copy"))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_copied_leaves_nothing_and_says_why() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    control.create("main").await;
    let elsewhere = TempDir::new().unwrap();
    let within = |name: &str| elsewhere.path().join(name);
    let refused = async |database: &Path, to: &Path| {
        chain(&backup(database, to).await.expect_err("no backup"))
    };

    std::fs::write(within("there"), "a backup of before").unwrap();
    symlink("nowhere", within("link")).unwrap();
    for name in ["there", "link"] {
        let said = refused(path(&fixture), &within(name)).await;
        assert!(said.contains("overwrites nothing"), "{said}");
    }
    let kept = std::fs::read_to_string(within("there")).unwrap();
    assert_eq!(kept, "a backup of before");
    let said = refused(path(&fixture), &within("no directory/copy")).await;
    assert!(said.contains("copy cannot be written: No such"), "{said}");

    let said = refused(&within("no database"), &within("copy")).await;
    assert!(
        said.contains("no database cannot be read: No such"),
        "{said}"
    );
    std::fs::write(within("empty"), "").unwrap();
    let said = refused(&within("empty"), &within("copy")).await;
    assert!(said.contains("is no database of Headwater"), "{said}");
    let said = refused(&within("there"), &within("copy")).await;
    assert!(said.contains("cannot be copied"), "{said}");
    let mut names = names(&elsewhere);
    names.sort();
    assert_eq!(names, ["empty", "link", "there"]);
}
