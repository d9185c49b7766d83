//! `EdgeService`: which edges there are, and what they are to do.
//!
//! A command goes to the registry, where its edge waits for it, and an order to drain or to serve also to those who watch
//! the revocation log at this control: the edge may be one of them, and hears of it sooner. Ends of sessions and keys are
//! in that log; what the registry has of them is for an edge whose control is down or far behind.

use std::{future::pending, sync::Arc, time::Duration};

use proto::{
    error::status,
    internal::v1::{DrainOrder as DrainMessage, EdgeCommand, UndrainOrder, edge_command},
    v1::{
        DrainEdgeRequest, DrainEdgeResponse, Edge as EdgeMessage, EdgePhase as PhaseMessage,
        ListEdgesRequest, ListEdgesResponse, UndrainEdgeRequest, UndrainEdgeResponse,
        edge_service_server::EdgeService,
    },
};
use registry::{Command, CommandId, DrainOrder, Edge, EdgeName, EdgePhase, Lease, RegistryError};
use runtime::error::chain;
use tokio::sync::broadcast;
use tonic::{Code, Request, Response, Status};

use crate::{
    Shared,
    caller::{Caller, EVERY, Scope},
    field::{self, Violations, timestamp},
    sessions::unavailable,
};

/// Serves the edges of the whole cluster.
pub(crate) struct Edges(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl EdgeService for Edges {
    async fn list_edges(
        &self,
        request: Request<ListEdgesRequest>,
    ) -> Result<Response<ListEdgesResponse>, Status> {
        self.0.metrics.timed("ListEdges", self.list(request)).await
    }

    async fn drain_edge(
        &self,
        request: Request<DrainEdgeRequest>,
    ) -> Result<Response<DrainEdgeResponse>, Status> {
        self.0.metrics.timed("DrainEdge", self.drain(request)).await
    }

    async fn undrain_edge(
        &self,
        request: Request<UndrainEdgeRequest>,
    ) -> Result<Response<UndrainEdgeResponse>, Status> {
        let undrain = self.undrain(request);
        self.0.metrics.timed("UndrainEdge", undrain).await
    }
}

impl Edges {
    async fn list(&self, request: Request<ListEdgesRequest>) -> Result<ListEdgesResponse, Status> {
        let caller = self.0.caller(&request, Scope::EdgesRead).await?;
        caller.stands_for_everybody()?;
        let edges = self.announced().await?;
        Ok(ListEdgesResponse {
            edges: edges.into_iter().map(message).collect(),
        })
    }

    async fn drain(&self, request: Request<DrainEdgeRequest>) -> Result<DrainEdgeResponse, Status> {
        let caller = self.0.caller(&request, Scope::EdgesWrite).await?;
        caller.stands_for_everybody()?;
        let request = request.into_inner();
        let mut violations = Violations::default();
        violations.check("reason", field::reason(&request.reason));
        let timeout_ms = request.timeout.map(field::period_ms).transpose();
        let timeout_ms = violations.check("timeout", timeout_ms).flatten();
        violations.finish()?;
        let edge = self.find(&request.name).await?;
        let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs()));
        let order = DrainOrder {
            timeout,
            reconnect: !request.no_reconnect,
            reason: request.reason.clone(),
        };
        let told = self.tell(&edge, &Command::Drain(order)).await;
        // Also where it is not known whether the registry took it.
        self.audit("drain_edge", &edge.name, &caller, &request.reason, timeout);
        told?;
        Ok(DrainEdgeResponse {})
    }

    async fn undrain(
        &self,
        request: Request<UndrainEdgeRequest>,
    ) -> Result<UndrainEdgeResponse, Status> {
        let caller = self.0.caller(&request, Scope::EdgesWrite).await?;
        caller.stands_for_everybody()?;
        let edge = self.find(&request.into_inner().name).await?;
        if edge.stopping {
            let description = "the edge's process was told to stop";
            let reason = "EDGE_STOPPING";
            return Err(status(Code::FailedPrecondition, reason, description));
        }
        let told = self.tell(&edge, &Command::Undrain).await;
        self.audit("undrain_edge", &edge.name, &caller, "", None);
        told?;
        Ok(UndrainEdgeResponse {})
    }

    async fn find(&self, name: &str) -> Result<Edge, Status> {
        let edges = self.announced().await?;
        let found = edges.into_iter().find(|edge| edge.name.as_str() == name);
        found.ok_or_else(|| status(Code::NotFound, "EDGE_NOT_FOUND", "no such edge"))
    }

    async fn announced(&self) -> Result<Vec<Edge>, Status> {
        let edges = self.0.registry.edges().await;
        edges.map_err(|error| unavailable(&error))
    }

    /// Above what the edge has heard of, which the registry may have lost: an order below that counts as one that comes
    /// late.
    async fn tell(&self, edge: &Edge, command: &Command) -> Result<(), Status> {
        let (registry, name) = (&self.0.registry, &edge.name);
        let id = registry.command_after(name, command, edge.heard).await;
        let id = id.map_err(|error| unavailable(&error))?;
        self.0.pushes.push(name, id, command);
        Ok(())
    }

    fn audit(
        &self,
        action: &'static str,
        edge: &EdgeName,
        caller: &Caller,
        reason: &str,
        timeout: Option<Duration>,
    ) {
        self.0.metrics.admin_action(action);
        tracing::info!(
            action,
            tenant = EVERY,
            %edge,
            actor = caller.name,
            client_address = caller.address,
            timeout_ms = timeout.map(field::millis),
            reason,
            "edge ordered"
        );
    }
}

