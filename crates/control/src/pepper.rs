//! The peppers: what the database's HMACs are keyed with, and the database alone does not give away. More keys are derived
//! from each: one encrypts what Adobe authentication needs to have stored, one is for its opaques, one encrypts the answers
//! that requests get again, one encrypts the secrets of webhooks, one what ids of credentials are made with.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac, rand,
};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use runtime::{
    error::chain,
    reload::{Content, FileError, Files, RELOAD_PERIOD, Reloading},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::{
    adobe::{OpaqueMac, password_equivalent},
    database::{Database, DatabaseError, KeyRecord},
    field::now_ms,
    stream_key::{RandomError, StreamKey, StreamKeyId},
};

/// A file of `<version>:<64 hex digits>` lines; the highest version makes new MACs, the others still check old ones.
pub(crate) struct Peppers {
    keys: BTreeMap<u32, Arc<Pepper>>,
    current: (u32, Arc<Pepper>),
}

/// One version's keys.
struct Pepper {
    stream_keys: hmac::Key,
    opaques: hmac::Key,
    passwords: RandomizedNonceKey,
    webhooks: RandomizedNonceKey,
    answers: RandomizedNonceKey,
    /// The credential key of a database that has none yet.
    first_credential_key: CredentialKey,
    credential_keys: RandomizedNonceKey,
}

/// What ids of credentials that are no rows of ours are made with ([`crate::credential_ids`]).
pub(crate) type CredentialKey = Zeroizing<Vec<u8>>;

/// An HMAC-SHA256 of a stream key.
pub(crate) type Mac = [u8; 32];

impl Peppers {
    /// What a file holds, and to see what becomes of it.
    pub(crate) fn read(path: &Path) -> Result<(Files, Self), FileError> {
        let (files, contents) = Files::read(vec![path.to_owned()])?;
        Ok((files, Self::load(&contents)?))
    }

    fn load(contents: &[Content]) -> Result<Self, FileError> {
        let [content] = contents else {
            unreachable!("one file was named");
        };
        let expected = "a line `<version>:<64 hex digits>` for each pepper";
        content.parse(expected, Self::parse)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut keys = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (version, pepper) = line.split_once(':')?;
            let pepper = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(pepper.as_bytes()).ok()?);
            if pepper.len() != PEPPER_BYTES {
                return None;
            }
            let pepper = Arc::new(Pepper::derive(&pepper)?);
            if keys.insert(version.parse().ok()?, pepper).is_some() {
                return None;
            }
        }
        let current = keys.last_key_value()?;
        let current = (*current.0, current.1.clone());
        Some(Self { keys, current })
    }

    /// The version that new MACs are made with.
    pub(crate) fn current(&self) -> u32 {
        self.current.0
    }

    /// Whether MACs of this version can be checked.
    pub(crate) fn has(&self, version: u32) -> bool {
        self.keys.contains_key(&version)
    }

    /// With the current version.
    pub(crate) fn mac(&self, stream_key: &StreamKey) -> Mac {
        self.sign(&*stream_key.mac_input())
    }

    fn sign(&self, input: &[u8]) -> Mac {
        let tag = hmac::sign(&self.current.1.stream_keys, input);
        let mut mac = [0; 32];
        for (byte, tag) in mac.iter_mut().zip(tag.as_ref()) {
            *byte = *tag;
        }
        mac
    }

    /// Whether this is the secret of the key, or the one before while that is good. Every answer, and a key that is not
    /// there, costs the same.
    pub(crate) fn is_secret_of(
        &self,
        record: Option<&KeyRecord>,
        stream_key: &StreamKey,
        now_ms: i64,
    ) -> bool {
        let nobodys = (self.current(), [0; 32]);
        let stored = record.map(|record| (record.pepper_version, record.mac));
        let previous = record.and_then(|record| record.previous_at(now_ms));
        let previous = previous.map(|previous| (previous.pepper_version, previous.mac));
        let [is_current, is_previous] = [stored, previous].map(|stored| {
            let (version, mac) = stored.unwrap_or(nobodys);
            self.verify(version, stream_key, &mac) & stored.is_some()
        });
        is_current | is_previous
    }

    /// In constant time; false where the version is not known. Of the secret, or of what is stored for the key's password.
    pub(crate) fn verify(&self, version: u32, stream_key: &StreamKey, mac: &Mac) -> bool {
        let pepper = self.keys.get(&version);
        let equivalent = password_equivalent(stream_key);
        pepper.is_some_and(|pepper| {
            let verify = |input: &[u8]| hmac::verify(&pepper.stream_keys, input, mac).is_ok();
            let is_of_secret = verify(&*stream_key.mac_input());
            is_of_secret | verify(&password_input(stream_key.id(), &equivalent[..]))
        })
    }

    /// With the current version, of what is stored for a key's password. It stands for the HMAC of the secret, which an
    /// encoder that logs in never shows; whoever has the secret can make it too.
    pub(crate) fn password_mac(&self, id: StreamKeyId, equivalent: &[u8]) -> Mac {
        self.sign(&password_input(id, equivalent))
    }

    /// Whether the file has older versions than the newest.
    pub(crate) fn has_older(&self) -> bool {
        self.keys.len() > 1
    }

    /// Encrypts with the current version what is stored for a key's password; only for that key it can be opened.
    pub(crate) fn seal(&self, id: StreamKeyId, equivalent: &[u8]) -> Result<Vec<u8>, RandomError> {
        seal(&self.current.1.passwords, &id.to_string(), equivalent)
    }

    /// The opposite; `None` where the version is not known, or it was sealed otherwise.
    pub(crate) fn open(
        &self,
        version: u32,
        id: StreamKeyId,
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        open(&self.keys.get(&version)?.passwords, &id.to_string(), sealed)
    }

    /// Encrypts a stream key with the current version, for a request that is answered again.
    pub(crate) fn seal_answer(&self, stream_key: &StreamKey) -> Result<Vec<u8>, RandomError> {
        let answers = &self.current.1.answers;
        let id = stream_key.id().to_string();
        seal(answers, &id, stream_key.reveal().as_bytes())
    }

    /// The opposite; `None` where the version is not known, or it was sealed otherwise.
    pub(crate) fn open_answer(
        &self,
        version: u32,
        id: StreamKeyId,
        sealed: &[u8],
    ) -> Option<StreamKey> {
        let opened = open(&self.keys.get(&version)?.answers, &id.to_string(), sealed)?;
        StreamKey::parse(str::from_utf8(&opened).ok()?).ok()
    }

    /// Encrypts with the current version what signs the deliveries of a webhook.
    pub(crate) fn seal_webhook(&self, id: &str, secret: &str) -> Result<Vec<u8>, RandomError> {
        seal(&self.current.1.webhooks, id, secret.as_bytes())
    }

    /// The opposite; `None` where the version is not known, or it was sealed otherwise.
    pub(crate) fn open_webhook(
        &self,
        version: u32,
        id: &str,
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        open(&self.keys.get(&version)?.webhooks, id, sealed)
    }

    /// Of an opaque's content; `None` where the version is not known.
    pub(crate) fn opaque_mac(&self, version: u32, content: &[u8]) -> Option<OpaqueMac> {
        let tag = hmac::sign(&self.keys.get(&version)?.opaques, content);
        tag.as_ref().first_chunk().copied()
    }

    /// What ids were made with before a key for them was stored.
    pub(crate) fn first_credential_key(&self) -> &CredentialKey {
        &self.current.1.first_credential_key
    }

    /// Encrypts with the current version what ids of credentials are made with.
    pub(crate) fn seal_credential_key(&self, key: &CredentialKey) -> Result<Vec<u8>, RandomError> {
        seal(&self.current.1.credential_keys, CREDENTIAL_KEY, key)
    }

    /// The opposite; `None` where the version is not known, or it was sealed otherwise.
    pub(crate) fn open_credential_key(&self, version: u32, sealed: &[u8]) -> Option<CredentialKey> {
        let credential_keys = &self.keys.get(&version)?.credential_keys;
        open(credential_keys, CREDENTIAL_KEY, sealed)
    }
}

