//! Files that change while the process runs: looked at again and again. A version that is not valid is reported once and
//! leaves the last good one in place.
//!
//! What decides is content. A file is only not read again where its inode, size and time of change are what they were,
//! and that time is long enough ago that it cannot hide another change (some file systems have coarse times). Paths are
//! resolved anew at each look, so that a symlink that was swapped (Kubernetes's `..data`) is seen.

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest::{SHA256, digest};
use tracing::{info, warn};
use zeroize::Zeroizing;

/// Between two looks at secrets and certificates.
pub const RELOAD_PERIOD: Duration = Duration::from_secs(2);
/// No file that is looked at is anywhere near this size, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;
/// A change that is older than this has a time that no later change has: coarser clocks than this are not in use.
const SETTLED: Duration = Duration::from_secs(3);

/// What was last read from files in a valid form. A cheap handle; the looking ends with the last one.
pub struct Reloading<T>(Arc<ArcSwap<T>>);

/// A file as it was read.
pub struct Content {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
}

/// A file could not be used. It may be a secret's: what it holds is never repeated.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not of the expected form.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Not there, not readable, or too long.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Some files, and what was last seen in them.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// Of the version that was looked at last; empty while the files cannot be read.
    seen: Vec<Vec<u8>>,
    /// Of the same version, where it has settled.
    stamps: Option<Vec<Stamp>>,
}

/// Tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_seconds: i64,
    changed_nanoseconds: i64,
}

impl<T> Reloading<T> {
    /// What never changes.
    pub fn fixed(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// What is in effect now; to be asked for again each time.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// As [`load`](Self::load), to be kept across an `.await`.
    pub fn load_full(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts another value into effect.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// As [`watch`](Self::watch), for one file that is parsed as text.
    pub fn watch_text(
        what: &'static str,
        path: PathBuf,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> Result<Self, FileError> {
        Self::watch(what, vec![path], move |contents| match contents {
            [content] => content.parse(expected, &parse),
            _ => unreachable!("one file was named"),
        })
    }

    /// Reads and parses the files now, and again whenever their contents change, for as long as a handle lives. `what`
    /// names them in the log. Must be called inside a tokio runtime.
    pub fn watch<E>(
        what: &'static str,
        paths: Vec<PathBuf>,
        parse: impl Fn(&[Content]) -> Result<T, E> + Send + 'static,
    ) -> Result<Self, E>
    where
        E: std::error::Error + From<FileError> + 'static,
    {
        let (mut watcher, current) = Watcher::load(what, paths, parse)?;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RELOAD_PERIOD).await;
                if watcher.look().is_none() {
                    return;
                }
            }
        });
        Ok(current)
    }
}

impl<T> Clone for Reloading<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a secret.
        f.write_str("Reloading")
    }
}

