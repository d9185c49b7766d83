use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::json;
use tokio::time::Instant;

use super::{
    jwks::{Fetching, KEPT_MAX, REFRESH_PAUSE},
    *,
};

/// An issuer's key: signs tokens, and has a public half.
pub(crate) struct SigningKey {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    pub(crate) fn ed25519(kid: &str) -> Self {
        // jsonwebtoken makes the public half itself, of the first version alone.
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        Self::new(
            kid,
            Algorithm::EdDSA,
            EncodingKey::from_ed_der(pkcs8.as_ref()),
        )
    }

    fn p256(kid: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self::new(
            kid,
            Algorithm::ES256,
            EncodingKey::from_ec_der(pkcs8.as_ref()),
        )
    }

    fn rsa(kid: &str, size: KeySize) -> Self {
        let pair = RsaKeyPair::generate(size).unwrap();
        let body = BASE64.encode(pair.as_der().unwrap().as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        Self::new(
            kid,
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
        )
    }

    fn new(kid: &str, algorithm: Algorithm, key: EncodingKey) -> Self {
        Self {
            kid: kid.to_owned(),
            algorithm,
            key,
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        self.sign_with(&header, claims)
    }

    fn sign_with(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }
}

const ISSUER: &str = "https://issuer.test";
const AUDIENCE: &str = "headwater";

fn now() -> i64 {
    crate::field::now_ms() / 1000
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "exp": now() + 60})
}

/// With one claim changed; `null` takes it out.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let map = claims.as_object_mut().unwrap();
    if value.is_null() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), value);
    }
    claims
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn verifier(keys: &[Value]) -> (JwtVerifier, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set(keys)).unwrap();
    let verifier = JwtVerifier {
        jwks: Jwks::watch_file(file.path().to_owned()).unwrap(),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        token_bytes_max: 4096,
    };
    (verifier, file)
}

