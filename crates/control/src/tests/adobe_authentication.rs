//! User and password, from the challenge to the grant.

use data_encoding::BASE64;
use md5::{Digest as _, Md5};
use proto::{
    internal::v1::{
        AdobeChallenge, AdobeCredential, AdobeResponse, AuthorizeRequest, DenialReason,
        admission_service_server::AdmissionService as _, authorize_request::Credential,
        authorize_response::Decision,
    },
    v1::{
        CreateStreamKeyRequest, GetStreamKeyRequest, StreamKey as StreamKeyMessage,
        stream_key_service_server::StreamKeyService as _,
    },
};
use runtime::identity::Role;

use super::{
    fixture::{Fixture, Replica, of_role, of_tenant},
    on_both,
};
use crate::stream_key::StreamKey;

on_both!(
    a_password_is_checked_by_another_replica_than_made_the_challenge,
    every_fault_of_a_password_is_one_denial_outside_and_its_own_inside,
    a_password_survives_a_new_pepper,
    what_is_stored_is_encrypted,
);

/// A user and what it enters in its encoder.
struct User {
    key: StreamKeyMessage,
    secret: String,
}

impl User {
    async fn create(control: &Replica, stream: &str) -> Self {
        let request = CreateStreamKeyRequest {
            app: "live".to_owned(),
            stream: stream.to_owned(),
            adobe: true,
            ..Default::default()
        };
        let request = of_tenant("default", request);
        let created = control.keys.create_stream_key(request).await.unwrap();
        let created = created.into_inner();
        Self {
            key: created.stream_key.unwrap(),
            secret: created.secret,
        }
    }

    fn password(&self) -> &str {
        self.secret.rsplit_once('_').unwrap().1
    }

    fn answer(&self, challenge: &AdobeChallenge) -> AdobeResponse {
        answer(&self.key.id, self.password(), challenge, &self.key.stream)
    }
}

/// What an encoder computes.
fn answer(user: &str, password: &str, challenge: &AdobeChallenge, name: &str) -> AdobeResponse {
    let md5 = |parts: &[&str]| BASE64.encode(&Md5::digest(parts.concat()));
    let own = "4f5e6d7c".to_owned();
    let equivalent = md5(&[user, &challenge.salt, password]);
    AdobeResponse {
        response: md5(&[&equivalent, &challenge.opaque, &own]),
        challenge: own,
        opaque: challenge.opaque.clone(),
        name: name.to_owned(),
    }
}

async fn ask(
    control: &Replica,
    (user, address): (&str, &str),
    response: Option<AdobeResponse>,
) -> Decision {
    let credential = AdobeCredential {
        user: user.to_owned(),
        response,
    };
    let request = AuthorizeRequest {
        credential: Some(Credential::Adobe(credential)),
        app: "live".to_owned(),
        client_address: address.to_owned(),
        session_id: "session-1".to_owned(),
        ..Default::default()
    };
    let request = of_role(Role::Edge, request);
    let answer = control.admission.authorize(request).await.unwrap();
    answer.into_inner().decision.unwrap()
}

async fn challenge(control: &Replica, user: &str) -> AdobeChallenge {
    match ask(control, (user, ADDRESS), None).await {
        Decision::AdobeChallenge(challenge) => challenge,
        Decision::Denial(_) | Decision::SignedGrant(_) => panic!("no challenge"),
    }
}

const ADDRESS: &str = "192.0.2.1:4000";
/// The next connection of the same encoder.
const NEXT_ADDRESS: &str = "192.0.2.1:4001";

async fn a_password_is_checked_by_another_replica_than_made_the_challenge(fixture: Fixture) {
    let (first, second) = (fixture.replica().await, fixture.replica().await);
    let user = User::create(&first, "main").await;
    let id = user.key.id.as_str();
    assert!(user.key.adobe);
    for name in [user.key.stream.as_str(), &user.secret] {
        let challenge = challenge(&first, id).await;
        let response = answer(id, user.password(), &challenge, name);
        let decision = ask(&second, (id, NEXT_ADDRESS), Some(response)).await;
        let Decision::SignedGrant(signed) = decision else {
            panic!("{decision:?}");
        };
        let grant = fixture.verifier.verify(&signed).unwrap();
        assert_eq!(
            (grant.stream.as_str(), grant.stream_key_id.as_str()),
            ("main", id)
        );
        assert_eq!(grant.session_id, "session-1");
    }
    // The same key is a stream key still.
    let answer = first.authorize("live", &user.secret).await.unwrap();
    assert!(super::admission_service::is_granted(&answer));
}

