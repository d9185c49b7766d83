//! From commands to the servers that do them, in whatever form Redis is run.
//!
//! What a failover, a reshard or a restart refuses is sent once more within the command's deadline, to whoever does it
//! now: everything that is sent here may be sent twice, unless [`Repeat`] says otherwise.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use redis::{Cmd, Pipeline, ServerErrorKind, Value};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    RedisConfig, RedisEvent, RedisServers,
    cluster::Cluster,
    config::{Address, RedisAccess},
    error::{CommandError, ConnectError, kind},
    node::{Duty, Node, Place, Target},
    sentinel,
    slot::slot,
    watcher::{Observer, Watcher},
};
use crate::RegistryError;

/// The handle that commands use.
#[derive(Clone)]
pub(super) struct Connection {
    servers: Servers,
    timeout: Duration,
    watcher: Arc<Watcher>,
}

#[derive(Clone)]
enum Servers {
    Cluster(Cluster),
    One(Node),
}

/// Whether a command may be sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A second time changes nothing.
    Always,
    /// A second answer would not be the first: only where it was surely not carried out.
    Refused,
}

impl Connection {
    /// Reads the files once, so that a mistake shows at the start, and connects in the background.
    pub(super) fn open(config: &RedisConfig, observer: Observer) -> Result<Self, RegistryError> {
        let invalid =
            |error: Box<dyn std::error::Error + Send + Sync>| RegistryError::InvalidConfig(error);
        config.check().map_err(|error| invalid(error.into()))?;
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|error| invalid(error.into()))?;
        let _spawning = runtime.enter();
        let watcher = Arc::new(Watcher::new(observer));
        let servers = Servers::open(config, &watcher).map_err(|error| invalid(error.into()))?;
        Ok(Self {
            servers,
            timeout: config.timeout,
            watcher,
        })
    }

    /// The same servers over connections of their own: what waits for an answer holds up whatever is behind it. Nothing
    /// is told of them: a server that is lost would count twice, and its clock would be read behind what waits.
    pub(super) fn apart(&self) -> Self {
        let watcher = Arc::new(Watcher::new(Arc::new(|_event| {})));
        let servers = match &self.servers {
            Servers::Cluster(cluster) => Servers::Cluster(cluster.apart(&watcher)),
            Servers::One(node) => Servers::One(node.apart(&watcher)),
        };
        Self {
            servers,
            timeout: self.timeout,
            watcher,
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn is_cluster(&self) -> bool {
        match self.servers {
            Servers::Cluster(_) => true,
            Servers::One(_) => false,
        }
    }

    /// As [`run`](Self::run) for one command that waits, which is no figure of how fast Redis is.
    pub(super) async fn wait_for(&self, command: &Cmd) -> Result<Value, RegistryError> {
        let (deadline, mut replies) = (Instant::now() + self.timeout, [None]);
        let commands = [command];
        self.send(&commands, Repeat::Always, deadline, &mut replies)
            .await
            .map_err(|error| RegistryError::Unavailable(error.into()))?;
        let [reply] = replies;
        Ok(reply.unwrap_or(Value::Nil))
    }

    /// Sends the commands and returns one value each; what Redis refused is a [`Value::ServerError`] in its place.
    pub(super) async fn run(
        &self,
        command: &'static str,
        commands: &Pipeline,
        repeat: Repeat,
    ) -> Result<Vec<Value>, RegistryError> {
        let (values, lost) = self.try_run(command, commands, repeat).await;
        match lost {
            None => Ok(values
                .into_iter()
                .map(|value| value.unwrap_or(Value::Nil))
                .collect()),
            Some(error) => Err(error),
        }
    }

    /// As [`run`](Self::run), of commands that stand each for itself: `None`, and why, in the place of those that no
    /// server answered.
    pub(super) async fn run_partly(
        &self,
        command: &'static str,
        commands: &Pipeline,
    ) -> (Vec<Option<Value>>, Option<RegistryError>) {
        self.try_run(command, commands, Repeat::Always).await
    }

    async fn try_run(
        &self,
        command: &'static str,
        commands: &Pipeline,
        repeat: Repeat,
    ) -> (Vec<Option<Value>>, Option<RegistryError>) {
        let began = Instant::now();
        let commands: Vec<&Cmd> = commands.cmd_iter().collect();
        let mut replies = vec![None; commands.len()];
        let lost = self
            .send(&commands, repeat, began + self.timeout, &mut replies)
            .await
            .err();
        let refused = |reply: &Option<Value>| matches!(reply, Some(Value::ServerError(_)));
        let outcome = match &lost {
            None if replies.iter().any(refused) => "refused",
            None => "ok",
            Some(CommandError::Timeout(_)) => "timeout",
            Some(
                CommandError::Broken(_)
                | CommandError::Down(_)
                | CommandError::GivenUp
                | CommandError::Refused(_)
                | CommandError::Uncovered(_),
            ) => "unavailable",
        };
        self.watcher.tell(RedisEvent::Command {
            command,
            outcome,
            duration: began.elapsed(),
        });
        let lost = lost.map(|error| RegistryError::Unavailable(error.into()));
        (replies, lost)
    }

    /// A claim with this command was granted: whether a replica has it is looked at later.
    pub(super) async fn count_claim(&self, claim: &Cmd) {
        let (to, slot) = (To::Owner, slot(claim));
        if let Ok((_, node)) = self.servers.find(&to, slot, Instant::now()).await {
            node.count_claim();
        }
    }

    /// Puts every answer into its place; an error where one is missing.
    async fn send(
        &self,
        commands: &[&Cmd],
        repeat: Repeat,
        deadline: Instant,
        replies: &mut [Option<Value>],
    ) -> Result<(), CommandError> {
        let mut open: Batch = (0..commands.len()).map(|at| (at, To::Owner)).collect();
        let (mut hops, mut failures) = (0, 0);
        loop {
            let mut round = Round::default();
            for (batch, sent) in self.exchange(commands, open, deadline).await {
                match sent {
                    Ok((asked, values)) => round.sort(asked.as_ref(), batch, values, replies),
                    Err(error) if error.is_ambiguous() && repeat == Repeat::Refused => {
                        return Err(error);
                    }
                    Err(error) => round.fail(batch, error),
                }
            }
            if round.open.is_empty() {
                return Ok(());
            }
            if round.failed {
                failures += 1;
            } else if !round.wait {
                hops += 1;
            }
            let spent = failures > FAILURES_MAX || hops > HOPS_MAX || Instant::now() >= deadline;
            if !self.servers.recover(&round, spent, deadline).await || spent {
                return round.error.map_or(Ok(()), Err);
            }
            open = round.open;
        }
    }

    /// One pipeline to each server, all at once.
    async fn exchange(
        &self,
        commands: &[&Cmd],
        open: Vec<(usize, To)>,
        deadline: Instant,
    ) -> Vec<(Batch, Result<Answer, CommandError>)> {
        let mut outcomes = Vec::new();
        let mut batches = BTreeMap::<_, (Node, Batch)>::new();
        // What has no key is asked of somebody who is asked something else: nobody more has to answer.
        let beside = commands.iter().find_map(|command| slot(command));
        for (at, to) in open {
            let Some(command) = commands.get(at) else {
                continue;
            };
            let slot = slot(command).or(beside);
            match self.servers.find(&to, slot, deadline).await {
                Ok((address, node)) => {
                    let (_, batch) = batches
                        .entry(address)
                        .or_insert_with(|| (node, Batch::new()));
                    batch.push((at, to));
                }
                Err(error) => outcomes.push((vec![(at, to)], Err(error))),
            }
        }
        if batches.len() == 1
            && let Some((address, (node, batch))) = batches.pop_first()
        {
            let values = node.send(&pipeline(commands, &batch), deadline).await;
            outcomes.push((batch, values.map(|values| (address, values))));
            return outcomes;
        }
        let mut sent = JoinSet::new();
        for (address, (node, batch)) in batches {
            let pipeline = pipeline(commands, &batch);
            sent.spawn(async move {
                let values = node.send(&pipeline, deadline).await;
                (batch, values.map(|values| (address, values)))
            });
        }
        outcomes.extend(sent.join_all().await);
        outcomes
    }
}

/// Commands for one server, by their place among all.
type Batch = Vec<(usize, To)>;

/// What a server said; its address, where there are several.
type Answer = (Option<Address>, Vec<Value>);

/// To whom a command goes.
#[derive(Clone)]
enum To {
    /// Whoever has its slot.
    Owner,
    /// Whom the owner named. `asking`: this once, while the slot is on its way.
    Named { address: Address, asking: bool },
}

fn pipeline(commands: &[&Cmd], batch: &Batch) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for (at, to) in batch {
        if to.is_asking() {
            pipeline.cmd("ASKING");
        }
        if let Some(command) = commands.get(*at) {
            pipeline.add_command((*command).clone());
        }
    }
    pipeline
}