impl Pepper {
    /// The pepper itself is the key for stream keys, as it always was.
    fn derive(pepper: &[u8]) -> Option<Self> {
        let stream_keys = hmac::Key::new(hmac::HMAC_SHA256, pepper);
        let derived = |label: &[u8]| hmac::sign(&stream_keys, label);
        let opaques = derived(b"headwater-adobe-opaque-v1");
        let passwords = derived(b"headwater-adobe-password-v1");
        let webhooks = derived(b"headwater-webhook-v1");
        let first_credential_key = derived(b"headwater-credential-id-v1");
        let credential_keys = derived(b"headwater-credential-key-v1");
        let answers = derived(b"headwater-answer-v1");
        Some(Self {
            opaques: hmac::Key::new(hmac::HMAC_SHA256, opaques.as_ref()),
            first_credential_key: Zeroizing::new(first_credential_key.as_ref().to_vec()),
            credential_keys: RandomizedNonceKey::new(&AES_256_GCM, credential_keys.as_ref())
                .ok()?,
            passwords: RandomizedNonceKey::new(&AES_256_GCM, passwords.as_ref()).ok()?,
            answers: RandomizedNonceKey::new(&AES_256_GCM, answers.as_ref()).ok()?,
            webhooks: RandomizedNonceKey::new(&AES_256_GCM, webhooks.as_ref()).ok()?,
            stream_keys,
        })
    }
}