async fn every_fault_of_a_password_is_one_denial_outside_and_its_own_inside(fixture: Fixture) {
    let control = fixture.replica().await;
    let user = User::create(&control, "main").await;
    let revoked = User::create(&control, "revoked").await;
    control.revoke(&revoked.key.id).await;
    let (plain, plain_secret) = control.create("plain").await;
    let plain_password = plain_secret.rsplit_once('_').unwrap().1;
    let stranger = StreamKey::generate().unwrap().id().to_string();
    let of = |user: &str| user.to_owned();

    let mut faults = Vec::new();
    let for_user = challenge(&control, &user.key.id).await;
    let wrong = answer(&user.key.id, "wrong", &for_user, "main");
    faults.push(("wrong_password", of(&user.key.id), NEXT_ADDRESS, wrong));
    // Each challenge is one guess.
    faults.push((
        "challenge_replayed",
        of(&user.key.id),
        NEXT_ADDRESS,
        user.answer(&for_user),
    ));
    let elsewhere = user.answer(&challenge(&control, &user.key.id).await);
    faults.push((
        "challenge_forged",
        of(&user.key.id),
        "192.0.2.2:4001",
        elsewhere,
    ));
    for (outcome, id) in [("unknown_user", stranger.as_str()), ("unknown_user", "bob")] {
        let challenge = challenge(&control, id).await;
        assert_eq!(challenge.salt.len(), for_user.salt.len());
        faults.push((
            outcome,
            of(id),
            NEXT_ADDRESS,
            answer(id, "x", &challenge, "main"),
        ));
    }
    let challenged = challenge(&control, &plain.id).await;
    let right = answer(&plain.id, plain_password, &challenged, "plain");
    faults.push(("no_password", of(&plain.id), NEXT_ADDRESS, right));
    let right = revoked.answer(&challenge(&control, &revoked.key.id).await);
    faults.push((
        "password_of_lapsed_key",
        of(&revoked.key.id),
        NEXT_ADDRESS,
        right,
    ));

    let mut counts = std::collections::BTreeMap::new();
    for (outcome, user, address, response) in faults {
        let decision = ask(&control, (&user, address), Some(response)).await;
        let Decision::Denial(denial) = decision else {
            panic!("{outcome}: {decision:?}");
        };
        assert_eq!(
            denial.reason(),
            DenialReason::PasswordNotAccepted,
            "{outcome}"
        );
        assert_eq!(denial.description, "User or password not accepted");
        assert!(!denial.retryable);
        *counts.entry(outcome).or_insert(0) += 1;
    }
    let encoded = control.metrics.encode();
    for (outcome, count) in counts {
        let counted = encoded.lines().filter_map(|line| {
            let labels = format!("headwater_key_checks_total{{outcome=\"{outcome}\",");
            line.strip_prefix(&labels)?
                .rsplit(' ')
                .next()?
                .parse::<u32>()
                .ok()
        });
        assert_eq!(counted.sum::<u32>(), count, "{outcome} in {encoded}");
    }
    // And with everything right.
    let response = user.answer(&challenge(&control, &user.key.id).await);
    let wrong_name = AdobeResponse {
        name: "other".to_owned(),
        ..user.answer(&challenge(&control, &user.key.id).await)
    };
    let id = (user.key.id.as_str(), NEXT_ADDRESS);
    assert!(matches!(
        ask(&control, id, Some(response)).await,
        Decision::SignedGrant(_)
    ));
    let Decision::Denial(denial) = ask(&control, id, Some(wrong_name)).await else {
        panic!("another name was granted");
    };
    assert_eq!(denial.reason(), DenialReason::NameNotAccepted);
}

async fn a_password_survives_a_new_pepper(fixture: Fixture) {
    let old = User::create(&fixture.replica().await, "old").await;
    let file = &fixture.config.pepper_file;
    let pepper = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, format!("{pepper}2:{}\n", "5".repeat(64))).unwrap();
    let control = fixture.replica().await;
    let new = User::create(&control, "new").await;
    for user in [old, new] {
        let response = user.answer(&challenge(&control, &user.key.id).await);
        let decision = ask(&control, (&user.key.id, NEXT_ADDRESS), Some(response)).await;
        assert!(matches!(decision, Decision::SignedGrant(_)), "{decision:?}");
    }
}

async fn what_is_stored_is_encrypted(fixture: Fixture) {
    let control = fixture.replica().await;
    let user = User::create(&control, "main").await;
    let id = StreamKey::parse(&user.secret).ok().unwrap().id();
    let stored = control.shared.database.key(id).await.unwrap().unwrap();
    let sealed = stored.adobe.unwrap();
    let equivalent =
        crate::adobe::password_equivalent(&StreamKey::parse(&user.secret).ok().unwrap());
    let is_in = |needle: &[u8]| sealed.windows(needle.len()).any(|window| window == needle);
    assert!(!is_in(&equivalent[..8]) && !is_in(&user.password().as_bytes()[..8]));
    let get = of_tenant("default", GetStreamKeyRequest { id: id.to_string() });
    assert!(
        control
            .keys
            .get_stream_key(get)
            .await
            .unwrap()
            .into_inner()
            .adobe
    );
    let (plain, _) = control.create("plain").await;
    assert!(!plain.adobe);
}
