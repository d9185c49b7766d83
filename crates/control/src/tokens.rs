//! `TokenService`: who may call the public API. Nobody gives away more than what he has: not a scope, not a tenant, not a
//! day.

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        CreateTokenRequest, CreateTokenResponse, GetTokenRequest, ListTokensRequest,
        ListTokensResponse, RevokeTokenRequest, RotateTokenRequest, RotateTokenResponse, Token,
        token_service_server::TokenService,
    },
};
use tonic::{Code, Request, Response, Status};

use crate::{
    Shared,
    caller::{Caller, EVERY, Scope, Scopes},
    database::TokenRecord,
    field::{self, Violations, now_ms, timestamp},
    page_token::{self, Cursor, Page},
    stream_key::{ApiToken, ApiTokenId},
};

/// Serves the tokens of every control process.
pub(crate) struct Tokens(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("CreateToken", self.create(request)).await
    }

    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<Token>, Status> {
        self.0.metrics.timed("GetToken", self.get(request)).await
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        self.0.metrics.timed("ListTokens", self.list(request)).await
    }

    async fn rotate_token(
        &self,
        request: Request<RotateTokenRequest>,
    ) -> Result<Response<RotateTokenResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("RotateToken", self.rotate(request)).await
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<Token>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("RevokeToken", self.revoke(request)).await
    }
}

impl Tokens {
    async fn create(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<CreateTokenResponse, Status> {
        let caller = self.0.caller(&request, Scope::TokensWrite).await?;
        let request = request.into_inner();
        let now_ms = now_ms();
        let mut violations = Violations::default();
        let tenant = violations.check("tenant", tenant(&caller, &request.tenant));
        violations.check("description", field::description(&request.description));
        let scopes = Scopes::parse(request.scopes.iter().map(String::as_str));
        let scopes = violations.check("scopes", scopes);
        let expire_ms = request
            .expire_time
            .map(|time| field::future_ms(time, now_ms))
            .transpose()
            .and_then(|expire_ms| not_beyond(expire_ms, &caller));
        let expire_ms = violations.check("expire_time", expire_ms).flatten();
        violations.finish()?;
        let (Some(tenant), Some(scopes)) = (tenant, scopes) else {
            unreachable!("nothing was wrong with them");
        };
        if !scopes.within(&caller.scopes) {
            return Err(beyond_caller());
        }
        let token = ApiToken::generate()?;
        let record = TokenRecord {
            id: token.id(),
            tenant,
            description: request.description,
            scopes,
            hash: token.hash(),
            previous: None,
            creator: caller.name.clone(),
            create_ms: now_ms,
            expire_ms,
            revoke_ms: None,
            last_use_ms: None,
        };
        self.0.database.create_token(&record).await?;
        self.audit("create_token", &record, &caller);
        Ok(CreateTokenResponse {
            token: Some(message(record)),
            secret: (*token.reveal()).clone(),
        })
    }

    async fn get(&self, request: Request<GetTokenRequest>) -> Result<Token, Status> {
        let caller = self.0.caller(&request, Scope::TokensRead).await?;
        let id = id(&request.into_inner().id)?;
        self.find(&caller, id).await.map(message)
    }

    async fn list(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<ListTokensResponse, Status> {
        let caller = self.0.caller(&request, Scope::TokensRead).await?;
        let request = request.into_inner();
        let page = Page::of("", request.page_size, &request.page_token)?;
        let mut violations = Violations::default();
        let listed = named(&request.tenant).and_then(|()| caller.listed(&request.tenant));
        let listed = violations.check("tenant", listed);
        violations.finish()?;
        let listed = listed.flatten();
        // One more than asked for tells whether there is a next page.
        let limit = page.size.saturating_add(1);
        let listing = self.0.database.tokens(
            listed.as_deref(),
            request.include_revoked,
            &page.after,
            limit,
        );
        let mut records = listing.await?;
        let last = page_token::cut(&mut records, page.size);
        let next = last.map(|last| Cursor {
            time_ms: last.create_ms,
            id: last.id.to_string(),
        });
        Ok(ListTokensResponse {
            next_page_token: next.map(|cursor| cursor.encode()).unwrap_or_default(),
            tokens: records.into_iter().map(message).collect(),
        })
    }

    async fn rotate(
        &self,
        request: Request<RotateTokenRequest>,
    ) -> Result<RotateTokenResponse, Status> {
        let caller = self.0.caller(&request, Scope::TokensWrite).await?;
        let request = request.into_inner();
        let now_ms = now_ms();
        let id = id(&request.id)?;
        let mut violations = Violations::default();
        let overlap_ms = violations.check(
            "overlap",
            field::period_ms(request.overlap.unwrap_or_default()),
        );
        violations.finish()?;
        let record = self.find(&caller, id).await?;
        // Whoever rotates a token has it.
        let outlives = not_beyond(record.expire_ms, &caller).is_err();
        if outlives || !record.scopes.within(&caller.scopes) {
            return Err(beyond_caller());
        }
        let token = ApiToken::generate()?.with_id(id);
        let until_ms = now_ms.saturating_add(overlap_ms.unwrap_or_default());
        let rotated = self
            .0
            .database
            .rotate_token(id, &token.hash(), until_ms)
            .await;
        self.0.access.tokens.forget(id);
        if !rotated? {
            let description = "the token is revoked";
            return Err(status(
                Code::FailedPrecondition,
                "TOKEN_REVOKED",
                description,
            ));
        }
        self.audit("rotate_token", &record, &caller);
        Ok(RotateTokenResponse {
            token: Some(message(record)),
            secret: (*token.reveal()).clone(),
        })
    }

    async fn revoke(&self, request: Request<RevokeTokenRequest>) -> Result<Token, Status> {
        let caller = self.0.caller(&request, Scope::TokensWrite).await?;
        let id = id(&request.into_inner().id)?;
        self.find(&caller, id).await?;
        let revoked = self.0.database.revoke_token(id, now_ms()).await;
        // Also where nobody knows whether it was: the next request finds out.
        self.0.access.tokens.forget(id);
        let revoked = revoked?;
        let record = self.find(&caller, id).await?;
        if revoked {
            self.audit("revoke_token", &record, &caller);
        }
        Ok(message(record))
    }

    /// What another tenant owns is not there.
    async fn find(&self, caller: &Caller, id: ApiTokenId) -> Result<TokenRecord, Status> {
        let record = self.0.database.token(id).await?;
        record
            .filter(|record| caller.sees(&record.tenant))
            .ok_or_else(|| status(Code::NotFound, "TOKEN_NOT_FOUND", "no such token"))
    }

    fn audit(&self, action: &'static str, record: &TokenRecord, caller: &Caller) {
        self.0.metrics.admin_action(action);
        tracing::info!(
            action,
            actor = caller.name,
            client_address = caller.address,
            tenant = record.tenant,
            token_id = %record.id,
            scopes = record.scopes.names().join(" "),
            "API token changed"
        );
    }
}

/// `*` is a tenant here.
fn named(tenant: &str) -> Result<(), &'static str> {
    if tenant.is_empty() || tenant == EVERY {
        Ok(())
    } else {
        field::tenant(tenant)
    }
}

fn tenant(caller: &Caller, tenant: &str) -> Result<String, &'static str> {
    named(tenant)?;
    caller.tenant(tenant).map(|tenant| tenant.as_ref().into())
}

