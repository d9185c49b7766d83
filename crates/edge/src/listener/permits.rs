//! How many connections there may be, in all and of one address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The counts of one edge. A cheap handle.
#[derive(Clone)]
pub(crate) struct Permits {
    connections: Arc<Semaphore>,
    addresses: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    per_address_max: usize,
}

/// One connection of an address, counted until it is dropped.
#[derive(Debug)]
pub(super) struct AddressPermit {
    addresses: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Permits {
    pub(crate) fn new(connections_max: usize, per_address_max: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            addresses: Arc::default(),
            per_address_max,
        }
    }

    /// One more connection, if there may be one.
    pub(super) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// One more connection of this address, if there may be one. The map holds addresses with connections alone.
    pub(super) fn address(&self, address: IpAddr) -> Option<AddressPermit> {
        let address = counted_as(address);
        let mut addresses = self.addresses.lock();
        let count = addresses.get(&address).copied().unwrap_or_default();
        if count >= self.per_address_max {
            return None;
        }
        addresses.insert(address, count + 1);
        drop(addresses);
        Some(AddressPermit {
            addresses: self.addresses.clone(),
            address,
        })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut addresses = self.addresses.lock();
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// One IPv6 subscriber has a whole /64.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_are_counted_while_they_last() {
        let permits = Permits::new(2, 10);
        let first = permits.connection();
        let second = permits.connection();
        assert!(first.is_some() && second.is_some());
        assert!(permits.connection().is_none());
        drop(first);
        assert!(permits.connection().is_some());
    }

    #[test]
    fn each_address_has_its_own_count() {
        let permits = Permits::new(10, 1);
        let first = permits.address(ip("192.0.2.1"));
        assert!(first.is_some());
        assert!(permits.address(ip("192.0.2.1")).is_none());
        assert!(
            permits.address(ip("::ffff:192.0.2.1")).is_none(),
            "the same, mapped"
        );
        assert!(permits.address(ip("192.0.2.2")).is_some());
        drop(first);
        assert!(permits.address(ip("192.0.2.1")).is_some());
        assert!(
            permits.addresses.lock().is_empty(),
            "nothing is kept of who left"
        );
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let permits = Permits::new(10, 1);
        let _first = permits.address(ip("2001:db8:0:1::1"));
        assert!(permits.address(ip("2001:db8:0:1:ffff::2")).is_none());
        assert!(permits.address(ip("2001:db8:0:2::1")).is_some());
    }
}