impl Content {
    /// A text that is in no file; errors call it by this name.
    pub(crate) fn named(name: &str, text: &str) -> Self {
        Self {
            path: name.into(),
            bytes: Zeroizing::new(text.as_bytes().to_vec()),
        }
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What `parse` makes of it as text; `expected` says what it should have been.
    pub fn parse<T>(
        &self,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, FileError> {
        let text = std::str::from_utf8(&self.bytes).ok();
        text.and_then(parse).ok_or_else(|| FileError::Content {
            path: self.path.clone(),
            expected,
        })
    }
}

impl Files {
    /// Reads them for the first time.
    pub fn read(paths: Vec<PathBuf>) -> Result<(Self, Vec<Content>), FileError> {
        let stamps = stamps(&paths);
        let contents = read(&paths)?;
        let seen = fingerprint(&contents);
        let this = Self {
            paths,
            seen,
            stamps,
        };
        Ok((this, contents))
    }

    /// Waits for other contents than were seen last, looking every `period`.
    pub async fn changed(&mut self, period: Duration) -> Result<Vec<Content>, FileError> {
        loop {
            tokio::time::sleep(period).await;
            if let Some(contents) = self.look()? {
                return Ok(contents);
            }
        }
    }

    /// Their contents, where these are not what the last look saw. That they cannot be read is told once, too.
    ///
    /// Small local files: the read is shorter than a hop to the blocking pool.
    pub fn look(&mut self) -> Result<Option<Vec<Content>>, FileError> {
        // Before the contents: what changes in between is seen by the next look.
        let stamps = stamps(&self.paths);
        if stamps.is_some() && stamps == self.stamps {
            return Ok(None);
        }
        self.stamps = stamps;
        let contents = match read(&self.paths) {
            Ok(contents) => contents,
            Err(_told) if self.seen.is_empty() => return Ok(None),
            Err(error) => {
                self.seen.clear();
                return Err(error);
            }
        };
        let now = fingerprint(&contents);
        if now == self.seen {
            return Ok(None);
        }
        self.seen = now;
        Ok(Some(contents))
    }
}

struct Watcher<T, P> {
    what: &'static str,
    files: Files,
    parse: P,
    current: Weak<ArcSwap<T>>,
}

impl<T, P> Watcher<T, P> {
    fn load<E>(what: &'static str, paths: Vec<PathBuf>, parse: P) -> Result<(Self, Reloading<T>), E>
    where
        P: Fn(&[Content]) -> Result<T, E>,
        E: From<FileError>,
    {
        let (files, contents) = Files::read(paths)?;
        let current = Arc::new(ArcSwap::from_pointee(parse(&contents)?));
        let watcher = Self {
            what,
            files,
            parse,
            current: Arc::downgrade(&current),
        };
        Ok((watcher, Reloading(current)))
    }

    /// Whether there was a new valid version; `None` when nobody needs it any more.
    fn look<E>(&mut self) -> Option<bool>
    where
        P: Fn(&[Content]) -> Result<T, E>,
        E: std::error::Error + From<FileError> + 'static,
    {
        let what = self.what;
        let current = self.current.upgrade()?;
        let parsed = match self.files.look() {
            Ok(None) => return Some(false),
            Ok(Some(contents)) => (self.parse)(&contents),
            Err(error) => Err(error.into()),
        };
        match parsed {
            Ok(value) => {
                current.store(Arc::new(value));
                info!(what, files = ?self.files.paths, "reloaded");
                Some(true)
            }
            Err(error) => {
                warn!(
                    what,
                    error = &error as &dyn std::error::Error,
                    "files cannot be used; the last good ones stay in effect"
                );
                Some(false)
            }
        }
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Content>, FileError> {
    paths
        .iter()
        .map(|path| {
            let bytes = read_limited(path).map_err(|source| FileError::Unreadable {
                path: path.clone(),
                source,
            })?;
            Ok(Content {
                path: path.clone(),
                bytes: Zeroizing::new(bytes),
            })
        })
        .collect()
}

fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > FILE_LIMIT {
        return Err(std::io::Error::other(format!(
            "longer than {FILE_LIMIT} bytes"
        )));
    }
    std::fs::read(path)
}

/// Those of all files; `None` where one of them is not there, or changed a moment ago.
fn stamps(paths: &[PathBuf]) -> Option<Vec<Stamp>> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    let settled = i64::try_from(now.checked_sub(SETTLED)?.as_secs()).ok()?;
    paths
        .iter()
        .map(|path| {
            let file = std::fs::metadata(path).ok()?;
            let stamp = Stamp {
                device: file.dev(),
                inode: file.ino(),
                bytes: file.size(),
                changed_seconds: file.ctime(),
                changed_nanoseconds: file.ctime_nsec(),
            };
            (stamp.changed_seconds < settled).then_some(stamp)
        })
        .collect()
}

fn fingerprint(contents: &[Content]) -> Vec<Vec<u8>> {
    contents
        .iter()
        .map(|content| digest(&SHA256, &content.bytes).as_ref().to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Content]) -> Result<u32, FileError> {
        contents[0].parse("a number", |text| text.trim().parse().ok())
    }

    #[test]
    fn a_broken_version_leaves_the_last_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let (mut watcher, current) = Watcher::load("a number", vec![path.clone()], number).unwrap();
        assert_eq!((watcher.look(), **current.load()), (Some(false), 1));
        std::fs::write(&path, "two").unwrap();
        assert_eq!((watcher.look(), **current.load()), (Some(false), 1));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((watcher.look(), **current.load()), (Some(false), 1));
        std::fs::write(&path, "3").unwrap();
        assert_eq!((watcher.look(), **current.load()), (Some(true), 3));
        assert_eq!(watcher.look(), Some(false));
        drop(current);
        assert_eq!(watcher.look(), None);
    }

    #[test]
    fn what_cannot_be_read_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(Files::read(vec![path.clone()]).is_err());
        std::fs::write(&path, "one").unwrap();
        let (mut files, contents) = Files::read(vec![path.clone()]).unwrap();
        assert_eq!(contents[0].bytes(), b"one");
        std::fs::remove_file(&path).unwrap();
        assert!(files.look().is_err());
        assert!(files.look().unwrap().is_none());
        std::fs::write(&path, "one").unwrap();
        assert!(files.look().unwrap().is_some(), "it is there again");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(FILE_LIMIT + 1)
            .unwrap();
        assert!(files.look().is_err(), "nobody reads that much");
    }

    #[test]
    fn a_swapped_symlink_is_seen() {
        // As Kubernetes mounts a ConfigMap or a Secret: file ─▶ ..data/file, and ..data ─▶ ..<time>.
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let version = |name: &str, content: &str| {
            std::fs::create_dir(root.join(name)).unwrap();
            std::fs::write(root.join(name).join("file"), content).unwrap();
            std::os::unix::fs::symlink(name, root.join("..data_tmp")).unwrap();
            std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        };
        version("..2026_1", "one");
        std::os::unix::fs::symlink("..data/file", root.join("file")).unwrap();
        let (mut files, _) = Files::read(vec![root.join("file")]).unwrap();
        assert!(files.look().unwrap().is_none());
        version("..2026_2", "two");
        std::fs::remove_dir_all(root.join("..2026_1")).unwrap();
        assert_eq!(files.look().unwrap().unwrap()[0].bytes(), b"two");
    }
}
