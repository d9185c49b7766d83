//! What docs/operations.md says of backups: with the database, the pepper and the CA a cluster comes back as it was;
//! without the pepper its stream keys are void, and control says so where it can tell.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use tests::{
    api::IssuedKey,
    binary,
    cluster::{Cluster, Database, Layout},
    deployment::{APP, Deployment},
    encoder::RtmpStatus,
    postgres::Postgres,
    turn,
    wait::wait_for,
};

/// What a backup holds beside the database.
const SECRETS: &[&str] = &[
    "pepper",
    "grant.key",
    "grant.pub",
    "api-token",
    "playback-token",
    "public.pem",
    "public.key",
];
/// The internal CA's certificate and the certificates that it signed.
const INTERNAL: &str = "internal";
const PEPPER: &str = "pepper";
const LOGGED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_on_sqlite_comes_back_from_its_backup() {
    let _turn = turn().await;
    comes_back_from_its_backup(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_on_postgres_comes_back_from_its_backup() {
    let _turn = turn().await;
    comes_back_from_its_backup(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_pepper_a_cluster_on_sqlite_takes_no_old_stream_key() {
    let _turn = turn().await;
    without_the_pepper_no_old_stream_key_is_taken(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_pepper_a_cluster_on_postgres_takes_no_old_stream_key() {
    let _turn = turn().await;
    without_the_pepper_no_old_stream_key_is_taken(Database::Postgres).await;
}

async fn comes_back_from_its_backup(database: Database) {
    let lost = lose_a_cluster(database).await;
    let restored = Cluster::start_after(layout(database), |base, postgres| {
        lost.backup.restore(base, postgres);
        lost.backup.restore_secrets(base, SECRETS);
    })
    .await;
    let status = publish(&restored.deployment, &lost.key.secret).await;
    assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
    let status = publish(&restored.deployment, &lost.revoked.secret).await;
    assert_key_refused(&status);
    // The API token of before made this call. A key of before can be revoked, a new one be issued.
    let api = &restored.deployment.api;
    let new = api.create_key(APP, "new").await;
    api.revoke_key(&lost.key.id, "a test").await.unwrap();
    let status = publish(&restored.deployment, &lost.key.secret).await;
    assert_key_refused(&status);
    let status = publish(&restored.deployment, &new.secret).await;
    assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
    // What was issued under the old CA is the same CA's still: a process that survived the loss would be let in.
    let ca = |base: &Path| fs::read(base.join(INTERNAL).join("ca.pem")).unwrap();
    assert_eq!(ca(&restored.base()), ca(lost.backup.directory.path()));
}

async fn without_the_pepper_no_old_stream_key_is_taken(database: Database) {
    let lost = lose_a_cluster(database).await;
    // The new cluster's own pepper has the same number: nothing is missing, and nothing fits.
    let mut restored = Cluster::start_after(layout(database), |base, postgres| {
        lost.backup.restore(base, postgres);
    })
    .await;
    let status = publish(&restored.deployment, &lost.key.secret).await;
    assert_key_refused(&status);
    let control = restored.controls[0].process();
    control
        .log_line(&["reason=\"wrong_secret\"", &lost.key.id], LOGGED)
        .await;

    // A pepper of another number: control can tell.
    let pepper = restored.base().join(PEPPER);
    let control = &mut restored.controls[0];
    control.kill();
    fs::write(&pepper, format!("2:{}\n", "5".repeat(64))).unwrap();
    let (status, log) = control.refuses_to_start().await;
    assert_eq!(status.code(), Some(1), "{log}");
    let said = "the pepper file lacks version 1, which stream keys in the database need";
    assert!(log.contains(said), "{log}");
    // None at all.
    fs::remove_file(&pepper).unwrap();
    let (status, log) = control.refuses_to_start().await;
    assert!(!status.success(), "{log}");
    assert!(log.contains("pepper"), "{log}");

    // The old one is found: with it, all is well again.
    lost.backup.restore_secrets(&restored.base(), &[PEPPER]);
    restored.controls[0].start().await;
    wait_for("the old stream key to be taken", LOGGED, async || {
        let status = publish(&restored.deployment, &lost.key.secret).await;
        (status.code == "NetStream.Publish.Start").then_some(())
    })
    .await;
}

/// What is left of a cluster.
struct Lost {
    backup: Backup,
    key: IssuedKey,
    revoked: IssuedKey,
}

/// A cluster lives, is backed up while it runs, and is gone with everything.
async fn lose_a_cluster(database: Database) -> Lost {
    let cluster = Cluster::start(layout(database)).await;
    let api = &cluster.deployment.api;
    let key = api.create_key(APP, "kept").await;
    let revoked = api.create_key(APP, "revoked").await;
    api.revoke_key(&revoked.id, "a test").await.unwrap();
    let status = publish(&cluster.deployment, &key.secret).await;
    assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
    Lost {
        backup: Backup::take(&cluster),
        key,
        revoked,
    }
}

/// Database and secrets, away from the cluster.
struct Backup {
    directory: TempDir,
}

impl Backup {
    fn take(cluster: &Cluster) -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        match &cluster.postgres {
            Some(postgres) => fs::write(this.dump(), postgres.dump()).unwrap(),
            None => sqlite_backup(&cluster.base(), &this.dump()),
        }
        copy(&cluster.base(), this.directory.path(), SECRETS);
        let internal = this.directory.path().join(INTERNAL);
        fs::create_dir(&internal).unwrap();
        copy_all(&cluster.base().join(INTERNAL), &internal);
        this
    }

    /// The database and the CA, before control starts for the first time.
    fn restore(&self, base: &Path, postgres: Option<&Postgres>) {
        match postgres {
            Some(postgres) => postgres.restore(&self.dump()),
            None => {
                fs::copy(self.dump(), base.join("control.db")).unwrap();
            }
        }
        copy_all(&self.directory.path().join(INTERNAL), &base.join(INTERNAL));
    }

    fn restore_secrets(&self, base: &Path, names: &[&str]) {
        copy(self.directory.path(), base, names);
    }

    fn dump(&self) -> PathBuf {
        self.directory.path().join("database")
    }
}

/// With the command that docs/operations.md names. A second one overwrites nothing.
fn sqlite_backup(base: &Path, to: &Path) {
    let backup = || {
        let mut command = Command::new(binary::headwater());
        command.arg("backup").arg("--data-dir").arg(base).arg(to);
        command.output().unwrap()
    };
    let (made, refused) = (backup(), backup());
    let told = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(made.status.success(), "{}", told(&made));
    assert_eq!(refused.status.code(), Some(1));
    let said = told(&refused);
    assert!(
        said.contains("exists; a backup overwrites nothing"),
        "{said}"
    );
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn layout(database: Database) -> Layout {
    Layout {
        database,
        origins: 1,
        ..Layout::default()
    }
}

async fn publish(deployment: &Deployment, key: &str) -> RtmpStatus {
    let mut encoder = deployment.encoder().await;
    let status = encoder.publish(APP, key).await.unwrap();
    if status.level == "status" {
        encoder.finish(key).await.unwrap();
    }
    status
}

fn assert_key_refused(status: &RtmpStatus) {
    assert_eq!(status.code, "NetStream.Publish.BadName", "{status:?}");
    assert!(status.description.contains("key"), "{status:?}");
}
