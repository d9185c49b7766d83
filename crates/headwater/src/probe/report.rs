//! What people and scripts read.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use super::{Step, target::Target};

/// What came of the whole probe.
pub(super) struct Report {
    pub(super) addresses: Vec<AddressReport>,
    dns: StepReport,
    has_key: bool,
    url: String,
}

/// What came of one address.
pub(super) struct AddressReport {
    pub(super) address: SocketAddr,
    pub(super) steps: Vec<StepReport>,
}

/// What came of one step.
pub(super) struct StepReport {
    detail: Option<Detail>,
    outcome: Outcome,
    pub(super) step: Step,
    took: Duration,
}

/// More of it.
pub(super) struct Detail {
    pub(super) json: Value,
    pub(super) lines: Vec<String>,
}

/// How a step ended.
pub(super) enum Outcome {
    /// In the terms of who failed, and what that usually means.
    Failed { what: String, meaning: String },
    /// With what is worth knowing.
    Passed(String),
}

impl StepReport {
    pub(super) fn new(step: Step, took: Duration, outcome: Outcome) -> Self {
        Self {
            detail: None,
            outcome,
            step,
            took,
        }
    }

    pub(super) fn with(self, detail: Detail) -> Self {
        Self {
            detail: Some(detail),
            ..self
        }
    }

    fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }

    fn milliseconds(&self) -> f64 {
        // Microseconds are enough.
        (self.took.as_secs_f64() * 1e6).round() / 1e3
    }

    fn write(&self, indent: &str, text: &mut String) {
        let (word, said) = match &self.outcome {
            Outcome::Failed { what, .. } => ("FAILED", what),
            Outcome::Passed(said) => ("ok", said),
        };
        let line = format!(
            "{indent}{:<15} {word:<6} {:>8.1} ms  {said}",
            self.step.name(),
            self.milliseconds()
        );
        // Writing to a String does not fail.
        writeln!(text, "{}", line.trim_end()).ok();
        let more = self.detail.iter().flat_map(|detail| &detail.lines);
        for line in more {
            writeln!(text, "{indent}                  {line}").ok();
        }
        if let Outcome::Failed { meaning, .. } = &self.outcome {
            writeln!(text, "{indent}                  {meaning}").ok();
        }
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "step": self.step.word(),
            "ok": !self.failed(),
            "ms": self.milliseconds(),
        });
        match &self.outcome {
            Outcome::Failed { what, meaning } => {
                value["error"] = json!(what);
                value["meaning"] = json!(meaning);
            }
            Outcome::Passed(said) => value["said"] = json!(said),
        }
        if let Some(detail) = &self.detail {
            value["detail"] = detail.json.clone();
        }
        value
    }
}

impl AddressReport {
    /// `None`: everything passed.
    fn failed(&self) -> Option<&StepReport> {
        self.steps.iter().find(|step| step.failed())
    }
}

impl Report {
    pub(super) fn new(target: &Target, dns: StepReport) -> Self {
        Self {
            addresses: Vec::new(),
            dns,
            has_key: target.key.is_some(),
            url: target.shown(),
        }
    }

    /// Whether a publish was tried at an address.
    pub(super) fn publishes(&self) -> bool {
        let mut steps = self.addresses.iter().flat_map(|address| &address.steps);
        steps.any(|step| step.step == Step::Publish)
    }

    /// The step that failed where it came furthest; `None` where all that was asked for works.
    pub(super) fn failed(&self) -> Option<Step> {
        if self.dns.failed() {
            return Some(Step::Dns);
        }
        let all = || self.addresses.iter();
        // Without a publish that was asked for, an address that answers is not enough.
        let works = |address: &AddressReport| {
            let last = if self.has_key {
                Step::Publish
            } else {
                Step::Connect
            };
            address.failed().is_none() && address.steps.iter().any(|step| step.step == last)
        };
        if all().any(works) {
            return None;
        }
        all()
            .filter_map(|address| Some(address.failed()?.step))
            .max()
    }

    fn verdict(&self) -> String {
        let Some(step) = self.failed() else {
            let broken = self.addresses.iter().filter(|at| at.failed().is_some());
            let broken: Vec<_> = broken.map(|at| at.address.ip().to_string()).collect();
            let works = if self.has_key {
                "the stream can be published"
            } else {
                "the server takes publishers of this application; no key was tried"
            };
            return match broken.as_slice() {
                [] => format!("OK: {works}."),
                broken => format!("OK: {works}; but not by way of {}.", broken.join(", ")),
            };
        };
        let steps = self.addresses.iter().flat_map(|address| &address.steps);
        let mut steps = std::iter::once(&self.dns).chain(steps);
        let failed = steps.find(|report| report.step == step && report.failed());
        match failed.map(|report| &report.outcome) {
            Some(Outcome::Failed { what, meaning }) => {
                format!("FAILED at {}: {what}. {meaning}", step.name())
            }
            Some(Outcome::Passed(_)) | None => format!("FAILED at {}.", step.name()),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.url);
        self.dns.write("", &mut text);
        for AddressReport { address, steps } in &self.addresses {
            // Writing to a String does not fail.
            writeln!(text, "{address}").ok();
            for step in steps {
                step.write("  ", &mut text);
            }
        }
        write!(text, "\n{}", self.verdict()).ok();
        text
    }

    pub(super) fn to_json(&self) -> Value {
        let addresses = self
            .addresses
            .iter()
            .map(|AddressReport { address, steps }| {
                json!({
                    "address": address.to_string(),
                    "steps": steps.iter().map(StepReport::to_json).collect::<Vec<_>>(),
                })
            });
        json!({
            "url": self.url,
            "ok": self.failed().is_none(),
            "failed": self.failed().map(Step::word),
            "verdict": self.verdict(),
            "dns": self.dns.to_json(),
            "addresses": addresses.collect::<Vec<_>>(),
        })
    }
}
