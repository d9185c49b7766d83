//! The ACL users of a cluster: `deploy/redis/users.acl` with the passwords and the prefix filled in.

use aws_lc_rs::digest;

/// The passwords of the roles' users.
pub struct RedisPasswords<'a> {
    /// Of the user `edge`.
    pub edge: &'a str,
    /// Of the user `control`.
    pub control: &'a str,
    /// Of the user `origin`.
    pub origin: &'a str,
}

/// A file for Redis's `aclfile`. The passwords are in it as hashes.
pub fn redis_users(prefix: &str, passwords: &RedisPasswords<'_>) -> String {
    TEMPLATE
        .replace("hw:", &format!("{prefix}:"))
        .replace("EDGE_PASSWORD_SHA256", &sha256(passwords.edge))
        .replace("CONTROL_PASSWORD_SHA256", &sha256(passwords.control))
        .replace("ORIGIN_PASSWORD_SHA256", &sha256(passwords.origin))
}

fn sha256(password: &str) -> String {
    let hash = digest::digest(&digest::SHA256, password.as_bytes());
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

const TEMPLATE: &str = include_str!("../../../../deploy/redis/users.acl");
