//! What a publisher enters in the encoder: `hw_<id>_<secret><checksum>`, lower-case Crockford base32; and what a client of
//! the API sends, `hwt_…` of the same form.
//!
//! The id is public; the secret is known to its owner alone (the database holds its HMAC, see [`crate::pepper`], or its
//! hash, see [`crate::access`]). The checksum catches typos before the database is asked; it defends nothing.

use std::{borrow::Cow, marker::PhantomData};

use aws_lc_rs::{digest, rand};
use zeroize::Zeroizing;

/// Publishes a stream.
pub(crate) type StreamKey = Credential<Publishing>;
pub(crate) type StreamKeyId = CredentialId;
/// Calls the API.
pub(crate) type ApiToken = Credential<ApiAccess>;
pub(crate) type ApiTokenId = CredentialId;

/// A secret: neither `Debug` nor `Display`, wiped when dropped.
pub(crate) struct Credential<K> {
    id: CredentialId,
    secret: Zeroizing<[u8; SECRET_CHARS]>,
    kind: PhantomData<K>,
}

/// The public part: 16 characters, 80 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CredentialId([u8; ID_CHARS]);

/// What one kind of credential has for itself: the secret of one is none of another.
pub(crate) trait Kind {
    const PREFIX: &'static [u8];
    /// Goes into the checksum.
    const LABEL: &'static [u8];
}

pub(crate) enum Publishing {}
pub(crate) enum ApiAccess {}

impl Kind for Publishing {
    const PREFIX: &'static [u8] = PREFIX;
    const LABEL: &'static [u8] = b"headwater-stream-key";
}

impl Kind for ApiAccess {
    const PREFIX: &'static [u8] = b"hwt_";
    const LABEL: &'static [u8] = b"headwater-api-token";
}

/// A SHA-256 of an API token.
pub(crate) type Hash = [u8; digest::SHA256_OUTPUT_LEN];

/// Not a stream key.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum StreamKeyError {
    /// Not of the form.
    #[error("not a stream key")]
    Malformed,
    /// Of the form, with the checksum of something else.
    #[error("the stream key is mistyped")]
    Mistyped,
}

/// The system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes")]
pub(crate) struct RandomError;

impl From<RandomError> for tonic::Status {
    fn from(error: RandomError) -> Self {
        let description = error.to_string();
        proto::error::status(tonic::Code::Unavailable, "RANDOM_UNAVAILABLE", description)
    }
}

impl<K: Kind> Credential<K> {
    /// A new key.
    pub(crate) fn generate() -> Result<Self, RandomError> {
        Ok(Self {
            id: CredentialId(*random_characters()?),
            secret: random_characters()?,
            kind: PhantomData,
        })
    }

    /// Reads what an encoder sent. Upper case and the look-alikes of Crockford's base32 (`o` for 0, `i` and `l` for 1)
    /// are taken as meant, and so is white space around a pasted key.
    pub(crate) fn parse(text: &str) -> Result<Self, StreamKeyError> {
        let characters = text.trim_ascii().as_bytes();
        let (stream_key, checksum) = Self::split(characters).ok_or(StreamKeyError::Malformed)?;
        if checksum == stream_key.checksum() {
            Ok(stream_key)
        } else {
            Err(StreamKeyError::Mistyped)
        }
    }

    fn split(characters: &[u8]) -> Option<(Self, [u8; CHECKSUM_CHARS])> {
        let (prefix, rest) = characters.split_at_checked(K::PREFIX.len())?;
        let (id, rest) = rest.split_first_chunk()?;
        let (separator, rest) = rest.split_first()?;
        let (secret, checksum) = rest.split_first_chunk()?;
        if !K::PREFIX.eq_ignore_ascii_case(prefix) || *separator != SEPARATOR {
            return None;
        }
        let stream_key = Self {
            id: CredentialId(*normalise(id)?),
            secret: normalise(secret)?,
            kind: PhantomData,
        };
        Some((stream_key, *normalise(checksum.try_into().ok()?)?))
    }

    /// The same secret under another id.
    pub(crate) fn with_id(self, id: StreamKeyId) -> Self {
        Self { id, ..self }
    }

    /// The public part.
    pub(crate) fn id(&self) -> StreamKeyId {
        self.id
    }

    /// The whole key, for the one answer that shows it.
    pub(crate) fn reveal(&self) -> Zeroizing<String> {
        // One allocation, so that none is left behind unwiped.
        let mut text = Zeroizing::new(String::with_capacity(K::PREFIX.len() + REST_CHARS));
        let parts: [&[u8]; 5] = [
            K::PREFIX,
            &self.id.0,
            &[SEPARATOR],
            &*self.secret,
            &self.checksum(),
        ];
        text.extend(parts.iter().copied().flatten().copied().map(char::from));
        text
    }

