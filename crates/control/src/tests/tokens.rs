//! `TokenService`, and what its tokens let in.

use std::time::Duration;

use proto::v1::{
    CreateTokenRequest, CreateTokenResponse, GetTokenRequest, ListTokensRequest,
    RevokeTokenRequest, RotateTokenRequest, Token, token_service_server::TokenService as _,
};
use tonic::{Code, Request, Status};

use super::{
    fixture::{Fixture, Replica, bearing, reason},
    on_both,
};
use crate::{
    caller::Scope,
    field::{now_ms, timestamp},
};

on_both!(
    a_token_does_what_its_scopes_say_for_its_tenant,
    nobody_gives_away_more_than_he_has,
    a_rotated_token_is_good_for_the_overlap,
    a_revoked_token_is_refused_at_once_and_soon_elsewhere,
    an_expired_token_is_refused,
    tokens_are_listed_in_pages_to_their_own_tenant,
    the_fields_of_a_token_are_checked,
    the_use_of_a_token_is_noted_to_the_hour,
);

/// In the API token file of every fixture.
const ROOT: &str = "a token for tests";

fn request(tenant: &str, scopes: &[&str]) -> CreateTokenRequest {
    CreateTokenRequest {
        tenant: tenant.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ..CreateTokenRequest::default()
    }
}

async fn create_as(
    control: &Replica,
    credential: &str,
    request: CreateTokenRequest,
) -> Result<CreateTokenResponse, Status> {
    let created = control.tokens.create_token(bearing(credential, request));
    created.await.map(tonic::Response::into_inner)
}

/// By whoever may do everything: the token's id, and itself.
async fn create(control: &Replica, tenant: &str, scopes: &[&str]) -> (String, String) {
    let created = create_as(control, ROOT, request(tenant, scopes)).await;
    let created = created.unwrap();
    (created.token.unwrap().id, created.secret)
}

async fn calls(control: &Replica, credential: &str, scope: Scope) -> Result<(), (Code, String)> {
    let request: Request<()> = bearing(credential, ());
    match control.shared.caller(&request, scope).await {
        Ok(_) => Ok(()),
        Err(status) => Err(reason::<()>(Err(status))),
    }
}

