//! What the API server wrote down about every request.

use std::{fs, path::Path};

use serde_json::Value;

/// Everything but reads of paths that are no resources (health, discovery). Metadata only: no object, no Secret.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ['*']
- level: Metadata
";

/// One answered request. A watch is written down when it starts and again when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `system:serviceaccount:<namespace>:<name>` for a ServiceAccount.
    pub user: String,
    pub user_agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// HTTP status.
    pub code: u16,
}

impl Request {
    /// Whether it changed something, or tried to.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    fn parse(line: &str) -> Option<Self> {
        // The last line may be half written.
        let event: Value = serde_json::from_str(line).ok()?;
        let object = &event["objectRef"];
        Some(Self {
            user: text(&event["user"]["username"]),
            user_agent: text(&event["userAgent"]),
            verb: text(&event["verb"]),
            group: text(&object["apiGroup"]),
            resource: text(&object["resource"]),
            subresource: text(&object["subresource"]),
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            code: u16::try_from(event["responseStatus"]["code"].as_u64()?).ok()?,
        })
    }
}

/// Every request so far, in the order in which they were answered.
pub(super) fn read(file: &Path) -> Vec<Request> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(Request::parse).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_request_is_read_with_all_that_it_was() {
        let line = r#"{"kind":"Event","stage":"ResponseComplete","verb":"patch","user":{"username":"system:serviceaccount:a:b"},"userAgent":"kubectl/1","objectRef":{"resource":"deployments","namespace":"a","name":"c","apiGroup":"apps","apiVersion":"v1","subresource":"status"},"responseStatus":{"code":403}}"#;
        let request = Request::parse(line).unwrap();
        assert!(request.is_write());
        assert_eq!(
            request,
            Request {
                user: "system:serviceaccount:a:b".to_owned(),
                user_agent: "kubectl/1".to_owned(),
                verb: "patch".to_owned(),
                group: "apps".to_owned(),
                resource: "deployments".to_owned(),
                subresource: "status".to_owned(),
                namespace: "a".to_owned(),
                name: "c".to_owned(),
                code: 403,
            }
        );
        assert_eq!(Request::parse(&line[..40]), None);
    }
}
