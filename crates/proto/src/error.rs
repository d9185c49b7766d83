//! gRPC statuses that carry a stable reason (`google.rpc.ErrorInfo`).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every reason of ours.
pub const DOMAIN: &str = "headwater.dev";

/// A status with a reason. `description` is for humans; programs look at the code and the reason.
pub fn status(code: Code, reason: &str, description: impl Into<String>) -> Status {
    status_with(code, reason, description, [])
}

/// What a caller is told whose role an RPC is not for: the services of the internal port share the port, and not their
/// callers.
pub fn role_not_admitted(admitted: impl std::fmt::Display) -> Status {
    status(
        Code::PermissionDenied,
        "ROLE_NOT_ADMITTED",
        format!("only the role {admitted} may call this"),
    )
}

/// As [`status`], with metadata beside the reason.
pub fn status_with<const N: usize>(
    code: Code,
    reason: &str,
    description: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Status::with_error_details(
        code,
        description,
        ErrorDetails::with_error_info(reason, DOMAIN, metadata),
    )
}

/// The reason of a status of ours; `None` where another program made it.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// One metadata value beside the reason.
pub fn metadata(status: &Status, name: &str) -> Option<String> {
    status.get_details_error_info()?.metadata.remove(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire() {
        let status = status_with(
            Code::FailedPrecondition,
            "FENCED",
            "a higher token was seen",
            [("epoch", "7".to_owned())],
        );
        assert_eq!(reason(&status).as_deref(), Some("FENCED"));
        assert_eq!(metadata(&status, "epoch").as_deref(), Some("7"));
        assert_eq!(metadata(&status, "attempt"), None);
    }

    #[test]
    fn a_foreign_status_has_no_reason() {
        assert_eq!(reason(&Status::unavailable("connection refused")), None);
    }
}
