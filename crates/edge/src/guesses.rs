//! Refused publishes, counted by address: whoever guesses stream keys or passwords is slowed down, and past a limit not
//! let through to control at all. A key cannot be guessed; this keeps guessing from costing others.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use runtime::addresses::{FadingCount, counted_as};

use crate::admission::Refusal;

/// The counts of one edge.
pub(crate) struct Guesses(Mutex<Counts>);

struct Counts {
    /// Addresses with refusals that are not forgotten.
    addresses: BTreeMap<IpAddr, FadingCount>,
    all: FadingCount,
}

/// Told at once to one address; further ones after [`DELAY`].
const AT_ONCE_MAX: u32 = 10;
/// Beyond, publishes of the address are refused without a question to control. An encoder that tries every two seconds
/// never gets there.
const ADDRESS_MAX: u32 = 60;
/// Beyond, every refusal takes [`DELAY`]: many addresses guess together.
const ALL_MAX: u32 = 1_000;
/// Forgotten per second, of one address and of all.
const ADDRESS_FORGOTTEN: u32 = 1;
const ALL_FORGOTTEN: u32 = 100;
/// An encoder that waits three seconds for its answer still gets it.
const DELAY: Duration = Duration::from_secs(1);
/// Addresses that are remembered: some 4 MiB. More at a time count together alone.
const ADDRESSES_MAX: usize = 65_536;

impl Guesses {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Counts {
            addresses: BTreeMap::new(),
            all: FadingCount::new(ALL_FORGOTTEN),
        }))
    }

    /// Whether control may be asked on behalf of this address.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), Refusal> {
        let mut counts = self.0.lock();
        let count = counts.addresses.get_mut(&counted_as(address));
        let refusals = count.map_or(0, FadingCount::now);
        if refusals < ADDRESS_MAX {
            return Ok(());
        }
        Err(Refusal {
            reason: "too_many_refusals",
            description:
                "Too many attempts from this address were refused, please try again in a minute"
                    .to_owned(),
        })
    }

    /// Counts a refusal; after how long it is told.
    pub(crate) fn refused(&self, address: IpAddr) -> Duration {
        let mut counts = self.0.lock();
        let of_all = counts.all.add();
        let of_address = counts.of_address(counted_as(address));
        let of_address = of_address.map_or(0, FadingCount::add);
        if of_address > AT_ONCE_MAX || of_all > ALL_MAX {
            DELAY
        } else {
            Duration::ZERO
        }
    }

    /// Takes one back: a challenge counts until it is answered rightly.
    pub(crate) fn forgive(&self, address: IpAddr) {
        let mut counts = self.0.lock();
        counts.all.take_back();
        if let Some(count) = counts.addresses.get_mut(&counted_as(address)) {
            count.take_back();
        }
    }
}

impl Counts {
    /// `None`: there is no room.
    fn of_address(&mut self, address: IpAddr) -> Option<&mut FadingCount> {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_address, count| count.now() > 0);
            if self.addresses.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        Some(
            self.addresses
                .entry(address)
                .or_insert_with(|| FadingCount::new(ADDRESS_FORGOTTEN)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test(start_paused = true)]
    async fn an_address_that_guesses_is_slowed_down_and_then_shut_out_for_a_while() {
        let guesses = Guesses::new();
        for number in 1..=ADDRESS_MAX {
            assert!(guesses.admit(ADDRESS).is_ok());
            let delayed = guesses.refused(ADDRESS) == DELAY;
            assert_eq!(delayed, number > AT_ONCE_MAX, "{number}");
        }
        assert!(guesses.admit(ADDRESS).is_err());
        assert!(guesses.admit(OTHER).is_ok());
        assert_eq!(guesses.refused(OTHER), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(guesses.admit(ADDRESS).is_ok(), "one per second");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(guesses.refused(ADDRESS), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_answer_takes_its_challenge_back() {
        let guesses = Guesses::new();
        for _ in 0..10 * ADDRESS_MAX {
            assert_eq!(guesses.refused(ADDRESS), Duration::ZERO);
            guesses.forgive(ADDRESS);
        }
        assert!(guesses.admit(ADDRESS).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_together_are_slowed_down_and_cost_bounded_memory() {
        let guesses = Guesses::new();
        for number in 0..=u32::try_from(ADDRESSES_MAX).unwrap() {
            guesses.refused(IpAddr::V4(number.into()));
        }
        assert_eq!(guesses.0.lock().addresses.len(), ADDRESSES_MAX);
        assert_eq!(guesses.refused(OTHER), DELAY);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(guesses.refused(OTHER), Duration::ZERO);
        assert_eq!(
            guesses.0.lock().addresses.len(),
            1,
            "the others are forgotten"
        );
    }
}
