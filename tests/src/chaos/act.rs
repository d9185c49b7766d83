//! How faults are done to a field, and undone.

use std::time::Duration;

use super::{
    fault::{Fault, Part},
    field::{self, Field, WELL},
    network::{self, HERE, Place},
    proxy::Weather,
    stores::Server,
    strict::Prepared,
    takeover::Incumbent,
};
use crate::http;

/// Of every hundred packets that arrive.
const LOST_PERCENT: u32 = 3;
/// For each publisher of an edge: each sends 200.
const LIMIT_KILOBITS_PER_SECOND: f64 = 120.0;
const DELAY: Duration = Duration::from_millis(200);
/// For a process to drain: its time, and some more.
const DRAINS: Duration = Duration::from_secs(30);
/// Names are looked up every eleven seconds.
const LOOKED_UP: Duration = Duration::from_secs(12);
/// Between a takeover that the replica does not hear of and the primary's death.
const UNREPLICATED: Duration = Duration::from_secs(2);

/// Sessions of an edge.
const PUBLISHERS: &str = "headwater_publishers_active";

impl Field {
    /// The part that is struck now.
    pub async fn victim(&self, fault: Fault) -> usize {
        const STREAMS: &str = "headwater_origin_publishers_active";
        match fault {
            Fault::Killed(Part::Origin)
            | Fault::Frozen(Part::Origin)
            | Fault::OriginUnplugged
            | Fault::OriginCutFromEdges
            | Fault::StalledShortly
            | Fault::Stalled => Self::busiest(&self.origins, STREAMS).await,
            Fault::Killed(Part::Edge)
            | Fault::Frozen(Part::Edge)
            | Fault::EdgeAlone
            | Fault::Limited => Self::busiest(&self.edges, PUBLISHERS).await,
            Fault::Killed(Part::Primary)
            | Fault::Frozen(Part::Primary)
            | Fault::RedisFlushed
            | Fault::RedisPaused
            | Fault::RedisPartitioned
            | Fault::RedisLosesWrites => self.stores.primary(),
            Fault::Killed(Part::Replica) | Fault::Frozen(Part::Replica) => {
                1 - self.stores.primary()
            }
            Fault::Killed(Part::Control | Part::Sentinel | Part::Database)
            | Fault::Frozen(Part::Control | Part::Sentinel | Part::Database)
            | Fault::Lossy
            | Fault::Delayed
            | Fault::EdgesReplaced
            | Fault::OriginsReplaced
            | Fault::RedisDown
            | Fault::ControlsDown
            | Fault::NamesWrong
            | Fault::NamesGone => 0,
        }
    }

    pub async fn strike(&mut self, fault: Fault, at: usize) {
        match fault {
            Fault::Killed(part) => self.kill(part, at),
            Fault::Frozen(part) => self.signal(part, at, "STOP"),
            Fault::OriginUnplugged => self.origins[at].place.unplug(),
            Fault::OriginCutFromEdges => {
                for edge in &self.edges {
                    network::cut(&edge.place, &self.origins[at].place);
                }
            }
            Fault::EdgeAlone => self.edges[at].place.talks_to(&[HERE]),
            Fault::Lossy => {
                for part in self.edges.iter().chain(&self.origins) {
                    part.place.loses(LOST_PERCENT);
                }
            }
            Fault::Limited => {
                let metrics = self.edges[at].node.metrics().await.unwrap_or_default();
                let publishers = http::metric(&metrics, PUBLISHERS, &[]);
                let limit = publishers * LIMIT_KILOBITS_PER_SECOND;
                self.edges[at].place.is_limited_to(limit);
            }
            Fault::Delayed => {
                for proxy in &self.proxies {
                    proxy.is(Weather::Delayed(DELAY));
                }
            }
            Fault::StalledShortly | Fault::Stalled => self.proxies[at].is(Weather::Stalled),
            Fault::EdgesReplaced => self.replace(Part::Edge).await,
            Fault::OriginsReplaced => self.replace(Part::Origin).await,
            Fault::RedisDown => {
                let prepared = Prepared::new(self).await;
                self.stores.servers.iter_mut().for_each(Server::kill);
                self.waiting = Some(prepared.comes(self));
            }
            Fault::RedisFlushed => {
                let said = self.stores.servers[at].says(&["FLUSHALL"]);
                assert_eq!(said.trim(), "OK");
            }
            Fault::RedisPaused => {
                let pause = fault.lasts().as_millis().to_string();
                let said = self.stores.servers[at].says(&["CLIENT", "PAUSE", &pause, "ALL"]);
                assert_eq!(said.trim(), "OK");
            }
            Fault::RedisPartitioned => {
                let clients = self.parts().map(|part| part.place.address);
                let clients: Vec<_> = clients.chain([HERE]).collect();
                self.stores.servers[at].place.talks_to(&clients);
            }
            Fault::RedisLosesWrites => self.lose_writes(at).await,
            Fault::ControlsDown => self.controls.iter_mut().for_each(|part| part.node.kill()),
            Fault::NamesWrong => {
                self.names_are_right(false);
                tokio::time::sleep(LOOKED_UP).await;
            }
            Fault::NamesGone => {
                self.names_are_gone();
                tokio::time::sleep(LOOKED_UP).await;
            }
        }
    }

