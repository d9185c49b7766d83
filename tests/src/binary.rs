//! The program under test, from the same target directory as the test itself.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
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

/// The `headwater` program, built from the current source: cargo finds out in no time whether it already is.
pub fn headwater() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "headwater", "--target-dir"])
            .arg(target_directory())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "headwater does not build");
        target_directory().join("debug/headwater")
    })
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
