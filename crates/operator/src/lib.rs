//! Reconciles `IngestCluster` and `IngestApplication`: the only place that speaks to Kubernetes.
//!
//! One direction, five steps, one module each:
//!
//! ```text
//! dereference (client) -> validate (pure) -> build (pure) -> apply (client) -> status (client)
//! ```

#![deny(missing_docs)]

pub mod api;
pub mod build;
pub mod certificates;
pub mod crd;
pub mod names;
mod quantity;
pub mod secrets;
pub mod validate;
