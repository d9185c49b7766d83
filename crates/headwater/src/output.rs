//! What people and scripts read: answers on standard output, errors on standard error. Logs are elsewhere.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

/// Prints a line. A reader that has gone (`| head`) is not our failure.
pub(crate) fn line(text: impl std::fmt::Display) {
    writeln!(io::stdout(), "{text}").ok();
}

/// What to type for this program in the commands that we suggest: as it was called, shortened where it lies below the
/// working directory (`target/release/headwater` under `make run`).
pub(crate) fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from);
    let Some(called) = called else {
        return "headwater".to_owned();
    };
    let below = std::env::current_dir()
        .ok()
        .and_then(|here| called.strip_prefix(here).ok());
    below.unwrap_or(&called).display().to_string()
}

/// Prints an error with its causes, in one line where they are.
pub(crate) fn error(error: &anyhow::Error) {
    writeln!(io::stderr(), "headwater: {error:#}").ok();
}

/// Tells what somebody who waits should know, beside the answer that is still to come.
pub(crate) fn notice(text: impl std::fmt::Display) {
    writeln!(io::stderr(), "headwater: {text}").ok();
}

/// Prints what the command line's parser says: help and version are no mistakes.
pub(crate) fn usage(error: &clap::Error, usage: u8) -> ExitCode {
    error.print().ok();
    if error.use_stderr() {
        ExitCode::from(usage)
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints JSON, indented.
pub(crate) fn json(value: &serde_json::Value) {
    line(format_args!("{value:#}"));
}

/// Prints rows in aligned columns under a heading.
pub(crate) fn table<const COLUMNS: usize>(heading: [&str; COLUMNS], rows: &[[String; COLUMNS]]) {
    line(aligned(heading, rows).trim_end());
}

fn aligned<const COLUMNS: usize>(heading: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let heading = heading.map(str::to_owned);
    let rows: Vec<_> = rows.iter().map(|row| row.clone().map(printable)).collect();
    let all = || std::iter::once(&heading).chain(&rows);
    let widths: Vec<usize> = (0..COLUMNS)
        .map(|column| {
            all()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    all()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

/// What an encoder calls itself must not drive somebody's terminal.
pub(crate) fn printable(cell: String) -> String {
    cell.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(aligned(["ID", "N"], &rows), "ID    N\na     1\nlong\n");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        let rows = [["\u{1b}[2J\n".to_owned()]];
        assert_eq!(aligned(["ID"], &rows), "ID\n\u{fffd}[2J\u{fffd}\n");
    }
}
