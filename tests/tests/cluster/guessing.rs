//! Guesses over RTMPS, with checksums that are right, as many as the machine makes: from one address, and from as many
//! as loopback has. A session beside them notices nothing, and whoever has a key gets in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tests::{
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    encoder::Encoder,
    guess, tls, turn_alone,
    wait::wait_until,
    witness::Witness,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_key_gets_in_while_others_guess() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(Layout::default()).await;
    let deployment = &cluster.deployment;
    let witness = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(deployment, witness).await;
    let attacked = deployment.api.create_key(APP, "attacked").await;
    let fresh = deployment.api.create_key(APP, "fresh").await;

    let flood = Flood::start(deployment, &attacked.id);
    flood.reaches(GUESSES / 2).await;
    for key in [&attacked, &fresh] {
        let asked = Instant::now();
        let encoder = deployment.publish(key).await;
        println!("{} is live after {:?}", key.stream, asked.elapsed());
        encoder.finish(&key.secret).await.unwrap();
    }
    flood.reaches(GUESSES).await;
    flood.end().await;
    for reason in ["reason=\"unknown\"", "reason=\"wrong_secret\""] {
        let control = cluster.controls[0].process();
        control.log_line(&["publish refused", reason], LOGGED).await;
    }
    witness.finish().await;
}

struct Flood {
    stop: Arc<AtomicBool>,
    guesses: Arc<AtomicU32>,
    started: Instant,
    guessers: Vec<tokio::task::JoinHandle<()>>,
}

impl Flood {
    fn start(deployment: &Deployment, attacked: &str) -> Self {
        let (stop, guesses) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let started = Instant::now();
        let config = tls::trusting(&deployment.ca_file, &[]);
        let guessers = (0..GUESSERS).map(|guesser| {
            let (config, edge, attacked) = (config.clone(), deployment.rtmps, attacked.to_owned());
            let (stop, guesses) = (stop.clone(), guesses.clone());
            tokio::spawn(async move {
                let mut number = guesser;
                while !stop.load(Ordering::Relaxed) && started.elapsed() < FLOOD_MAX {
                    number += GUESSERS;
                    let id = match number % 3 {
                        0 => attacked.clone(),
                        _ => format!("{number:016}"),
                    };
                    let connected =
                        tls::connect_from(address(guesser, number), edge, config.clone()).await;
                    if let Ok(connected) = connected
                        && one_guess(Encoder::new(connected), &guess::stream_key(&id, number))
                            .await
                            .is_ok()
                    {
                        guesses.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        Self {
            guessers: guessers.collect(),
            stop,
            guesses,
            started,
        }
    }

    async fn reaches(&self, guesses: u32) {
        let enough = || self.guesses.load(Ordering::Relaxed) >= guesses;
        wait_until("so many guesses", FLOOD_MAX, enough).await;
    }

    async fn end(self) {
        let (guesses, lasted) = (&self.guesses, self.started.elapsed());
        let guesses = guesses.load(Ordering::Relaxed);
        let rate = f64::from(guesses) / lasted.as_secs_f64();
        println!("{guesses} guesses in {lasted:?}: {rate:.0} in a second");
        self.stop.store(true, Ordering::Relaxed);
        for guesser in self.guessers {
            guesser.await.unwrap();
        }
    }
}

/// Every fourth guesser stays where it is; the others are elsewhere each time.
fn address(guesser: u32, number: u32) -> IpAddr {
    let host = if guesser.is_multiple_of(4) {
        2
    } else {
        3 + number
    };
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + host).into()
}

async fn one_guess(mut encoder: Encoder, key: &str) -> io::Result<()> {
    let status = encoder.publish(APP, key).await?;
    assert_eq!(status.level, "error", "{status:?}");
    Ok(())
}

/// At the same time.
const GUESSERS: u32 = 16;
/// The flood's, before it ends. How many there are in a second is the machine's affair.
const GUESSES: u32 = 200;
/// The flood ends by then, whatever became of it.
const FLOOD_MAX: Duration = Duration::from_secs(60);
const LOGGED: Duration = Duration::from_secs(10);
