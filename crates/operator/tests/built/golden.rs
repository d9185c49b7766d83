//! Every byte of what is built is looked at by somebody: a change of a pod template restarts the pods of every cluster.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::fixture::{Fixture, GOLDEN_FILE, directories, render, values};

/// So that an empty directory does not pass.
const FIXTURES_MIN: usize = 25;

#[test]
fn what_is_built_is_what_was_looked_at() {
    let mut differing = Vec::new();
    for directory in directories() {
        let built = render(&Fixture::read(&directory).objects());
        let golden = fs::read_to_string(directory.join(GOLDEN_FILE)).unwrap_or_default();
        if built != golden {
            let line = built
                .lines()
                .zip(golden.lines())
                .position(|(built, golden)| built != golden);
            differing.push(format!("{}: line {line:?}", directory.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "look at the difference after `cargo run -p operator --example render-golden`: {differing:#?}"
    );
    assert!(directories().len() >= FIXTURES_MIN);
}

#[test]
fn building_twice_gives_the_same_bytes() {
    for directory in directories() {
        let fixture = Fixture::read(&directory);
        assert_eq!(render(&fixture.objects()), render(&fixture.objects()));
    }
}

#[test]
fn names_are_unique_short_enough_and_of_one_owner() {
    for directory in directories() {
        let fixture = Fixture::read(&directory);
        let mut names = BTreeSet::new();
        for object in values(&fixture.objects()) {
            let kind = object["kind"].as_str().unwrap();
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().unwrap();
            assert!(name.len() <= 63, "{kind} {name}");
            assert!(names.insert((kind.to_owned(), name.to_owned())), "{name}");
            assert_eq!(metadata["namespace"], "media", "{kind} {name}");
            let labels = metadata["labels"].as_object().unwrap();
            assert_eq!(labels["headwater.dev/cluster"], fixture.name.as_str());
            for value in labels.values() {
                assert!(value.as_str().unwrap().len() <= 63, "{value}");
            }
            let retained =
                kind == "PersistentVolumeClaim" && fixture.spec["deletionPolicy"] != "DeleteAll";
            let owners = metadata.get("ownerReferences");
            let owner = owners.map(|owners| &owners[0]["uid"]);
            let ours = Value::from("7a1d2c9e-0000-4000-8000-000000000001");
            assert_eq!(owner, (!retained).then_some(&ours), "{kind} {name}");
        }
    }
}

#[test]
fn pods_are_chosen_by_the_selectors_of_their_tier_alone() {
    for directory in directories() {
        let objects = Fixture::read(&directory).objects();
        let edge = objects.edge.spec.as_ref().unwrap();
        let origin = objects.origin.spec.as_ref().unwrap();
        let control = objects.control.spec.as_ref().unwrap();
        let tiers = [
            (&edge.selector, &edge.template),
            (&origin.selector, &origin.template),
            (&control.selector, &control.template),
        ];
        for (index, (selector, _)) in tiers.iter().enumerate() {
            for (other, (_, template)) in tiers.iter().enumerate() {
                let labels = template.metadata.as_ref().unwrap().labels.as_ref().unwrap();
                let wanted = selector.match_labels.as_ref().unwrap();
                let chosen = wanted
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value));
                assert_eq!(chosen, index == other, "{}", directory.display());
            }
        }
        let name = objects.edge.metadata.name.as_deref().unwrap();
        assert!(name.ends_with(&format!("-edge-{}", objects.edge_revision())));
    }
}