    /// Undoes it, once it has done what it is for, and returns once the part is there again.
    pub async fn heal(&mut self, fault: Fault, at: usize) {
        if fault.fails_over() {
            self.stores.fail_over(at).await;
        }
        match fault {
            Fault::Killed(part) => self.revive(part, at).await,
            Fault::Frozen(part) => self.signal(part, at, "CONT"),
            Fault::OriginUnplugged
            | Fault::OriginCutFromEdges
            | Fault::EdgeAlone
            | Fault::Limited
            | Fault::RedisPartitioned => self.mend(),
            Fault::Lossy => {
                let lost: u64 = self.edges.iter().map(|edge| edge.place.lost()).sum();
                assert!(lost > 0, "no packet was lost");
                self.mend();
            }
            Fault::Delayed | Fault::StalledShortly | Fault::Stalled => {
                for proxy in &self.proxies {
                    proxy.is(Weather::Delayed(Duration::ZERO));
                }
            }
            Fault::RedisDown => {
                let waiting = self.waiting.take().expect("somebody waits");
                waiting.was_refused(self).await;
                for server in &mut self.stores.servers {
                    server.start().await;
                }
                waiting.gets_in(fault.lasts() + WELL).await;
            }
            Fault::RedisLosesWrites => {
                self.mend();
                self.stores.servers[at].start().await;
                let successor = self.successor.take().expect("somebody took over");
                successor.finish(self).await;
            }
            Fault::ControlsDown => {
                for part in &mut self.controls {
                    part.node.start().await;
                }
            }
            Fault::NamesWrong => self.names_are_right(true),
            Fault::NamesGone => {
                let missed = |edge: &field::Part| {
                    let log = edge.node.process().log();
                    log.contains("name does not resolve")
                };
                assert!(self.edges.iter().all(missed), "names resolve");
                self.names_are_right(true);
            }
            Fault::EdgesReplaced
            | Fault::OriginsReplaced
            | Fault::RedisFlushed
            | Fault::RedisPaused => {}
        }
    }

    /// The link to the replica is cut, a stream is taken over, and the primary dies with the claim.
    async fn lose_writes(&mut self, at: usize) {
        let incumbent = Incumbent::start(self).await;
        let [one, other] = &*self.stores.servers else {
            panic!("two servers");
        };
        network::cut(&one.place, &other.place);
        let successor = incumbent.loses_to_another(self).await;
        // Sessions renew meanwhile.
        tokio::time::sleep(UNREPLICATED).await;
        let knows = |at: usize| self.stores.servers[at].knows(&successor.session);
        assert!(knows(at), "the claim is at the primary");
        assert!(!knows(1 - at), "the claim is at the replica");
        self.stores.servers[at].kill();
        self.successor = Some(successor);
    }

    fn kill(&mut self, part: Part, at: usize) {
        match part {
            Part::Origin => self.origins[at].node.kill(),
            Part::Edge => self.edges[at].node.kill(),
            Part::Control => self.controls[at].node.kill(),
            Part::Primary | Part::Replica => self.stores.servers[at].kill(),
            Part::Sentinel => self.stores.sentinels[at].kill(),
            Part::Database => self.database.kill(),
        }
    }

    fn signal(&self, part: Part, at: usize, signal: &str) {
        match part {
            Part::Origin => self.origins[at].node.process().signal(signal),
            Part::Edge => self.edges[at].node.process().signal(signal),
            Part::Control => self.controls[at].node.process().signal(signal),
            Part::Primary | Part::Replica => self.stores.servers[at].signal(signal),
            Part::Sentinel => self.stores.sentinels[at].signal(signal),
            Part::Database => self.database.signal(signal),
        }
    }

    async fn revive(&mut self, part: Part, at: usize) {
        match part {
            Part::Origin => self.origins[at].node.start().await,
            Part::Edge => self.edges[at].node.start().await,
            Part::Control => self.controls[at].node.start().await,
            Part::Primary | Part::Replica => self.stores.servers[at].start().await,
            Part::Sentinel => self.stores.sentinels[at].start().await,
            Part::Database => self.database.start_again().await,
        }
    }

    /// As a rollout does: the next one goes once the one before is ready.
    async fn replace(&mut self, part: Part) {
        let parts = match part {
            Part::Edge => &mut self.edges,
            Part::Origin => &mut self.origins,
            Part::Control | Part::Primary | Part::Replica | Part::Sentinel | Part::Database => {
                panic!("{part:?} is not replaced")
            }
        };
        for part in parts {
            part.node.replace(DRAINS).await;
        }
    }

    /// All wires are well.
    fn mend(&self) {
        let parts = self.parts().map(|part| &part.place);
        let servers = self.stores.servers.iter().map(|server| &server.place);
        parts.chain(servers).for_each(Place::mend);
    }
}
