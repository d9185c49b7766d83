//! Collects what is wrong with a cluster.

use ipnet::IpNet;

use super::Problem;
use crate::api::Reason;

/// Every problem found so far, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.add_for(Reason::InvalidConfig, path, message);
    }

    pub(super) fn add_for(
        &mut self,
        reason: Reason,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.0.push(Problem {
            reason,
            path: path.into(),
            message: message.into(),
        });
    }

    /// A value that must be there.
    pub(super) fn required<T>(&mut self, path: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(path, "is missing");
        }
        value
    }

    /// A number with limits, both allowed.
    pub(super) fn range(&mut self, path: &str, value: impl Into<i64>, min: i64, max: i64) {
        let value = value.into();
        if !(min..=max).contains(&value) {
            self.add(path, format!("{value} is not between {min} and {max}"));
        }
    }

    /// A network port.
    pub(super) fn port(&mut self, path: &str, port: i32) {
        self.range(path, port, 1, 65_535);
    }

    /// Text that is not empty and not endless.
    pub(super) fn text(&mut self, path: &str, value: &str, length_max: usize) {
        if value.is_empty() {
            self.add(path, "is empty");
        } else if value.len() > length_max {
            self.add(path, format!("is longer than {length_max} bytes"));
        }
    }

    /// A network in CIDR notation.
    pub(super) fn cidr(&mut self, path: &str, value: &str) {
        if value.parse::<IpNet>().is_err() {
            self.add(
                path,
                format!("{value:?} is not a network (such as 10.0.0.0/8)"),
            );
        }
    }

    /// The name of a Kubernetes object.
    pub(super) fn object_name(&mut self, path: &str, name: &str) {
        if !is_subdomain(name) {
            self.add(
                path,
                format!("{name:?} is not a name: lower-case letters, digits, - and ."),
            );
        }
    }

    /// A key of a Secret.
    pub(super) fn secret_key(&mut self, path: &str, key: &str) {
        let valid = !key.is_empty()
            && key.len() <= 253
            && !key.starts_with("..")
            && key != "."
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !valid {
            self.add(path, format!("{key:?} is not a key of a Secret"));
        }
    }

    /// A host name of a certificate; the first label may be `*`.
    pub(super) fn dns_name(&mut self, path: &str, name: &str) {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        if !is_subdomain(rest) {
            self.add(
                path,
                format!("{name:?} is not a host name in lower case (such as ingest.example.com)"),
            );
        }
    }

    /// Of these, none twice.
    pub(super) fn unique<'a>(&mut self, path: &str, values: impl IntoIterator<Item = &'a str>) {
        let mut values: Vec<&str> = values.into_iter().collect();
        values.sort_unstable();
        let mut repeated: Vec<&str> = values
            .windows(2)
            .filter(|pair| pair.first() == pair.last())
            .filter_map(|pair| pair.first().copied())
            .collect();
        repeated.dedup();
        for value in repeated {
            self.add(path, format!("{value:?} is there more than once"));
        }
    }
}

/// RFC 1123: a label.
pub(super) fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// RFC 1123: labels parted by dots.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}
