//! Refused publishes, counted by address: whoever guesses stream keys or passwords is slowed down, and past a limit its
//! address gets to control one at a time. A key cannot be guessed; this keeps guessing from costing others, and those
//! behind the same address from waiting for long.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use runtime::addresses::{FadingCount, counted_as};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::admission::Refusal;

/// The counts of one edge.
pub(crate) struct Guesses(Mutex<Counts>);

struct Counts {
    /// Addresses with refusals that are not forgotten.
    addresses: BTreeMap<IpAddr, Address>,
    all: FadingCount,
}

struct Address {
    refusals: FadingCount,
    /// Where one had to wait.
    line: Option<Arc<Line>>,
}

/// First come, first served. Who leaves loses nobody a turn.
struct Line {
    first: Semaphore,
    /// When the turn of whoever is first comes.
    next: Mutex<Instant>,
}

/// Told at once to one address; further ones after [`DELAY`].
const AT_ONCE_MAX: u32 = 10;
/// Beyond, publishes of the address take turns. An encoder that tries every two seconds never gets there.
const ADDRESS_MAX: u32 = 60;
/// Beyond, every refusal takes [`DELAY`]: many addresses guess together.
const ALL_MAX: u32 = 1_000;
/// Forgotten per second, of one address and of all.
const ADDRESS_FORGOTTEN: u32 = 1;
const ALL_FORGOTTEN: u32 = 100;
/// Between two turns of an address: as many guesses as are forgotten.
const TURN_PERIOD: Duration = Duration::from_secs(1);
/// Publishes of an address that wait for their turn; each guess holds a connection for as long.
const WAITING_MAX: usize = 32;
/// For a turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(8);
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

    /// Waits until control may be asked on behalf of this address.
    pub(crate) async fn turn(&self, address: IpAddr) -> Result<(), Refusal> {
        let Some(line) = self.0.lock().line(counted_as(address)) else {
            return Ok(());
        };
        // The address's own, this one, and one for each that waits.
        if Arc::strong_count(&line) > 1 + WAITING_MAX {
            drop(line);
            sleep(DELAY).await;
            return Err(too_many());
        }
        let turn = async {
            // An error says that the semaphore was closed: nobody does.
            let _first = line.first.acquire().await.ok();
            let next = *line.next.lock();
            sleep_until(next).await;
            *line.next.lock() = Instant::now() + TURN_PERIOD;
        };
        timeout(TURN_TIMEOUT, turn)
            .await
            .map_err(|_elapsed| too_many())
    }

    /// Counts a refusal; after how long it is told.
    pub(crate) fn refused(&self, address: IpAddr) -> Duration {
        let mut counts = self.0.lock();
        let of_all = counts.all.add();
        let of_address = counts.of_address(counted_as(address));
        let of_address = of_address.map_or(0, |address| address.refusals.add());
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
        if let Some(address) = counts.addresses.get_mut(&counted_as(address)) {
            address.refusals.take_back();
        }
    }
}

impl Counts {
    /// Where the address has to wait; `None`: nowhere.
    fn line(&mut self, address: IpAddr) -> Option<Arc<Line>> {
        let address = self.addresses.get_mut(&address)?;
        if address.refusals.now() < ADDRESS_MAX {
            return None;
        }
        let line = address.line.get_or_insert_with(|| {
            Arc::new(Line {
                first: Semaphore::new(1),
                next: Mutex::new(Instant::now()),
            })
        });
        Some(line.clone())
    }

    /// `None`: there is no room.
    fn of_address(&mut self, address: IpAddr) -> Option<&mut Address> {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.addresses
                .retain(|_address, counted| counted.refusals.now() > 0);
            if self.addresses.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        Some(self.addresses.entry(address).or_insert_with(|| Address {
            refusals: FadingCount::new(ADDRESS_FORGOTTEN),
            line: None,
        }))
    }
}

