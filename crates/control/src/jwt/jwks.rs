//! An issuer's public keys (a JSON Web Key Set, RFC 7517), from a file that is followed or a URL that is asked again and
//! again.

use std::{collections::HashMap, fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use runtime::{
    egress::{DEADLINE, Egress, EgressError, HttpsUrl},
    error::chain,
    reload::{FileError, Reloading},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::JwtError;

/// Keys, wherever they come from. A cheap handle; what follows the source ends with the last one.
#[derive(Clone)]
pub(crate) struct Jwks(Source);

#[derive(Clone)]
enum Source {
    File(Reloading<KeySet>),
    Url(Arc<Remote>),
}

/// Public keys by their `kid`.
pub(crate) struct KeySet(HashMap<String, Key>);

/// A key, and the one algorithm that it is for.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// A key set could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwksError {
    #[error("two keys have the same `kid`")]
    Ambiguous,
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("not a JSON Web Key Set")]
    Malformed,
    #[error(
        "no key that can be used: EdDSA (Ed25519), ES256 or RS256 with 2048 bits or more, each with a `kid`"
    )]
    NoKeys,
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

/// A key set from afar, and for how long it is fresh.
pub(crate) struct Fetched {
    pub(crate) keys: KeySet,
    pub(crate) max_age: Option<Duration>,
}

/// Asks for a key set.
type Fetch = Box<dyn Fn() -> Fetching + Send + Sync>;
pub(crate) type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, JwksError>> + Send>>;

/// What the task knows that asks a URL.
struct Remote {
    state: watch::Receiver<State>,
    wanted: Arc<Notify>,
    _fetching: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct State {
    /// The last good set, and when it came.
    held: Option<(Arc<KeySet>, Instant)>,
    /// When the last attempt ended.
    attempted: Option<Instant>,
}

impl Jwks {
    /// Reads the file now, and follows it. Must be called inside a tokio runtime.
    pub(crate) fn watch_file(path: PathBuf) -> Result<Self, FileError> {
        let expected =
            "a JSON Web Key Set with keys for EdDSA, ES256 or RS256, each with a `kid` of its own";
        let keys = Reloading::watch_text("JSON Web Key Set", path, expected, |text| {
            KeySet::parse(text.as_bytes()).ok()
        })?;
        Ok(Self(Source::File(keys)))
    }

    /// Asks the URL from now on. Nothing fails here: the issuer may come later. `headers` gives what each request
    /// carries.
    pub(crate) fn fetch_url(
        egress: Egress,
        url: HttpsUrl,
        headers: impl Fn() -> HeaderMap + Send + Sync + 'static,
    ) -> Self {
        let name = url.host().to_owned();
        let fetch = move || -> Fetching {
            let (egress, url, headers) = (egress.clone(), url.clone(), headers());
            Box::pin(async move {
                let response = egress.get(&url, headers).await?;
                if response.status != StatusCode::OK {
                    return Err(JwksError::Status(response.status));
                }
                Ok(Fetched {
                    keys: KeySet::parse(&response.body)?,
                    max_age: max_age(&response.headers),
                })
            })
        };
        Self::fetch(name, Box::new(fetch))
    }

    pub(super) fn fetch(name: String, fetch: Fetch) -> Self {
        let (sender, state) = watch::channel(State::default());
        let wanted = Arc::new(Notify::new());
        let fetching = tokio::spawn(keep_fetched(name, fetch, sender, wanted.clone()));
        Self(Source::Url(Arc::new(Remote {
            state,
            wanted,
            _fetching: AbortOnDropHandle::new(fetching),
        })))
    }

