//! What the operator builds, against those who read it: the published schemas of the Kubernetes minors that are
//! supported, and the roles.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// So that an empty directory does not pass.
const FILES_MIN: usize = 25;

#[test]
fn what_the_operator_builds_is_valid_in_every_supported_minor() {
    let output = check(&files());
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

/// The files that it names are not here: whatever else is said of it is a mistake of the operator's.
#[test]
fn every_boot_configuration_is_one_that_its_role_takes() {
    let directory = tempfile::tempdir().unwrap();
    let mut roles = BTreeSet::new();
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        for (key, boot) in boot_configurations(&text) {
            let role = key.strip_suffix(".yaml").unwrap().to_owned();
            let path = directory.path().join(&key);
            fs::write(&path, boot).unwrap();
            let output = Command::new(tests::binary::headwater())
                .args([role.as_str(), "--config"])
                .arg(&path)
                .envs(POD_ENVIRONMENT.into_iter().filter(|(name, _)| {
                    name.starts_with(&format!("HEADWATER__{}__", role.to_uppercase()))
                }))
                .output()
                .unwrap();
            assert_eq!(
                output.status.code(),
                Some(64),
                "{}: {output:?}",
                file.display()
            );
            let report = String::from_utf8(output.stderr).unwrap();
            let mistakes: Vec<&str> = report
                .lines()
                .skip(1)
                .filter(|line| !MISSING.iter().any(|missing| line.contains(missing)))
                .collect();
            assert_eq!(mistakes, [] as [&str; 0], "{} {role}", file.display());
            assert!(
                report.contains("/etc/headwater/secrets/internal/tls.crt"),
                "{report}"
            );
            roles.insert(role);
        }
    }
    assert_eq!(roles.len(), 3, "{roles:?}");
}

/// What the pods of the roles have beside the file.
const POD_ENVIRONMENT: [(&str, &str); 4] = [
    ("HEADWATER__EDGE__ZONE", "\"\""),
    ("HEADWATER__ORIGIN__NAME", "live-origin-0"),
    ("HEADWATER__ORIGIN__RELAY__ADVERTISE", "10.0.0.1:7444"),
    ("HEADWATER__ORIGIN__ZONE", "\"1\""),
];
/// Of what a file names: it is in a pod, not here.
const MISSING: [&str; 2] = [
    "No such file or directory",
    "the directory of /var/lib/headwater/control.db does not exist",
];

/// Keys and texts of the ConfigMaps that never change.
fn boot_configurations(documents: &str) -> Vec<(String, String)> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(documents).unwrap();
    documents
        .iter()
        .filter(|document| document["immutable"] == true)
        .flat_map(|document| document["data"].as_object().unwrap())
        .map(|(key, text)| (key.clone(), text.as_str().unwrap().to_owned()))
        .collect()
}

fn files() -> Vec<PathBuf> {
    let fixtures = root().join("crates/operator/tests/fixtures");
    let files: Vec<PathBuf> = fs::read_dir(fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("objects.yaml"))
        .collect();
    assert!(files.len() >= FILES_MIN);
    files
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
