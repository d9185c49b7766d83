//! The metrics that docs/metrics.md promises.

use std::{collections::BTreeMap, fs, path::Path};

/// How a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A row of the document.
#[derive(Clone, Debug)]
pub struct Metric {
    pub kind: Kind,
    pub labels: Vec<String>,
}

/// By name: a counter's with its `_total`, a histogram's without `_bucket`.
pub fn documented() -> BTreeMap<String, Metric> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| line.starts_with("| `headwater_"))
        .map(|line| {
            let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
            let name = code(cells.next().unwrap());
            let kind = match cells.next().unwrap() {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                other => panic!("{name}: {other:?} is no kind of metric"),
            };
            let labels = cells.next().unwrap();
            let labels = labels
                .split(", ")
                .filter(|label| *label != "–")
                .map(code)
                .collect();
            (name, Metric { kind, labels })
        })
        .collect()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// Kinds by name, as a process writes them in OpenMetrics: counters without their `_total`.
pub fn shown(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}
