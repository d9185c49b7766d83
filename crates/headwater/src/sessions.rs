//! `headwater sessions`: who publishes, over the gRPC API.

use std::time::Duration;

use proto::{
    tracks::describe,
    v1::{
        FrameKind, GetSessionRequest, ListSessionsRequest, Session, TerminateSessionRequest, Track,
        WatchSessionsRequest, session_service_client::SessionServiceClient,
        watch_sessions_response::Change,
    },
};
use serde_json::{Value, json};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{ServerArguments, SessionFilter, SessionsCommand},
    output,
};

type Client = SessionServiceClient<ApiChannel>;

/// Runs one of the commands.
pub(crate) async fn run(
    arguments: &ServerArguments,
    command: SessionsCommand,
) -> anyhow::Result<()> {
    let server = Server::find(arguments)?;
    run_at(server.connect().await?, command, arguments.format.json()).await
}

/// The same, at a server that is connected already.
pub(crate) async fn run_at(
    server: ApiChannel,
    command: SessionsCommand,
    json: bool,
) -> anyhow::Result<()> {
    let mut client = Client::new(server);
    match command {
        SessionsCommand::End { id, reason, ban } => end(&mut client, (id, reason, ban), json).await,
        SessionsCommand::Get { id } => {
            let session = client.get_session(GetSessionRequest { id }).await;
            let session = session.map_err(|status| explain(&status))?.into_inner();
            if json {
                output::json(&to_json(&session));
            } else {
                output::table(HEADING, &[row(session)]);
            }
            Ok(())
        }
        SessionsCommand::List(filter) => list(&mut client, filter, json).await,
        SessionsCommand::Watch(filter) => watch(&mut client, filter, json).await,
    }
}

async fn end(
    client: &mut Client,
    (id, reason, ban): (String, String, Option<Duration>),
    json: bool,
) -> anyhow::Result<()> {
    let request = TerminateSessionRequest {
        id: id.clone(),
        reason,
        ban: ban.map(|ban| api::duration(ban, "--ban")).transpose()?,
    };
    client
        .terminate_session(request)
        .await
        .map_err(|status| explain(&status))?;
    if json {
        output::json(&json!({ "id": id }));
    } else {
        // Without a ban, how long is the server's affair.
        let refused_for = ban.map_or_else(
            || "a while".to_owned(),
            |ban| humantime_serde::re::humantime::format_duration(ban).to_string(),
        );
        output::line(format_args!(
            "Session {id} ends; its stream key is refused for {refused_for}."
        ));
    }
    Ok(())
}

/// A line for each change: a table would not end.
async fn watch(client: &mut Client, filter: SessionFilter, json: bool) -> anyhow::Result<()> {
    let SessionFilter {
        app,
        stream,
        tenant,
    } = filter;
    let request = WatchSessionsRequest {
        app,
        stream,
        tenant,
    };
    let answers = client.watch_sessions(request).await;
    let mut answers = answers.map_err(|status| explain(&status))?.into_inner();
    while let Some(answer) = answers.message().await.map_err(|status| explain(&status))? {
        match answer.change {
            Some(Change::Session(session)) if json => {
                output::line(json!({ "session": to_json(&session) }));
            }
            Some(Change::Session(session)) => {
                let cells = row(session).join("  ");
                output::line(output::printable(format!("live   {cells}")));
            }
            Some(Change::EndedSessionId(id)) if json => {
                output::line(json!({ "ended_session_id": id }));
            }
            Some(Change::EndedSessionId(id)) => {
                output::line(output::printable(format!("ended  {id}")));
            }
            Some(Change::Complete(_)) if json => output::line(json!({ "complete": true })),
            Some(Change::Complete(_)) | None => {}
        }
    }
    Ok(())
}

