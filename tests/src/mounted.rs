//! A directory as Kubernetes mounts a ConfigMap or a Secret: `<file>` is a link into `..data`, and `..data` is swapped as a
//! whole.

use std::{
    cell::Cell,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The mounted directory.
pub struct Mounted {
    directory: PathBuf,
    version: Cell<u32>,
}

impl Mounted {
    /// With its first version.
    pub fn new(directory: &Path, file: &str, content: &str) -> Self {
        fs::create_dir_all(directory).unwrap();
        let mounted = Self {
            directory: directory.to_owned(),
            version: Cell::new(0),
        };
        mounted.write(file, content);
        symlink(Path::new("..data").join(file), directory.join(file)).unwrap();
        mounted
    }

    /// Swaps another version in; the old one is gone.
    pub fn write(&self, file: &str, content: &str) {
        let old = self.version.get();
        self.version.set(old + 1);
        let name = |version: u32| format!("..version_{version}");
        let new = self.directory.join(name(old + 1));
        fs::create_dir(&new).unwrap();
        fs::write(new.join(file), content).unwrap();
        let link = self.directory.join("..data_tmp");
        symlink(name(old + 1), &link).unwrap();
        fs::rename(&link, self.directory.join("..data")).unwrap();
        if old > 0 {
            fs::remove_dir_all(self.directory.join(name(old))).unwrap();
        }
    }
}
