//! A report for people, for scripts, or both.

use std::{
    fmt::Display,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::ReportArguments;
use crate::{files, output};

/// Prints the report, and writes it to a file where one is named.
pub(super) fn emit(
    report: &(impl Display + Serialize),
    arguments: &ReportArguments,
) -> anyhow::Result<()> {
    let json = serde_json::to_value(report)?;
    if let Some(path) = &arguments.report_file {
        files::write_private(path, format!("{json:#}\n").as_bytes())?;
    }
    if arguments.json {
        output::json(&json);
    } else {
        output::line(report);
    }
    Ok(())
}

/// When a run began that ends now, in seconds since the Unix epoch.
pub(super) fn began(took: Duration) -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |now| now.saturating_sub(took).as_secs_f64())
}
