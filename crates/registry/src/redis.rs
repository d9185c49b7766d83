//! Leases in redis.

use std::{path::PathBuf, time::Duration};

use crate::{
    Claim, ClaimOutcome, EdgeName, Lease, Origin, OriginName, Owner, RegistryError, Renewal,
    RenewalOutcome, SessionId, Slot, StreamId,
};

/// Leases in redis.
#[derive(Clone)]
pub struct RedisRegistry {}

impl RedisRegistry {
    pub(crate) async fn claim(&self, _claim: &Claim) -> Result<ClaimOutcome, RegistryError> {
        todo!()
    }
    pub(crate) async fn renew(
        &self,
        _renewals: &[Renewal],
    ) -> Result<Vec<RenewalOutcome>, RegistryError> {
        todo!()
    }
    pub(crate) async fn release(
        &self,
        _stream: StreamId,
        _slot: Slot,
        _session: &SessionId,
        _epoch: u64,
    ) -> Result<bool, RegistryError> {
        todo!()
    }
    pub(crate) async fn kick(
        &self,
        _stream: StreamId,
        _slot: Slot,
        _session: Option<&SessionId>,
    ) -> Result<Option<EdgeName>, RegistryError> {
        todo!()
    }
    pub(crate) async fn owners(
        &self,
        _streams: &[(StreamId, Slot)],
    ) -> Result<Vec<Owner>, RegistryError> {
        todo!()
    }
    pub(crate) async fn leases(&self) -> Result<Vec<Lease>, RegistryError> {
        todo!()
    }
    pub(crate) async fn announce(&self, _origin: &Origin) -> Result<(), RegistryError> {
        todo!()
    }
    pub(crate) async fn withdraw(&self, _origin: &OriginName) -> Result<(), RegistryError> {
        todo!()
    }
    pub(crate) async fn origins(&self) -> Result<Vec<Origin>, RegistryError> {
        todo!()
    }
}

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` with host and port; credentials come from the fields below.
    pub url: String,
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that may sign the server's certificate; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// In front of every key.
    pub prefix: String,
    /// Per command.
    pub timeout: Duration,
}

impl RedisRegistry {
    /// Reads the files and connects in the background: a Redis that is down now is an
    /// [`Unavailable`](RegistryError::Unavailable) per command, not an error here.
    pub fn open(_config: &RedisConfig) -> Result<Self, RegistryError> {
        todo!()
    }
}
