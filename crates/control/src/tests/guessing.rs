//! Floods of guesses at `Authorize`, with checksums that are right; who has a key gets in meanwhile.

use std::{
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use proto::internal::v1::{DenialReason, authorize_response::Decision};

use super::{
    admission_service::{denial, is_granted},
    fixture::{Fixture, Replica},
    on_both,
};
use crate::stream_key::{StreamKey, StreamKeyId};

on_both!(
    an_address_that_guesses_leaves_the_others_alone,
    many_addresses_that_guess_leave_the_others_alone,
    a_guess_learns_nothing_of_a_key,
);

/// Guessers that go on until they are stopped.
struct Flood {
    stop: Arc<AtomicBool>,
    guesses: Arc<AtomicU32>,
    started: Instant,
    guessers: Vec<tokio::task::JoinHandle<()>>,
}

impl Flood {
    /// Every other guess names the attacked key.
    async fn start(
        control: &Arc<Replica>,
        attacked: &str,
        address: impl Fn(u32) -> String + Clone + Send + 'static,
    ) -> Self {
        let attacked = StreamKeyId::parse(attacked).unwrap();
        let (stop, guesses) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let guesser = |_| {
            let (control, address) = (control.clone(), address.clone());
            let (stop, guesses) = (stop.clone(), guesses.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = guesses.fetch_add(1, Ordering::Relaxed);
                    let unknown = StreamKey::generate().unwrap();
                    let guess = match number % 2 {
                        0 => unknown,
                        _ => unknown.with_id(attacked),
                    };
                    let (address, guess) = (address(number), guess.reveal());
                    let answer = control.authorize_from(&address, "live", &guess).await;
                    assert!(!is_granted(&answer.unwrap()));
                    // In-process nothing ever waits for a socket.
                    tokio::task::yield_now().await;
                }
            })
        };
        let flood = Self {
            guessers: (0..GUESSERS).map(guesser).collect(),
            stop,
            guesses,
            started: Instant::now(),
        };
        flood.reaches(FLOOD_MIN).await;
        flood
    }

    async fn reaches(&self, guesses: u32) {
        while self.guesses.load(Ordering::Relaxed) < guesses {
            assert!(self.started.elapsed() < PATIENCE, "the flood stands still");
            tokio::task::yield_now().await;
        }
    }

    /// How many guesses there were, and for how long.
    async fn end(self) -> (u32, Duration) {
        let lasted = self.started.elapsed();
        self.stop.store(true, Ordering::Relaxed);
        for guesser in self.guessers {
            guesser.await.unwrap();
        }
        let guesses = self.guesses.load(Ordering::Relaxed);
        let rate = f64::from(guesses) / lasted.as_secs_f64();
        println!("{guesses} guesses in {lasted:?}: {rate:.0} in a second");
        (guesses, lasted)
    }
}

impl Replica {
    /// How many keys were looked up in vain.
    fn guesses_looked_up(&self) -> u32 {
        let encoded = self.metrics.encode();
        ["unknown", "wrong_secret"]
            .iter()
            .map(|outcome| {
                let start = format!(
                    "headwater_key_checks_total{{outcome=\"{outcome}\",source=\"database\"}} "
                );
                let count = encoded.lines().find_map(|line| line.strip_prefix(&start));
                count.map_or(0, |count| count.parse::<u32>().unwrap())
            })
            .sum()
    }
}

async fn an_address_that_guesses_leaves_the_others_alone(fixture: Fixture) {
    let control = Arc::new(fixture.replica().await);
    let (attacked, attacked_secret) = control.create("attacked").await;
    let (_, neighbour) = control.create("neighbour").await;
    let (_, fresh) = control.create("fresh").await;
    // It has published before, from behind the same address.
    let published = control.authorize_from(GUESSER, "live", &neighbour).await;
    assert!(is_granted(&published.unwrap()));
    let flood = Flood::start(&control, &attacked.id, |_| GUESSER.to_owned()).await;
    for number in 0..20 {
        for (address, secret) in [
            ("198.51.100.1:40000", &attacked_secret),
            ("198.51.100.2:40000", &fresh),
            (GUESSER, &neighbour),
        ] {
            let answer = control.authorize_from(address, "live", secret).await;
            assert!(is_granted(&answer.unwrap()), "{address} {number}");
        }
    }
    flood.reaches(2 * FLOOD_MIN).await;
    let (guesses, lasted) = flood.end().await;
    // 30 at once and those under way by then, and 50 in a second.
    let looked_up = control.guesses_looked_up();
    let turns = u32::try_from(lasted.as_millis()).unwrap() / 20;
    println!("{looked_up} of them were looked up");
    assert!(looked_up <= 30 + GUESSERS + turns + 50, "{looked_up}");
    assert!(looked_up < guesses, "{looked_up}");
}

