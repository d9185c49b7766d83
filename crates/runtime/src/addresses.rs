//! Client addresses as limits count them, and counts that time takes away.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

/// One IPv6 subscriber has a whole /64.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How often something happened; each second takes some away.
#[derive(Clone, Copy, Debug)]
pub struct FadingCount {
    count: u32,
    faded_per_second: u32,
    /// When the count was taken down last.
    at: Instant,
}

impl FadingCount {
    /// Of nothing yet.
    pub fn new(faded_per_second: u32) -> Self {
        Self {
            count: 0,
            faded_per_second,
            at: Instant::now(),
        }
    }

    /// What is left.
    pub fn now(&mut self) -> u32 {
        let seconds = self.at.elapsed().as_secs();
        self.at += Duration::from_secs(seconds);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let faded = seconds.saturating_mul(self.faded_per_second);
        self.count = self.count.saturating_sub(faded);
        self.count
    }

    /// Counts one more; what there is then.
    pub fn add(&mut self) -> u32 {
        self.count = self.now().saturating_add(1);
        self.count
    }

    /// Takes one back.
    pub fn take_back(&mut self) {
        self.count = self.count.saturating_sub(1);
    }
}
