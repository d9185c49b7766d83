//! Whether an object has every field that is wanted of it.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::DynamicObject;
use serde_json::{Map, Value};

use crate::quantity;

/// Lists that others may add to (`x-kubernetes-list-type: map` or `set`) and by which field their elements are known.
/// Every other list is one value.
const ASSOCIATIVE: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// The path of the first wanted field that is missing or has another value.
pub(super) fn difference(wanted: &Value, present: &DynamicObject) -> Option<String> {
    let Ok(present) = serde_json::to_value(present) else {
        return Some(String::new());
    };
    let mut path = Path::default();
    let wanted = wanted.as_object()?;
    for (name, wanted) in wanted {
        // Listed objects do not say what they are.
        if matches!(name.as_str(), "apiVersion" | "kind") {
            continue;
        }
        if !path.same(name, wanted, present.get(name)) {
            return Some(path.0.join("."));
        }
    }
    None
}

#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    /// Leaves the path where it stopped.
    fn same(&mut self, name: &str, wanted: &Value, present: Option<&Value>) -> bool {
        self.0.push(name.to_owned());
        let same = match (wanted, present) {
            (Value::Object(wanted), present) => {
                let empty = Map::new();
                // An empty object may be left out.
                let present = present.map_or(Some(&empty), Value::as_object);
                present.is_some_and(|present| self.same_fields(wanted, present))
            }
            (Value::Array(wanted), present) => {
                let present = present.map_or(Some(&[][..]), |value| value.as_array().map(Vec::as_slice));
                present.is_some_and(|present| self.same_elements(name, wanted, present))
            }
            (wanted, Some(present)) => same_scalar(wanted, present),
            (wanted, None) => is_default(wanted),
        };
        if same {
            self.0.pop();
        }
        same
    }

    fn same_fields(&mut self, wanted: &Map<String, Value>, present: &Map<String, Value>) -> bool {
        wanted
            .iter()
            .all(|(name, wanted)| self.same(name, wanted, present.get(name)))
    }

    fn same_elements(&mut self, list: &str, wanted: &[Value], present: &[Value]) -> bool {
        let keys = ASSOCIATIVE.iter().find(|(name, _)| *name == list);
        let Some((_, keys)) = keys else {
            return wanted.len() == present.len()
                && wanted.iter().zip(present).enumerate().all(|(index, (wanted, present))| {
                    self.same(&index.to_string(), wanted, Some(present))
                });
        };
        wanted.iter().enumerate().all(|(index, wanted)| {
            let is_it = |other: &&Value| keys.iter().all(|key| other.get(key) == wanted.get(key));
            let present = present.iter().find(is_it);
            present.is_some() && self.same(&index.to_string(), wanted, present)
        })
    }
}

/// `1000m` is `1`.
fn same_scalar(wanted: &Value, present: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let amount = |value: &Value| quantity::nano(&Quantity(text(value)?));
    wanted == present || amount(wanted).is_some_and(|wanted| amount(present) == Some(wanted))
}

/// Values that an API server may leave out.
fn is_default(wanted: &Value) -> bool {
    match wanted {
        Value::Null => true,
        Value::Bool(wanted) => !wanted,
        Value::Number(wanted) => wanted.as_i64() == Some(0),
        Value::String(wanted) => wanted.is_empty(),
        Value::Array(wanted) => wanted.is_empty(),
        Value::Object(wanted) => wanted.is_empty(),
    }
}
