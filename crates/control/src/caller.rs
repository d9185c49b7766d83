//! Who calls: what a caller may do on the public port, a role on the internal one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proto::error::{role_not_admitted, status};
use runtime::{
    grpc::{Peer, caller_role},
    identity::Role,
    tls::ClientCertificate,
};
use tokio::time::{Instant, sleep};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
};

use crate::{Shared, field::now_ms};

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    EdgesRead,
    EdgesWrite,
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

impl Scope {
    const ALL: [Self; 12] = [
        Self::EdgesRead,
        Self::EdgesWrite,
        Self::EventsRead,
        Self::EventsWrite,
        Self::KeysRead,
        Self::KeysWrite,
        Self::SessionsRead,
        Self::SessionsWrite,
        Self::TenantsRead,
        Self::TenantsWrite,
        Self::TokensRead,
        Self::TokensWrite,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::EdgesRead => "edges:read",
            Self::EdgesWrite => "edges:write",
            Self::EventsRead => "events:read",
            Self::EventsWrite => "events:write",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::SessionsRead => "sessions:read",
            Self::SessionsWrite => "sessions:write",
            Self::TenantsRead => "tenants:read",
            Self::TenantsWrite => "tenants:write",
            Self::TokensRead => "tokens:read",
            Self::TokensWrite => "tokens:write",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// Everything that a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scopes {
    /// Also what a later version will know.
    All,
    Some(BTreeSet<Scope>),
}

impl Scopes {
    /// As they are written: names, or `*` for all.
    pub(crate) fn parse<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, &'static str> {
        let mut scopes = BTreeSet::new();
        let mut all = false;
        for name in names {
            match Scope::parse(name) {
                Some(scope) => {
                    scopes.insert(scope);
                }
                None if name == EVERY => all = true,
                None => return Err(SCOPES),
            }
        }
        match (all, scopes.is_empty()) {
            (true, _) => Ok(Self::All),
            (false, true) => Err(SCOPES),
            (false, false) => Ok(Self::Some(scopes)),
        }
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        match self {
            Self::All => vec![EVERY],
            Self::Some(scopes) => scopes.iter().copied().map(Scope::as_str).collect(),
        }
    }

    pub(crate) fn has(&self, scope: Scope) -> bool {
        match self {
            Self::All => true,
            Self::Some(scopes) => scopes.contains(&scope),
        }
    }

    /// Whether these are nothing more than the others.
    pub(crate) fn within(&self, others: &Self) -> bool {
        match (self, others) {
            (_, Self::All) => true,
            (Self::All, Self::Some(_)) => false,
            (Self::Some(these), Self::Some(others)) => these.is_subset(others),
        }
    }
}

/// Every tenant, or every scope.
pub(crate) const EVERY: &str = "*";
const SCOPES: &str = "one or more of edges:read, edges:write, events:read, events:write, keys:read, keys:write, sessions:read, \
                      sessions:write, tenants:read, tenants:write, tokens:read, tokens:write, or * for all";

/// Whom a credential stands for, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `None`: every tenant's.
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) scopes: Scopes,
    /// For the audit log and events.
    pub(crate) name: String,
    /// When the credential ends, where it is one that makes others of its kind.
    pub(crate) expire_ms: Option<i64>,
}

/// What came with a request and says whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// Does not show in a debug format.
    pub(crate) authorization: Option<MetadataValue<Ascii>>,
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    #[cfg(test)]
    pub(crate) tenant: Option<Tenant>,
}

impl Shown {
    fn of<T>(request: &Request<T>) -> Self {
        let mut authorization = request.metadata().get("authorization").cloned();
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        let peer = request.extensions().get::<Peer>();
        Self {
            authorization,
            certificate: peer.and_then(|peer| peer.certificate.clone()),
            #[cfg(test)]
            tenant: request.extensions().get().cloned(),
        }
    }
}

