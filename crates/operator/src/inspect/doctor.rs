//! Preflight and diagnosis: each check says what it looked at, what it found, and what to do.

mod certificates;
mod cluster;
mod platform;

use super::{Desk, InspectError, clusters};

/// What a check found.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, but not for long or not for everybody.
    Warning,
    /// Does not work.
    Failed,
    /// Could not be looked at.
    Unknown,
}

/// What to do about it.
pub type Remedy = String;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it belongs to: `platform`, `operator`, or a cluster's name.
    pub subject: String,
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub outcome: Outcome,
    /// In words.
    pub finding: String,
    /// What to do; empty where all is well.
    pub remedy: Remedy,
}

/// Looks at everything that can be seen from this desk. A check that cannot be made is [`Outcome::Unknown`], not an
/// error.
pub async fn examine(desk: &Desk, cluster: Option<&str>) -> Result<Vec<Check>, InspectError> {
    let mut report = Report::new("platform");
    let installed = platform::examine(desk, &mut report).await?;
    if !installed {
        return Ok(report.checks);
    }
    report.subject = "operator".to_owned();
    platform::operator(desk, &mut report).await;
    let found = clusters(desk, cluster).await?;
    if found.is_empty() {
        report.subject = desk.namespace().to_owned();
        report.note(
            "clusters",
            "no IngestCluster in this namespace",
            "helm install … charts/headwater makes one; -n NAMESPACE looks elsewhere",
        );
    }
    for cluster in &found {
        cluster::examine(desk, cluster, &mut report).await;
    }
    Ok(report.checks)
}

/// Checks as they are made.
struct Report {
    subject: String,
    checks: Vec<Check>,
}

impl Report {
    fn new(subject: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            checks: Vec::new(),
        }
    }

    fn add(&mut self, name: &'static str, outcome: Outcome, finding: String, remedy: String) {
        self.checks.push(Check {
            subject: self.subject.clone(),
            name,
            outcome,
            finding,
            remedy,
        });
    }

    fn ok(&mut self, name: &'static str, finding: impl Into<String>) {
        self.add(name, Outcome::Ok, finding.into(), String::new());
    }

    /// Nothing is wrong, and there is something to know.
    fn note(&mut self, name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(name, Outcome::Ok, finding.into(), remedy.into());
    }

    fn warn(&mut self, name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(name, Outcome::Warning, finding.into(), remedy.into());
    }

    fn fail(&mut self, name: &'static str, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(name, Outcome::Failed, finding.into(), remedy.into());
    }

    fn unknown(&mut self, name: &'static str, error: &dyn std::error::Error) {
        let finding = format!("cannot be looked at: {error}");
        self.add(name, Outcome::Unknown, finding, String::new());
    }
}