#[tokio::test]
async fn each_algorithm_is_verified_with_its_key() {
    let keys = [
        SigningKey::ed25519("ed"),
        SigningKey::p256("ec"),
        SigningKey::rsa("rsa", KeySize::Rsa2048),
    ];
    let (verifier, _file) = verifier(&keys.each_ref().map(SigningKey::jwk));
    for key in &keys {
        let token = key.sign(&claims());
        let verified = verifier.verify(&token).await.unwrap();
        assert_eq!(verified["sub"], "somebody");
        assert_eq!(claimed_issuer(&token, 4096).as_deref(), Some(ISSUER));
        assert_eq!(
            time_ms(&verified, "exp"),
            claims()["exp"].as_i64().map(|exp| exp * 1000)
        );
        // One changed character of the signature; not the last, of which some bits do not count.
        let middle = token.len() - 20;
        let mut forged = token.into_bytes();
        forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_eq!(verifier.verify(&forged).await, Err(JwtError::Signature));
    }
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_never_the_headers() {
    let ed = SigningKey::ed25519("ed");
    let rsa = SigningKey::rsa("rsa", KeySize::Rsa2048);
    let (verifier, _file) = verifier(&[ed.jwk(), rsa.jwk()]);
    // The public key as a shared secret: RS256 turned into HS256.
    let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let public = BASE64URL_NOPAD.decode(modulus.as_bytes()).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("rsa".to_owned());
    let secret = EncodingKey::from_secret(&public);
    let confused = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    assert_eq!(verifier.verify(&confused).await, Err(JwtError::Signature));
    // A good signature by another of the issuer's keys, and by the same key with another hash.
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("rsa".to_owned());
    let swapped = ed.sign_with(&header, &claims());
    assert_eq!(verifier.verify(&swapped).await, Err(JwtError::Signature));
    let mut header = Header::new(Algorithm::RS512);
    header.kid = Some("rsa".to_owned());
    let other_hash = rsa.sign_with(&header, &claims());
    assert_eq!(verifier.verify(&other_hash).await, Err(JwtError::Signature));
    // No signature at all, in both spellings.
    let payload = BASE64URL_NOPAD.encode(claims().to_string().as_bytes());
    for alg in ["none", "None", "HS1024"] {
        let header = json!({"alg": alg, "kid": "rsa"}).to_string();
        let header = BASE64URL_NOPAD.encode(header.as_bytes());
        let unsigned = format!("{header}.{payload}.");
        assert_eq!(verifier.verify(&unsigned).await, Err(JwtError::Malformed));
    }
}

#[tokio::test]
async fn a_key_in_the_header_is_not_looked_at() {
    let (ours, theirs) = (SigningKey::ed25519("key"), SigningKey::ed25519("key"));
    let (verifier, _file) = verifier(&[ours.jwk()]);
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("key".to_owned());
    header.jwk = Some(serde_json::from_value(theirs.jwk()).unwrap());
    header.jku = Some("https://attacker.test/keys".to_owned());
    let token = theirs.sign_with(&header, &claims());
    assert_eq!(verifier.verify(&token).await, Err(JwtError::Signature));
    header.kid = Some("other".to_owned());
    let token = theirs.sign_with(&header, &claims());
    assert_eq!(verifier.verify(&token).await, Err(JwtError::UnknownKey));
    header.kid = None;
    let token = ours.sign_with(&header, &claims());
    assert_eq!(verifier.verify(&token).await, Err(JwtError::Malformed));
    header.kid = Some("key".to_owned());
    header.crit = Some(vec!["b64".to_owned()]);
    let token = ours.sign_with(&header, &claims());
    assert_eq!(verifier.verify(&token).await, Err(JwtError::Malformed));
}

#[tokio::test]
async fn claims_are_checked_with_thirty_seconds_of_leeway() {
    let key = SigningKey::ed25519("key");
    let (verifier, _file) = verifier(&[key.jwk()]);
    let now = now();
    for (name, value, expected) in [
        ("exp", json!(now - 20), Ok(())),
        ("exp", json!(now - 40), Err(JwtError::Expired)),
        ("exp", json!(-1), Err(JwtError::Malformed)),
        ("exp", json!("tomorrow"), Err(JwtError::Malformed)),
        ("exp", Value::Null, Err(JwtError::Malformed)),
        ("nbf", json!(now + 20), Ok(())),
        ("nbf", json!(now + 45), Err(JwtError::NotYetValid)),
        ("nbf", json!([]), Err(JwtError::Malformed)),
        ("aud", json!(["other", AUDIENCE]), Ok(())),
        ("aud", json!("other"), Err(JwtError::Audience)),
        ("aud", json!([]), Err(JwtError::Audience)),
        ("aud", json!({}), Err(JwtError::Malformed)),
        ("aud", Value::Null, Err(JwtError::Malformed)),
        ("iss", json!("https://other.test"), Err(JwtError::Issuer)),
        ("iss", json!([ISSUER]), Err(JwtError::Issuer)),
        ("iss", Value::Null, Err(JwtError::Malformed)),
    ] {
        let token = key.sign(&with(name, value.clone()));
        let verified = verifier.verify(&token).await.map(|_| ());
        assert_eq!(verified, expected, "{name} {value}");
    }
}

#[tokio::test]
async fn what_is_too_long_or_no_token_is_not_looked_at() {
    let key = SigningKey::ed25519("key");
    let (verifier, _file) = verifier(&[key.jwk()]);
    let huge = key.sign(&with("sub", json!("a".repeat(4096))));
    assert_eq!(verifier.verify(&huge).await, Err(JwtError::TooLong));
    assert_eq!(claimed_issuer(&huge, 4096), None);
    let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let nested = BASE64URL_NOPAD.encode(nested.as_bytes());
    for text in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "é.é.é",
        &format!("{nested}.{nested}."),
    ] {
        assert_eq!(
            verifier.verify(text).await,
            Err(JwtError::Malformed),
            "{text}"
        );
        assert_eq!(claimed_issuer(text, 4096), None);
    }
}

#[test]
fn only_keys_that_are_of_use_are_kept() {
    let ed = SigningKey::ed25519("ed").jwk();
    let but = |name: &str, value: Value| {
        let mut key = ed.clone();
        key[name] = value;
        key
    };
    for useless in [
        json!({"kty": "oct", "kid": "a", "alg": "HS256", "k": "c2VjcmV0"}),
        json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0"}),
        but("use", json!("enc")),
        but("key_ops", json!(["sign"])),
        but("alg", json!("RS256")),
        but("alg", json!("HS256")),
        but("kid", Value::Null),
        but("kid", json!("")),
        but("kid", json!("a".repeat(300))),
        but("x", json!("AAAA")),
        but("crv", json!("P-384")),
        json!("nonsense"),
    ] {
        let alone = KeySet::parse(set(std::slice::from_ref(&useless)).as_bytes());
        assert!(matches!(alone, Err(JwksError::NoKeys)), "{useless}");
        let other = SigningKey::ed25519("other").jwk();
        assert!(KeySet::parse(set(&[useless, other]).as_bytes()).is_ok());
    }
    let parse = |keys: &[Value]| KeySet::parse(set(keys).as_bytes()).err();
    assert!(matches!(
        parse(&[ed.clone(), ed.clone()]),
        Some(JwksError::Ambiguous)
    ));
    assert!(matches!(parse(&vec![ed; 65]), Some(JwksError::TooMany)));
    assert!(matches!(
        KeySet::parse(b"{}").err(),
        Some(JwksError::Malformed)
    ));
}

