//! The program under test, from the same target directory as the test itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

/// The target directory (`target`, or where `CARGO_TARGET_DIR` points).
pub fn target_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // <target>/debug/deps/<this test>
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(3).unwrap().to_owned()
    })
}

/// The `headwater` program. `cargo test --workspace` has built it; where it is older than the source, it is built here.
pub fn headwater() -> &'static Path {
    // Tried once: what does not build for one test does not for the next.
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = target_directory().join("debug/headwater");
        let built = fs::metadata(&program).and_then(|program| program.modified());
        let fresh = built.is_ok_and(|built| built > source_time());
        (fresh || build()).then_some(program)
    });
    program.as_deref().expect("headwater builds")
}

fn build() -> bool {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "headwater", "--target-dir"])
        .arg(target_directory())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    built.unwrap().success()
}

/// When the source was changed last.
fn source_time() -> SystemTime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let roots = ["crates", "deploy", "proto", "Cargo.lock", "Cargo.toml"];
    let mut waiting: Vec<PathBuf> = roots.iter().map(|name| root.join(name)).collect();
    let mut latest = SystemTime::UNIX_EPOCH;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        } else {
            latest = latest.max(fs::metadata(&path).unwrap().modified().unwrap());
        }
    }
    latest
}

/// Python with grpcio and the generated stubs, as `tests/setup.sh` makes it.
pub fn python() -> PathBuf {
    let python = target_directory().join("python/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make test`, or `bash tests/setup.sh {}`",
        python.display(),
        target_directory().display()
    );
    python
}

/// Prometheus's checker of rules: the system's, or the one that `tests/setup.sh` unpacks.
pub fn promtool() -> PathBuf {
    let unpacked = target_directory().join("promtool/promtool");
    if unpacked.exists() {
        unpacked
    } else {
        PathBuf::from("promtool")
    }
}

/// A library that lets a process's clock run faster (libfaketime).
pub fn fake_time() -> PathBuf {
    let system = fs::read_dir("/usr/lib").unwrap();
    let library = system
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    library.expect("libfaketime is missing: run `make test`, or install the package libfaketime")
}
