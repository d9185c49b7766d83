//! `headwater doctor`: what the checks found, for people and for scripts.

use operator::inspect::{Check, Outcome, examine};
use serde_json::{Value, json};

use crate::{cli::DeskArguments, output};

/// Prints every check; fails where something does not work.
pub(crate) async fn run(arguments: &DeskArguments, name: Option<&str>) -> anyhow::Result<()> {
    let desk = super::open(arguments).await?;
    let checks = examine(&desk, name).await?;
    if arguments.json {
        output::json(&checks.iter().map(to_json).collect());
    } else {
        output::line(text(&checks));
    }
    let failed = count(&checks, Outcome::Failed);
    if failed > 0 {
        anyhow::bail!("{failed} of {} checks failed", checks.len());
    }
    Ok(())
}

fn count(checks: &[Check], outcome: Outcome) -> usize {
    checks
        .iter()
        .filter(|check| check.outcome == outcome)
        .count()
}

/// A heading per subject, a line per check, and below it what to do.
fn text(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    let mut subject = "";
    for check in checks {
        if check.subject != subject {
            if !subject.is_empty() {
                lines.push(String::new());
            }
            subject = &check.subject;
            lines.push(subject.to_owned());
        }
        let mark = mark(check.outcome);
        let finding = output::printable(check.finding.clone());
        lines.push(format!("  {mark:<4}  {}: {finding}", check.name));
        if !check.remedy.is_empty() {
            lines.push(format!(
                "        -> {}",
                output::printable(check.remedy.clone())
            ));
        }
    }
    lines.push(String::new());
    lines.push(format!(
        "{} ok, {} warnings, {} failed, {} unknown",
        count(checks, Outcome::Ok),
        count(checks, Outcome::Warning),
        count(checks, Outcome::Failed),
        count(checks, Outcome::Unknown),
    ));
    lines.join("\n")
}

fn mark(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Failed => "FAIL",
        Outcome::Ok => "ok",
        Outcome::Unknown => "?",
        Outcome::Warning => "warn",
    }
}

fn to_json(check: &Check) -> Value {
    json!({
        "subject": check.subject,
        "check": check.name,
        "outcome": match check.outcome {
            Outcome::Failed => "failed",
            Outcome::Ok => "ok",
            Outcome::Unknown => "unknown",
            Outcome::Warning => "warning",
        },
        "finding": check.finding,
        "remedy": check.remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_grouped_and_summed_up() {
        let check = |subject: &str, outcome, remedy: &str| Check {
            subject: subject.to_owned(),
            name: "thing",
            outcome,
            finding: "found".to_owned(),
            remedy: remedy.to_owned(),
        };
        let checks = [
            check("platform", Outcome::Ok, ""),
            check("platform", Outcome::Warning, "mend it"),
            check("live", Outcome::Failed, ""),
        ];
        assert_eq!(
            text(&checks),
            "\
platform
  ok    thing: found
  warn  thing: found
        -> mend it

live
  FAIL  thing: found

1 ok, 1 warnings, 1 failed, 0 unknown"
        );
    }
}
