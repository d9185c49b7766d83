//! Content hashes.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;

/// Digits of a boot configuration's hash in its name.
const BOOT_DIGITS: usize = 10;
/// Digits of an edge revision.
const REVISION_DIGITS: usize = 8;

/// SHA-256, lower-case hexadecimal.
pub(super) fn hexadecimal(content: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, content).as_ref())
}

/// Of a boot configuration.
pub(super) fn boot(content: &str) -> String {
    short(content.as_bytes(), BOOT_DIGITS)
}

/// Of a pod template.
pub(super) fn revision(template: &[u8]) -> String {
    short(template, REVISION_DIGITS)
}

fn short(content: &[u8], digits: usize) -> String {
    let mut hash = hexadecimal(content);
    hash.truncate(digits);
    hash
}
