//! Who calls: a bearer token's tenant on the public port, a role on the internal one.

use std::sync::Arc;

use proto::error::status;
use runtime::{
    bearer::{BearerCredentials, BearerError},
    grpc::Peer,
    identity::Role,
};
use tonic::{Code, Request, Status, service::Interceptor};

/// Lets requests with a good bearer token in, and notes its tenant. Every token is of one tenant so far.
#[derive(Clone)]
pub(crate) struct Authenticate {
    pub(crate) credentials: BearerCredentials,
    pub(crate) tenant: Arc<str>,
}

/// The tenant of the caller's token, as request extension.
#[derive(Clone)]
pub(crate) struct Tenant(pub(crate) Arc<str>);

impl Interceptor for Authenticate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.credentials
            .check_metadata(request.metadata())
            .map_err(unauthenticated)?;
        request.extensions_mut().insert(Tenant(self.tenant.clone()));
        Ok(request)
    }
}

/// The tenant that a public request acts for.
pub(crate) fn tenant<T>(request: &Request<T>) -> Result<Arc<str>, Status> {
    match request.extensions().get() {
        Some(Tenant(tenant)) => Ok(tenant.clone()),
        None => Err(unauthenticated(BearerError::Missing)),
    }
}

/// Where a request came from, for the audit log; empty in process.
pub(crate) fn address<T>(request: &Request<T>) -> String {
    let address = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.address);
    address
        .map(|address| address.to_string())
        .unwrap_or_default()
}

/// Admits one role alone: the internal port's services share the port, and not their callers.
pub(crate) fn require_role<T>(request: &Request<T>, admitted: Role) -> Result<(), Status> {
    let role = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.role);
    if role == Some(admitted) {
        return Ok(());
    }
    Err(status(
        Code::PermissionDenied,
        "ROLE_NOT_ADMITTED",
        format!("only the role {admitted} may call this"),
    ))
}

fn unauthenticated(error: BearerError) -> Status {
    let reason = match error {
        BearerError::Invalid => "TOKEN_INVALID",
        BearerError::Missing => "TOKEN_MISSING",
    };
    status(Code::Unauthenticated, reason, error.to_string())
}