#[test]
fn a_short_rsa_key_is_refused() {
    let mut key = SigningKey::rsa("rsa", KeySize::Rsa2048).jwk();
    assert!(KeySet::parse(set(&[key.clone()]).as_bytes()).is_ok());
    let modulus = BASE64URL_NOPAD
        .decode(key["n"].as_str().unwrap().as_bytes())
        .unwrap();
    // 2047 bits, also behind a leading zero.
    for short in [&modulus[1..], &[&[0], &modulus[1..]].concat()] {
        key["n"] = json!(BASE64URL_NOPAD.encode(short));
        let refused = KeySet::parse(set(&[key.clone()]).as_bytes());
        assert!(matches!(refused, Err(JwksError::NoKeys)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_is_followed() {
    let (old, new) = (SigningKey::ed25519("old"), SigningKey::ed25519("new"));
    let (verifier, file) = verifier(&[old.jwk()]);
    std::fs::write(file.path(), set(&[old.jwk(), new.jwk()])).unwrap();
    tokio::time::sleep(runtime::reload::RELOAD_PERIOD * 2).await;
    assert!(verifier.verify(&new.sign(&claims())).await.is_ok());
    std::fs::write(file.path(), set(&[new.jwk()])).unwrap();
    tokio::time::sleep(runtime::reload::RELOAD_PERIOD * 2).await;
    let withdrawn = verifier.verify(&old.sign(&claims())).await;
    assert_eq!(withdrawn, Err(JwtError::UnknownKey));
}

/// An issuer whose answer the test changes; `None`: none.
struct Issuer {
    answer: Arc<parking_lot::Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    jwks: Jwks,
}

impl Issuer {
    fn new(answer: Option<String>) -> Self {
        let answer = Arc::new(parking_lot::Mutex::new(answer));
        let asked = Arc::new(AtomicUsize::new(0));
        let (answers, count) = (answer.clone(), asked.clone());
        let fetch = move || -> Fetching {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = answers.lock().clone();
            Box::pin(async move {
                let answer = answer.ok_or(JwksError::Malformed)?;
                Ok(Fetched {
                    keys: KeySet::parse(answer.as_bytes())?,
                    max_age: Some(Duration::from_secs(1800)),
                })
            })
        };
        Self {
            answer,
            asked,
            jwks: Jwks::fetch("issuer.test".to_owned(), Box::new(fetch)),
        }
    }

    fn answer(&self, keys: Option<&[Value]>) {
        *self.answer.lock() = keys.map(set);
    }

    async fn key(&self, kid: &str) -> Result<(), JwtError> {
        self.jwks.key(kid).await.map(|_| ())
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_makes_the_issuer_be_asked_and_a_flood_of_them_once() {
    let (old, new) = (
        SigningKey::ed25519("old").jwk(),
        SigningKey::ed25519("new").jwk(),
    );
    let issuer = Issuer::new(Some(set(std::slice::from_ref(&old))));
    assert_eq!(issuer.key("old").await, Ok(()));
    assert_eq!(issuer.asked(), 1);
    issuer.answer(Some(&[old, new]));
    assert_eq!(
        issuer.key("new").await,
        Err(JwtError::UnknownKey),
        "asked a moment ago"
    );
    tokio::time::sleep(REFRESH_PAUSE).await;
    assert_eq!(issuer.key("new").await, Ok(()));
    assert_eq!(issuer.asked(), 2);
    for kid in 0..1000 {
        assert_eq!(
            issuer.key(&kid.to_string()).await,
            Err(JwtError::UnknownKey)
        );
    }
    assert_eq!(issuer.asked(), 2);
    // Without anybody asking: when the set is no longer fresh.
    tokio::time::sleep(Duration::from_secs(1801)).await;
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_set_stands_in_for_a_bounded_time() {
    let key = SigningKey::ed25519("key").jwk();
    let issuer = Issuer::new(None);
    assert_eq!(issuer.key("key").await, Err(JwtError::KeysUnavailable));
    issuer.answer(Some(std::slice::from_ref(&key)));
    tokio::time::sleep(REFRESH_PAUSE).await;
    assert_eq!(issuer.key("key").await, Ok(()), "it came later");
    issuer.answer(None);
    tokio::time::sleep(KEPT_MAX - Duration::from_secs(60)).await;
    let started = Instant::now();
    assert_eq!(issuer.key("key").await, Ok(()));
    assert_eq!(
        started.elapsed(),
        Duration::ZERO,
        "a known key waits for nobody"
    );
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(issuer.key("key").await, Err(JwtError::KeysUnavailable));
    issuer.answer(Some(&[key]));
    tokio::time::sleep(REFRESH_PAUSE * 4).await;
    assert_eq!(issuer.key("key").await, Ok(()));
}
