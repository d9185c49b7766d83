//! A report for people, for scripts, or both.

use std::fmt::Display;

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
