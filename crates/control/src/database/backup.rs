//! A copy of a SQLite database that is in use: of one moment, and whole, or none.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

/// A copy could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nothing is overwritten.
    #[error("{} exists; a backup overwrites nothing", .0.display())]
    Exists(PathBuf),
    /// The copy cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite takes names that are UTF-8.
    #[error("{} is no name for a backup: it is not UTF-8", .0.display())]
    Name(PathBuf),
    /// There is no database to copy.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database cannot be copied.
    #[error("the database {} cannot be copied", path.display())]
    Copy {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// It is SQLite's, but not ours.
    #[error("{} is no database of Headwater", .0.display())]
    Foreign(PathBuf),
    /// What was copied is damaged.
    #[error("the database {} is damaged: {finding}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        finding: String,
    },
}

/// Copies the SQLite database at `database` to `to`, mode 0600: its bytes. Whoever uses the database goes on reading and
/// writing. `to` holds the whole copy, and is on disk, once this is done; where it fails, nothing is left.
pub async fn backup(database: &Path, to: &Path) -> Result<u64, BackupError> {
    // Before anything is made: SQLite would say of every fault that it is "unable to open database file".
    fs::File::open(database).map_err(|source| BackupError::Read {
        path: database.to_owned(),
        source,
    })?;
    let write_failed = |source| BackupError::Write {
        path: to.to_owned(),
        source,
    };
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = std::path::absolute(&unfinished).map_err(write_failed)?;
    let claimed = Claim::new(to)?;
    let copying = Claim::new(&unfinished)?;
    copy(database, &unfinished).await?;
    let copied = fs::File::open(&unfinished).map_err(write_failed)?;
    copied.sync_all().map_err(write_failed)?;
    let bytes = copied.metadata().map_err(write_failed)?.len();
    fs::rename(&unfinished, to).map_err(write_failed)?;
    copying.keep();
    claimed.keep();
    Ok(bytes)
}

/// An empty file of ours, which is taken away again unless it is kept.
struct Claim(Option<PathBuf>);

impl Claim {
    fn new(path: &Path) -> Result<Self, BackupError> {
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match created {
            Ok(_file) => Ok(Self(Some(path.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(BackupError::Exists(path.to_owned()))
            }
            Err(source) => Err(BackupError::Write {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            fs::remove_file(path).ok();
        }
    }
}

/// Into an empty file, whose mode stays.
async fn copy(database: &Path, to: &Path) -> Result<(), BackupError> {
    let name = to
        .to_str()
        .ok_or_else(|| BackupError::Name(to.to_owned()))?;
    let failed = |source| BackupError::Copy {
        path: database.to_owned(),
        source,
    };
    let options = SqliteConnectOptions::new().filename(database);
    let mut connection = options.read_only(true).connect().await.map_err(failed)?;
    let tables =
        "SELECT COUNT(*) FROM sqlite_schema WHERE name IN ('_sqlx_migrations', 'stream_keys')";
    let ours: i64 = sqlx::query_scalar(tables)
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    if ours != 2 {
        return Err(BackupError::Foreign(database.to_owned()));
    }
    sqlx::query("VACUUM INTO $1")
        .bind(name)
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)?;

    let options = SqliteConnectOptions::new().filename(to).read_only(true);
    let mut copied = options.connect().await.map_err(failed)?;
    let finding: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut copied)
        .await
        .map_err(failed)?;
    copied.close().await.map_err(failed)?;
    if finding == "ok" {
        Ok(())
    } else {
        Err(BackupError::Damaged {
            path: database.to_owned(),
            finding,
        })
    }
}
