//! File systems that get full, and files that cannot be written any more.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

/// A small file system in memory, seen where it was mounted: in a mount namespace of the test's own.
pub struct SmallVolume(PathBuf);

impl SmallVolume {
    /// Of so many MiB, over a directory.
    pub fn mount(directory: &Path, mebibytes: u32) -> Self {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(directory));
        Self(directory.to_owned())
    }

    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        let full = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

/// Makes a file refuse writes, those of who has it open too, or take them again. A file system cannot be mounted read-only
/// while somebody may write to it; this is what is left of it then.
pub fn set_immutable(file: &Path, immutable: bool) {
    let flag = if immutable { "+i" } else { "-i" };
    run(Command::new("chattr").arg(flag).arg(file));
}

/// Whether [`set_immutable`] does that in this directory: as root on ext4.
pub fn has_immutable_files(directory: &Path) -> bool {
    let path = directory.join("immutable");
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .unwrap();
    let mut chattr = Command::new("chattr");
    let set = chattr.arg("+i").arg(&path).output();
    if !set.is_ok_and(|set| set.status.success()) {
        return false;
    }
    let refused = file.write_all(b"x").is_err();
    set_immutable(&path, false);
    refused
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}
