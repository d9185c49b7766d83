//! Writes what is built for each of `tests/fixtures` beside it: `cargo run -p operator --example render-golden`. Look at
//! the difference before it is committed: whatever changes in a pod template restarts the pods of every cluster.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "for those who change the operator: a panic is the report; the tests use the rest"
)]

#[path = "../tests/support/fixture.rs"]
mod fixture;

use std::fs;

use fixture::{Fixture, GOLDEN_FILE, directories, render};

fn main() {
    for directory in directories() {
        let text = render(&Fixture::read(&directory).objects());
        let file = directory.join(GOLDEN_FILE);
        let before = fs::read_to_string(&file).unwrap_or_default();
        if before != text {
            fs::write(&file, text).unwrap();
            println!("{}", file.display());
        }
    }
}
