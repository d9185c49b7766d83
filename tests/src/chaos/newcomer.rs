//! Somebody who wants to publish in the middle of a fault, as an encoder behind a load balancer does: again, at another
//! edge, until it is let in.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::field::Field;
use crate::{api::IssuedKey, encoder::Encoder, tls};

/// For an edge to take the connection.
const CONNECT: Duration = Duration::from_secs(1);
/// For it to decide.
const DECIDE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);
/// What is said where nothing was.
const UNREACHABLE: &str = "unreachable";

/// Tries in the background.
pub struct Newcomer {
    task: JoinHandle<Admission>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// Since the fault, until it was let in.
    pub took: Duration,
    /// What it was told before, and how often.
    pub refused: BTreeMap<String, usize>,
}

impl Newcomer {
    /// Each begins at another edge.
    pub fn start(field: &Field, key: IssuedKey, number: usize) -> Self {
        let edges: Vec<SocketAddr> = field.edges.iter().map(|edge| edge.node.rtmps()).collect();
        let config = tls::trusting(&field.deployment.ca_file, &[]);
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let mut refused = BTreeMap::new();
            for edge in edges.iter().cycle().skip(number % edges.len()) {
                let connect = timeout(CONNECT, tls::connect(*edge, config.clone())).await;
                let said = match connect {
                    Ok(Ok(connection)) => publish(Encoder::new(connection), &key).await,
                    Ok(Err(_)) | Err(_) => Some(UNREACHABLE.to_owned()),
                };
                let Some(said) = said else {
                    break;
                };
                *refused.entry(said).or_default() += 1;
                sleep(PAUSE).await;
            }
            Admission {
                took: began.elapsed(),
                refused,
            }
        });
        Self { task }
    }

    /// Whether it has been let in.
    pub fn is_in(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it is let in; `None` where that is not in time.
    pub async fn admitted(mut self, within: Duration) -> Option<Admission> {
        match timeout(within, &mut self.task).await {
            Ok(admission) => Some(admission.unwrap()),
            Err(_) => {
                self.task.abort();
                None
            }
        }
    }
}

/// Publishes, and ends in its own time; what it was told where it was refused.
async fn publish(mut encoder: Encoder, key: &IssuedKey) -> Option<String> {
    match timeout(DECIDE, encoder.publish(&key.app, &key.secret)).await {
        Ok(Ok(status)) if status.level == "status" => {
            let secret = key.secret.clone();
            tokio::spawn(timeout(
                DECIDE,
                async move { encoder.finish(&secret).await },
            ));
            None
        }
        Ok(Ok(status)) => Some(status.description),
        Ok(Err(_)) => Some(UNREACHABLE.to_owned()),
        Err(_) => Some("no answer".to_owned()),
    }
}
