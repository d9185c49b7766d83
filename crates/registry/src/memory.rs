//! Leases in memory.

use crate::{
    Claim, ClaimOutcome, EdgeName, Lease, Origin, OriginName, Owner, Renewal, RenewalOutcome,
    SessionId, Slot, StreamId,
};

/// Leases in memory.
#[derive(Clone)]
pub struct MemoryRegistry {}

impl MemoryRegistry {
    pub(crate) fn claim(&self, _claim: &Claim) -> ClaimOutcome {
        todo!()
    }
    pub(crate) fn renew(&self, _renewals: &[Renewal]) -> Vec<RenewalOutcome> {
        todo!()
    }
    pub(crate) fn release(
        &self,
        _stream: StreamId,
        _slot: Slot,
        _session: &SessionId,
        _epoch: u64,
    ) -> bool {
        todo!()
    }
    pub(crate) fn kick(
        &self,
        _stream: StreamId,
        _slot: Slot,
        _session: Option<&SessionId>,
    ) -> Option<EdgeName> {
        todo!()
    }
    pub(crate) fn owners(&self, _streams: &[(StreamId, Slot)]) -> Vec<Owner> {
        todo!()
    }
    pub(crate) fn leases(&self) -> Vec<Lease> {
        todo!()
    }
    pub(crate) fn announce(&self, _origin: &Origin) -> () {
        todo!()
    }
    pub(crate) fn withdraw(&self, _origin: &OriginName) -> () {
        todo!()
    }
    pub(crate) fn origins(&self) -> Vec<Origin> {
        todo!()
    }
}

impl MemoryRegistry {
    /// Empty.
    pub fn new() -> Self {
        todo!()
    }
}
