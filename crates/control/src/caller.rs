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

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    EventsRead,
    EventsWrite,
    KeysRead,
    KeysWrite,
    SessionsRead,
    SessionsWrite,
    TenantsRead,
    TenantsWrite,
    TokensRead,
    TokensWrite,
}

/// Who calls, and was found to have the scope of the call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `None`: every tenant's.
    tenant: Option<Arc<str>>,
    /// The tenant that is meant where a request names none.
    default_tenant: Arc<str>,
    /// For the audit log and events.
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Caller {
    /// The tenant to act for: the one that the request names, if the caller may, or the caller's own.
    pub(crate) fn tenant(&self, named: &str) -> Result<Arc<str>, &'static str> {
        match &self.tenant {
            Some(own) if named.is_empty() || named == &**own => Ok(own.clone()),
            Some(_) => Err("not the tenant of the caller's token"),
            None if named.is_empty() => Ok(self.default_tenant.clone()),
            None => Ok(named.into()),
        }
    }

    /// Whether what belongs to this tenant is there for the caller.
    pub(crate) fn sees(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }

    /// The one tenant to list; `None`: every tenant.
    pub(crate) fn listed(&self, named: &str) -> Result<Option<Arc<str>>, &'static str> {
        if self.tenant.is_none() && named.is_empty() {
            Ok(None)
        } else {
            self.tenant(named).map(Some)
        }
    }
}

impl crate::Shared {
    /// Lets a public request in, or says why not. Every method begins with this: what it acts for comes from here.
    pub(crate) async fn caller<T>(
        &self,
        request: &Request<T>,
        _scope: Scope,
    ) -> Result<Caller, Status> {
        let tenant = tenant(request)?;
        Ok(Caller {
            default_tenant: tenant.clone(),
            tenant: Some(tenant),
            name: "token".to_owned(),
            address: address(request),
        })
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
