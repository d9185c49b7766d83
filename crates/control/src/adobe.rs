//! Adobe authentication (`authmod=adobe`) from control's side: challenges, responses, and what is stored for them.
//!
//! The protocol is MD5 and wants something stored that is as good as the password to its servers. So: only for keys that
//! were created with it, encrypted, and the password is 130 random bits that no dictionary holds.
//!
//! A challenge and its response may reach different edges and different controls. What is to be remembered in between is
//! therefore in the opaque that the encoder brings back, under a MAC that all controls can check; that it was used is
//! remembered by the control that saw it.

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, rand};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use proto::internal::v1::{AdobeChallenge, AdobeResponse};
use zeroize::Zeroizing;

use crate::{
    field::client_ip,
    pepper::Peppers,
    stream_key::{RandomError, StreamKey},
};

/// base64(MD5(user, salt, password)): what the password is to this protocol.
pub(crate) type PasswordEquivalent = Zeroizing<[u8; EQUIVALENT_CHARS]>;

/// Of a new key.
pub(crate) fn password_equivalent(stream_key: &StreamKey) -> PasswordEquivalent {
    let user = stream_key.id().to_string();
    let hash = Zeroizing::new(<[u8; 16]>::from(
        Md5::new()
            .chain_update(&user)
            .chain_update(salt(&user))
            .chain_update(*stream_key.password())
            .finalize(),
    ));
    let mut equivalent = Zeroizing::new([0; EQUIVALENT_CHARS]);
    BASE64.encode_mut(&*hash, &mut *equivalent);
    equivalent
}

/// The same for ever, and for anybody: an unknown user has one too.
fn salt(user: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"headwater-adobe-salt");
    context.update(user.as_bytes());
    let hash = context.finish();
    HEXLOWER.encode(hash.as_ref().get(..SALT_BYTES).unwrap_or_default())
}

/// Whether the encoder knows the password. In constant time.
pub(crate) fn is_response(answer: &AdobeResponse, equivalent: &[u8]) -> bool {
    let hash = Md5::new()
        .chain_update(equivalent)
        .chain_update(&answer.opaque)
        .chain_update(&answer.challenge)
        .finalize();
    let expected = Zeroizing::new(BASE64.encode(&hash));
    verify_slices_are_equal(expected.as_bytes(), answer.response.as_bytes()).is_ok()
}

/// A new challenge for whoever calls itself `user` at that address.
pub(crate) fn challenge(
    peppers: &Peppers,
    user: &str,
    client_address: &str,
    now_ms: i64,
) -> Result<AdobeChallenge, RandomError> {
    let mut random = [0; RANDOM_BYTES + CHALLENGE_BYTES];
    rand::fill(&mut random).map_err(|_unavailable| RandomError)?;
    let (random, challenge) = random.split_at(RANDOM_BYTES);
    let stamp = Stamp {
        pepper_version: peppers.current(),
        issued_ms: now_ms,
        random: random.try_into().map_err(|_length| RandomError)?,
    };
    let head = stamp.bytes();
    let mac = peppers.opaque_mac(stamp.pepper_version, &bound(&head, user, client_address));
    let opaque = [&head[..], &mac.unwrap_or_default()].concat();
    Ok(AdobeChallenge {
        salt: salt(user),
        challenge: HEXLOWER.encode(challenge),
        opaque: BASE64URL_NOPAD.encode(&opaque),
    })
}

/// Why an opaque is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpaqueFault {
    /// Older than [`LIFETIME_MS`].
    Expired,
    /// Not one of ours, or of another user or address.
    Forged,
}

/// An opaque that is authentic and recent, and perhaps used.
pub(crate) struct Opaque {
    mac: OpaqueMac,
}

/// The first half of an HMAC-SHA256.
pub(crate) type OpaqueMac = [u8; 16];

