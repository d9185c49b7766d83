//! Who says that he is there: origins and edges.

use std::collections::BTreeSet;

use redis::{Pipeline, Value, cmd};

use super::{
    EDGES_MAX, ORIGINS_MAX, RedisRegistry, accepted, connection::Repeat, enter, range, script,
    script::call, skip_malformed, ttl, value,
};
use crate::{Edge, EdgeName, InvalidId, LEASE_TTL, Origin, OriginName, RegistryError};

impl RedisRegistry {
    pub(crate) async fn announce(&self, origin: &Origin) -> Result<(), RegistryError> {
        let keys = [&*self.keys.origins(), &*self.keys.origin(&origin.name)];
        let mut command = call(&script::ANNOUNCE, &keys);
        command
            .arg(origin.name.as_str())
            .arg(ttl(LEASE_TTL))
            .arg(&origin.relay_address)
            .arg(&origin.zone)
            .arg(u8::from(origin.draining))
            .arg(origin.streams)
            .arg(origin.budget_percent);
        self.run_one("announce", command, Repeat::Always).await?;
        Ok(())
    }

    pub(crate) async fn withdraw(&self, origin: &OriginName) -> Result<(), RegistryError> {
        let mut commands = Pipeline::new();
        commands
            .cmd("ZREM")
            .arg(self.keys.origins())
            .arg(origin.as_str());
        commands.cmd("DEL").arg(self.keys.origin(origin));
        for reply in self.run("withdraw", &commands).await? {
            accepted(reply)?;
        }
        Ok(())
    }

    pub(crate) async fn origins(&self) -> Result<Vec<Origin>, RegistryError> {
        let list = List {
            command: "origins",
            index: self.keys.origins(),
            members_max: ORIGINS_MAX,
            what: "origin",
            fields: &value::ORIGIN_FIELDS,
        };
        let key = |name: &OriginName| self.keys.origin(name);
        self.announced(list, OriginName::new, key, value::origin)
            .await
    }

    pub(crate) async fn announce_edge(&self, edge: &Edge) -> Result<(), RegistryError> {
        let now = self.run_one("announce_edge", cmd("TIME"), Repeat::Always);
        let now_ms = value::time_ms(now.await?)?;
        let key = self.keys.edge(&edge.name);
        let mut commands = Pipeline::new();
        let record = commands.cmd("HSET").arg(&key);
        for (field, value) in value::EDGE_FIELDS.iter().zip(value::encode_edge(edge)) {
            record.arg(field).arg(value);
        }
        commands.cmd("PEXPIRE").arg(&key).arg(ttl(LEASE_TTL));
        let name = vec![edge.name.to_string()];
        enter(&mut commands, &self.keys.edges(), name, now_ms);
        for reply in self.run("announce_edge", &commands).await? {
            accepted(reply)?;
        }
        Ok(())
    }

    /// The index is left alone: leases may be left behind.
    pub(crate) async fn withdraw_edge(&self, edge: &EdgeName) -> Result<(), RegistryError> {
        let mut command = cmd("DEL");
        command.arg(self.keys.edge(edge));
        let withdrawn = self.run_one("withdraw_edge", command, Repeat::Always);
        withdrawn.await.map(drop)
    }

    pub(crate) async fn edges(&self) -> Result<Vec<Edge>, RegistryError> {
        let list = List {
            command: "edges",
            index: self.keys.edges(),
            members_max: EDGES_MAX,
            what: "edge",
            fields: &value::EDGE_FIELDS,
        };
        let key = |name: &EdgeName| self.keys.edge(name);
        self.announced(list, EdgeName::new, key, value::edge).await
    }

    /// Whom an index names and whose announcement is there, by name.
    async fn announced<N: Ord, T>(
        &self,
        list: List,
        name: impl Fn(&str) -> Result<N, InvalidId>,
        key: impl Fn(&N) -> String,
        read: impl Fn(N, Value) -> Result<Option<T>, RegistryError>,
    ) -> Result<Vec<T>, RegistryError> {
        let index = range(&list.index, list.members_max);
        let names = self.run_one(list.command, index, Repeat::Always).await?;
        let names: BTreeSet<_> = value::texts(names)?
            .iter()
            .map(|text| value::name(text.as_deref(), &name, list.what))
            .filter_map(|name| skip_malformed(name, list.what))
            .collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = Pipeline::with_capacity(names.len());
        for name in &names {
            commands.cmd("HMGET").arg(key(name)).arg(list.fields);
        }
        let replies = self.run(list.command, &commands).await?;
        let mut announced = Vec::with_capacity(names.len());
        for (name, reply) in names.into_iter().zip(replies) {
            match accepted(reply).and_then(|reply| read(name, reply)) {
                // What cannot be read now is not somebody who is not there.
                Err(unavailable @ RegistryError::Unavailable(_)) => return Err(unavailable),
                read => announced.extend(skip_malformed(read, list.what).flatten()),
            }
        }
        Ok(announced)
    }
}

/// Where announcements of one kind are.
struct List {
    /// For metrics.
    command: &'static str,
    index: String,
    members_max: usize,
    what: &'static str,
    fields: &'static [&'static str],
}