    /// For encoders that log in with user and password: the id is the user, and this is the password.
    pub(crate) fn password(&self) -> Zeroizing<[u8; SECRET_CHARS + CHECKSUM_CHARS]> {
        let mut password = Zeroizing::new([0; SECRET_CHARS + CHECKSUM_CHARS]);
        let characters = self.secret.iter().copied().chain(self.checksum());
        for (byte, character) in password.iter_mut().zip(characters) {
            *byte = character;
        }
        password
    }

    /// What is authenticated: the secret, bound to its id.
    pub(crate) fn mac_input(&self) -> Zeroizing<[u8; ID_CHARS + SECRET_CHARS]> {
        let mut input = Zeroizing::new([0; ID_CHARS + SECRET_CHARS]);
        for (byte, character) in input.iter_mut().zip(self.id.0.iter().chain(&*self.secret)) {
            *byte = *character;
        }
        input
    }

    /// The first 20 bits of a SHA-256 over id and secret.
    fn checksum(&self) -> [u8; CHECKSUM_CHARS] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(K::LABEL);
        context.update(&*self.mac_input());
        let hash = context.finish();
        let mut bits = hash
            .as_ref()
            .iter()
            .take(4)
            .fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte));
        [(); CHECKSUM_CHARS].map(|()| {
            bits = bits.rotate_left(5);
            character(bits)
        })
    }
}

impl ApiToken {
    /// What stands for it in the database.
    pub(crate) fn hash(&self) -> Hash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"headwater-api-token-hash");
        context.update(&*self.mac_input());
        let mut hash = Hash::default();
        for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        hash
    }
}

impl CredentialId {
    /// Reads an id; upper case and look-alikes are taken as meant.
    pub(crate) fn parse(text: &str) -> Result<Self, StreamKeyError> {
        let characters = text.as_bytes().try_into().ok().and_then(normalise);
        Ok(Self(*characters.ok_or(StreamKeyError::Malformed)?))
    }
}

impl std::fmt::Display for CredentialId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| std::fmt::Write::write_char(f, char::from(*byte)))
    }
}

/// Text from outside, fit for a log: whoever pastes a stream key into a wrong field (the server URL is a favourite)
/// must not find it there.
pub(crate) fn redacted(text: &str) -> Cow<'_, str> {
    let mut rest = text;
    let mut safe = String::new();
    while let Some((before, after)) = next_suspect(rest) {
        safe.push_str(before);
        safe.push_str("hw_<redacted>");
        rest = after;
    }
    if safe.is_empty() {
        Cow::Borrowed(text)
    } else {
        safe.push_str(rest);
        Cow::Owned(safe)
    }
}

/// What is before and behind the first thing in a text that could hold a secret: `hw_`, or what a signed key begins
/// with, and more word characters than an id has. Mistyped and cut keys count.
fn next_suspect(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    for (start, window) in bytes.windows(PREFIX.len()).enumerate() {
        let is_signed = window == SIGNED_PREFIX;
        let is_prefix = |prefix: &[u8; PREFIX.len()]| prefix.eq_ignore_ascii_case(window);
        if !is_signed && !is_prefix(PREFIX) && !is_prefix(TOKEN_PREFIX) {
            continue;
        }
        let (before, suspect) = text.split_at_checked(start)?;
        let (_prefix, word) = suspect.split_at_checked(PREFIX.len())?;
        let inner = |byte: u8| {
            byte.is_ascii_alphanumeric() || byte == SEPARATOR || is_signed && b"-.".contains(&byte)
        };
        let word_bytes = word.bytes().take_while(|byte| inner(*byte)).count();
        if word_bytes > ID_CHARS {
            let (_word, after) = word.split_at_checked(word_bytes)?;
            return Some((before, after));
        }
    }
    None
}

fn random_characters<const N: usize>() -> Result<Zeroizing<[u8; N]>, RandomError> {
    let mut characters = Zeroizing::new([0; N]);
    rand::fill(&mut *characters).map_err(|_unavailable| RandomError)?;
    for byte in characters.iter_mut() {
        *byte = character(u32::from(*byte));
    }
    Ok(characters)
}

fn normalise<const N: usize>(characters: &[u8; N]) -> Option<Zeroizing<[u8; N]>> {
    let mut normal = Zeroizing::new(*characters);
    for byte in normal.iter_mut() {
        *byte = match byte.to_ascii_lowercase() {
            b'o' => b'0',
            b'i' | b'l' => b'1',
            other if ALPHABET.contains(&other) => other,
            _ => return None,
        };
    }
    Some(normal)
}

/// The character of the lowest five bits.
fn character(bits: u32) -> u8 {
    // 32 characters and five bits: there is always one.
    let position = usize::try_from(bits & 31).unwrap_or_default();
    ALPHABET.get(position).copied().unwrap_or_default()
}

