//! `headwater doctor`: what the checks found, for people and for scripts.

use operator::inspect::{Check, Desk, Outcome, clusters, examine};
use proto::v1::{
    ListSessionsRequest, ListStreamKeysRequest, session_service_client::SessionServiceClient,
    stream_key_service_client::StreamKeyServiceClient,
};
use serde_json::{Value, json};

use crate::{
    api::{ApiChannel, explain},
    cli::DeskArguments,
    output,
};

/// Prints every check; fails where something does not work.
pub(crate) async fn run(arguments: &DeskArguments, name: Option<&str>) -> anyhow::Result<()> {
    let desk = super::open(arguments).await?;
    let mut checks = examine(&desk, name).await?;
    if checks.iter().any(|check| check.subject == OPERATOR) {
        for cluster in clusters(&desk, name).await? {
            let name = cluster.resource.metadata.name.unwrap_or_default();
            checks.extend(ask(&desk, &name).await);
        }
    }
    if arguments.format.json() {
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

/// The subject that is only there where the CRDs are.
const OPERATOR: &str = "operator";

/// Uses a cluster's API as a backend would: its token, its certificate, control, and behind it the database and Redis.
async fn ask(desk: &Desk, cluster: &str) -> Vec<Check> {
    let check = |name, error: Option<anyhow::Error>, works: &str, remedy: &str| Check {
        subject: cluster.to_owned(),
        name,
        outcome: error.as_ref().map_or(Outcome::Ok, |_| Outcome::Failed),
        remedy: error
            .as_ref()
            .map_or_else(String::new, |_| remedy.to_owned()),
        finding: error.map_or_else(|| works.to_owned(), |error| format!("{error:#}")),
    };
    let channel = match super::reach(desk, cluster).await {
        Ok(channel) => channel,
        Err(error) => {
            let remedy = "the checks of control above";
            return vec![check("API", Some(error), "", remedy)];
        }
    };
    let keys = stream_keys(channel.clone()).await.err();
    let sessions = sessions(channel).await.err();
    vec![
        check("API", None, "takes the token of its Secret", ""),
        check(
            "database",
            keys,
            "stream keys can be listed",
            "is the database up, and its password right? Control's log says more",
        ),
        check(
            "redis",
            sessions,
            "sessions can be listed",
            "is Redis up, and reachable from control? spec.redis, its Secrets, and NetworkPolicies",
        ),
    ]
}

async fn stream_keys(channel: ApiChannel) -> anyhow::Result<()> {
    let request = ListStreamKeysRequest {
        page_size: 1,
        ..ListStreamKeysRequest::default()
    };
    let answer = StreamKeyServiceClient::new(channel)
        .list_stream_keys(request)
        .await;
    answer.map(drop).map_err(|status| explain(&status))
}

async fn sessions(channel: ApiChannel) -> anyhow::Result<()> {
    let request = ListSessionsRequest {
        page_size: 1,
        ..ListSessionsRequest::default()
    };
    let answer = SessionServiceClient::new(channel)
        .list_sessions(request)
        .await;
    answer.map(drop).map_err(|status| explain(&status))
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
