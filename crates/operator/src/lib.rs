//! Reconciles `IngestCluster` and `IngestApplication`: the only place that speaks to Kubernetes.
//!
//! One direction, five steps, one module each:
//!
//! ```text
//! dereference (client) -> validate (pure) -> build (pure) -> apply (client) -> status (client)
//! ```

#![deny(missing_docs)]

pub mod api;
mod apply;
pub mod build;
pub mod certificates;
mod controller;
mod controls;
pub mod crd;
mod dereference;
mod discovery;
mod events;
pub mod inspect;
mod leader;
mod live;
mod metrics;
pub mod names;
mod operator;
mod quantity;
pub mod secrets;
mod status;
pub mod validate;

pub use self::{
    leader::LeaderError,
    operator::{Config, Namespaces, OperatorError, Process, run},
};
