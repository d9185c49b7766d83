//! The ready file: how a script learns where a process serves.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use crate::files;

/// There while the process serves, if one was asked for.
pub(crate) struct ReadyFile {
    path: Option<PathBuf>,
}

impl ReadyFile {
    /// Takes an earlier process's away: what it says does not hold.
    pub(crate) fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = path
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        Ok(Self {
            path: path.map(Path::to_owned),
        })
    }

    /// Writes it, mode 0600 and all at once.
    pub(crate) fn write(&self, content: &Value) -> anyhow::Result<()> {
        match &self.path {
            Some(path) => files::write_private(path, format!("{content:#}\n").as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody else may have taken it away already.
            std::fs::remove_file(path).ok();
        }
    }
}
