//! What may depend on what, and other rules of the source that a compiler does not hold.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The crates of the workspace and what each may depend on. A new arrow is a decision: docs/ARCHITECTURE.md says why the
/// existing ones are there.
const ALLOWED: &[(&str, &[&str])] = &[
    ("control", &["proto", "registry", "runtime"]),
    ("edge", &["media", "proto", "registry", "rtmp", "runtime"]),
    // Feeds what parses to a fuzzer.
    ("fuzz", &["media", "proto", "rtmp"]),
    (
        "headwater",
        &[
            "control", "edge", "media", "operator", "origin", "proto", "registry", "rtmp",
            "runtime",
        ],
    ),
    ("media", &[]),
    ("operator", &["proto", "runtime"]),
    // rtmp for players alone: see the_origin_speaks_rtmp_in_one_place.
    ("origin", &["media", "proto", "registry", "rtmp", "runtime"]),
    ("proto", &["media"]),
    ("registry", &[]),
    ("rtmp", &[]),
    ("runtime", &[]),
    // The roles are tested as binaries.
    ("tests", &["proto", "runtime"]),
];

/// Crates that do no I/O: nothing of these may be anywhere below them.
const PURE: &[&str] = &["media", "rtmp"];
const IMPURE: &[&str] = &["tokio", "mio", "socket2", "hyper", "async-std", "smol"];

/// Only `control` opens the key database, only `registry` speaks Redis, only `operator` speaks to Kubernetes (and the
/// tests, which look at what it did).
const EXCLUSIVE: &[(&str, &[&str])] = &[
    ("sqlx", &["control"]),
    ("redis", &["registry"]),
    ("kube", &["operator", "tests"]),
];

