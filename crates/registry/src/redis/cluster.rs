//! Redis Cluster: which node has which slots, as the nodes tell it.
//!
//! The crate's cluster client keeps its map behind a lock that commands read and a refresh writes, over the network; it
//! sends one ASKING for a whole pipeline, turns to a replica where a primary is gone, and reads a password once. So the
//! map is here: a task asks the nodes, commands read it from a watch, and each node is a supervised connection.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use redis::{Pipeline, Value, from_redis_value_ref};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    ask::ask,
    config::{Address, RedisConfig},
    error::{CommandError, ConnectError},
    node::{Duty, Node, Target},
    pause::jittered,
    slot::SLOTS,
    watcher::Watcher,
};

/// A cheap handle.
#[derive(Clone)]
pub(super) struct Cluster {
    map: watch::Receiver<Map>,
    members: Arc<Members>,
    outdated: Arc<Notify>,
    timeout: Duration,
    /// Whether the connections are not those of everybody.
    apart: bool,
}

/// Who has which slots. Counts how often the nodes were asked.
#[derive(Clone)]
struct Map {
    asked: u64,
    owners: Result<Arc<[Owned]>, Option<Arc<ConnectError>>>,
}

/// Slots in a row, and their primary.
struct Owned {
    first: u16,
    last: u16,
    address: Address,
    node: Node,
}

impl Cluster {
    /// Asks the nodes in the background.
    pub(super) fn open(config: &RedisConfig, seeds: Vec<Address>, watcher: &Arc<Watcher>) -> Self {
        let (sender, map) = watch::channel(Map {
            asked: 0,
            owners: Err(None),
        });
        let members = Arc::new(Members {
            config: config.clone(),
            known: Mutex::default(),
            watcher: Arc::clone(watcher),
        });
        let outdated = Arc::new(Notify::new());
        tokio::spawn(follow(
            Arc::clone(&members),
            seeds,
            Arc::clone(&outdated),
            sender,
        ));
        Self {
            map,
            members,
            outdated,
            timeout: config.timeout,
            apart: false,
        }
    }

    /// The same map, and connections of its own: to those nodes alone that are asked for something.
    pub(super) fn apart(&self, watcher: &Arc<Watcher>) -> Self {
        Self {
            members: Arc::new(Members {
                config: self.members.config.clone(),
                known: Mutex::default(),
                watcher: Arc::clone(watcher),
            }),
            apart: true,
            ..self.clone()
        }
    }

    /// The node that has a slot; any, where it does not matter.
    pub(super) async fn owner(
        &self,
        slot: Option<u16>,
        deadline: Instant,
    ) -> Result<(Address, Node), CommandError> {
        let mut map = self.map.clone();
        let known = map.wait_for(|map| !matches!(map.owners, Err(None)));
        let known = timeout_at(deadline, known).await;
        let known = known.map_err(|_elapsed| CommandError::Timeout(self.timeout))?;
        let owners = match known.map(|map| map.owners.clone()) {
            Ok(Ok(owners)) => owners,
            Ok(Err(Some(error))) => return Err(CommandError::Down(error)),
            // The task ends with its runtime.
            Ok(Err(None)) | Err(_) => return Err(CommandError::GivenUp),
        };
        let slot = slot.unwrap_or_else(|| owners.first().map_or(0, |owned| owned.first));
        let at = owners.partition_point(|owned| owned.last < slot);
        let owned = owners.get(at).filter(|owned| owned.first <= slot);
        let owned = owned.ok_or(CommandError::Uncovered(slot))?;
        let node = if self.apart {
            self.members.drop_unwanted();
            self.members.get(&owned.address)
        } else {
            owned.node.clone()
        };
        Ok((owned.address.clone(), node))
    }

    /// A node that another one named.
    pub(super) fn member(&self, address: &Address) -> Node {
        self.members.get(address)
    }

    /// The map was wrong somewhere.
    pub(super) fn suspect(&self) {
        self.outdated.notify_one();
    }