impl To {
    fn is_asking(&self) -> bool {
        match self {
            Self::Owner => false,
            Self::Named { asking, .. } => *asking,
        }
    }
}

/// What is to be sent again, and why.
#[derive(Default)]
struct Round {
    open: Batch,
    /// Not just sent elsewhere: a server failed.
    failed: bool,
    /// The map is wrong. An ASK does not say so: it is for this once.
    moved: bool,
    /// The slot is between two nodes.
    wait: bool,
    /// A connection, not an answer.
    error: Option<CommandError>,
}

impl Round {
    /// An answer, or the server's word that another one has it.
    fn sort(
        &mut self,
        asked: Option<&Address>,
        batch: Batch,
        values: Vec<Value>,
        replies: &mut [Option<Value>],
    ) {
        let mut values = values.into_iter();
        for (at, to) in batch {
            if to.is_asking() {
                values.next();
            }
            let value = values.next().unwrap_or(Value::Nil);
            match kind(&value) {
                Some(kind @ (ServerErrorKind::Ask | ServerErrorKind::Moved)) => {
                    self.moved |= kind == ServerErrorKind::Moved;
                    self.open
                        .push((at, redirected(&value, asked).unwrap_or(to)));
                }
                Some(ServerErrorKind::TryAgain) => {
                    self.wait = true;
                    self.open.push((at, to));
                }
                Some(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly,
                ) => {
                    self.failed = true;
                    self.open.push((at, To::Owner));
                }
                _ => {}
            }
            if let Some(reply) = replies.get_mut(at) {
                *reply = Some(value);
            }
        }
    }

