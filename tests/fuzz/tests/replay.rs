//! What fuzzing has learnt and found, again, without a fuzzer.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use data_encoding::BASE64;

/// All corpora together, in bytes: they are for learning, not for keeping everything.
const CORPORA_BYTES_MAX: u64 = 200 << 10;

fn corpora() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_target_keeps_its_promises_for_its_corpus() {
    for (name, run) in fuzz::TARGETS {
        let file = corpora().join(format!("{name}.txt"));
        let corpus = fs::read_to_string(&file).unwrap();
        assert!(!corpus.is_empty(), "{} is empty", file.display());
        for line in corpus.lines() {
            run(&BASE64
                .decode(line.as_bytes())
                .expect("Base64 in every line"));
        }
        run(&[]);
        println!("{name}: {} inputs", corpus.lines().count());
    }
}

#[test]
fn every_corpus_has_a_target_and_all_of_them_are_small() {
    let mut bytes = 0;
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(corpora()).unwrap() {
        let path = entry.unwrap().path();
        bytes += fs::metadata(&path).unwrap().len();
        found.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    let targets: BTreeSet<String> = fuzz::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(found, targets);
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes");
}
