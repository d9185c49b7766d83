//! Looks for a secret in what processes leave behind, in every form that a careless line of code gives it.

use aws_lc_rs::digest;
use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use md5::{Digest as _, Md5};

/// What must not be found: the secret part of a stream key.
pub struct Needle {
    /// Name of the form, and the form.
    forms: Vec<(String, String)>,
}

/// Bytes of base32 in the middle of a key: its secret (architecture: `hw_<id>_<secret><checksum>`).
const SECRET_CHARACTERS: usize = 26;
/// Half of it is 65 bits: not found by chance, and found where only a part leaks.
const HALF: usize = SECRET_CHARACTERS / 2;

impl Needle {
    /// Of a whole stream key.
    pub fn of_stream_key(stream_key: &str) -> Self {
        let (_, secret) = stream_key.rsplit_once('_').expect("hw_<id>_<secret>");
        assert!(secret.len() >= SECRET_CHARACTERS, "a secret of that length");
        Self::new(&secret[..SECRET_CHARACTERS])
    }

    /// Of anything else that is long and random at its end: a JWT (its signature is the secret), a webhook's secret.
    pub fn of_end(text: &str) -> Self {
        assert!(text.len() >= SECRET_CHARACTERS, "a secret of that length");
        Self::new(&text[text.len() - SECRET_CHARACTERS..])
    }

    /// Of what Adobe authentication needs to have stored for a user and a password: it is as good as the password.
    pub fn of_password(user: &str, password: &str) -> Self {
        let salt = digest::digest(
            &digest::SHA256,
            format!("headwater-adobe-salt{user}").as_bytes(),
        );
        let salt = HEXLOWER.encode(&salt.as_ref()[..8]);
        Self::new(&BASE64.encode(&Md5::digest(format!("{user}{salt}{password}"))))
    }

    fn new(secret: &str) -> Self {
        let (first, second) = secret.split_at(HALF);
        let mut forms = Vec::new();
        for (part, text) in [("first half", first), ("second half", second)] {
            let bytes = text.as_bytes();
            forms.push((format!("{part}, raw"), text.to_owned()));
            forms.push((format!("{part}, raw in capitals"), text.to_uppercase()));
            for alignment in 0..3 {
                for (name, encoding) in [("base64", &BASE64), ("base64url", &BASE64URL)] {
                    let encoded = aligned_base64(bytes, alignment, encoding);
                    forms.push((format!("{part}, {name} at {alignment}"), encoded));
                }
            }
            let separators = [
                ("byte array", ", "),
                ("dense byte array", ","),
                ("spaced bytes", " "),
            ];
            for (name, separator) in separators {
                forms.push((
                    format!("{part}, {name}"),
                    listed(bytes, separator, |byte| byte.to_string()),
                ));
            }
            for (name, separator) in [("hex", ""), ("spaced hex", " "), ("colon hex", ":")] {
                let lower = listed(bytes, separator, |byte| format!("{byte:02x}"));
                let upper = listed(bytes, separator, |byte| format!("{byte:02X}"));
                forms.push((format!("{part}, {name}"), lower));
                forms.push((format!("{part}, {name} in capitals"), upper));
            }
        }
        Self { forms }
    }

    /// In which forms the secret is in there.
    pub fn found_in(&self, haystack: &[u8]) -> Vec<&str> {
        // Every form is ASCII: it survives what this does to bytes that are no text.
        let text = String::from_utf8_lossy(haystack);
        self.forms
            .iter()
            .filter(|(_, form)| text.contains(form))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Fails where the secret is in there.
    pub fn assert_absent(&self, place: &str, haystack: &[u8]) {
        let found = self.found_in(haystack);
        assert!(found.is_empty(), "a secret is in {place}: {found:?}");
    }
}

fn listed(bytes: &[u8], separator: &str, each: impl Fn(u8) -> String) -> String {
    let listed: Vec<String> = bytes.iter().map(|byte| each(*byte)).collect();
    listed.join(separator)
}

/// What of the base64 of anything that holds `bytes` behind `alignment` (modulo 3) other ones depends on them alone.
fn aligned_base64(bytes: &[u8], alignment: usize, encoding: &data_encoding::Encoding) -> String {
    let padded = [vec![0; alignment], bytes.to_vec()].concat();
    let whole = padded.len() / 3 * 3;
    let encoded = encoding.encode(&padded[..whole]);
    // The first group holds foreign bits unless nothing stands before.
    let start = if alignment == 0 { 0 } else { 4 };
    encoded[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;

    use super::*;

    const KEY: &str = "hw_0123456789abcdef_abcdefghjkmnpqrstvwxyz012345wxyz";

    #[test]
    fn the_search_finds_the_secret_in_every_form() {
        let needle = Needle::of_stream_key(KEY);
        let (_, secret) = KEY.rsplit_once('_').unwrap();
        for before in ["", "x", "xy", "xyz"] {
            let text = format!("{before}{KEY} and more");
            let bytes = text.as_bytes();
            for hidden in [
                text.clone(),
                BASE64.encode(bytes),
                BASE64URL.encode(bytes),
                HEXLOWER.encode(bytes),
                HEXUPPER.encode(bytes),
                format!("{bytes:?}"),
                format!("{:?}", &secret.as_bytes()[..15]),
                secret[10..26].to_owned(),
            ] {
                assert!(!needle.found_in(hidden.as_bytes()).is_empty(), "{hidden}");
            }
        }
    }

    #[test]
    fn the_search_does_not_find_another_key() {
        let needle = Needle::of_stream_key(KEY);
        let other = "hw_0123456789abcdef_5432109876zyxwvtsrqpnmkjhgzzzz";
        needle.assert_absent("another key", other.as_bytes());
        needle.assert_absent("its base64", BASE64.encode(other.as_bytes()).as_bytes());
    }
}
