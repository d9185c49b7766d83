//! A YAML file with the environment laid over it, as one tree of values; and the tree as a type, with every mistake.

use std::{collections::BTreeMap, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::check::Check;

/// Names of variables that override fields begin with this.
const VARIABLE_PREFIX: &str = "HEADWATER__";
/// Maps to which the environment adds: what a pod knows of itself, beside what its file says of the cluster.
const EXTENDED: [&[&str]; 1] = [&["telemetry", "resource_attributes"]];
/// Separates the fields of a path in such a name.
const VARIABLE_SEPARATOR: &str = "__";

pub(super) struct Document {
    root: Value,
}

impl Document {
    /// What cannot be read at all is a mistake, and nothing follows from it.
    pub(super) fn read(
        file: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
        check: &mut Check,
    ) -> Option<Self> {
        let mut document = match std::fs::read_to_string(file) {
            Ok(text) => Self::from_text(&text, check)?,
            Err(error) => {
                check.mistake("", format_args!("cannot be read: {error}"));
                return None;
            }
        };
        // Sorted, so that a section comes before its fields.
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        for (variable, value) in environment {
            if let Some(path) = variable.strip_prefix(VARIABLE_PREFIX) {
                document.overlay(&path.to_lowercase(), &variable, &value, check);
            }
        }
        Some(document)
    }

    /// Without an environment over it.
    pub(super) fn from_text(text: &str, check: &mut Check) -> Option<Self> {
        let mistake = match parse_yaml(text) {
            Ok(Value::Null) => {
                return Some(Self {
                    root: Value::Object(Map::new()),
                });
            }
            Ok(root @ Value::Object(_)) => return Some(Self { root }),
            Ok(_) => "is not a mapping of sections".to_owned(),
            Err(error) => format!("is not YAML: {error}"),
        };
        check.mistake("", mistake);
        None
    }

    /// `HEADWATER__EDGE__LISTEN=…` sets `edge.listen`; the value is YAML, so that lists and `null` can be said too.
    fn overlay(&mut self, path: &str, variable: &str, value: &str, check: &mut Check) {
        let fields: Vec<&str> = path.split(VARIABLE_SEPARATOR).collect();
        check.overridden(fields.join("."), variable.to_owned());
        match parse_yaml(value) {
            Ok(value) => {
                let value = if EXTENDED.contains(&fields.as_slice()) {
                    self.extended(&fields, value)
                } else {
                    value
                };
                if !set(&mut self.root, &fields, value) {
                    check.mistake(fields.join("."), "is not a field of a section");
                }
            }
            Err(error) => check.mistake(fields.join("."), format_args!("is not YAML: {error}")),
        }
    }

    /// The map that is there, with another one over it; where one of them is none, the other one.
    fn extended(&self, fields: &[&str], value: Value) -> Value {
        let there = self.root.pointer(&format!("/{}", fields.join("/")));
        match (there, value) {
            (Some(Value::Object(there)), Value::Object(more)) => {
                let there = there.clone().into_iter();
                Value::Object(there.chain(more).collect())
            }
            (_, value) => value,
        }
    }

    /// A value of the wrong type is remembered, blanked out, and the whole is tried again, until nothing new is found.
    pub(super) fn parse<T: Default + DeserializeOwned>(mut self, check: &mut Check) -> T {
        loop {
            let mut unknown = Vec::new();
            let mut track = serde_path_to_error::Track::new();
            let tracked = serde_path_to_error::Deserializer::new(self.root.clone(), &mut track);
            let parsed = serde_ignored::deserialize(tracked, |path| unknown.push(ignored(&path)));
            for path in unknown {
                check.mistake(path, "is not a known field");
            }
            let error = match parsed {
                Ok(parsed) => return parsed,
                Err(error) => error,
            };
            let path: Vec<Segment> = track.path().iter().cloned().collect();
            check.mistake(display(&path), error);
            if !blank(&mut self.root, &path) {
                return T::default();
            }
        }
    }
}

/// YAML 1.2 booleans alone: `off` is a word.
fn parse_yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Sets a field, making the sections on the way. False where something on the way is not a section.
fn set(target: &mut Value, fields: &[&str], value: Value) -> bool {
    let Some((field, rest)) = fields.split_first() else {
        *target = value;
        return true;
    };
    if target.is_null() {
        *target = Value::Object(Map::new());
    }
    match target {
        Value::Object(section) => set(
            section.entry((*field).to_owned()).or_insert(Value::Null),
            rest,
            value,
        ),
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {
            false
        }
    }
}

/// Makes the value at a path null, or the nearest above it that is not null yet. False where none is left.
fn blank(root: &mut Value, path: &[Segment]) -> bool {
    let mut pointers = vec![String::new()];
    for segment in path {
        let parent = pointers.last().cloned().unwrap_or_default();
        pointers.push(match segment {
            Segment::Map { key } => {
                format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            Segment::Seq { index } => format!("{parent}/{index}"),
            Segment::Enum { .. } | Segment::Unknown => parent,
        });
    }
    // The root itself stays: an empty pointer is where there is nothing more to try.
    for pointer in pointers.iter().skip(1).rev() {
        if let Some(value) = root.pointer_mut(pointer)
            && !value.is_null()
        {
            *value = Value::Null;
            return true;
        }
    }
    false
}

fn display(path: &[Segment]) -> String {
    path.iter().fold(String::new(), |path, segment| {
        match (segment, path.is_empty()) {
            (Segment::Map { key }, true) => key.clone(),
            (Segment::Map { key }, false) => format!("{path}.{key}"),
            (Segment::Seq { index }, _) => format!("{path}[{index}]"),
            (Segment::Enum { .. } | Segment::Unknown, _) => path,
        }
    })
}

fn ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Map { parent, key } => {
            let parent = ignored(parent);
            if parent.is_empty() {
                key.clone()
            } else {
                format!("{parent}.{key}")
            }
        }
        Path::Seq { parent, index } => format!("{}[{index}]", ignored(parent)),
        Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent }
        | Path::Some { parent } => ignored(parent),
    }
}
