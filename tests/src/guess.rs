//! Stream keys as somebody makes them who knows their form: the checksum is right, and nobody issued them.

use aws_lc_rs::digest::{SHA256, digest};

/// With this id, and one of many secrets.
pub fn stream_key(id: &str, number: u32) -> String {
    let secret = format!("{number:026}");
    let hash = digest(
        &SHA256,
        format!("headwater-stream-key{id}{secret}").as_bytes(),
    );
    let bits = u32::from_be_bytes(*hash.as_ref().first_chunk().unwrap());
    let checksum: String = [27, 22, 17, 12]
        .map(|shift| char::from(ALPHABET[(bits >> shift & 31) as usize]))
        .iter()
        .collect();
    format!("hw_{id}_{secret}{checksum}")
}

/// Crockford's base32.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
