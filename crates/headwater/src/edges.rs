//! `headwater edges`, `drain` and `undrain`: which edges there are, and how one gets empty, over the gRPC API.

use std::time::{Duration, Instant};

use anyhow::bail;
use proto::v1::{
    DrainEdgeRequest, Edge, EdgePhase, ListEdgesRequest, UndrainEdgeRequest,
    edge_service_client::EdgeServiceClient,
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{DrainArguments, EdgesRequest, ServerArguments, UsageError},
    output,
};

type Client = EdgeServiceClient<ApiChannel>;

/// Runs one of the commands.
pub(crate) async fn run(
    arguments: &ServerArguments,
    request: impl Into<EdgesRequest>,
) -> anyhow::Result<()> {
    let server = Server::find(arguments)?;
    run_at(server.connect().await?, request, arguments.format.json()).await
}

/// The same, at a server that is connected already.
pub(crate) async fn run_at(
    server: ApiChannel,
    request: impl Into<EdgesRequest>,
    json: bool,
) -> anyhow::Result<()> {
    let mut client = Client::new(server);
    match request.into() {
        EdgesRequest::Drain(arguments) => drain(&mut client, arguments, json).await,
        EdgesRequest::List => {
            let edges = list(&mut client).await;
            let edges = edges.map_err(|status| explain(&status))?;
            if json {
                output::json(&edges.iter().map(to_json).collect());
            } else {
                let rows: Vec<_> = edges.into_iter().map(row).collect();
                output::table(HEADING, &rows);
            }
            Ok(())
        }
        EdgesRequest::Undrain { edge } => undrain(&mut client, &edge, json).await,
    }
}

async fn drain(client: &mut Client, arguments: DrainArguments, json: bool) -> anyhow::Result<()> {
    let DrainArguments {
        edge,
        timeout,
        no_reconnect,
        reason,
        wait,
    } = arguments;
    let edge = find(client, &edge).await?;
    let request = DrainEdgeRequest {
        name: edge.name.clone(),
        timeout: timeout
            .map(|timeout| api::duration(timeout, "--timeout"))
            .transpose()?,
        no_reconnect,
        reason,
    };
    let ordered = client.drain_edge(request).await;
    ordered.map_err(|status| explain(&status))?;
    if !json {
        let within = timeout.map_or_else(
            || "its own drain time".to_owned(),
            |timeout| humantime_serde::re::humantime::format_duration(timeout).to_string(),
        );
        let name = &edge.name;
        output::line(format_args!(
            "Edge {name} drains: its sessions leave within {within}."
        ));
    }
    let edge = if wait {
        until_empty(client, edge, json).await?
    } else {
        edge
    };
    if json {
        output::json(&to_json(&edge));
    } else if wait {
        output::line(format_args!("Edge {} is empty.", edge.name));
    }
    Ok(())
}

async fn undrain(client: &mut Client, edge: &str, json: bool) -> anyhow::Result<()> {
    let name = find(client, edge).await?.name;
    let request = UndrainEdgeRequest { name: name.clone() };
    let ordered = client.undrain_edge(request).await;
    ordered.map_err(|status| explain(&status))?;
    if json {
        output::json(&json!({ "name": name }));
    } else {
        output::line(format_args!("Edge {name} takes publishers in again."));
    }
    Ok(())
}

async fn list(client: &mut Client) -> Result<Vec<Edge>, Status> {
    let edges = client.list_edges(ListEdgesRequest {}).await;
    Ok(edges?.into_inner().edges)
}

/// By its name, or by its host where that has one edge alone.
async fn find(client: &mut Client, named: &str) -> anyhow::Result<Edge> {
    let found = list(client).await;
    let mut found = found.map_err(|status| explain(&status))?;
    found.retain(|edge| edge.name == named || edge.host == named);
    if let Some(at) = found.iter().position(|edge| edge.name == named) {
        return Ok(found.swap_remove(at));
    }
    match found.pop() {
        None => bail!("no edge has the name or the host {named:?}; see `edges list`"),
        Some(edge) if found.is_empty() => Ok(edge),
        Some(_) => {
            let message = format!("several edges have the host {named:?}: say which by its name");
            Err(UsageError(message).into())
        }
    }
}

