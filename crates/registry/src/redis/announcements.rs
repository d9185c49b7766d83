//! Who says that he is there: origins and edges.

use std::collections::BTreeSet;

use redis::{Pipeline, cmd};

use super::{
    EDGES_MAX, ORIGINS_MAX, RedisRegistry, accepted, connection::Repeat, enter, range, script,
    script::call, skip_malformed, ttl, value,
};
use crate::{Edge, EdgeName, LEASE_TTL, Origin, OriginName, RegistryError};

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
        let names = self.run_one(
            "origins",
            range(&self.keys.origins(), ORIGINS_MAX),
            Repeat::Always,
        );
        let names: BTreeSet<_> = value::texts(names.await?)?
            .iter()
            .map(|name| value::name(name.as_deref(), OriginName::new, "origin"))
            .filter_map(|name| skip_malformed(name, "origin index"))
            .collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = Pipeline::with_capacity(names.len());
        for name in &names {
            commands
                .cmd("HMGET")
                .arg(self.keys.origin(name))
                .arg(&value::ORIGIN_FIELDS);
        }
        let replies = self.run("origins", &commands).await?;
        let mut origins = Vec::with_capacity(names.len());
        for (name, reply) in names.into_iter().zip(replies) {
            let origin = accepted(reply).and_then(|reply| value::origin(name, reply));
            origins.extend(skip_malformed(origin, "origin").flatten());
        }
        Ok(origins)
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
        let names = self.run_one(
            "edges",
            range(&self.keys.edges(), EDGES_MAX),
            Repeat::Always,
        );
        let names: BTreeSet<_> = value::texts(names.await?)?
            .iter()
            .map(|name| value::name(name.as_deref(), EdgeName::new, "edge"))
            .filter_map(|name| skip_malformed(name, "edge index"))
            .collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = Pipeline::with_capacity(names.len());
        for name in &names {
            commands
                .cmd("HMGET")
                .arg(self.keys.edge(name))
                .arg(&value::EDGE_FIELDS);
        }
        let replies = self.run("edges", &commands).await?;
        let mut edges = Vec::with_capacity(names.len());
        for (name, reply) in names.into_iter().zip(replies) {
            match accepted(reply).and_then(|reply| value::edge(name, reply)) {
                // What cannot be read now is not an edge that is not there.
                Err(unavailable @ RegistryError::Unavailable(_)) => return Err(unavailable),
                read => edges.extend(skip_malformed(read, "edge").flatten()),
            }
        }
        Ok(edges)
    }
}
