//! Writes the configuration of processes.
//!
//! A library's own writer may change its style with any release. The names of boot configurations are hashes of this
//! text, so that every pod of every cluster would restart for nothing.

use serde_json::{Map, Value};

/// Spaces of one level.
const INDENT: usize = 2;
/// Words that YAML takes for something else than text, of whatever version of it.
const RESERVED: [&str; 13] = [
    "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity", "none",
];

/// A mapping as a YAML document: keys in order, nulls left out, text in JSON's quotes wherever it could be taken for
/// something else.
pub(super) fn render(root: &Map<String, Value>) -> String {
    let mut document = String::new();
    mapping(root, 0, &mut document);
    document
}

fn mapping(map: &Map<String, Value>, level: usize, out: &mut String) {
    let mut entries: Vec<(&String, &Value)> =
        map.iter().filter(|(_, value)| !value.is_null()).collect();
    entries.sort_by_key(|(key, _)| *key);
    for (key, value) in entries {
        indent(level, out);
        out.push_str(&scalar(&Value::String(key.clone())));
        out.push(':');
        node(value, level + 1, out);
    }
}

/// What follows `key:` or `-`.
fn node(value: &Value, level: usize, out: &mut String) {
    match value {
        Value::Object(map) if map.values().any(|value| !value.is_null()) => {
            out.push('\n');
            mapping(map, level, out);
        }
        Value::Object(_) => out.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Array(items) => {
            out.push('\n');
            for item in items {
                indent(level, out);
                out.push('-');
                node(item, level + 1, out);
            }
        }
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {
            out.push(' ');
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn indent(level: usize, out: &mut String) {
    for _ in 0..level * INDENT {
        out.push(' ');
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        // Text in JSON's quotes is text in YAML's.
        Value::Array(_)
        | Value::Bool(_)
        | Value::Null
        | Value::Number(_)
        | Value::Object(_)
        | Value::String(_) => value.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let inner = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '/' | '.' | '_' | '-')
    };
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(inner)
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({
            "a": {"b": [1, "x", {"c": []}, {"d": {}}], "empty": {}},
            "number": 0.1, "yes": true, "no-number": "12", "word": "No", "time": "10s",
            "line": "a\nb: \"c\" # d", "path": "/etc/x.y", "": "é😀", "port": "0.0.0.0:1", "list": [[1, 2], []],
        });
        let text = render(value.as_object().unwrap());
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, value, "{text}");
    }

    #[test]
    fn keys_are_in_order_and_nulls_are_left_out() {
        let value = json!({"b": null, "c": {"z": null}, "a": "x"});
        assert_eq!(render(value.as_object().unwrap()), "a: x\nc: {}\n");
    }
}