fn refused(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

fn invalid() -> (Code, String) {
    refused(Code::Unauthenticated, "TOKEN_INVALID")
}

async fn a_token_does_what_its_scopes_say_for_its_tenant(fixture: Fixture) {
    let control = fixture.replica().await;
    let created = create_as(
        &control,
        ROOT,
        request("acme", &["keys:read", "keys:write"]),
    )
    .await;
    let CreateTokenResponse { token, secret } = created.unwrap();
    let token = token.unwrap();
    assert_eq!(
        (token.tenant.as_str(), token.creator.as_str()),
        ("acme", "API token file")
    );
    assert!(secret.starts_with(&format!("hwt_{}_", token.id)));
    assert_eq!(calls(&control, &secret, Scope::KeysWrite).await, Ok(()));
    let missing = Err(refused(Code::PermissionDenied, "SCOPE_MISSING"));
    assert_eq!(calls(&control, &secret, Scope::SessionsRead).await, missing);

    let caller = control
        .shared
        .caller(&bearing(&secret, ()), Scope::KeysRead)
        .await
        .unwrap();
    assert_eq!(caller.tenant("").as_deref(), Ok("acme"));
    assert!(caller.tenant("other").is_err() && !caller.sees("other") && !caller.sees("*"));
    assert_eq!(caller.name, format!("token {}", token.id));

    // One character of the secret, and a checksum that says that it is right.
    let (_, other) = create(&control, "acme", &["keys:read"]).await;
    let other_secret = other.rsplit_once('_').unwrap().1;
    let forged = format!("hwt_{}_{other_secret}", token.id);
    for wrong in [
        forged.as_str(),
        "hwt_",
        "another",
        &secret[..secret.len() - 1],
    ] {
        assert_eq!(
            calls(&control, wrong, Scope::KeysRead).await,
            Err(invalid()),
            "{wrong}"
        );
    }
    let nobody = control
        .shared
        .caller(&Request::new(()), Scope::KeysRead)
        .await;
    assert_eq!(
        reason(nobody),
        refused(Code::Unauthenticated, "TOKEN_MISSING")
    );

    // Whoever is of every tenant acts for the default one where none is named.
    let (_, everybody) = create(&control, "*", &["*"]).await;
    let caller = control
        .shared
        .caller(&bearing(&everybody, ()), Scope::TenantsWrite)
        .await
        .unwrap();
    assert_eq!(caller.tenant("").as_deref(), Ok("default"));
    assert_eq!(caller.tenant("other").as_deref(), Ok("other"));
}

async fn nobody_gives_away_more_than_he_has(fixture: Fixture) {
    let control = fixture.replica().await;
    let (id, admin) = create(
        &control,
        "acme",
        &["tokens:read", "tokens:write", "keys:read"],
    )
    .await;
    let (root_id, _) = create(&control, "*", &["*"]).await;
    let (strong_id, _) = create(&control, "acme", &["keys:write"]).await;
    let (other_id, _) = create(&control, "other", &["keys:read"]).await;
    let beyond = refused(Code::PermissionDenied, "SCOPE_BEYOND_CALLER");
    let field = refused(Code::InvalidArgument, "FIELD_INVALID");
    let create =
        async |tenant, scopes: &[&str]| create_as(&control, &admin, request(tenant, scopes)).await;
    let own = create("", &["keys:read"]).await.unwrap().token.unwrap();
    assert_eq!(
        (own.tenant.as_str(), own.creator),
        ("acme", format!("token {id}"))
    );
    assert_eq!(reason(create("", &["keys:write"]).await), beyond);
    assert_eq!(reason(create("", &["*"]).await), beyond);
    assert_eq!(reason(create("other", &["keys:read"]).await), field);
    assert_eq!(reason(create("*", &["keys:read"]).await), field);

    // A rotated token is a new one in the hands of who rotates it.
    let rotate = async |id: &str| {
        let id = id.to_owned();
        let request = RotateTokenRequest { id, overlap: None };
        control.tokens.rotate_token(bearing(&admin, request)).await
    };
    assert_eq!(reason(rotate(&strong_id).await), beyond);
    let not_found = refused(Code::NotFound, "TOKEN_NOT_FOUND");
    for hidden in [&other_id, &root_id, "0000000000000000"] {
        assert_eq!(reason(rotate(hidden).await), not_found);
        let get = GetTokenRequest {
            id: hidden.to_owned(),
        };
        let get = control.tokens.get_token(bearing(&admin, get)).await;
        assert_eq!(reason(get), not_found);
        let revoke = RevokeTokenRequest {
            id: hidden.to_owned(),
        };
        let revoke = control.tokens.revoke_token(bearing(&admin, revoke)).await;
        assert_eq!(reason(revoke), not_found);
    }

    // Nor a day more than its own.
    let soon = Some(timestamp(now_ms() + 60_000));
    let later = Some(timestamp(now_ms() + 120_000));
    let expiring = |expire_time| CreateTokenRequest {
        expire_time,
        ..request("acme", &["tokens:write"])
    };
    let short = create_as(&control, ROOT, expiring(soon))
        .await
        .unwrap()
        .secret;
    assert!(create_as(&control, &short, expiring(soon)).await.is_ok());
    for beyond in [later, None] {
        assert_eq!(
            reason(create_as(&control, &short, expiring(beyond)).await),
            field
        );
    }
}

async fn a_rotated_token_is_good_for_the_overlap(fixture: Fixture) {
    let control = fixture.replica().await;
    let (id, first) = create(&control, "acme", &["keys:read"]).await;
    let rotate = async |overlap: Option<u64>| {
        let overlap = overlap.map(|seconds| Duration::from_secs(seconds).try_into().unwrap());
        let id = id.clone();
        let request = RotateTokenRequest { id, overlap };
        let rotated = control.tokens.rotate_token(bearing(ROOT, request)).await?;
        Ok::<_, Status>(rotated.into_inner().secret)
    };
    let accepted = async |token: &str| calls(&control, token, Scope::KeysRead).await.is_ok();
    let second = rotate(Some(3600)).await.unwrap();
    assert!(second.starts_with(&format!("hwt_{id}_")) && first != second);
    assert!(accepted(&first).await && accepted(&second).await);
    let third = rotate(None).await.unwrap();
    assert!(!accepted(&first).await && !accepted(&second).await && accepted(&third).await);
    let too_long = rotate(Some(31 * 24 * 3600)).await;
    assert_eq!(
        reason(too_long),
        refused(Code::InvalidArgument, "FIELD_INVALID")
    );
    let revoke = RevokeTokenRequest { id: id.clone() };
    control
        .tokens
        .revoke_token(bearing(ROOT, revoke))
        .await
        .unwrap();
    assert_eq!(
        reason(rotate(None).await),
        refused(Code::FailedPrecondition, "TOKEN_REVOKED")
    );
}

async fn a_revoked_token_is_refused_at_once_and_soon_elsewhere(fixture: Fixture) {
    let (here, there) = (fixture.replica().await, fixture.replica().await);
    let (id, secret) = create(&here, "acme", &["keys:read"]).await;
    for control in [&here, &there] {
        assert_eq!(calls(control, &secret, Scope::KeysRead).await, Ok(()));
    }
    let revoke = RevokeTokenRequest { id };
    let revoked = here
        .tokens
        .revoke_token(bearing(ROOT, revoke.clone()))
        .await;
    let begun = std::time::Instant::now();
    let time = revoked.unwrap().into_inner().revoke_time;
    assert_eq!(calls(&here, &secret, Scope::KeysRead).await, Err(invalid()));
    while calls(&there, &secret, Scope::KeysRead).await.is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "five times the goal"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("refused at the other replica after {:?}", begun.elapsed());
    // Once more changes nothing.
    let again = here
        .tokens
        .revoke_token(bearing(ROOT, revoke))
        .await
        .unwrap();
    assert_eq!(again.into_inner().revoke_time, time);
}

async fn an_expired_token_is_refused(fixture: Fixture) {
    let control = fixture.replica().await;
    let end_ms = now_ms() + 700;
    let request = CreateTokenRequest {
        expire_time: Some(timestamp(end_ms)),
        ..request("acme", &["keys:read"])
    };
    let secret = create_as(&control, ROOT, request).await.unwrap().secret;
    let begun = calls(&control, &secret, Scope::KeysRead).await;
    assert!(begun.is_ok() || now_ms() >= end_ms, "{begun:?}");
    while now_ms() < end_ms {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        calls(&control, &secret, Scope::KeysRead).await,
        Err(invalid())
    );
}

async fn list(
    control: &Replica,
    credential: &str,
    request: ListTokensRequest,
) -> (Vec<Token>, String) {
    let listed = control.tokens.list_tokens(bearing(credential, request));
    let listed = listed.await.unwrap().into_inner();
    (listed.tokens, listed.next_page_token)
}

async fn tokens_are_listed_in_pages_to_their_own_tenant(fixture: Fixture) {
    let control = fixture.replica().await;
    let (reader_id, reader) = create(&control, "acme", &["tokens:read"]).await;
    let mut expected = vec![];
    for _ in 0..3 {
        expected.push(create(&control, "acme", &["keys:read"]).await.0);
    }
    let (other_id, _) = create(&control, "other", &["keys:read"]).await;
    let (star_id, _) = create(&control, "*", &["keys:read"]).await;
    let revoke = RevokeTokenRequest {
        id: expected.pop().unwrap(),
    };
    control
        .tokens
        .revoke_token(bearing(ROOT, revoke))
        .await
        .unwrap();
    let mut seen = vec![];
    let mut page_token = String::new();
    loop {
        let page = ListTokensRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let (tokens, next) = list(&control, &reader, page).await;
        assert!(tokens.len() <= 2);
        seen.extend(tokens.into_iter().map(|token| token.id));
        page_token = next;
        if page_token.is_empty() {
            break;
        }
    }
    // Those of one millisecond are in the order of their ids.
    expected.push(reader_id);
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
    let all = ListTokensRequest {
        include_revoked: true,
        ..Default::default()
    };
    assert_eq!(list(&control, &reader, all.clone()).await.0.len(), 4);
    assert_eq!(list(&control, ROOT, all.clone()).await.0.len(), 6);
    for (tenant, id) in [("other", other_id), ("*", star_id)] {
        let named = ListTokensRequest {
            tenant: tenant.to_owned(),
            ..all.clone()
        };
        let ids: Vec<_> = list(&control, ROOT, named.clone()).await.0;
        assert_eq!(
            ids.into_iter().map(|token| token.id).collect::<Vec<_>>(),
            [id]
        );
        let foreign = control.tokens.list_tokens(bearing(&reader, named)).await;
        assert_eq!(
            reason(foreign),
            refused(Code::InvalidArgument, "FIELD_INVALID")
        );
    }
}

async fn the_fields_of_a_token_are_checked(fixture: Fixture) {
    let control = fixture.replica().await;
    let field = refused(Code::InvalidArgument, "FIELD_INVALID");
    let (_, secret) = create(&control, "acme", &["keys:read"]).await;
    for wrong in [
        request("a b", &["keys:read"]),
        request("acme", &[]),
        request("acme", &["keys"]),
        CreateTokenRequest {
            description: secret.clone(),
            ..request("acme", &["keys:read"])
        },
        CreateTokenRequest {
            description: "a".repeat(513),
            ..request("acme", &["keys:read"])
        },
        CreateTokenRequest {
            expire_time: Some(timestamp(1)),
            ..request("acme", &["keys:read"])
        },
    ] {
        assert_eq!(reason(create_as(&control, ROOT, wrong).await), field);
    }
    for id in ["", "x", &secret, "'; --"] {
        let get = GetTokenRequest { id: id.to_owned() };
        assert_eq!(
            reason(control.tokens.get_token(bearing(ROOT, get)).await),
            field
        );
    }
}

async fn the_use_of_a_token_is_noted_to_the_hour(fixture: Fixture) {
    let control = fixture.replica().await;
    let (id, secret) = create(&control, "acme", &["keys:read"]).await;
    let last_use = async || {
        let get = GetTokenRequest { id: id.clone() };
        let token = control.tokens.get_token(bearing(ROOT, get)).await.unwrap();
        token.into_inner().last_use_time
    };
    assert_eq!(last_use().await, None);
    assert_eq!(calls(&control, &secret, Scope::KeysRead).await, Ok(()));
    let begun = std::time::Instant::now();
    let noted = loop {
        if let Some(noted) = last_use().await {
            break noted;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the use is noted"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!((noted.seconds % 3600, noted.nanos), (0, 0));
    assert!(now_ms() / 1000 - noted.seconds < 2 * 3600);
}