    /// Until the nodes have been asked once more, or the deadline.
    pub(super) async fn asked_again(&self, deadline: Instant) {
        let mut map = self.map.clone();
        let before = map.borrow().asked;
        self.suspect();
        let later = map.wait_for(|map| map.asked > before);
        timeout_at(deadline, later).await.ok();
    }
}

/// The connections, by address.
struct Members {
    config: RedisConfig,
    /// Never held while something is waited for.
    known: Mutex<BTreeMap<Address, Member>>,
    watcher: Arc<Watcher>,
}

struct Member {
    node: Node,
    /// When it was asked for last. A node that is about to get its first slots is in no map.
    wanted: Instant,
}

impl Members {
    fn get(&self, address: &Address) -> Node {
        let wanted = Instant::now();
        let mut known = self.known.lock();
        if let Some(member) = known.get_mut(address) {
            member.wanted = wanted;
            return member.node.clone();
        }
        let target = Target {
            access: self.config.access.clone(),
            database: 0,
            duty: Duty::Member,
            timeout: self.config.timeout,
            watcher: Arc::clone(&self.watcher),
        };
        let node = Node::at(target, address.clone());
        if known.len() >= MEMBERS_MAX {
            known.retain(|_, member| member.is_wanted());
        }
        if known.len() < MEMBERS_MAX {
            let node = node.clone();
            known.insert(address.clone(), Member { node, wanted });
        }
        node
    }

    fn drop_unwanted(&self) {
        self.known.lock().retain(|_, member| member.is_wanted());
    }
}

impl Member {
    fn is_wanted(&self) -> bool {
        self.wanted.elapsed() < UNWANTED_AFTER
    }
}

/// Asks the nodes for as long as somebody wants to know.
async fn follow(
    members: Arc<Members>,
    seeds: Vec<Address>,
    outdated: Arc<Notify>,
    map: watch::Sender<Map>,
) {
    let mut pause = ASK_PAUSE_MIN;
    let mut turn = 0_usize;
    loop {
        turn = turn.wrapping_add(1);
        let candidates = candidates(&map.borrow(), &seeds, turn);
        let found = tokio::select! {
            () = map.closed() => return,
            found = who_has_what(&members, &candidates) => found,
        };
        let found_one = found.is_some();
        map.send_modify(|map| {
            map.asked = map.asked.wrapping_add(1);
            match (found, &map.owners) {
                (Some(owners), _) => map.owners = Ok(owners),
                // What was known may be right still.
                (None, Ok(_)) => {}
                (None, Err(_)) => map.owners = Err(Some(Arc::new(ConnectError::NoNode))),
            }
        });
        let again = async {
            sleep(jittered(pause)).await;
            if found_one {
                outdated.notified().await;
            }
        };
        tokio::select! {
            () = map.closed() => return,
            () = again => {}
            () = sleep(jittered(ASK_PERIOD)) => {}
        }
        pause = match found_one {
            true => ASK_PAUSE_MIN,
            false => pause.saturating_mul(2).min(ASK_PAUSE_MAX),
        };
        members.drop_unwanted();
    }
}

/// Whom to ask this time: the primaries known, each time beginning with another one, and who is configured.
fn candidates(map: &Map, seeds: &[Address], turn: usize) -> Vec<Address> {
    let mut candidates: Vec<_> = seeds.to_vec();
    if let Ok(owners) = &map.owners {
        candidates.extend(owners.iter().map(|owned| owned.address.clone()));
    }
    candidates.sort_unstable();
    candidates.dedup();
    let first = turn.checked_rem(candidates.len()).unwrap_or(0);
    candidates.rotate_left(first);
    candidates.truncate(ASKED_MAX);
    candidates
}

/// As the node says that has seen the latest failover.
async fn who_has_what(members: &Members, candidates: &[Address]) -> Option<Arc<[Owned]>> {
    let nodes: Vec<_> = candidates
        .iter()
        .map(|address| members.get(address))
        .collect();
    let mut question = Pipeline::with_capacity(2);
    question.cmd("CLUSTER").arg("SLOTS");
    question.cmd("CLUSTER").arg("INFO");
    let answers = ask(&nodes, &question, Instant::now() + members.config.timeout).await;
    let (_, ranges) = answers
        .iter()
        .filter_map(|(at, answer)| read(answer, candidates.get(*at)?))
        .max_by_key(|(epoch, _)| *epoch)?;
    let owners = ranges.into_iter().map(|(first, last, address)| Owned {
        node: members.get(&address),
        first,
        last,
        address,
    });
    Some(owners.collect())
}

