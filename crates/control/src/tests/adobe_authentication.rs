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
        CreateStreamKeyRequest, GetStreamKeyRequest, RotateStreamKeyRequest,
        StreamKey as StreamKeyMessage, stream_key_service_server::StreamKeyService as _,
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
    a_right_password_publishes_its_own_stream_alone,
    a_password_survives_a_new_pepper,
    a_rotated_key_has_two_passwords_for_an_overlap,
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

async fn a_rotated_key_has_two_passwords_for_an_overlap(fixture: Fixture) {
    let control = fixture.replica().await;
    let user = User::create(&control, "main").await;
    let id = user.key.id.as_str();
    let is_granted = async |password: &str, name: &str| {
        let challenge = challenge(&control, id).await;
        let response = answer(id, password, &challenge, name);
        let decision = ask(&control, (id, NEXT_ADDRESS), Some(response)).await;
        matches!(decision, Decision::SignedGrant(_))
    };
    let rotate = async |seconds| {
        let request = RotateStreamKeyRequest {
            id: id.to_owned(),
            overlap: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..RotateStreamKeyRequest::default()
        };
        let rotated = control
            .keys
            .rotate_stream_key(of_tenant("default", request));
        rotated.await.unwrap().into_inner().secret
    };
    let new = rotate(3600).await;
    let new_password = new.rsplit_once('_').unwrap().1;
    for password in [user.password(), new_password] {
        assert!(is_granted(password, "main").await);
        assert!(is_granted(password, &user.secret).await && is_granted(password, &new).await);
    }
    rotate(0).await;
    for password in [user.password(), new_password] {
        assert!(!is_granted(password, "main").await);
    }
}

/// What is wrong, as control counts it; who says so, from where, and what.
type Fault = (&'static str, String, &'static str, AdobeResponse);

async fn faults(control: &Replica, user: &User) -> Vec<Fault> {
    let revoked = User::create(control, "revoked").await;
    control.revoke(&revoked.key.id).await;
    let (plain, plain_secret) = control.create("plain").await;
    let plain_password = plain_secret.rsplit_once('_').unwrap().1;
    let stranger = StreamKey::generate().unwrap().id().to_string();
    let id = &user.key.id;

    let mut faults: Vec<Fault> = Vec::new();
    let mut fault = |outcome, user: &str, address, response| {
        faults.push((outcome, user.to_owned(), address, response));
    };
    let challenged = challenge(control, id).await;
    let wrong = answer(id, "wrong", &challenged, "main");
    fault("wrong_password", id, NEXT_ADDRESS, wrong);
    // Each challenge is one guess.
    let late = user.answer(&challenged);
    fault("challenge_replayed", id, NEXT_ADDRESS, late);
    let elsewhere = user.answer(&challenge(control, id).await);
    fault("challenge_forged", id, "192.0.2.2:4001", elsewhere);
    for unknown in [stranger.as_str(), "bob"] {
        let for_unknown = challenge(control, unknown).await;
        assert_eq!(for_unknown.salt.len(), challenged.salt.len());
        let response = answer(unknown, "x", &for_unknown, "main");
        fault("unknown_user", unknown, NEXT_ADDRESS, response);
    }
    let challenged = challenge(control, &plain.id).await;
    let right = answer(&plain.id, plain_password, &challenged, "plain");
    fault("no_password", &plain.id, NEXT_ADDRESS, right);
    let right = revoked.answer(&challenge(control, &revoked.key.id).await);
    fault(
        "password_of_lapsed_key",
        &revoked.key.id,
        NEXT_ADDRESS,
        right,
    );
    faults
}

async fn every_fault_of_a_password_is_one_denial_outside_and_its_own_inside(fixture: Fixture) {
    let control = fixture.replica().await;
    let user = User::create(&control, "main").await;
    let mut counts = std::collections::BTreeMap::new();
    for (outcome, user, address, response) in faults(&control, &user).await {
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
        let labels = format!("headwater_key_checks_total{{outcome=\"{outcome}\",");
        let counted = encoded.lines().filter_map(|line| {
            let sample = line.strip_prefix(&labels)?.rsplit(' ').next()?;
            sample.parse::<u32>().ok()
        });
        assert_eq!(counted.sum::<u32>(), count, "{outcome} in {encoded}");
    }
}

async fn a_right_password_publishes_its_own_stream_alone(fixture: Fixture) {
    let control = fixture.replica().await;
    let user = User::create(&control, "main").await;
    let right = user.answer(&challenge(&control, &user.key.id).await);
    let other = AdobeResponse {
        name: "other".to_owned(),
        ..user.answer(&challenge(&control, &user.key.id).await)
    };
    let id = (user.key.id.as_str(), NEXT_ADDRESS);
    let decision = ask(&control, id, Some(right)).await;
    assert!(matches!(decision, Decision::SignedGrant(_)), "{decision:?}");
    let Decision::Denial(denial) = ask(&control, id, Some(other)).await else {
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