/// Lines of a source file, its tests not counted: about 500 is what a reader holds in mind.
const FILE_LINES_MAX: usize = 550;

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let workspace = Workspace::read();
    let members: BTreeSet<&str> = workspace.members.values().map(String::as_str).collect();
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, listed, "the table lists the workspace's crates");
    for (name, allowed) in ALLOWED {
        for dependency in workspace.direct(name, &[None, Some("build"), Some("dev")]) {
            assert!(
                !members.contains(dependency.as_str()) || allowed.contains(&dependency.as_str()),
                "{name} may not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_pure_crates_have_no_executor_and_no_socket_below_them() {
    let workspace = Workspace::read();
    for name in PURE {
        let below = workspace.below(name);
        for impure in IMPURE {
            assert!(!below.contains(*impure), "{name} reaches {impure}");
        }
    }
    assert!(
        workspace.below("edge").contains("tokio"),
        "the search finds what is there"
    );
}

#[test]
fn one_crate_opens_the_database_and_one_speaks_redis() {
    let workspace = Workspace::read();
    for (library, owners) in EXCLUSIVE {
        let users: Vec<&str> = ALLOWED
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| workspace.direct(name, &[None]).contains(*library))
            .collect();
        assert_eq!(users, *owners, "{library}");
    }
}

/// What an origin holds are frames, whatever they came by and go out by.
#[test]
fn the_origin_speaks_rtmp_in_one_place() {
    let speaks = |lines: &[String]| {
        let code = lines.iter().map(|line| line.trim_start());
        code.filter(|line| !line.starts_with("//"))
            .any(|line| line.starts_with("use rtmp") || line.contains("rtmp::"))
    };
    let output = Path::new("crates/origin/src/output/rtmp");
    let mut there = 0;
    for (path, lines) in sources() {
        if path.starts_with(output) {
            there += usize::from(speaks(&lines));
        } else if path.starts_with("crates/origin") {
            // The module of that name, which its role starts.
            let own = |line: &&String| !line.contains("rtmp::serve(");
            let lines: Vec<String> = lines.iter().filter(own).cloned().collect();
            assert!(!speaks(&lines), "{} speaks RTMP", path.display());
        }
    }
    assert!(there > 0, "the search finds what is there");
}

#[test]
fn only_the_binary_reads_the_environment() {
    let calls = ["env::var", "env::vars", "env::var_os", "env::args"];
    let readers: BTreeSet<PathBuf> = sources()
        .into_iter()
        // Cargo tells a build script where to write in no other way; an example is a program of its own.
        .filter(|(path, _)| {
            !path.ends_with("build.rs") && !path.iter().any(|part| part == "examples")
        })
        .filter(|(_, lines)| mentions(lines, &calls).is_some())
        .map(|(path, _)| path)
        .collect();
    assert!(!readers.is_empty(), "the search finds what is there");
    for path in readers {
        assert!(
            path.starts_with("crates/headwater/src"),
            "{} reads the environment or the arguments",
            path.display()
        );
    }
}

#[test]
fn the_pure_crates_read_no_clock_and_open_nothing() {
    let calls = [
        "Instant::now",
        "SystemTime::now",
        "std::net",
        "std::fs",
        "std::thread",
        "async fn",
    ];
    for (path, lines) in sources() {
        let pure = |name: &&str| path.starts_with(format!("crates/{name}/src"));
        if PURE.iter().any(pure)
            && let Some(call) = mentions(&lines, &calls)
        {
            panic!("{}: {call} in a pure crate", path.display());
        }
    }
}

#[test]
fn nothing_is_left_undone_and_no_file_outgrows_its_reader() {
    let mut faults = Vec::new();
    for (path, lines) in sources() {
        if lines.len() > FILE_LINES_MAX {
            faults.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        if let Some(call) = mentions(&lines, &["todo!(", "unimplemented!(", "dbg!("]) {
            faults.push(format!("{}: {call}", path.display()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The first of these words that stands in code.
fn mentions<'a>(lines: &[String], words: &[&'a str]) -> Option<&'a str> {
    let code = || {
        lines
            .iter()
            .filter(|line| !line.trim_start().starts_with("//"))
    };
    words
        .iter()
        .find(|word| code().any(|line| line.contains(**word)))
        .copied()
}

/// `cargo metadata`, as far as it is of use here.
struct Workspace {
    /// Package id to name.
    members: BTreeMap<String, String>,
    /// Package id to name, of everything.
    names: BTreeMap<String, String>,
    /// Package id to what it depends on.
    arrows: BTreeMap<String, Vec<Arrow>>,
}

/// A dependency.
struct Arrow {
    /// Package id.
    to: String,
    /// `None` is a normal dependency.
    kinds: Vec<Option<String>>,
}

impl Workspace {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: BTreeMap<_, _> = list(&metadata["packages"])
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let members = list(&metadata["workspace_members"])
            .map(|id| (text(id), names[&text(id)].clone()))
            .collect();
        let arrows = list(&metadata["resolve"]["nodes"])
            .map(|node| {
                let dependencies = list(&node["deps"]).map(|dependency| {
                    let kinds = list(&dependency["dep_kinds"])
                        .map(|kind| kind["kind"].as_str().map(str::to_owned));
                    Arrow {
                        to: text(&dependency["pkg"]),
                        kinds: kinds.collect(),
                    }
                });
                (text(&node["id"]), dependencies.collect())
            })
            .collect();
        Self {
            members,
            names,
            arrows,
        }
    }

    fn member(&self, name: &str) -> &str {
        let found = self.members.iter().find(|(_, member)| *member == name);
        found.expect("a crate of the workspace").0
    }

    /// Names of a crate's own dependencies of these kinds.
    fn direct(&self, name: &str, kinds: &[Option<&str>]) -> BTreeSet<String> {
        self.arrows[self.member(name)]
            .iter()
            .filter(|arrow| {
                let mut have = arrow.kinds.iter();
                have.any(|kind| kinds.contains(&kind.as_deref()))
            })
            .map(|arrow| self.names[&arrow.to].clone())
            .collect()
    }

    /// Names of everything that is linked below a crate.
    fn below(&self, name: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![self.member(name)];
        while let Some(id) = waiting.pop() {
            for arrow in &self.arrows[id] {
                if arrow.kinds.contains(&None) && seen.insert(arrow.to.as_str()) {
                    waiting.push(&arrow.to);
                }
            }
        }
        seen.into_iter().map(|id| self.names[id].clone()).collect()
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Every source file of the crates that is no test: its path from the root of the repository, and its lines before the
/// unit tests.
fn sources() -> Vec<(PathBuf, Vec<String>)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join("crates")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_owned();
            if path.is_dir() && name != "tests" {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && name != "tests.rs"
            {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_owned();
                found.push((path, without_tests(&text)));
            }
        }
    }
    found.sort();
    found
}

/// The lines of a file before its unit tests, which stand last.
fn without_tests(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_tests =
        |pair: &[&str]| pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod tests {");
    let tests = lines.windows(2).position(is_tests);
    let before = lines.into_iter().take(tests.unwrap_or(usize::MAX));
    before.map(str::to_owned).collect()
}
