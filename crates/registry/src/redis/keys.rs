//! The names of the keys; the table is in the parent's documentation.

use std::sync::Arc;

use crate::{EdgeName, OriginName, Slot, StreamId};

/// The prefix, and the names below it.
#[derive(Clone)]
pub(super) struct Keys(Arc<str>);

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    pub(super) fn own(&self, stream: StreamId, slot: Slot) -> String {
        format!("{}:{{s:{stream}}}:{}:own", self.0, slot.number())
    }

    pub(super) fn epoch(&self, stream: StreamId, slot: Slot) -> String {
        format!("{}:{{s:{stream}}}:{}:epoch", self.0, slot.number())
    }

    pub(super) fn home(&self, stream: StreamId) -> String {
        format!("{}:{{s:{stream}}}:home", self.0)
    }

    pub(super) fn sessions(&self, edge: &EdgeName) -> String {
        format!("{}:{{e:{edge}}}:sess", self.0)
    }

    pub(super) fn commands(&self, edge: &EdgeName) -> String {
        format!("{}:{{e:{edge}}}:cmd", self.0)
    }

    pub(super) fn edge(&self, edge: &EdgeName) -> String {
        format!("{}:{{e}}:at:{edge}", self.0)
    }

    pub(super) fn edges(&self) -> String {
        format!("{}:{{e}}:all", self.0)
    }

    pub(super) fn origin(&self, origin: &OriginName) -> String {
        format!("{}:{{o}}:at:{origin}", self.0)
    }

    pub(super) fn origins(&self) -> String {
        format!("{}:{{o}}:all", self.0)
    }

    pub(super) fn uses(&self, what: [u8; 16]) -> String {
        format!("{}:{{u:{:032x}}}", self.0, u128::from_be_bytes(what))
    }
}
