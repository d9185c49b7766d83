//! Somebody who wants to publish in the middle of a fault, as an encoder behind a load balancer does: again, at another
//! edge, until it is let in.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::field::{Field, Part};
use crate::{api::IssuedKey, encoder::Encoder, tls};

/// For an edge to take the connection.
const CONNECT: Duration = Duration::from_secs(1);
/// For it to decide.
const DECIDE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);
/// What is said where nothing was.
pub const UNREACHABLE: &str = "unreachable";

/// Where newcomers knock: known without the field, which a fault has for itself while it is done.
pub struct Door {
    edges: Vec<SocketAddr>,
    config: Arc<ClientConfig>,
}

/// Tries in the background, until it is let in or dropped.
pub struct Newcomer {
    began: Instant,
    task: JoinHandle<Admission>,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// Since it came, until it was let in.
    pub took: Duration,
    /// What it was told before, and how often.
    pub refused: BTreeMap<String, usize>,
}

impl Door {
    /// Of these edges of a field.
    pub fn of(edges: &[Part], field: &Field) -> Self {
        Self {
            edges: edges.iter().map(|edge| edge.node.rtmps()).collect(),
            config: tls::trusting(&field.deployment.ca_file, &[]),
        }
    }

    /// Each number begins at another edge.
    pub fn newcomer(&self, key: IssuedKey, number: usize) -> Newcomer {
        let (edges, config) = (self.edges.clone(), self.config.clone());
        let began = Instant::now();
        let task = tokio::spawn(async move {
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
        Newcomer { began, task }
    }
}

impl Newcomer {
    /// Whether it has been let in.
    pub fn is_in(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it is let in; `None` where it still is not, so long after it came.
    pub async fn admitted(mut self, within: Duration) -> Option<Admission> {
        let admission = timeout_at(self.began + within, &mut self.task).await;
        Some(admission.ok()?.unwrap())
    }
}

impl Drop for Newcomer {
    /// Nobody goes on trying into the next round, whatever became of this one.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often edges refused somebody, by edge and reason.
pub type Refusals = BTreeMap<(usize, String), usize>;

/// What these edges have counted.
pub async fn refusals(edges: &[Part]) -> Refusals {
    let mut refusals = Refusals::new();
    for (edge, part) in edges.iter().enumerate() {
        let metrics = part.node.metrics().await;
        let metrics = metrics.expect("an edge that is well tells what it counts");
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("headwater_publish_attempts_total{"));
        for line in lines.filter(|line| line.contains("outcome=\"refused\"")) {
            let (_, rest) = line.split_once("reason=\"").expect("a reason");
            let (reason, rest) = rest.split_once('"').expect("its end");
            let count = rest.rsplit(' ').next().and_then(|count| count.parse().ok());
            *refusals.entry((edge, reason.to_owned())).or_default() += count.unwrap_or(0);
        }
    }
    refusals
}

/// How often each reason was counted between the two.
pub fn since(before: &Refusals, after: &Refusals) -> BTreeMap<String, usize> {
    let mut since = BTreeMap::new();
    for (at, count) in after {
        // An edge that was started again counts from zero.
        let earlier = before.get(at).copied().filter(|earlier| earlier <= count);
        let new = count - earlier.unwrap_or(0);
        if new > 0 {
            *since.entry(at.1.clone()).or_default() += new;
        }
    }
    since
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