    /// The issuer's key of this name. One that is not known is asked for, if that was not done a moment ago.
    pub(super) async fn key(&self, kid: &str) -> Result<Key, JwtError> {
        match &self.0 {
            Source::File(keys) => keys.load().key(kid),
            Source::Url(remote) => remote.key(kid).await,
        }
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwks")
    }
}

impl Remote {
    async fn key(&self, kid: &str) -> Result<Key, JwtError> {
        let mut state = self.state.clone();
        let known = {
            let state = state.borrow_and_update();
            let known = state.key(kid);
            let lately = |at: Instant| at.elapsed() < REFRESH_PAUSE;
            if known.is_ok() || state.attempted.is_some_and(lately) {
                return known;
            }
            known
        };
        self.wanted.notify_one();
        match timeout(FETCH_WAIT, state.changed()).await {
            Ok(Ok(())) => state.borrow().key(kid),
            Ok(Err(_)) | Err(_) => known,
        }
    }
}

impl State {
    fn key(&self, kid: &str) -> Result<Key, JwtError> {
        match &self.held {
            Some((keys, since)) if since.elapsed() < KEPT_MAX => keys.key(kid),
            Some(_) | None => Err(JwtError::KeysUnavailable),
        }
    }
}

/// The one task that asks: when the set is no longer fresh, and when a key is wanted that is not in it.
async fn keep_fetched(
    name: String,
    fetch: Fetch,
    state: watch::Sender<State>,
    wanted: Arc<Notify>,
) {
    let mut failing = false;
    loop {
        let fetched = fetch().await;
        let now = Instant::now();
        let fresh = match &fetched {
            Ok(fetched) => fetched
                .max_age
                .unwrap_or(FRESH_DEFAULT)
                .clamp(FRESH_MIN, FRESH_MAX),
            Err(_) => RETRY_PERIOD,
        };
        match fetched {
            Ok(fetched) => {
                if std::mem::take(&mut failing) {
                    info!(name, "the key set can be had again");
                }
                state.send_modify(|state| {
                    state.held = Some((Arc::new(fetched.keys), now));
                    state.attempted = Some(now);
                });
            }
            Err(error) => {
                // Said once per outage.
                if !std::mem::replace(&mut failing, true) {
                    warn!(
                        name,
                        reason = chain(&error),
                        "the key set cannot be had; the last good one stays in use for {} min",
                        KEPT_MAX.as_secs() / 60
                    );
                }
                state.send_modify(|state| state.attempted = Some(now));
            }
        }
        sleep(REFRESH_PAUSE).await;
        timeout(fresh.saturating_sub(REFRESH_PAUSE), wanted.notified())
            .await
            .ok();
    }
}

impl KeySet {
    /// Keys that are of no use here are passed over; a set without any other is an error.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_unparsable| JwksError::Malformed)?;
        if set.keys.len() > KEYS_MAX {
            return Err(JwksError::TooMany);
        }
        let mut keys = HashMap::new();
        for key in set.keys {
            let Some((kid, key)) = Key::parse(key) else {
                continue;
            };
            if keys.insert(kid, key).is_some() {
                return Err(JwksError::Ambiguous);
            }
        }
        if keys.is_empty() {
            return Err(JwksError::NoKeys);
        }
        Ok(Self(keys))
    }

    fn key(&self, kid: &str) -> Result<Key, JwtError> {
        self.0.get(kid).cloned().ok_or(JwtError::UnknownKey)
    }
}

impl Key {
    /// `None`: of no use here.
    fn parse(json: serde_json::Value) -> Option<(String, Self)> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let common = &jwk.common;
        let signs = !common
            .public_key_use
            .as_ref()
            .is_some_and(|other| *other != PublicKeyUse::Signature);
        let verifies = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let algorithm = algorithm(&jwk.algorithm)?;
        let named = common.key_algorithm;
        if !signs || !verifies || named.is_some_and(|named| named != KeyAlgorithm::from(algorithm))
        {
            return None;
        }
        let kid = common
            .key_id
            .clone()
            .filter(|kid| !kid.is_empty() && kid.len() <= KID_BYTES_MAX)?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some((kid, Self { algorithm, key }))
    }
}

/// A key's material decides.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "non-exhaustive, and symmetric keys and unknown ones are refused"
)]
fn algorithm(parameters: &AlgorithmParameters) -> Option<Algorithm> {
    let bytes = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    match parameters {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            let whole = bytes(&key.x)?.len() == 32 && bytes(&key.y)?.len() == 32;
            whole.then_some(Algorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (bytes(&key.x)?.len() == 32).then_some(Algorithm::EdDSA)
        }
        AlgorithmParameters::RSA(key) => {
            let modulus = bytes(&key.n)?;
            let digits = modulus.iter().skip_while(|byte| **byte == 0);
            let bits = digits.clone().count().saturating_mul(8);
            let leading = digits.clone().next().map_or(0, |byte| byte.leading_zeros());
            let bits = bits.saturating_sub(usize::try_from(leading).ok()?);
            RSA_BITS.contains(&bits).then_some(Algorithm::RS256)
        }
        _ => None,
    }
}

/// `Cache-Control: max-age=<seconds>`.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get(header::CACHE_CONTROL)?.to_str().ok()?;
    let seconds = directives.split(',').find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age")
            .then(|| value.trim_matches('"').parse().ok())?
    })?;
    Some(Duration::from_secs(seconds))
}

/// Keys of one set.
const KEYS_MAX: usize = 64;
const KID_BYTES_MAX: usize = 256;
/// Below, factoring is in reach; above, verifying is slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Where the issuer says nothing, a set is asked for anew this often …
const FRESH_DEFAULT: Duration = Duration::from_secs(300);
/// … and where it does, within these bounds.
const FRESH_MIN: Duration = Duration::from_secs(60);
const FRESH_MAX: Duration = Duration::from_secs(3600);
/// After a failure.
const RETRY_PERIOD: Duration = Duration::from_secs(30);
/// Unknown keys make the issuer be asked this often at most.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// For as long the last good set stands in for one that cannot be had: a key that its issuer has withdrawn must not live
/// for as long as somebody keeps the issuer away.
pub(super) const KEPT_MAX: Duration = Duration::from_secs(2 * 3600);
/// Who wants a key that is not there waits for one attempt.
const FETCH_WAIT: Duration = DEADLINE.saturating_add(Duration::from_secs(1));