/// A token that ends makes none that goes on.
fn not_beyond(expire_ms: Option<i64>, caller: &Caller) -> Result<Option<i64>, &'static str> {
    match (expire_ms, caller.expire_ms) {
        (_, None) => Ok(expire_ms),
        (Some(expire_ms), Some(own_ms)) if expire_ms <= own_ms => Ok(Some(expire_ms)),
        (_, Some(_)) => Err("later than the end of the caller's own token"),
    }
}

fn id(id: &str) -> Result<ApiTokenId, Status> {
    ApiTokenId::parse(id)
        .map_err(|_malformed| field::invalid("id", "16 characters of Crockford base32"))
}

fn beyond_caller() -> Status {
    let description = "the token would allow more than the caller's own";
    status(Code::PermissionDenied, "SCOPE_BEYOND_CALLER", description)
}

fn message(record: TokenRecord) -> Token {
    let scopes = record.scopes.names().into_iter();
    Token {
        id: record.id.to_string(),
        tenant: record.tenant,
        description: record.description,
        scopes: scopes.map(str::to_owned).collect(),
        create_time: Some(timestamp(record.create_ms)),
        expire_time: record.expire_ms.map(timestamp),
        revoke_time: record.revoke_ms.map(timestamp),
        last_use_time: record.last_use_ms.map(timestamp),
        creator: record.creator,
    }
}
