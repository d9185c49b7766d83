//! Every limit against a hostile or broken peer, by name.

/// Deadlines and sizes that a deployment may change.
#[derive(Clone, Debug, Default)]
pub struct Limits {}