impl Opaque {
    /// Reads what came back.
    pub(crate) fn verify(
        peppers: &Peppers,
        text: &str,
        user: &str,
        client_address: &str,
        now_ms: i64,
    ) -> Result<Self, OpaqueFault> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
        let bytes = bytes.map_err(|_malformed| OpaqueFault::Forged)?;
        let (head, mac) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or(OpaqueFault::Forged)?;
        let mac = OpaqueMac::try_from(mac).map_err(|_length| OpaqueFault::Forged)?;
        let stamp = Stamp::read(head).ok_or(OpaqueFault::Forged)?;
        let expected = peppers
            .opaque_mac(stamp.pepper_version, &bound(head, user, client_address))
            .ok_or(OpaqueFault::Forged)?;
        verify_slices_are_equal(&expected, &mac).map_err(|_other| OpaqueFault::Forged)?;
        // Another control may have issued it, whose clock is not quite ours.
        if now_ms.abs_diff(stamp.issued_ms) > LIFETIME_MS.unsigned_abs() {
            return Err(OpaqueFault::Expired);
        }
        Ok(Self { mac })
    }
}

/// The opaques that were used here, as long as they could be used again.
#[derive(Default)]
pub(crate) struct UsedOpaques(Mutex<Used>);

#[derive(Default)]
struct Used {
    macs: HashSet<OpaqueMac>,
    /// In the order of use, with the time of it.
    order: VecDeque<(i64, OpaqueMac)>,
}

impl UsedOpaques {
    /// Whether this is its first use. Where there are too many, the oldest are forgotten: to use one again takes what
    /// an encoder said over TLS.
    pub(crate) fn first_use(&self, opaque: &Opaque, now_ms: i64) -> bool {
        let mut used = self.0.lock();
        while let Some((used_ms, mac)) = used.order.front().copied() {
            let is_over = now_ms.saturating_sub(used_ms) > 2 * LIFETIME_MS;
            if !is_over && used.order.len() < USED_MAX {
                break;
            }
            used.order.pop_front();
            used.macs.remove(&mac);
        }
        let is_first = used.macs.insert(opaque.mac);
        if is_first {
            used.order.push_back((now_ms, opaque.mac));
        }
        is_first
    }
}

/// What an opaque tells of itself.
struct Stamp {
    pepper_version: u32,
    issued_ms: i64,
    random: [u8; RANDOM_BYTES],
}

impl Stamp {
    fn bytes(&self) -> [u8; HEAD_BYTES] {
        let [a, b, c, d] = self.pepper_version.to_be_bytes();
        let [e, f, g, h, i, j, k, l] = self.issued_ms.to_be_bytes();
        let [m, n, o, p, q, r, s, t] = self.random;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
    }

    fn read(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (issued, random) = rest.split_first_chunk()?;
        Some(Self {
            pepper_version: u32::from_be_bytes(*version),
            issued_ms: i64::from_be_bytes(*issued),
            random: random.try_into().ok()?,
        })
    }
}

/// What the MAC is over. The address without its port: each step is a connection of its own.
fn bound(head: &[u8; HEAD_BYTES], user: &str, client_address: &str) -> Vec<u8> {
    let address = client_ip(client_address);
    let address = address.map_or_else(|| client_address.to_owned(), |address| address.to_string());
    // The head has a fixed size, and no address holds a NUL: nothing can be moved from one part to another.
    [&head[..], address.as_bytes(), &[0], user.as_bytes()].concat()
}

