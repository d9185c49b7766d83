//! Commands to edges: a stream for each edge, which control writes and the edge waits for.
//!
//! What waits in Redis has a connection of its own, and waits for less than a command may take: so it is watched over as
//! every other. An edge reads from the beginning of its stream and remembers what it has seen; at times, and whenever
//! Redis did not answer, it looks back to the beginning, because behind a failover ids may begin below those that it knows.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::time::{Instant, sleep};

use super::{
    RedisRegistry, accepted,
    connection::{Connection, Repeat},
    next,
    pause::jittered,
    ttl, value,
};
use crate::{
    Command, CommandId, DrainOrder, EdgeName, REASON_BYTES_MAX, RegistryError, SessionId, Slot,
    StreamId,
    edge::{COMMANDS_MAX, COMMANDS_TTL},
    millis,
};

/// What one edge is told.
pub(crate) struct Commands {
    connection: Connection,
    key: String,
    /// Of the last one that was read.
    position: CommandId,
    looked_back: Instant,
    seen: BTreeSet<CommandId>,
    ready: VecDeque<(CommandId, Command)>,
    /// After the next failure; beyond [`FAILURE_PAUSE`], one was reported.
    pause: Duration,
}

impl RedisRegistry {
    pub(crate) async fn command(
        &self,
        edge: &EdgeName,
        command: &Command,
        after: CommandId,
    ) -> Result<CommandId, RegistryError> {
        if after != CommandId::default() {
            let now = self.run_one("command", cmd("TIME"), Repeat::Always);
            let now = CommandId {
                at_ms: value::time_ms(now.await?)?,
                number: 0,
            };
            // Never below it first: an edge that looks back would take that for the last word.
            let above = now.max(after.above()).to_string();
            let added = self.add(edge, command, &above).await?;
            // Refused where the last one there is as high already: the next one is above both.
            if !matches!(added, Value::ServerError(_)) {
                return id(added);
            }
        }
        id(accepted(self.add(edge, command, "*").await?)?)
    }

    /// Appends a command with this number, `*`: the next one. What Redis says to that, a refusal too.
    async fn add(
        &self,
        edge: &EdgeName,
        command: &Command,
        number: &str,
    ) -> Result<Value, RegistryError> {
        let key = self.keys.commands(edge);
        let mut commands = Pipeline::with_capacity(2);
        let add = commands
            .cmd("XADD")
            .arg(&key)
            .arg("MAXLEN")
            .arg("~")
            .arg(COMMANDS_MAX)
            .arg(number);
        for (field, value) in encode(command) {
            add.arg(field).arg(value);
        }
        commands.cmd("PEXPIRE").arg(&key).arg(ttl(COMMANDS_TTL));
        let replies = self.connection.run("command", &commands, Repeat::Always);
        let mut replies = replies.await?.into_iter();
        let added = replies.next().ok_or_else(|| value::malformed("reply"))?;
        next(&mut replies)?;
        Ok(added)
    }

    pub(crate) fn commands(&self, edge: &EdgeName) -> Commands {
        Commands {
            connection: self.connection.apart(),
            key: self.keys.commands(edge),
            position: CommandId::default(),
            looked_back: Instant::now(),
            seen: BTreeSet::new(),
            ready: VecDeque::new(),
            pause: FAILURE_PAUSE,
        }
    }
}

impl Commands {
    pub(crate) async fn next(&mut self) -> (CommandId, Command) {
        loop {
            if let Some(command) = self.ready.pop_front() {
                return command;
            }
            if self.looked_back.elapsed() > LOOK_BACK_PERIOD {
                self.look_back();
            }
            let block = (self.connection.timeout() / 2).min(BLOCK_MAX);
            let read = read(&self.key, self.position, block);
            let read = self.connection.wait_for(&read).await;
            match read.and_then(accepted).and_then(entries) {
                Ok(entries) => {
                    self.pause = FAILURE_PAUSE;
                    for (id, command) in entries {
                        self.take(id, command);
                    }
                }
                Err(error) => {
                    if self.pause == FAILURE_PAUSE {
                        let reason = &error as &dyn std::error::Error;
                        tracing::warn!(reason, "redis tells no commands for now");
                    }
                    self.look_back();
                    let pause = self.pause;
                    self.pause = (pause * 2).min(FAILURE_PAUSE_MAX);
                    sleep(jittered(pause)).await;
                }
            }
        }
    }

    fn look_back(&mut self) {
        self.position = CommandId::default();
        self.looked_back = Instant::now();
    }

    fn take(&mut self, id: CommandId, command: Result<Command, RegistryError>) {
        self.position = id;
        if !self.seen.insert(id) {
            return;
        }
        if self.seen.len() > SEEN_MAX {
            self.seen.pop_first();
        }
        match command {
            Ok(command) => self.ready.push_back((id, command)),
            Err(error) => {
                tracing::warn!(%id, reason = %error, "ignoring a malformed command in the registry");
            }
        }
    }
}

