//! What every process needs and no role decides: telemetry, the admin port, signals and drain, certificates that
//! reload, and the gRPC transport between roles.

#![deny(missing_docs)]

pub mod addresses;
pub mod admin;
pub mod bearer;
pub mod budget;
pub mod connections;
pub mod egress;
pub mod error;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod reload;
pub mod resolve;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