/// How long a response may take, in milliseconds.
const LIFETIME_MS: i64 = 30_000;
/// Used opaques that are remembered: some 4 MiB.
const USED_MAX: usize = 65_536;
const EQUIVALENT_CHARS: usize = 24;
const SALT_BYTES: usize = 8;
const RANDOM_BYTES: usize = 8;
const CHALLENGE_BYTES: usize = 4;
/// Pepper version, time, random bytes.
const HEAD_BYTES: usize = 4 + 8 + RANDOM_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn peppers() -> Peppers {
        Peppers::parse(&format!("7:{}", "a".repeat(64))).unwrap()
    }

    /// What an encoder answers, as FFmpeg computes it.
    fn answer(user: &str, password: &str, challenge: &AdobeChallenge) -> AdobeResponse {
        let md5 = |parts: &[&str]| BASE64.encode(&Md5::digest(parts.concat()));
        let own = "0a1b2c3d".to_owned();
        let equivalent = md5(&[user, &challenge.salt, password]);
        AdobeResponse {
            response: md5(&[&equivalent, &challenge.opaque, &own]),
            challenge: own,
            opaque: challenge.opaque.clone(),
            name: String::new(),
        }
    }

    #[test]
    fn an_encoder_that_knows_the_password_proves_it() {
        let stream_key = StreamKey::generate().unwrap();
        let equivalent = password_equivalent(&stream_key);
        let user = stream_key.id().to_string();
        let password = String::from_utf8(stream_key.password().to_vec()).unwrap();
        let challenge = challenge(&peppers(), &user, "192.0.2.1:5", 1_000).unwrap();
        let right = answer(&user, &password, &challenge);
        assert!(is_response(&right, &*equivalent));
        assert!(!is_response(
            &answer(&user, "other", &challenge),
            &*equivalent
        ));
        assert!(!is_response(&right, b"other"));
        let empty = AdobeResponse::default();
        assert!(!is_response(&empty, &*equivalent));
    }

    #[test]
    fn a_known_answer() {
        // Computed with python3 hashlib: MD5 of "bob" + "salt" + "secret", and so on.
        let response = AdobeResponse {
            challenge: "0a1b2c3d".to_owned(),
            opaque: "OPAQUE".to_owned(),
            response: KNOWN_RESPONSE.to_owned(),
            name: String::new(),
        };
        assert!(is_response(&response, KNOWN_EQUIVALENT));
    }

    const KNOWN_EQUIVALENT: &[u8] = b"TLIBjW+VMUDrzQ2ymRPRPQ==";
    const KNOWN_RESPONSE: &str = "kvVZPwy6uMcMR+FyfoJH+Q==";

    #[test]
    fn a_salt_is_fixed_and_everybody_has_one() {
        assert_eq!(salt("bob"), salt("bob"));
        assert_ne!(salt("bob"), salt("alice"));
        assert_eq!(salt("").len(), 16);
    }

    #[test]
    fn an_opaque_is_of_one_user_at_one_address_for_a_while() {
        let peppers = peppers();
        let issued = challenge(&peppers, "bob", "192.0.2.1:5", 1_000).unwrap();
        let verify = |peppers: &Peppers, opaque: &str, user, address, now_ms| {
            Opaque::verify(peppers, opaque, user, address, now_ms).err()
        };
        let opaque = issued.opaque.as_str();
        let forged = Some(OpaqueFault::Forged);
        // Of another port, and as IPv6 writes it.
        for address in ["192.0.2.1:6", "[::ffff:192.0.2.1]:7", "192.0.2.1"] {
            assert_eq!(verify(&peppers, opaque, "bob", address, 31_000), None);
        }
        let expired = Some(OpaqueFault::Expired);
        assert_eq!(
            verify(&peppers, opaque, "bob", "192.0.2.1:6", 31_001),
            expired
        );
        assert_eq!(
            verify(&peppers, opaque, "eve", "192.0.2.1:6", 1_000),
            forged
        );
        assert_eq!(
            verify(&peppers, opaque, "bob", "192.0.2.2:6", 1_000),
            forged
        );
        let other = Peppers::parse(&format!("7:{}", "b".repeat(64))).unwrap();
        assert_eq!(verify(&other, opaque, "bob", "192.0.2.1:6", 1_000), forged);
        let newer = Peppers::parse(&format!("8:{}", "a".repeat(64))).unwrap();
        assert_eq!(verify(&newer, opaque, "bob", "192.0.2.1:6", 1_000), forged);
        for malformed in ["", "x", "!", &opaque[..40], &format!("{opaque}AA")] {
            assert_eq!(
                verify(&peppers, malformed, "bob", "192.0.2.1:6", 1_000),
                forged
            );
        }
    }

    #[test]
    fn an_opaque_is_used_once_and_forgotten_when_it_is_worth_nothing() {
        let used = UsedOpaques::default();
        let opaque = |number: usize| {
            let mut mac = [0; 16];
            mac[..8].copy_from_slice(&number.to_be_bytes());
            Opaque { mac }
        };
        assert!(used.first_use(&opaque(1), 0));
        assert!(!used.first_use(&opaque(1), LIFETIME_MS));
        assert!(used.first_use(&opaque(2), 2 * LIFETIME_MS + 1));
        assert_eq!(used.0.lock().order.len(), 1);
        for number in 0..=USED_MAX + 10 {
            used.first_use(&opaque(number), 3 * LIFETIME_MS);
        }
        let lock = used.0.lock();
        assert_eq!((lock.order.len(), lock.macs.len()), (USED_MAX, USED_MAX));
    }
}