/// What is authenticated in the place of the secret.
fn password_input(id: StreamKeyId, equivalent: &[u8]) -> Zeroizing<Vec<u8>> {
    // No secret is as long.
    let label = format!("headwater-password-mac-v1\0{id}\0");
    Zeroizing::new([label.as_bytes(), equivalent].concat())
}

/// Nonce, ciphertext, tag; for that id alone it can be opened.
fn seal(key: &RandomizedNonceKey, id: &str, secret: &[u8]) -> Result<Vec<u8>, RandomError> {
    let mut sealed = secret.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(id), &mut sealed)
        .map_err(|_unavailable| RandomError)?;
    sealed.splice(0..0, nonce.as_ref().iter().copied());
    Ok(sealed)
}

fn open(key: &RandomizedNonceKey, id: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut opened = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let bytes = key
        .open_in_place(nonce, Aad::from(id), &mut opened)
        .ok()?
        .len();
    opened.truncate(bytes);
    Some(opened)
}

/// A pepper file that is looked at again and again.
pub(crate) struct PepperFile {
    files: Files,
    peppers: Reloading<Peppers>,
    database: Database,
}

/// A pepper file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PepperError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the pepper file lacks version {version}, which stream keys in the database need")]
    Missing { version: u32 },
}

impl PepperFile {
    /// Reads it for the first time.
    pub(crate) async fn open(path: &Path, database: Database) -> Result<Self, PepperError> {
        let (files, peppers) = Peppers::read(path)?;
        check(&peppers, &database).await?;
        Ok(Self {
            files,
            peppers: Reloading::fixed(peppers),
            database,
        })
    }

    /// What is in effect.
    pub(crate) fn peppers(&self) -> Reloading<Peppers> {
        self.peppers.clone()
    }

    /// Takes new versions into effect, until it is dropped. One that stream keys could not be checked with leaves the
    /// last good one in place.
    pub(crate) async fn follow(mut self) {
        loop {
            match self.advance().await {
                Ok(version) => info!(version, "pepper file reloaded"),
                Err(error) => warn!(
                    reason = chain(&error),
                    "the pepper file cannot be used; the last good one stays in effect"
                ),
            }
        }
    }

    /// Waits until the file changes, and takes it into effect where that is possible: the version that new MACs are
    /// made with from now on.
    pub(crate) async fn advance(&mut self) -> Result<u32, PepperError> {
        let contents = self.files.changed(RELOAD_PERIOD).await?;
        self.reload(&contents).await
    }