type Range = (u16, u16, Address);

/// The number of the latest failover, and the slots in order. `None` where nothing is assigned yet.
fn read(answer: &[Value], asked: &Address) -> Option<(u64, Vec<Range>)> {
    let [slots, info] = answer else {
        return None;
    };
    let Value::Array(rows) = slots else {
        return None;
    };
    let mut ranges: Vec<_> = rows
        .iter()
        .filter_map(|row| read_range(row, asked))
        .collect();
    ranges.sort_unstable();
    ranges.truncate(usize::from(SLOTS));
    let info: String = from_redis_value_ref(info).unwrap_or_default();
    let epoch = info
        .lines()
        .find_map(|line| line.strip_prefix("cluster_current_epoch:")?.parse().ok());
    (!ranges.is_empty()).then(|| (epoch.unwrap_or(0), ranges))
}

/// First slot, last slot, primary, replicas…
fn read_range(row: &Value, asked: &Address) -> Option<Range> {
    let Value::Array(row) = row else {
        return None;
    };
    let [first, last, Value::Array(primary), ..] = row.as_slice() else {
        return None;
    };
    let (first, last) = (number(first)?, number(last)?);
    let host: Option<String> = from_redis_value_ref(primary.first()?).ok()?;
    let port = number(primary.get(1)?)?;
    let address = Address::of_node(host.as_deref().unwrap_or_default(), port, asked)?;
    (first <= last && last < SLOTS).then_some((first, last, address))
}

/// The crate would wrap what is too large.
fn number(value: &Value) -> Option<u16> {
    let Value::Int(number) = value else {
        return None;
    };
    u16::try_from(*number).ok()
}

/// How often the nodes are asked in any case.
const ASK_PERIOD: Duration = Duration::from_secs(10);

/// Between two times of asking, where the map was wrong or nobody answered: the first, doubled up to the last.
const ASK_PAUSE_MIN: Duration = Duration::from_millis(100);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Nodes that are asked at once.
const ASKED_MAX: usize = 5;

/// A connection that nobody asked for is kept for longer than between two renewals, or two times of asking: while a slot
/// is on its way, each of its commands goes to two nodes.
const UNWANTED_AFTER: Duration = Duration::from_secs(20);

/// Connections to nodes of one cluster.
const MEMBERS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let primary = Value::Array(vec![host, Value::Int(port), text("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), primary])
    }

    #[test]
    fn slots_are_read_or_left_out() {
        let asked = Address::new("10.0.0.9", 1);
        let rows = vec![
            row(8192, 16383, text("b"), 6380),
            row(0, 8191, Value::Nil, 6379),
            row(1, 0, text("a"), 1),
            row(0, 16384, text("a"), 1),
            row(-1, 5, text("a"), 1),
            row(0, 5, text("?"), 1),
            row(0, 5, text("a"), 70_000),
            Value::Array(vec![]),
            Value::Nil,
        ];
        let info = text("cluster_state:ok\r\ncluster_current_epoch:7\r\n");
        let expected = vec![
            (0, 8191, Address::new("10.0.0.9", 6379)),
            (8192, 16383, Address::new("b", 6380)),
        ];
        let read_rows = |rows, info| read(&[Value::Array(rows), info], &asked);
        assert_eq!(
            read_rows(rows.clone(), info.clone()),
            Some((7, expected.clone()))
        );
        assert_eq!(read_rows(rows, Value::Nil), Some((0, expected)));
        assert_eq!(read_rows(vec![], info), None, "nothing is assigned");
        assert_eq!(read(&[Value::Nil, Value::Nil], &asked), None);
        assert_eq!(read(&[], &asked), None);
    }
}
