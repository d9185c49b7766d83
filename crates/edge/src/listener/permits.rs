//! How many connections there may be, in all and of one address.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use runtime::addresses::counted_as;

/// The counts of one edge, and their limits. A cheap handle.
#[derive(Clone)]
pub struct ConnectionPermits {
    counts: Arc<Mutex<Counts>>,
}

struct Counts {
    connections: usize,
    connections_max: usize,
    /// Addresses with connections alone.
    addresses: BTreeMap<IpAddr, usize>,
    per_address_max: usize,
}

/// One connection, counted until it is dropped.
pub(super) struct ConnectionPermit(Arc<Mutex<Counts>>);

/// One connection of an address, counted until it is dropped.
pub(super) struct AddressPermit {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
}

impl ConnectionPermits {
    pub(crate) fn new(connections_max: usize, per_address_max: usize) -> Self {
        Self {
            counts: Arc::new(Mutex::new(Counts {
                connections: 0,
                connections_max,
                addresses: BTreeMap::new(),
                per_address_max,
            })),
        }
    }

    /// Sets other limits for connections that come from now on; those that are there stay.
    pub fn limit(&self, connections_max: usize, per_address_max: usize) {
        let mut counts = self.counts.lock();
        counts.connections_max = connections_max;
        counts.per_address_max = per_address_max;
    }

    /// One more connection, if there may be one.
    pub(super) fn connection(&self) -> Option<ConnectionPermit> {
        let mut counts = self.counts.lock();
        if counts.connections >= counts.connections_max {
            return None;
        }
        counts.connections += 1;
        Some(ConnectionPermit(self.counts.clone()))
    }

    /// One more connection of this address, if there may be one.
    pub(super) fn address(&self, address: IpAddr) -> Option<AddressPermit> {
        let address = counted_as(address);
        let mut counts = self.counts.lock();
        let count = counts.addresses.get(&address).copied().unwrap_or_default();
        if count >= counts.per_address_max {
            return None;
        }
        counts.addresses.insert(address, count + 1);
        Some(AddressPermit {
            counts: self.counts.clone(),
            address,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.lock().connections -= 1;
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.addresses.remove(&self.address);
            }
        }
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
        let permits = ConnectionPermits::new(2, 10);
        let first = permits.connection();
        let second = permits.connection();
        assert!(first.is_some() && second.is_some());
        assert!(permits.connection().is_none());
        drop(first);
        assert!(permits.connection().is_some());
    }

    #[test]
    fn each_address_has_its_own_count() {
        let permits = ConnectionPermits::new(10, 1);
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
            permits.counts.lock().addresses.is_empty(),
            "nothing is kept of who left"
        );
    }

    #[test]
    fn other_limits_hold_for_newcomers() {
        let permits = ConnectionPermits::new(2, 2);
        let address = ip("192.0.2.1");
        let (first, second) = (permits.connection(), permits.connection());
        let (of_address, _of_address) = (permits.address(address), permits.address(address));
        assert!(permits.connection().is_none() && permits.address(address).is_none());
        permits.limit(3, 3);
        let (third, _of_address) = (permits.connection(), permits.address(address));
        assert!(third.is_some() && permits.connection().is_none());
        assert!(permits.address(address).is_none());

        permits.limit(2, 2);
        drop((first, of_address));
        assert!(permits.connection().is_none(), "two are still there");
        assert!(permits.address(address).is_none());
        drop(second);
        assert!(permits.connection().is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let permits = ConnectionPermits::new(10, 1);
        let _first = permits.address(ip("2001:db8:0:1::1"));
        assert!(permits.address(ip("2001:db8:0:1:ffff::2")).is_none());
        assert!(permits.address(ip("2001:db8:0:2::1")).is_some());
    }
}
