//! Ids of credentials that are no rows of ours and have no name of their own: the keys that webhooks decide on. Public,
//! the same for the same key of an application, and they tell nothing of it.
//!
//! They are HMACs under a key that stays the same when the pepper does not: what refuses a credential by its id, a ban of
//! 30 days above all, outlives each pepper, and replicas that have a new pepper sooner than others name nothing otherwise.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    ControlError,
    database::Database,
    pepper::{CredentialKey, Peppers},
};

pub(crate) struct CredentialIds(hmac::Key);

impl CredentialIds {
    /// With the key that is stored; where there is none, one is stored first.
    pub(crate) async fn open(database: &Database, peppers: &Peppers) -> Result<Self, ControlError> {
        let mut stored = database.credential_key().await?;
        for _ in 0..ATTEMPTS {
            if let Some((version, sealed)) = &stored {
                if !peppers.has(*version) {
                    return Err(ControlError::PepperMissing { version: *version });
                }
                if let Some(key) = peppers.open_credential_key(*version, sealed) {
                    return Ok(Self::new(&key));
                }
                // The pepper of this version is another one: as every key, every id is void.
                warn!("the ids of credentials are made anew: their key cannot be read");
            }
            let sealed = peppers.seal_credential_key(peppers.first_credential_key());
            let sealed = sealed.map_err(|_random| ControlError::CredentialKey)?;
            let before = stored.as_ref().map(|(_version, sealed)| sealed.as_slice());
            database
                .store_credential_key(before, peppers.current(), &sealed)
                .await?;
            // What another replica stored at the same time counts for all.
            stored = database.credential_key().await?;
        }
        Err(ControlError::CredentialKey)
    }

    fn new(key: &CredentialKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Of a key that an application's webhook decides on.
    pub(crate) fn of_webhook(&self, app: &str, stream_key: &str) -> String {
        // No application holds a zero byte; and what was shown beside the key (a token) was always behind another.
        let named = Zeroizing::new(format!("{app}\0{stream_key}\0"));
        let tag = hmac::sign(&self.0, named.as_bytes());
        let (id, _rest) = tag.as_ref().split_at(tag.as_ref().len() / 2);
        format!("webhook:{}", HEXLOWER.encode(id))
    }
}

/// Two replicas that start at the same time store one key.
const ATTEMPTS: usize = 3;