/// Waits where there is nothing behind the position.
pub(super) fn read(key: &str, position: CommandId, block: Duration) -> Cmd {
    let mut command = cmd("XREAD");
    // Zero is for ever.
    let block_ms = millis(block).max(1);
    command.arg("COUNT").arg(PAGE).arg("BLOCK").arg(block_ms);
    command.arg("STREAMS").arg(key).arg(position.to_string());
    command
}

type Entry = (CommandId, Result<Command, RegistryError>);

/// Of the one stream that was asked for; nothing where there was nothing in time.
fn entries(reply: Value) -> Result<Vec<Entry>, RegistryError> {
    let malformed = || value::malformed("command");
    if reply == Value::Nil {
        return Ok(Vec::new());
    }
    let Value::Map(streams) = reply else {
        return Err(malformed());
    };
    let stream = streams.into_iter().next();
    let Some((_key, Value::Array(entries))) = stream else {
        return Err(malformed());
    };
    entries.into_iter().map(entry).collect()
}

fn entry(entry: Value) -> Result<Entry, RegistryError> {
    let malformed = || value::malformed("command");
    let Value::Array(entry) = entry else {
        return Err(malformed());
    };
    let mut entry = entry.into_iter();
    let id = id(entry.next().ok_or_else(malformed)?)?;
    let fields = entry.next().ok_or_else(malformed);
    Ok((id, fields.and_then(value::texts).and_then(decode)))
}

fn id(id: Value) -> Result<CommandId, RegistryError> {
    let texts = value::texts(Value::Array(vec![id]))?;
    let text = texts.first().and_then(Option::as_deref);
    value::command_id(text, "command")
}

/// What [`decode`] reads.
fn encode(command: &Command) -> Vec<(&'static str, String)> {
    match command {
        Command::Drain(DrainOrder {
            timeout,
            reconnect,
            reason,
        }) => {
            let timeout_ms = timeout.map(|timeout| millis(timeout).to_string());
            vec![
                ("kind", "drain".to_owned()),
                ("timeout", timeout_ms.unwrap_or_default()),
                ("reconnect", u8::from(*reconnect).to_string()),
                ("reason", value::reason(reason.clone())),
            ]
        }
        Command::Kick {
            stream,
            slot,
            session,
        } => vec![
            ("kind", "kick".to_owned()),
            ("stream", stream.to_string()),
            ("slot", slot.number().to_string()),
            ("session", session.to_string()),
        ],
        Command::Revoke { stream_key_id } => vec![
            ("kind", "revoke".to_owned()),
            ("key", stream_key_id.clone()),
        ],
        Command::Undrain => vec![("kind", "undrain".to_owned())],
    }
}

fn decode(fields: Vec<Option<String>>) -> Result<Command, RegistryError> {
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        let pair = pairs.find(|pair| pair.first().and_then(Option::as_deref) == Some(name));
        pair.and_then(|pair| pair.last()).and_then(Option::as_deref)
    };
    let what = "command";
    match field("kind") {
        Some("drain") => Ok(Command::Drain(DrainOrder {
            timeout: value::optional(field("timeout"), what)?.map(Duration::from_millis),
            reconnect: value::flag(field("reconnect"), what)?,
            reason: value::reason(field("reason").unwrap_or_default().to_owned()),
        })),
        Some("kick") => {
            let stream = StreamId::from_hex(field("stream").unwrap_or_default());
            let slot = Slot::new(value::number(field("slot"), what)?);
            Ok(Command::Kick {
                stream: stream.map_err(|_invalid| value::malformed(what))?,
                slot: slot.map_err(|_invalid| value::malformed(what))?,
                session: value::name(field("session"), SessionId::new, what)?,
            })
        }
        Some("revoke") => {
            let key = value::word(field("key"), REASON_BYTES_MAX, what)?;
            Ok(Command::Revoke { stream_key_id: key })
        }
        Some("undrain") => Ok(Command::Undrain),
        // Perhaps of a later version.
        Some(_) | None => Err(value::malformed(what)),
    }
}

/// How long Redis waits for a command at most, half of what a command may take allowing.
const BLOCK_MAX: Duration = Duration::from_secs(1);

/// How often the whole stream is read again.
const LOOK_BACK_PERIOD: Duration = Duration::from_secs(10);

/// After a failure: the first, doubled up to the last.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
const FAILURE_PAUSE_MAX: Duration = Duration::from_millis(250);

/// Commands read at once: all that a stream of ours holds, which is trimmed by whole nodes of a hundred.
const PAGE: usize = 1_200;

/// Ids that are remembered.
const SEEN_MAX: usize = 4_096;
