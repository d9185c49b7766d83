//! The section `telemetry`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{
    check::Check,
    scalar::{Ratio, Url},
};

/// Where a process's spans go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TelemetryConfig {
    pub(crate) otlp_endpoint: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) sample_ratio: f64,
    pub(crate) resource_attributes: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Section {
    ca_file: Option<PathBuf>,
    otlp_endpoint: Option<Url>,
    resource_attributes: Option<BTreeMap<String, Text>>,
    sample_ratio: Option<Ratio>,
}

/// A text, whatever YAML takes it for: a node may be called `10`.
#[derive(Debug)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(value) => Ok(Self(value.to_string())),
            Value::Null => Ok(Self(String::new())),
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::String(text) => Ok(Self(text)),
            Value::Array(_) | Value::Object(_) => Err(D::Error::custom("is not a text")),
        }
    }
}

impl Section {
    /// Nothing where no collector is named: attributes may come from elsewhere and be of no use.
    pub(super) fn finish(self, check: &mut Check) -> Option<TelemetryConfig> {
        let ca_file = check.optional_file("telemetry.ca_file", self.ca_file);
        let otlp_endpoint = self.otlp_endpoint?.0;
        if ca_file.is_some() && !otlp_endpoint.starts_with("https://") {
            check.mistake(
                "telemetry.ca_file",
                "is of no use where telemetry.otlp_endpoint is not https://",
            );
        }
        let attributes = self.resource_attributes.unwrap_or_default();
        Some(TelemetryConfig {
            otlp_endpoint,
            ca_file,
            sample_ratio: self.sample_ratio.map_or(1.0, |ratio| ratio.0),
            resource_attributes: attributes
                .into_iter()
                .map(|(name, value)| (name, value.0))
                // What a pod does not have (a zone) is empty.
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        })
    }
}
