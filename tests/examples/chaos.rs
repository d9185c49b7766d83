//! `make chaos`: every fault of [`tests::chaos`], over and over under load, and the table of what came of them.
//!
//! Usage: chaos [--only FAULT]... [--rounds N] [--publishers N] [--patience N] [--list]
//!
//! The table goes to standard output, behind a line for each round, and, as JSON, to chaos.json in the target directory.
//! Fails where a fault did what it must not, and where an hour was not enough: the table says what was left out. `--only`
//! takes the beginning of a name. Where the machine is slow, `--patience 5` allows five times as long.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{fs, process::ExitCode, time::Duration};

use tests::{
    binary,
    chaos::{
        fault::Fault,
        field::Field,
        network,
        round::{self, Plan},
        table::{Row, Table},
    },
    process,
};
use tokio::{
    task::{LocalSet, spawn_local},
    time::{Instant, timeout_at},
};

const USAGE: &str =
    "usage: chaos [--only FAULT]... [--rounds N] [--publishers N] [--patience N] [--list]";
/// For all of it, less a minute for the table: what still goes on then is ended, and wrong.
const ALL: Duration = Duration::from_secs(59 * 60);
/// For a round and the end of its load: none begins later. What has not had its turn by then is wrong.
const LAST: Duration = Duration::from_secs(4 * 60);
/// What this program is called with once it is in a namespace.
const INSIDE: &str = "--inside-of-a-namespace";

#[derive(Default)]
struct Options {
    only: Vec<String>,
    rounds: Option<usize>,
    publishers: Option<usize>,
    patience: Option<u32>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for fault in Fault::ALL {
            println!("{} ({} rounds)", fault.name(), fault.rounds());
        }
        return ExitCode::SUCCESS;
    }
    let Some(options) = Options::parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    // Before anything waits for it.
    binary::headwater();
    if !arguments.iter().any(|argument| argument == INSIDE) {
        let mut inside = process::in_namespace("--net");
        inside.arg("--").arg(std::env::current_exe().unwrap());
        let status = inside.args(arguments).arg(INSIDE).status().unwrap();
        return if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = LocalSet::new().block_on(&runtime, run(&options));
    println!("\n{table}");
    let file = binary::target_directory().join("chaos.json");
    fs::write(&file, format!("{:#}\n", table.json())).unwrap();
    println!("{}", file.display());
    if table.wrong().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut this = Self::default();
        let mut words = arguments.iter().filter(|word| *word != INSIDE);
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word.as_str() {
                "--only" => this.only.push(value.clone()),
                "--rounds" => this.rounds = Some(value.parse().ok()?),
                "--publishers" => this.publishers = Some(value.parse().ok()?),
                "--patience" => this.patience = Some(value.parse().ok()?),
                _ => return None,
            }
        }
        // Nothing is not done with success.
        let is_there = |only: &String| Fault::ALL.iter().any(|f| f.name().starts_with(only));
        let some = this.only.iter().all(is_there) && this.rounds != Some(0);
        some.then_some(this)
    }

    fn faults(&self) -> Vec<Fault> {
        let wanted = |fault: &Fault| {
            let name = fault.name();
            self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only))
        };
        // One field after the other: with proxies, and without.
        let mut faults: Vec<_> = Fault::ALL.into_iter().filter(wanted).collect();
        faults.sort_by_key(|fault| fault.is_proxied());
        faults
    }
}

async fn run(options: &Options) -> Table {
    network::lay_bridge();
    let began = Instant::now();
    let mut table = Table::default();
    let mut field: Option<(Field, bool)> = None;
    for fault in options.faults() {
        let name = fault.name();
        let until = began + (ALL - LAST);
        if Instant::now() > until {
            let why = "it was left out: the time for all is over";
            table.rows.push(failed(&name, why));
            continue;
        }
        let plan = Plan {
            publishers: options.publishers.unwrap_or(50),
            rounds: options.rounds.unwrap_or_else(|| fault.rounds()),
            patience: options.patience.unwrap_or(1),
            until,
        };
        let there = field
            .take()
            .filter(|(_, proxied)| *proxied == fault.is_proxied());
        // In a task: what panics there ends this fault alone, and its field.
        let mut task = spawn_local(async move {
            let there = match there {
                Some((there, _)) => there,
                None => Field::start(fault.is_proxied()).await,
            };
            round::run(there, fault, plan).await
        });
        let Ok(ended) = timeout_at(began + ALL, &mut task).await else {
            task.abort();
            let why = "it was ended in the middle: the time for all is over";
            table.rows.push(failed(&name, why));
            continue;
        };
        match ended {
            Ok((mut there, rows)) => {
                for row in &rows {
                    println!("{row}  ({:.0} s) {:?}", row.took.as_secs_f64(), row.wrong);
                    if !row.wrong.is_empty() {
                        println!("what was said is kept: {}", there.keep().display());
                    }
                }
                table.rows.extend(rows);
                field = Some((there, fault.is_proxied()));
            }
            Err(panic) => table.rows.push(failed(&name, &panic.to_string())),
        }
    }
    println!("{:.0} s for all", began.elapsed().as_secs_f64());
    table
}

fn failed(name: &str, why: &str) -> Row {
    Row {
        fault: name.to_owned(),
        wrong: vec![why.to_owned()],
        ..Row::default()
    }
}