    fn fail(&mut self, batch: Batch, error: CommandError) {
        self.failed = true;
        self.error = Some(error);
        self.open
            .extend(batch.into_iter().map(|(at, _to)| (at, To::Owner)));
    }
}

/// The node that a MOVED or ASK names: `slot host:port`.
fn redirected(value: &Value, asked: Option<&Address>) -> Option<To> {
    let Value::ServerError(error) = value else {
        return None;
    };
    let (_slot, named) = error.details()?.split_once(' ')?;
    let (host, port) = named.rsplit_once(':')?;
    Some(To::Named {
        address: Address::of_node(host, port.parse().ok()?, asked?)?,
        asking: error.kind() == Some(ServerErrorKind::Ask),
    })
}

impl Servers {
    fn open(config: &RedisConfig, watcher: &Arc<Watcher>) -> Result<Self, ConnectError> {
        let target = |duty, access: &RedisAccess| Target {
            access: access.clone(),
            database: if matches!(duty, Duty::Primary) {
                config.database
            } else {
                0
            },
            duty,
            timeout: config.timeout,
            watcher: Arc::clone(watcher),
        };
        let mut addresses = config.servers.addresses()?;
        let sentinels = match &config.servers {
            RedisServers::Cluster(_) => {
                return Ok(Self::Cluster(Cluster::open(config, addresses, watcher)));
            }
            RedisServers::One(_) => {
                let primary = target(Duty::Primary, &config.access);
                let address = addresses.pop().ok_or(ConnectError::AddressCount)?;
                return Ok(Self::One(Node::at(primary, address)));
            }
            RedisServers::Sentinel(sentinels) => sentinels,
        };
        let switched = Arc::new(Notify::new());
        let nodes = addresses.into_iter().map(|address| {
            let duty = Duty::Sentinel(Arc::clone(&switched));
            Node::at(target(duty, &sentinels.access), address)
        });
        let (sender, place) = watch::channel(Place::Asking);
        let nodes = nodes.collect();
        let master_name = sentinels.master_name.clone();
        tokio::spawn(sentinel::follow(
            nodes,
            master_name,
            switched,
            config.timeout,
            sender,
        ));
        let primary = target(Duty::Primary, &config.access);
        Ok(Self::One(Node::open(primary, place)))
    }

    /// By its address, which tells them apart.
    async fn find(
        &self,
        to: &To,
        slot: Option<u16>,
        deadline: Instant,
    ) -> Result<(Option<Address>, Node), CommandError> {
        match (self, to) {
            (Self::One(node), _) => Ok((None, node.clone())),
            (Self::Cluster(cluster), To::Named { address, .. }) => {
                Ok((Some(address.clone()), cluster.member(address)))
            }
            (Self::Cluster(cluster), To::Owner) => {
                let (address, node) = cluster.owner(slot, deadline).await?;
                Ok((Some(address), node))
            }
        }
    }

    /// Before what a round left open is sent again. False where that is of no use: the one server is known to be down.
    async fn recover(&self, round: &Round, spent: bool, deadline: Instant) -> bool {
        let cluster = match self {
            Self::Cluster(cluster) => cluster,
            Self::One(_) => return !matches!(round.error, Some(CommandError::Down(_))),
        };
        if round.failed && !spent {
            cluster.asked_again(deadline).await;
        } else if round.failed || round.moved {
            cluster.suspect();
        }
        if round.wait {
            sleep(ON_ITS_WAY_PAUSE).await;
        }
        true
    }
}

/// How often a command may fail for what may pass, before its caller is told.
const FAILURES_MAX: u32 = 1;

/// How often a command may be sent to another node.
const HOPS_MAX: u32 = 5;

/// Before a command about a slot that is on its way is sent again.
const ON_ITS_WAY_PAUSE: Duration = Duration::from_millis(50);