    /// The version that new MACs are made with from now on.
    async fn reload(&self, contents: &[Content]) -> Result<u32, PepperError> {
        let peppers = Peppers::load(contents)?;
        while let Err(error) = check(&peppers, &self.database).await {
            let PepperError::Database(error) = error else {
                return Err(error);
            };
            warn!(
                reason = chain(&error),
                "a new pepper file waits for the database"
            );
            tokio::time::sleep(RELOAD_PERIOD).await;
        }
        let version = peppers.current();
        self.peppers.store(peppers);
        Ok(version)
    }
}

/// Whether every stream key can be checked.
async fn check(peppers: &Peppers, database: &Database) -> Result<(), PepperError> {
    let needed = database.pepper_versions(now_ms()).await?;
    match needed.into_iter().find(|version| !peppers.has(*version)) {
        Some(version) => Err(PepperError::Missing { version }),
        None => Ok(()),
    }
}

/// The content of a new pepper file: one pepper, version 1.
pub fn generate_pepper_file() -> Option<Zeroizing<String>> {
    let mut pepper = Zeroizing::new([0; PEPPER_BYTES]);
    rand::fill(&mut *pepper).ok()?;
    let hex = Zeroizing::new(HEXLOWER.encode(&*pepper));
    Some(Zeroizing::new(format!("1:{}\n", *hex)))
}

const PEPPER_BYTES: usize = 32;
/// There is one.
const CREDENTIAL_KEY: &str = "credential-key";

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digit: &str) -> String {
        digit.repeat(64)
    }

    #[test]
    fn a_generated_file_parses() {
        assert_eq!(
            Peppers::parse(&generate_pepper_file().unwrap())
                .unwrap()
                .current(),
            1
        );
    }

    #[test]
    fn the_highest_version_is_current_and_the_others_still_verify() {
        let stream_key = StreamKey::generate().unwrap();
        let old = Peppers::parse(&format!("9:{}", hex("a"))).unwrap();
        let both = Peppers::parse(&format!("10:{}\n\n9:{}\n", hex("b"), hex("a"))).unwrap();
        assert_eq!(both.current(), 10);
        assert!(both.verify(9, &stream_key, &old.mac(&stream_key)));
        assert!(both.verify(10, &stream_key, &both.mac(&stream_key)));
        assert!(!both.verify(10, &stream_key, &old.mac(&stream_key)));
        assert!(!both.verify(11, &stream_key, &both.mac(&stream_key)));
        assert!(!both.verify(10, &StreamKey::generate().unwrap(), &both.mac(&stream_key)));
    }

    #[test]
    fn what_is_sealed_opens_for_its_key_and_version_alone() {
        let peppers = Peppers::parse(&format!("1:{}\n2:{}", hex("a"), hex("b"))).unwrap();
        let [key, other] = [(); 2].map(|()| StreamKey::generate().unwrap());
        let equivalent = password_equivalent(&key);
        let sealed = peppers.seal(key.id(), &equivalent[..]).unwrap();
        assert_eq!(sealed.len(), NONCE_LEN + 24 + 16);
        let open = |version, id, sealed: &[u8]| peppers.open(version, id, sealed);
        let opened = open(2, key.id(), &sealed).unwrap();
        assert_eq!(opened[..], equivalent[..]);
        assert!(open(1, key.id(), &sealed).is_none() && open(3, key.id(), &sealed).is_none());
        assert!(open(2, other.id(), &sealed).is_none());
        let mut changed = sealed.clone();
        changed[20] ^= 1;
        assert!(open(2, key.id(), &changed).is_none() && open(2, key.id(), &[1; 5]).is_none());
        assert_ne!(sealed, peppers.seal(key.id(), &equivalent[..]).unwrap());
        let mac = peppers.password_mac(key.id(), &equivalent[..]);
        assert!(peppers.verify(2, &key, &mac) && !peppers.verify(1, &key, &mac));
        assert!(!peppers.verify(2, &other.with_id(key.id()), &mac));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "\n",
            "1",
            "1:ab",
            &format!("x:{}", hex("a")),
            &format!("1:{}", hex("g")),
            &format!("1:{0}\n1:{0}", hex("a")),
        ] {
            assert!(Peppers::parse(text).is_none(), "{text:?}");
        }
    }
}