fn too_many() -> Refusal {
    Refusal {
        reason: "too_many_refusals",
        description:
            "Too many attempts from this address were refused, please try again in a minute"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    /// How long the turn is waited for, on a clock that moves where all wait.
    async fn turn(guesses: &Guesses, address: IpAddr) -> Result<Duration, Refusal> {
        let asked = Instant::now();
        guesses.turn(address).await.map(|()| asked.elapsed())
    }

    fn that_guessed() -> Guesses {
        let guesses = Guesses::new();
        for _ in 0..ADDRESS_MAX {
            guesses.refused(ADDRESS);
        }
        guesses
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_guesses_is_slowed_down_and_then_takes_turns() {
        let guesses = Guesses::new();
        for number in 1..=ADDRESS_MAX {
            assert_eq!(turn(&guesses, ADDRESS).await, Ok(Duration::ZERO));
            let delayed = guesses.refused(ADDRESS) == DELAY;
            assert_eq!(delayed, number > AT_ONCE_MAX, "{number}");
        }
        assert_eq!(turn(&guesses, ADDRESS).await, Ok(Duration::ZERO));
        guesses.refused(ADDRESS);
        assert_eq!(turn(&guesses, ADDRESS).await, Ok(TURN_PERIOD));
        assert_eq!(turn(&guesses, OTHER).await, Ok(Duration::ZERO));
        assert_eq!(guesses.refused(OTHER), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(turn(&guesses, ADDRESS).await, Ok(Duration::ZERO));
        assert_eq!(guesses.refused(ADDRESS), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_guess_together_they_get_no_more_than_is_forgotten() {
        const MINUTES: u32 = 5;
        let guesses = Arc::new(that_guessed());
        let asked = Arc::new(Mutex::new(0));
        let mut guessers = tokio::task::JoinSet::new();
        for _ in 0..2 * WAITING_MAX {
            let (guesses, asked) = (guesses.clone(), asked.clone());
            guessers.spawn(async move {
                loop {
                    if guesses.turn(ADDRESS).await.is_ok() {
                        *asked.lock() += 1;
                        sleep(guesses.refused(ADDRESS)).await;
                    }
                }
            });
        }
        sleep(Duration::from_secs(60) * MINUTES).await;
        let asked = *asked.lock();
        assert!(
            (60 * MINUTES - 5..=60 * MINUTES + 1).contains(&asked),
            "{asked}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_first_come_first_served_and_bounded_in_number_and_time() {
        let guesses = Arc::new(that_guessed());
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..=WAITING_MAX {
            let guesses = guesses.clone();
            waiting.spawn(async move { turn(&guesses, ADDRESS).await });
            tokio::task::yield_now().await;
        }
        let asked = Instant::now();
        assert_eq!(turn(&guesses, ADDRESS).await, Err(too_many()));
        assert_eq!(asked.elapsed(), DELAY, "no room is told late");
        let waited = waiting.join_all().await;
        assert_eq!(asked.elapsed(), TURN_TIMEOUT);
        let turns: Vec<_> = waited.iter().flatten().copied().collect();
        let periods = 0..u32::try_from(turns.len()).unwrap();
        assert!(
            turns
                .iter()
                .copied()
                .eq(periods.map(|turn| TURN_PERIOD * turn))
        );
        assert!((7..=9).contains(&turns.len()), "{turns:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_line_takes_nobodys_turn() {
        let guesses = that_guessed();
        assert_eq!(turn(&guesses, ADDRESS).await, Ok(Duration::ZERO));
        guesses.refused(ADDRESS);
        for _ in 0..1_000 {
            let leaves = timeout(Duration::ZERO, guesses.turn(ADDRESS)).await;
            assert!(leaves.is_err(), "it is nobody's turn yet");
        }
        assert_eq!(turn(&guesses, ADDRESS).await, Ok(TURN_PERIOD));
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_answer_takes_its_challenge_back() {
        let guesses = Guesses::new();
        for _ in 0..10 * ADDRESS_MAX {
            assert_eq!(guesses.refused(ADDRESS), Duration::ZERO);
            guesses.forgive(ADDRESS);
        }
        assert_eq!(turn(&guesses, ADDRESS).await, Ok(Duration::ZERO));
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
