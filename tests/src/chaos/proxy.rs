//! A proxy between edges and an origin, which holds what goes through back for a time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// What is on its way in each direction: reads.
const QUEUE: usize = 256;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// They arrive this much later.
    Delayed(Duration),
    /// They arrive once the weather is better.
    Stalled,
}

/// Listens until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// `to` may change, and need not listen yet.
    pub async fn start(listen: SocketAddr, to: Arc<Mutex<Option<SocketAddr>>>) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, seen) = watch::channel(Weather::Delayed(Duration::ZERO));
        let accepting = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let to = *to.lock();
                let seen = seen.clone();
                tokio::spawn(async move {
                    if let Some(to) = to
                        && let Ok(to) = TcpStream::connect(to).await
                    {
                        pass(from, to, &seen).await;
                    }
                });
            }
        });
        Self {
            address,
            weather,
            accepting,
        }
    }

    pub fn is(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Until both directions are over.
async fn pass(from: TcpStream, to: TcpStream, weather: &watch::Receiver<Weather>) {
    for socket in [&from, &to] {
        socket.set_nodelay(true).ok();
    }
    let ((from_reads, from_writes), (to_reads, to_writes)) = (from.into_split(), to.into_split());
    tokio::join!(
        carry(from_reads, to_writes, weather.clone()),
        carry(to_reads, from_writes, weather.clone()),
    );
}

async fn carry(
    mut reads: OwnedReadHalf,
    mut writes: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
    let reading = async move {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = reads.read(&mut buffer).await {
            let read = (Instant::now(), buffer[..count].to_vec());
            if sender.send(read).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((read, bytes)) = queue.recv().await {
            let now = weather
                .wait_for(|weather| *weather != Weather::Stalled)
                .await;
            let Ok(Weather::Delayed(delay)) = now.map(|weather| *weather) else {
                return;
            };
            sleep_until(read + delay).await;
            if writes.write_all(&bytes).await.is_err() {
                return;
            }
        }
        writes.shutdown().await.ok();
    };
    tokio::join!(reading, writing);
}