/// How the edge is then. What becomes of it is told as it goes.
async fn until_empty(client: &mut Client, mut edge: Edge, json: bool) -> anyhow::Result<Edge> {
    let (mut begun, mut told) = (false, None);
    let ordered = Instant::now();
    let mut seen = ordered;
    loop {
        let (edges, was_away) = list_once_reached(client).await?;
        let answered = Instant::now();
        if was_away {
            // It said nothing of the edge meanwhile.
            seen = answered;
        }
        let Some(now) = edges.into_iter().find(|now| now.name == edge.name) else {
            if edge.stopping && edge.sessions == 0 {
                return Ok(edge);
            }
            // The registry may have lost the announcement, which comes again.
            if seen.elapsed() > ABSENT_MAX {
                bail!(
                    "edge {} is not announced any more: its process has ended, or does not reach the registry; \
                     it had {} sessions",
                    edge.name,
                    edge.sessions
                );
            }
            sleep(LOOK_PERIOD).await;
            continue;
        };
        seen = answered;
        edge = now;
        match edge.phase() {
            EdgePhase::Empty => return Ok(edge),
            EdgePhase::Serving if begun => bail!("edge {} was told to serve again", edge.name),
            EdgePhase::Draining | EdgePhase::Noticed => begun = true,
            EdgePhase::Serving | EdgePhase::Unspecified => {
                if !begun && ordered.elapsed() > BEGIN_MAX {
                    bail!(
                        "edge {} has not begun to drain; the order stands",
                        edge.name
                    );
                }
            }
        }
        if begun && !json && told != Some(edge.sessions) {
            told = Some(edge.sessions);
            let (sessions, state) = (edge.sessions, state(&edge));
            output::line(format_args!("{sessions} sessions left ({state})"));
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// The edges, and whether control was away: it, or its registry, may be back in a moment.
async fn list_once_reached(client: &mut Client) -> anyhow::Result<(Vec<Edge>, bool)> {
    let asked = Instant::now();
    let mut was_away = false;
    loop {
        let status = match list(client).await {
            Ok(edges) => return Ok((edges, was_away)),
            Err(status) => status,
        };
        let error = explain(&status);
        if !UNREACHED.contains(&status.code()) {
            return Err(error);
        }
        let what = "control cannot be reached, or does not reach the registry";
        if asked.elapsed() > UNREACHED_MAX {
            return Err(error.context(format!("{what}; the order stands")));
        }
        if !std::mem::replace(&mut was_away, true) {
            output::notice(format_args!("{what}; waiting for it: {error:#}"));
        }
        sleep(LOOK_PERIOD).await;
    }
}

fn row(edge: Edge) -> [String; 8] {
    let (state, deadline) = (state(&edge), api::time(edge.drain_deadline.as_ref()));
    [
        edge.name,
        edge.host,
        edge.zone,
        edge.version,
        state,
        edge.sessions.to_string(),
        deadline,
        edge.drain_reason,
    ]
}

fn state(edge: &Edge) -> String {
    let phase = phase(edge);
    if edge.stopping {
        format!("{phase}, stopping")
    } else {
        phase.to_owned()
    }
}

fn phase(edge: &Edge) -> &'static str {
    match edge.phase() {
        EdgePhase::Draining => "draining",
        EdgePhase::Empty => "empty",
        EdgePhase::Noticed => "noticed",
        EdgePhase::Serving => "serving",
        EdgePhase::Unspecified => "unknown",
    }
}

fn to_json(edge: &Edge) -> Value {
    json!({
        "name": edge.name,
        "host": edge.host,
        "zone": edge.zone,
        "version": edge.version,
        "phase": phase(edge),
        "stopping": edge.stopping,
        "sessions": edge.sessions,
        "drain_deadline": api::json_time(edge.drain_deadline.as_ref()),
        "drain_reason": edge.drain_reason,
    })
}

const HEADING: [&str; 8] = [
    "NAME", "HOST", "ZONE", "VERSION", "STATE", "SESSIONS", "DEADLINE", "REASON",
];

/// How long an edge may be missing among those announced, each for 15 s.
const ABSENT_MAX: Duration = Duration::from_secs(20);

/// How control fails that is being replaced, by way of the channel or of a tunnel. A request that meets its goodbye is an
/// internal error of HTTP/2.
const UNREACHED: [Code; 5] = [
    Code::Cancelled,
    Code::DeadlineExceeded,
    Code::Internal,
    Code::Unavailable,
    Code::Unknown,
];

/// For a control to be replaced where there is one alone.
const UNREACHED_MAX: Duration = Duration::from_secs(60);

/// For an edge to hear of an order and to say so.
const BEGIN_MAX: Duration = Duration::from_secs(30);

/// How often an edge is looked at that is waited for.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
