//! Whoever guesses keys gets little of the database: over many edges, from one address or from many.
//!
//! Nobody is shut out. A credential that was accepted a while ago is looked up at once, wherever it comes from; so is
//! whatever comes from an address that has not guessed. Everything else takes turns: one at a time of an address, some
//! in a second of one that guesses, a few at a time of all. What gets no turn is refused before anything is looked up,
//! right or wrong, so that the refusal tells nothing of the key.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use parking_lot::Mutex;
use runtime::addresses::{FadingCount, counted_as};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::Refusal;
use crate::field::client_ip;

/// What one control process remembers of them.
pub(super) struct Guesses {
    state: Mutex<State>,
    turns: Semaphore,
    /// Of no use to anybody else: what is remembered of a credential is 64 bits under a key of this process.
    marks: RandomState,
}

struct State {
    addresses: Generations<IpAddr, Address>,
    /// Credentials that were accepted.
    accepted: Generations<u64, ()>,
    /// Addresses that wait for their turn, or have it.
    waiting: BTreeSet<IpAddr>,
    /// Refusals of addresses that had not guessed much until then.
    strangers: FadingCount,
}

struct Address {
    refusals: FadingCount,
    /// When it may have its next turn.
    next: Instant,
}

/// A credential and whom it comes from.
pub(super) struct Guess {
    address: IpAddr,
    mark: u64,
}

/// Leave to ask the database, until it is dropped.
pub(super) struct Turn<'a> {
    guesses: &'a Guesses,
    /// `None`: without waiting.
    taken: Option<(IpAddr, Option<SemaphorePermit<'a>>)>,
}

impl Guesses {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                addresses: Generations::new(ADDRESSES_MAX / 2),
                accepted: Generations::new(ACCEPTED_MAX / 2),
                waiting: BTreeSet::new(),
                strangers: FadingCount::new(STRANGERS_FORGOTTEN),
            }),
            turns: Semaphore::new(TURNS_MAX),
            marks: RandomState::new(),
        }
    }

    /// `shown`: what has to be right. Clients whose address nobody knows count as one.
    pub(super) fn guess(&self, client_address: &str, shown: impl Hash) -> Guess {
        let address = client_ip(client_address).unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        Guess {
            address: counted_as(address),
            mark: self.marks.hash_one(shown),
        }
    }

    /// Before the database is asked; `None`: it is not to be.
    pub(super) async fn turn(&self, guess: &Guess) -> Option<Turn<'_>> {
        let mut turn = Turn {
            guesses: self,
            taken: None,
        };
        {
            let mut state = self.state.lock();
            if state.is_trusted(guess) {
                return Some(turn);
            }
            if !state.queue(guess.address) {
                return None;
            }
        }
        // From here on the end of the turn, or of this call, makes room for the address's next.
        turn.taken = Some((guess.address, None));
        let permit = timeout(WAIT_MAX, self.turns.acquire()).await.ok()?.ok()?;
        turn.taken = Some((guess.address, Some(permit)));
        Some(turn)
    }

    /// What became of it.
    pub(super) fn learn<T>(&self, guess: &Guess, checked: Result<T, &Refusal>) {
        let mut state = self.state.lock();
        match checked {
            Ok(_accepted) => state.accepted.insert(guess.mark, ()),
            Err(refusal) => {
                state.accepted.remove(&guess.mark);
                if refusal.may_be_a_guess() {
                    state.refused(guess.address);
                }
            }
        }
    }
}

impl State {
    fn is_trusted(&mut self, guess: &Guess) -> bool {
        self.accepted.get_mut(&guess.mark).is_some()
            || !self.has_guessed(guess.address) && self.strangers.now() < STRANGERS_MAX
    }

    fn has_guessed(&mut self, address: IpAddr) -> bool {
        let address = self.addresses.get_mut(&address);
        address.is_some_and(|address| address.refusals.now() >= ADDRESS_MAX)
    }

    /// Whether the address may wait for a turn.
    fn queue(&mut self, address: IpAddr) -> bool {
        let now = Instant::now();
        let known = self.addresses.get_mut(&address);
        let early = known.is_some_and(|address| address.next > now);
        !early && self.waiting.len() < WAITING_MAX && self.waiting.insert(address)
    }

    fn left(&mut self, address: IpAddr) {
        self.waiting.remove(&address);
        if self.has_guessed(address)
            && let Some(known) = self.addresses.get_mut(&address)
        {
            known.next = Instant::now() + PACE;
        }
    }

    fn refused(&mut self, address: IpAddr) {
        // One that is known to guess says nothing of the others; and the count is soon down again.
        if !self.has_guessed(address) && self.strangers.now() < 2 * STRANGERS_MAX {
            self.strangers.add();
        }
        if let Some(known) = self.addresses.get_mut(&address) {
            known.refusals.add();
            return;
        }
        let mut refusals = FadingCount::new(ADDRESS_FORGOTTEN);
        refusals.add();
        let next = Instant::now();
        self.addresses.insert(address, Address { refusals, next });
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((address, _permit)) = self.taken.take() {
            self.guesses.state.lock().left(address);
        }
    }
}