/// Crockford's base32: no `i`, `l`, `o`, `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &[u8; 3] = b"hw_";
/// As far as it is as long.
const TOKEN_PREFIX: &[u8; PREFIX.len()] = b"hwt";
/// A JSON object in base64url, as the header of a JWT is: `{"`.
const SIGNED_PREFIX: &[u8; PREFIX.len()] = b"eyJ";
const SEPARATOR: u8 = b'_';
/// 80 bits.
const ID_CHARS: usize = 16;
/// 130 bits.
const SECRET_CHARS: usize = 26;
const CHECKSUM_CHARS: usize = 4;
const REST_CHARS: usize = ID_CHARS + 1 + SECRET_CHARS + CHECKSUM_CHARS;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY_CHARS: usize = PREFIX.len() + REST_CHARS;

    fn fails(text: &str) -> StreamKeyError {
        StreamKey::parse(text).err().unwrap()
    }

    #[test]
    fn a_generated_key_parses_to_itself() {
        let stream_key = StreamKey::generate().unwrap();
        let text = stream_key.reveal();
        assert_eq!(text.len(), KEY_CHARS);
        assert!(text.starts_with(&format!("hw_{}_", stream_key.id())));
        let parsed = StreamKey::parse(&text).ok().unwrap();
        assert_eq!(*parsed.mac_input(), *stream_key.mac_input());
        let user_and_password = format!("hw_{}_", stream_key.id()).into_bytes();
        let whole = [&user_and_password, &stream_key.password()[..]].concat();
        assert_eq!(whole, text.as_bytes());
    }

    #[test]
    fn a_token_is_no_stream_key_and_its_hash_is_its_own() {
        let token = ApiToken::generate().unwrap();
        let text = token.reveal();
        assert!(text.starts_with(&format!("hwt_{}_", token.id())));
        assert_eq!(ApiToken::parse(&text).ok().unwrap().hash(), token.hash());
        assert_eq!(fails(&text), StreamKeyError::Malformed);
        assert_eq!(
            fails(&text.replace("hwt_", "hw_")),
            StreamKeyError::Mistyped
        );
        assert_eq!(redacted(&format!("a {} b", *text)), "a hw_<redacted> b");
        let (hash, id) = (token.hash(), token.id());
        assert_ne!(ApiToken::generate().unwrap().with_id(id).hash(), hash);
    }

    #[test]
    fn generated_keys_differ() {
        let [one, other] = [(); 2].map(|()| StreamKey::generate().unwrap());
        assert_ne!(one.id(), other.id());
        assert_ne!(*one.secret, *other.secret);
    }

    #[test]
    fn upper_case_look_alikes_and_white_space_are_taken_as_meant() {
        let stream_key = StreamKey::generate().unwrap();
        let typed = stream_key
            .reveal()
            .to_uppercase()
            .replace('0', "O")
            .replace('1', "l");
        let parsed = StreamKey::parse(&format!(" {typed}\r\n")).ok().unwrap();
        assert_eq!(*parsed.reveal(), *stream_key.reveal());
    }

    #[test]
    fn every_single_wrong_character_is_a_typo() {
        let text = StreamKey::generate().unwrap().reveal();
        for position in
            (PREFIX.len()..KEY_CHARS).filter(|position| *position != PREFIX.len() + ID_CHARS)
        {
            let mut typed = text.as_bytes().to_vec();
            typed[position] = if typed[position] == b'7' { b'8' } else { b'7' };
            let typed = String::from_utf8(typed).unwrap();
            assert_eq!(
                fails(&typed),
                StreamKeyError::Mistyped,
                "position {position}"
            );
        }
    }

    #[test]
    fn other_forms_are_malformed() {
        let text = StreamKey::generate().unwrap().reveal();
        let secretless = text.split_at(20).0;
        for other in [
            "",
            "hw_",
            secretless,
            &text[1..],
            &text[..49],
            &format!("{}u", &text[..49]),
            &format!("{}0", *text),
        ] {
            assert_eq!(fails(other), StreamKeyError::Malformed);
        }
    }

    #[test]
    fn an_id_parses_alone() {
        let id = StreamKey::generate().unwrap().id();
        assert_eq!(StreamKeyId::parse(&id.to_string().to_uppercase()), Ok(id));
        assert_eq!(StreamKeyId::parse("short"), Err(StreamKeyError::Malformed));
    }

    #[test]
    fn a_key_in_a_text_is_redacted_and_an_id_is_not() {
        let stream_key = StreamKey::generate().unwrap();
        let text = format!(
            "é live/{}/x and {}",
            *stream_key.reveal(),
            stream_key.reveal().to_uppercase()
        );
        assert_eq!(redacted(&text), "é live/hw_<redacted>/x and hw_<redacted>");
        let signed = "in live/eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.eyJpc3MiOiJhIn0.c2lnLW5hdHVyZQ x";
        assert_eq!(redacted(signed), "in live/hw_<redacted> x");
        let harmless = format!("hw_{} hw_ hw_hw_x eyJ keyJay", stream_key.id());
        assert_eq!(redacted(&harmless), harmless);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|(hw_|HW_)?[0-9a-zA-Zé_]{0,60}") {
            prop_assert!(StreamKey::parse(&text).is_err());
            prop_assert!(redacted(&text).len() <= text.len().max(13));
        }
    }
}
