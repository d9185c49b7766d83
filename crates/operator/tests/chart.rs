//! The chart `headwater-crds` holds the definitions that this crate makes.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{fs, path::Path};

use operator::crd;

#[test]
fn the_chart_has_the_definitions_as_they_are() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/headwater-crds/files");
    let definitions = crd::crds();
    for definition in &definitions {
        let file = files.join(format!("{}.yaml", definition.spec.names.plural));
        let same = fs::read_to_string(&file).unwrap() == crd::to_yaml(definition).unwrap();
        assert!(same, "{} is out of date: run `make charts`", file.display());
    }
    assert_eq!(fs::read_dir(files).unwrap().count(), definitions.len());
}
