//! What the operator builds, against the published schemas of the Kubernetes minors that are supported.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// So that an empty directory does not pass.
const FILES_MIN: usize = 25;

#[test]
fn what_the_operator_builds_is_valid_in_every_supported_minor() {
    let fixtures = root().join("crates/operator/tests/fixtures");
    let files: Vec<PathBuf> = fs::read_dir(fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("objects.yaml"))
        .collect();
    assert!(files.len() >= FILES_MIN);
    let output = check(&files);
    let report = String::from_utf8_lossy(&output.stdout);
    println!("{report}");
    assert!(output.status.success(), "{output:?}");
    assert!(report.contains(" 5 minors, 0 mistakes"), "{report}");
}

#[test]
fn the_check_finds_a_field_that_does_not_exist() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("service.yaml");
    let service = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIp: None}}";
    fs::write(&file, service).unwrap();
    let output = check(&[file]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        report.contains("1 objects, 5 minors, 5 mistakes"),
        "{report}"
    );
    assert!(report.contains("clusterIp"), "{report}");
}

fn check<P: AsRef<OsStr>>(files: &[P]) -> Output {
    Command::new(tests::binary::python())
        .arg(root().join("tests/python/check_manifests.py"))
        .args(files)
        .output()
        .unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