impl Shared {
    /// A session was terminated: its edge hears of it also without a control.
    pub(crate) async fn tell_of_end(&self, lease: &Lease) {
        let kick = Command::Kick {
            stream: lease.stream,
            slot: lease.slot,
            session: lease.session.clone(),
        };
        told(&lease.edge, self.registry.command(&lease.edge, &kick).await);
    }

    /// A stream key was revoked: the edges of its sessions hear of it also without a control. Nobody waits for that.
    pub(crate) fn tell_of_revocation(self: &Arc<Self>, stream_key_id: String) {
        let shared = self.clone();
        tokio::spawn(async move {
            let Ok(leases) = shared.leases.at_most(LEASES_AGE).await else {
                return;
            };
            let revoke = Command::Revoke { stream_key_id };
            let is_of_key = |lease: &&Lease| match &revoke {
                Command::Revoke { stream_key_id } => lease.stats.stream_key_id == *stream_key_id,
                Command::Drain(_) | Command::Kick { .. } | Command::Undrain => false,
            };
            for lease in leases.iter().filter(is_of_key) {
                told(
                    &lease.edge,
                    shared.registry.command(&lease.edge, &revoke).await,
                );
            }
        });
    }
}

fn told(edge: &EdgeName, told: Result<CommandId, RegistryError>) {
    if let Err(error) = told {
        tracing::warn!(%edge, reason = chain(&error), "the edge hears of an end by the revocation log alone");
    }
}

/// Orders to edges that watch the revocation log here.
pub(crate) struct Pushes(broadcast::Sender<(EdgeName, EdgeCommand)>);

/// Those to one edge.
pub(crate) struct Pushed {
    /// As it named itself; empty: nobody.
    edge: String,
    orders: broadcast::Receiver<(EdgeName, EdgeCommand)>,
}

impl Pushes {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(ORDERS_QUEUED_MAX))
    }

    pub(crate) fn to(&self, edge: String) -> Pushed {
        Pushed {
            edge,
            orders: self.0.subscribe(),
        }
    }

    fn push(&self, edge: &EdgeName, id: CommandId, command: &Command) {
        let command = match command {
            Command::Drain(order) => edge_command::Command::Drain(DrainMessage {
                timeout_ms: order
                    .timeout
                    .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
                reconnect: order.reconnect,
                reason: order.reason.clone(),
            }),
            Command::Undrain => edge_command::Command::Undrain(UndrainOrder {}),
            // The log has them.
            Command::Kick { .. } | Command::Revoke { .. } => return,
        };
        let message = EdgeCommand {
            at_ms: id.at_ms,
            number: id.number,
            command: Some(command),
        };
        // Nobody may watch.
        self.0.send((edge.clone(), message)).ok();
    }
}

impl Pushed {
    /// The next order. Given up on, none is lost.
    pub(crate) async fn next(&mut self) -> EdgeCommand {
        loop {
            match self.orders.recv().await {
                Ok((edge, command)) if edge.as_str() == self.edge => return command,
                // What was missed is in the registry.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => pending().await,
            }
        }
    }
}

fn message(edge: Edge) -> EdgeMessage {
    let phase = match edge.phase {
        EdgePhase::Serving => PhaseMessage::Serving,
        EdgePhase::Noticed => PhaseMessage::Noticed,
        EdgePhase::Draining => PhaseMessage::Draining,
        EdgePhase::Empty => PhaseMessage::Empty,
    };
    let deadline = edge.drain_until_ms.and_then(|ms| i64::try_from(ms).ok());
    EdgeMessage {
        name: edge.name.to_string(),
        host: edge.host,
        zone: edge.zone,
        version: edge.version,
        phase: phase.into(),
        stopping: edge.stopping,
        sessions: edge.sessions,
        drain_deadline: deadline.map(timestamp),
        drain_reason: edge.drain_reason,
    }
}

/// Orders that wait for one watch to tell them.
const ORDERS_QUEUED_MAX: usize = 256;

/// How old may be what is known of where a key's sessions are.
const LEASES_AGE: Duration = Duration::from_secs(1);
