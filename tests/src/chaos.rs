//! Chaos: a whole cluster in network namespaces with addresses of their own, publishers and readers with a ledger, one
//! fault after the other, and a table of what each did.
//!
//! - [`network`]: places with an address each, and what is done to what arrives there. [`proxy`]: delays and stalls, which
//!   the kernel of a test machine may not know.
//! - [`stores`]: Redis with a replica and sentinels. [`field`]: the cluster.
//! - [`fault`]: what is done, and what is allowed to come of it. [`act`]: how it is done and undone.
//! - [`load`]: publishers, readers, and their ledger. [`newcomer`]: who wants to publish in the middle of it; [`strict`]: at
//!   an edge that fails closed; [`takeover`]: a stream that another one has.
//! - [`round`]: one fault, over and over under load. [`table`]: what came of all.

pub mod act;
pub mod fault;
pub mod field;
pub mod load;
pub mod network;
pub mod newcomer;
pub mod proxy;
pub mod round;
pub mod stores;
pub mod strict;
pub mod table;
pub mod takeover;