/// Who calls, and was found to have the scope of the call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    shown: Shown,
    scope: Scope,
    /// `None`: every tenant's.
    tenant: Option<Arc<str>>,
    /// The tenant that is meant where a request names none.
    default_tenant: Arc<str>,
    pub(crate) scopes: Scopes,
    pub(crate) expire_ms: Option<i64>,
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

    /// The one tenant that the caller is of; `None`: every tenant's.
    pub(crate) fn own_tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }

    /// For what is no tenant's: the caller has to be every tenant's.
    pub(crate) fn stands_for_everybody(&self) -> Result<(), Status> {
        if self.tenant.is_none() {
            return Ok(());
        }
        let description = "the caller's credential is one tenant's, and this is everybody's";
        let reason = "EVERY_TENANT_NEEDED";
        Err(status(Code::PermissionDenied, reason, description))
    }

    /// Waits for the end of what the caller may do: its credential expires, was revoked or replaced, or has the scope of
    /// the call no more. For answers that stay open.
    pub(crate) async fn ended(self, shared: Arc<Shared>) -> Status {
        let mut known = Instant::now();
        loop {
            let left_ms = self
                .expire_ms
                .map(|expire_ms| expire_ms.saturating_sub(now_ms()));
            let left = left_ms.map(|left_ms| Duration::from_millis(left_ms.max(0).unsigned_abs()));
            if left.is_some_and(|left| left.is_zero()) {
                return ended();
            }
            sleep(left.map_or(CHECK_PERIOD, |left| left.min(CHECK_PERIOD))).await;
            match shared.access.identify(&self.shown, &shared.database).await {
                Ok(now) if now.tenant == self.tenant && now.scopes.has(self.scope) => {
                    known = Instant::now();
                }
                Err(status) if status.code() == Code::Unavailable => {
                    if known.elapsed() > UNKNOWN_MAX {
                        return status;
                    }
                }
                Ok(_) | Err(_) => return ended(),
            }
        }
    }
}

fn ended() -> Status {
    let description = "the credential has expired, was revoked, or is not good for this any more";
    status(Code::Unauthenticated, "CREDENTIAL_ENDED", description)
}

/// How often the credential of an answer that stays open is looked at again: one that was revoked ends it within this,
/// what another replica's change takes, and a query.
pub(crate) const CHECK_PERIOD: Duration = Duration::from_secs(5);
/// For how long it goes on where nobody can say.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);

impl Shared {
    /// Lets a public request in, or says why not. Every method begins with this: what it acts for comes from here.
    pub(crate) async fn caller<T>(
        &self,
        request: &Request<T>,
        scope: Scope,
    ) -> Result<Caller, Status> {
        let shown = Shown::of(request);
        let identity = self.access.identify(&shown, &self.database).await?;
        if !identity.scopes.has(scope) {
            let description = format!("the caller's credential has no scope {}", scope.as_str());
            return Err(status(Code::PermissionDenied, "SCOPE_MISSING", description));
        }
        Ok(Caller {
            shown,
            scope,
            tenant: identity.tenant,
            default_tenant: self.access.default_tenant(),
            scopes: identity.scopes,
            expire_ms: identity.expire_ms,
            name: identity.name,
            address: address(request),
        })
    }
}

/// Where a request came from, for the audit log; empty in process.
fn address<T>(request: &Request<T>) -> String {
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
    if caller_role(request) == Some(admitted) {
        return Ok(());
    }
    Err(role_not_admitted(admitted))
}

/// Tests that call services directly say whom they call for; no request from a port has this.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct Tenant(pub(crate) Arc<str>);

#[cfg(test)]
impl Tenant {
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            tenant: Some(self.0.clone()),
            scopes: Scopes::All,
            name: "test".to_owned(),
            expire_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_names_or_a_star() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        let some = Scopes::parse(["keys:write", "keys:read", "keys:read"]).unwrap();
        assert_eq!(some.names(), ["keys:read", "keys:write"]);
        assert!(some.has(Scope::KeysRead) && !some.has(Scope::TokensRead));
        let all = Scopes::parse(["keys:read", "*"]).unwrap();
        assert_eq!(
            (all.names(), all.has(Scope::TokensWrite)),
            (vec!["*"], true)
        );
        assert!(some.within(&all) && some.within(&some) && !all.within(&some));
        let one = Scopes::parse(["keys:read"]).unwrap();
        assert!(one.within(&some) && !some.within(&one));
        for wrong in [&[][..], &[""], &["keys"], &["keys:*"], &["keys:read", "x"]] {
            assert!(Scopes::parse(wrong.iter().copied()).is_err(), "{wrong:?}");
        }
    }
}
