//! Documents name files, other documents and their sections: those exist.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What a path in code style begins with.
const FOLDERS: &[&str] = &["charts/", "crates/", "deploy/", "docs/", "proto/", "tests/"];

#[test]
fn links_lead_somewhere() {
    let mut faults = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            let (file, section) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            if !target.exists() {
                faults.push(format!("{}: {link}", path.display()));
            } else if !section.is_empty() && !sections(&target).contains(section) {
                faults.push(format!("{}: no section {link}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn files_that_are_named_exist() {
    let mut faults = Vec::new();
    let mut found = 0;
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for code in text.split('`').skip(1).step_by(2) {
            let is_path = FOLDERS.iter().any(|folder| code.starts_with(folder))
                && !code.contains(|c: char| c.is_whitespace() || "<>*{$".contains(c));
            if is_path {
                found += 1;
                if !root().join(code).exists() {
                    faults.push(format!("{}: {code}", path.display()));
                }
            }
        }
    }
    assert!(found > 20, "the search finds what is there");
    assert!(faults.is_empty(), "{faults:#?}");
}

/// docs/reasons.md tells every word that an encoder's fate has in the source, and no other.
#[test]
fn the_documented_reasons_are_those_of_the_source() {
    let told = words_of_edge();
    let checked = words_of_control();
    assert!(
        told.len() > 40 && checked.len() > 10,
        "the search finds what is there"
    );
    let document = fs::read_to_string(root().join("docs/reasons.md")).unwrap();
    let documented: BTreeSet<String> = document
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    let source: BTreeSet<String> = told.union(&checked).cloned().collect();
    let missing: Vec<_> = source.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/reasons.md: {missing:?}");
    let unknown: Vec<_> = documented.difference(&source).collect();
    assert!(unknown.is_empty(), "in docs/reasons.md alone: {unknown:?}");
}

/// Refusals as they are made, and what the ends of sessions and control's denials are called.
fn words_of_edge() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in sources("crates/edge/src") {
        let text = fs::read_to_string(&path).unwrap();
        for start in ["not_available(\"", "reason: \""] {
            found.extend(words_behind(&text, start));
        }
        let names_reasons = ["admission.rs", "end.rs", "limits.rs", "intake.rs"];
        if names_reasons.iter().any(|name| path.ends_with(name)) {
            found.extend(words_behind(&text, "=> \""));
        }
    }
    found
}

/// What control's own log and metrics call its refusals, and the ends that it finds.
fn words_of_control() -> BTreeSet<String> {
    let read = |path: &str| fs::read_to_string(root().join("crates/control/src").join(path));
    let refusals = words_behind(&read("admission/refusal.rs").unwrap(), "=> \"");
    let ends = words_behind(&read("session_log/reconcile.rs").unwrap(), "reason: \"");
    refusals.into_iter().chain(ends).collect()
}

/// Literals that are one word, behind what introduces them.
fn words_behind(text: &str, start: &str) -> Vec<String> {
    let is_word = |text: &&str| {
        let mut bytes = text.bytes();
        !text.is_empty() && bytes.all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    text.split(start)
        .skip(1)
        .filter_map(|behind| Some(behind.split_once('"')?.0))
        .filter(is_word)
        .map(str::to_owned)
        .collect()
}

/// Rust files below a folder, without their tests.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(folder)];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            if path.is_dir() && !path.ends_with("tests") {
                waiting.push(path);
            } else if is_source && !path.ends_with("tests.rs") {
                found.push(path);
            }
        }
    }
    found
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join("docs")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // What npm installs for an example is not ours.
            if path.is_dir() && !path.ends_with("node_modules") {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    for name in [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ] {
        found.push(root().join(name));
    }
    found
}

/// Targets of `[text](target)` within the repository.
fn links(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|behind| Some(behind.split_once(')')?.0.to_owned()))
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// As they stand in an address: lower case, dashes for spaces, no punctuation.
fn sections(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-')
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