async fn many_addresses_that_guess_leave_the_others_alone(fixture: Fixture) {
    let control = Arc::new(fixture.replica().await);
    let (attacked, attacked_secret) = control.create("attacked").await;
    let (_, fresh) = control.create("fresh").await;
    let owner = "[2001:db8:ffff::1]:40000";
    let published = control.authorize_from(owner, "live", &attacked_secret);
    assert!(is_granted(&published.await.unwrap()));
    // Each guess from a network of its own.
    let network = |number| {
        let network = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).to_bits();
        Ipv6Addr::from_bits(network | u128::from(number) << 64).to_string()
    };
    let flood = Flood::start(&control, &attacked.id, network).await;
    for number in 0..20 {
        // From home and from the road.
        for address in [owner, "198.51.100.1:40000"] {
            let answer = control.authorize_from(address, "live", &attacked_secret);
            assert!(is_granted(&answer.await.unwrap()), "{address} {number}");
        }
    }
    // A key that was never seen takes turns with the guesses; encoders try again.
    let (started, mut tries) = (Instant::now(), 0);
    loop {
        tries += 1;
        let answer = control.authorize_from("198.51.100.2:40000", "live", &fresh);
        let answer = answer.await.unwrap();
        if is_granted(&answer) {
            break;
        }
        let denial = denial(answer);
        assert_eq!(denial.reason(), DenialReason::TooManyAttempts);
        assert!(denial.retryable);
        assert!(started.elapsed() < PATIENCE, "{tries} tries");
        tokio::task::yield_now().await;
    }
    println!("a new key after {tries} tries, {:?}", started.elapsed());
    flood.end().await;
}

async fn a_guess_learns_nothing_of_a_key(fixture: Fixture) {
    let control = Arc::new(fixture.replica().await);
    let (key, _) = control.create("main").await;
    let guess = |number: u32| {
        let unknown = StreamKey::generate().unwrap();
        match number % 2 {
            0 => unknown,
            _ => unknown.with_id(StreamKeyId::parse(&key.id).unwrap()),
        }
    };
    for number in 0..31 {
        let guess = guess(number).reveal();
        let answer = control.authorize_from(GUESSER, "live", &guess).await;
        let denial = denial(answer.unwrap());
        assert_eq!(denial.reason(), DenialReason::KeyNotAccepted, "{number}");
    }
    // At once, so that none has its turn: the same for a key that is there and one that is not.
    let both = [guess(0).reveal(), guess(1).reveal()];
    let mut refused = [None, None];
    let started = Instant::now();
    while refused.iter().any(Option::is_none) {
        assert!(started.elapsed() < PATIENCE);
        for (refused, guess) in refused.iter_mut().zip(&both) {
            let answer = control.authorize_from(GUESSER, "live", guess).await;
            match answer.unwrap().decision {
                Some(Decision::Denial(denial))
                    if denial.reason() == DenialReason::TooManyAttempts =>
                {
                    *refused = Some((denial.description, denial.retryable));
                }
                Some(Decision::Denial(denial)) => {
                    assert_eq!(denial.reason(), DenialReason::KeyNotAccepted);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let [unknown, known] = refused;
    assert_eq!(unknown, known);
}

const GUESSER: &str = "192.0.2.1:40000";
/// At the same time.
const GUESSERS: u32 = 32;
/// Guesses before anybody else comes.
const FLOOD_MIN: u32 = 5_000;
/// Well above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(25);
