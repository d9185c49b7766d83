//! Edges and their commands in process memory.

use std::collections::VecDeque;

use tokio::sync::watch;

use super::{Expiring, MemoryRegistry};
use crate::{
    Command, CommandId, Edge, EdgeName, LEASE_TTL,
    edge::{COMMANDS_MAX, COMMANDS_TTL},
};

/// The commands of one edge.
pub(super) type Kept = VecDeque<(CommandId, Command)>;

/// What one edge is told.
pub(crate) struct Commands {
    registry: MemoryRegistry,
    edge: EdgeName,
    /// Of the last one that was taken.
    position: CommandId,
    commanded: watch::Receiver<()>,
}

impl MemoryRegistry {
    pub(crate) fn announce_edge(&self, edge: &Edge) {
        self.with_state(|state, now| {
            let announcement = Expiring::new(edge.clone(), now, LEASE_TTL);
            state.edges.insert(edge.name.clone(), announcement);
        });
    }

    pub(crate) fn withdraw_edge(&self, edge: &EdgeName) {
        self.with_state(|state, _now| state.edges.remove(edge));
    }

    pub(crate) fn edges(&self) -> Vec<Edge> {
        self.with_state(|state, _now| {
            let edges = state.edges.values();
            edges
                .map(|announcement| announcement.value.clone())
                .collect()
        })
    }

    pub(crate) fn command(
        &self,
        edge: &EdgeName,
        command: &Command,
        after: CommandId,
    ) -> CommandId {
        let id = self.with_state(|state, now| {
            let there = state.commands.remove(edge);
            let there = there.filter(|kept| kept.at(now).is_some());
            let mut kept = there.map(|kept| kept.value).unwrap_or_default();
            let first = CommandId {
                at_ms: now,
                number: 0,
            };
            // As Redis does it: above the last one, whatever the clock says.
            let last = kept.back().map_or(after, |(last, _)| after.max(*last));
            let id = first.max(last.above());
            kept.push_back((id, command.clone()));
            if kept.len() > COMMANDS_MAX {
                kept.pop_front();
            }
            let kept = Expiring::new(kept, now, COMMANDS_TTL);
            state.commands.insert(edge.clone(), kept);
            id
        });
        self.shared.commanded.send_replace(());
        id
    }

    pub(crate) fn commands(&self, edge: &EdgeName) -> Commands {
        Commands {
            registry: self.clone(),
            edge: edge.clone(),
            position: CommandId::default(),
            commanded: self.shared.commanded.subscribe(),
        }
    }
}

impl Commands {
    pub(crate) async fn next(&mut self) -> (CommandId, Command) {
        loop {
            self.commanded.mark_unchanged();
            if let Some((id, command)) = self.first() {
                self.position = id;
                return (id, command);
            }
            // The sender is in the registry, and that is here.
            self.commanded.changed().await.ok();
        }
    }

    /// Behind the position.
    fn first(&self) -> Option<(CommandId, Command)> {
        self.registry.with_state(|state, now| {
            let kept = state.commands.get(&self.edge)?.at(now)?;
            kept.iter().find(|(id, _)| *id > self.position).cloned()
        })
    }
}