/// What was used last, of a bounded number: two maps, and when the young one is full it replaces the old one. Nothing is
/// ever searched for what is to go.
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Of each.
    entries_max: usize,
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn new(entries_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            entries_max,
        }
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.entries_max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// Refusals after which an address takes turns. Each second forgets one: an encoder with a dead key that tries every two
/// seconds never gets there.
const ADDRESS_MAX: u32 = 30;
const ADDRESS_FORGOTTEN: u32 = 1;
/// Between two turns of an address that guesses. Edges let through one a second of each address that they refuse too
/// often, so that who shares an address with a guesser, and was never seen here, still gets a turn.
const PACE: Duration = Duration::from_millis(20);
/// Refusals, of addresses that had no such number each, beyond which every address takes turns: many guess together, a few
/// times each.
const STRANGERS_MAX: u32 = 2_000;
const STRANGERS_FORGOTTEN: u32 = 400;
/// Turns at a time: a part of the connections to the database.
const TURNS_MAX: usize = 2;
/// Addresses that wait for a turn, or have one.
const WAITING_MAX: usize = 64;
/// An edge waits 2.5 s for a decision, of which the database may take two.
const WAIT_MAX: Duration = Duration::from_millis(400);
/// Addresses that are remembered: some 8 MB.
const ADDRESSES_MAX: usize = 65_536;
/// Credentials that are remembered: some 3 MB.
const ACCEPTED_MAX: usize = 131_072;

#[cfg(test)]
mod tests {
    use super::*;

    const GUESSER: &str = "192.0.2.1";

    async fn try_key(guesses: &Guesses, address: &str, key: &str, is_right: bool) -> bool {
        let guess = guesses.guess(address, key);
        let Some(_turn) = guesses.turn(&guess).await else {
            return false;
        };
        let checked = if is_right {
            Ok(())
        } else {
            Err(&Refusal::Unknown)
        };
        guesses.learn(&guess, checked);
        true
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_guesses_is_paced_and_known_keys_are_not() {
        let guesses = Guesses::new();
        assert!(try_key(&guesses, GUESSER, "known", true).await);
        for number in 0..ADDRESS_MAX {
            assert!(try_key(&guesses, GUESSER, &number.to_string(), false).await);
        }
        assert!(try_key(&guesses, GUESSER, "next", false).await, "its turn");
        assert!(!try_key(&guesses, GUESSER, "and next", false).await);
        assert!(try_key(&guesses, GUESSER, "known", true).await);
        assert!(try_key(&guesses, "192.0.2.2", "another's", false).await);
        tokio::time::advance(PACE).await;
        assert!(try_key(&guesses, GUESSER, "new", true).await, "its turn");
        assert!(try_key(&guesses, GUESSER, "new", true).await, "known now");
        // It was revoked.
        assert!(try_key(&guesses, GUESSER, "known", false).await);
        assert!(!try_key(&guesses, GUESSER, "known", false).await);
        tokio::time::advance(Duration::from_secs(60)).await;
        for _ in 0..2 {
            assert!(
                try_key(&guesses, GUESSER, "later", false).await,
                "forgotten"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_guesser() {
        let guesses = Guesses::new();
        for number in 0..=ADDRESS_MAX {
            let address = format!("2001:db8:0:1::{number:x}");
            assert!(try_key(&guesses, &address, "x", false).await);
        }
        assert!(!try_key(&guesses, "2001:db8:0:1:ffff::1", "x", false).await);
        assert!(try_key(&guesses, "2001:db8:0:2::1", "x", false).await);
    }

    #[tokio::test(start_paused = true)]
    async fn while_many_guess_everybody_takes_turns() {
        let guesses = Guesses::new();
        assert!(try_key(&guesses, GUESSER, "known", true).await);
        for number in 0..STRANGERS_MAX {
            let address = IpAddr::V4(number.into()).to_string();
            assert!(try_key(&guesses, &address, "x", false).await);
        }
        let address = |number: usize| format!("192.0.2.{number}");
        let mut turns = Vec::new();
        for number in 0..TURNS_MAX {
            let guess = guesses.guess(&address(number), "x");
            turns.push(guesses.turn(&guess).await.unwrap());
        }
        let guess = guesses.guess(&address(TURNS_MAX), "x");
        assert!(guesses.turn(&guess).await.is_none(), "waited in vain");
        assert!(try_key(&guesses, GUESSER, "known", true).await);
        turns.pop();
        assert!(guesses.turn(&guess).await.is_some());
        drop(turns);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(guesses.turn(&guess).await.unwrap().taken.is_none());
        assert!(guesses.state.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let guesses = Guesses::new();
        for number in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            let address = IpAddr::V4(number.into()).to_string();
            try_key(&guesses, &address, &address, number % 2 == 0).await;
        }
        let state = guesses.state.lock();
        let addresses = state.addresses.young.len() + state.addresses.old.len();
        let accepted = state.accepted.young.len() + state.accepted.old.len();
        assert!(addresses <= ADDRESSES_MAX, "{addresses}");
        assert!(accepted <= ACCEPTED_MAX, "{accepted}");
        assert!(state.waiting.is_empty());
    }
}