async fn list(client: &mut Client, filter: SessionFilter, json: bool) -> anyhow::Result<()> {
    let mut sessions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSessionsRequest {
            app: filter.app.clone(),
            page_size: api::PAGE_ITEMS,
            page_token,
            stream: filter.stream.clone(),
            tenant: filter.tenant.clone(),
        };
        let page = client
            .list_sessions(request)
            .await
            .map_err(|status| explain(&status))?
            .into_inner();
        sessions.extend(page.sessions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if json {
        output::json(&sessions.iter().map(to_json).collect());
        return Ok(());
    }
    let rows: Vec<_> = sessions.into_iter().map(row).collect();
    output::table(HEADING, &rows);
    Ok(())
}

fn row(session: Session) -> [String; 11] {
    let since = api::time(session.start_time.as_ref());
    let (picture, tracks) = (picture(&session), tracks(&session));
    [
        session.id,
        session.app,
        session.stream,
        since,
        format!("{} kb/s", session.bitrate_bps / 1000),
        picture,
        tracks,
        session.origin,
        session.edge,
        session.client_address,
        session.encoder,
    ]
}

/// Size as declared, frame rate as measured; each where it is known.
fn picture(session: &Session) -> String {
    let mut told = Vec::new();
    if session.width > 0 && session.height > 0 {
        told.push(format!("{}x{}", session.width, session.height));
    }
    let millihertz = session.frame_rate_millihertz;
    if millihertz > 0 {
        told.push(format!(
            "{}.{} fps",
            millihertz / 1000,
            millihertz % 1000 / 100
        ));
    }
    told.join(" ")
}

/// Video first. A server that does not know of tracks tells the codecs alone.
fn tracks(session: &Session) -> String {
    let of = |kind| {
        let tracks = session.tracks.iter();
        tracks
            .filter(move |track| track.kind() == kind)
            .map(describe)
    };
    let mut told: Vec<_> = of(FrameKind::Video).chain(of(FrameKind::Audio)).collect();
    if told.is_empty() {
        told = [&session.video_codec, &session.audio_codec]
            .map(Clone::clone)
            .into();
        told.retain(|codec| !codec.is_empty());
    }
    told.join(" + ")
}

fn track_to_json(track: &Track) -> Value {
    let kind = match track.kind() {
        FrameKind::Video => "video",
        FrameKind::Audio | FrameKind::Script | FrameKind::Unspecified => "audio",
    };
    json!({
        "kind": kind,
        "id": track.id,
        "codec": track.codec,
        "codec_string": track.codec_string,
        "profile": track.profile,
        "level": track.level,
        "width": track.width,
        "height": track.height,
        "frame_rate_numerator": track.frame_rate_numerator,
        "frame_rate_denominator": track.frame_rate_denominator,
        "bit_depth": track.bit_depth,
        "transfer_characteristics": track.transfer_characteristics,
        "sample_rate": track.sample_rate,
        "channels": track.channels,
    })
}

fn to_json(session: &Session) -> Value {
    json!({
        "id": session.id,
        "tenant": session.tenant,
        "app": session.app,
        "stream": session.stream,
        "slot": session.slot,
        "stream_key_id": session.stream_key_id,
        "edge": session.edge,
        "origin": session.origin,
        "epoch": session.epoch,
        "attempt": session.attempt,
        "start_time": api::json_time(session.start_time.as_ref()),
        "media_age_ms": session.media_age_ms,
        "client_address": session.client_address,
        "encoder": session.encoder,
        "bitrate_bps": session.bitrate_bps,
        "received_bytes": session.received_bytes,
        "video_codec": session.video_codec,
        "audio_codec": session.audio_codec,
        "frame_rate_millihertz": session.frame_rate_millihertz,
        "width": session.width,
        "height": session.height,
        "tracks": session.tracks.iter().map(track_to_json).collect::<Vec<_>>(),
    })
}

const HEADING: [&str; 11] = [
    "ID", "APP", "STREAM", "SINCE", "BITRATE", "PICTURE", "TRACKS", "ORIGIN", "EDGE", "CLIENT",
    "ENCODER",
];
