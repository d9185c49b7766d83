//! The live configuration file: what may change while a role process runs. What it holds goes over the process's own
//! file. Each role takes its own sections and checks the form of the others.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use runtime::{
    reload::{Content, Files},
    telemetry,
};
use serde::Deserialize;

use super::{
    applications,
    check::{Check, ConfigError},
    document::Document,
    scalar::{Count, OneOrMany, Period},
};

/// Between two looks at the file.
const POLL_PERIOD: Duration = Duration::from_secs(10);

/// Where it is, and what it held at the start.
#[derive(Debug)]
pub(crate) struct LiveFile {
    pub(crate) path: PathBuf,
    pub(crate) files: Files,
    pub(crate) poll_period: Duration,
    pub(crate) start: LiveConfig,
}

/// One version of the file. What is not given is as the process's own file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LiveConfig {
    /// Lower-case hexadecimal SHA-256 of the file's bytes.
    pub(crate) hash: String,
    /// May be empty: every publish is refused.
    pub(crate) applications: Option<Vec<control::Application>>,
    pub(crate) connections_max: Option<usize>,
    pub(crate) connections_per_address_max: Option<usize>,
    pub(crate) log_filter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sections {
    control: Option<ControlSection>,
    edge: Option<EdgeSection>,
    log: Option<LogSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ControlSection {
    applications: Option<OneOrMany<applications::Written>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EdgeSection {
    connections: Option<ConnectionsSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConnectionsSection {
    connections_max: Option<Count<usize>>,
    connections_per_address_max: Option<Count<usize>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogSection {
    filter: Option<String>,
}

impl LiveFile {
    /// Reads it for the first time, where there is one; its mistakes are among those of the process's own file.
    pub(super) fn open(
        path: Option<PathBuf>,
        poll_period: Option<Period>,
        check: &mut Check,
    ) -> Option<Self> {
        let path = check.optional_file("live_file", path)?;
        let (files, contents) = match Files::read(vec![path.clone()]) {
            Ok(read) => read,
            Err(error) => {
                check.mistake("live_file", error);
                return None;
            }
        };
        let mut live = Check::new(&path);
        let start = parse(&contents, &mut live);
        check.include("live_file", live);
        Some(Self {
            path,
            files,
            poll_period: poll_period.map_or(POLL_PERIOD, |period| period.0),
            start,
        })
    }
}

impl LiveConfig {
    /// A later version.
    pub(crate) fn parse(path: &Path, contents: &[Content]) -> Result<Self, ConfigError> {
        let mut check = Check::new(path);
        let version = parse(contents, &mut check);
        if check.passed() {
            Ok(version)
        } else {
            Err(check.into_error())
        }
    }
}

fn parse(contents: &[Content], check: &mut Check) -> LiveConfig {
    let [content] = contents else {
        unreachable!("one file was named");
    };
    let Ok(text) = std::str::from_utf8(content.bytes()) else {
        check.mistake("", "is not text");
        return LiveConfig::default();
    };
    let Some(document) = Document::from_text(text, check) else {
        return LiveConfig::default();
    };
    let sections: Sections = document.parse(check);
    let connections = sections.edge.unwrap_or_default().connections;
    let connections = connections.unwrap_or_default();
    let log_filter = sections.log.unwrap_or_default().filter;
    if let Some(Err(error)) = log_filter.as_deref().map(telemetry::check_filter) {
        check.mistake("log.filter", error);
    }
    let applications = sections.control.unwrap_or_default().applications;
    LiveConfig {
        hash: HEXLOWER.encode(digest(&SHA256, content.bytes()).as_ref()),
        applications: applications.map(|given| applications::finish(given, check)),
        connections_max: connections.connections_max.map(|count| count.0),
        connections_per_address_max: connections.connections_per_address_max.map(|count| count.0),
        log_filter,
    }
}

#[cfg(test)]
mod tests {
    use control::Application;

    use super::*;

    fn parsed(text: &str) -> Result<LiveConfig, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("live.yaml");
        std::fs::write(&path, text).unwrap();
        let (_, contents) = Files::read(vec![path.clone()]).unwrap();
        LiveConfig::parse(&path, &contents).map_err(|error| error.mistakes().to_vec())
    }

    #[test]
    fn every_section_may_be_there_or_not() {
        let whole = parsed(
            "log: { filter: 'info,edge=debug' }\n\
             edge: { connections: { connections_max: 10, connections_per_address_max: 2 } }\n\
             control: { applications: [live, studio] }\n",
        )
        .unwrap();
        assert_eq!(
            whole,
            LiveConfig {
                hash: whole.hash.clone(),
                applications: Some(vec![
                    Application::managed("live"),
                    Application::managed("studio"),
                ]),
                connections_max: Some(10),
                connections_per_address_max: Some(2),
                log_filter: Some("info,edge=debug".to_owned()),
            }
        );
        let empty = parsed("").unwrap();
        assert_eq!(
            empty.hash,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            empty,
            LiveConfig {
                hash: empty.hash.clone(),
                ..LiveConfig::default()
            }
        );
    }

    #[test]
    fn no_application_at_all_can_be_said() {
        let none = parsed("control: { applications: [] }").unwrap();
        assert_eq!(none.applications, Some(Vec::new()));
    }

    #[test]
    fn every_mistake_is_told() {
        let found = parsed(
            "log: { filter: 'edge=nonsense', format: json }\n\
             edge: { connections: { connections_max: 0 } }\n\
             control: { applications: [live, 'a b', { name: c, admission: { managed: {}, open: {} } }] }\n\
             origin: {}\n",
        )
        .unwrap_err();
        assert_eq!(found.len(), 6, "{found:#?}");
        for (found, begin) in found.iter().zip([
            r#"control.applications: "a b" is not an application"#,
            "control.applications[2].admission.open: is not a known field",
            "edge.connections.connections_max: 0 is not",
            "log.filter: ",
            "log.format: is not a known field",
            "origin: is not a known field",
        ]) {
            assert!(found.starts_with(begin), "{found}");
        }
        assert_eq!(
            parsed("[live]").unwrap_err(),
            ["is not a mapping of sections"]
        );
        assert!(parsed("log: {").unwrap_err()[0].starts_with("is not YAML"));
    }
}
