//! libFuzzer around one target: the one whose name the program was started under.

#![no_main]

use std::{path::Path, sync::LazyLock};

static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
    let program = std::env::args_os().next().expect("argv[0]");
    let name = Path::new(&program).file_name().expect("a program's name");
    let target = fuzz::TARGETS.iter().find(|(target, _)| name == *target);
    *target.unwrap_or_else(|| panic!("no fuzz target is called {}", name.display()))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.1(data));
