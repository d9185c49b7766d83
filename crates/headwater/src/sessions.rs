//! `headwater sessions`: who publishes, over the gRPC API.

use proto::{
    tracks::describe,
    v1::{
        FrameKind, ListSessionsRequest, Session, TerminateSessionRequest, Track,
        session_service_client::SessionServiceClient,
    },
};
use serde_json::{Value, json};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{ServerArguments, SessionsCommand},
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
        SessionsCommand::Kill { id, reason } => kill(&mut client, id, reason, json).await,
        SessionsCommand::List { app } => list(&mut client, app, json).await,
    }
}

async fn kill(client: &mut Client, id: String, reason: String, json: bool) -> anyhow::Result<()> {
    let request = TerminateSessionRequest {
        id: id.clone(),
        reason,
        ..TerminateSessionRequest::default()
    };
    client
        .terminate_session(request)
        .await
        .map_err(|status| explain(&status))?;
    if json {
        output::json(&json!({ "id": id }));
    } else {
        output::line(format_args!(
            "Session {id} ends; its stream key is refused for 30 s."
        ));
    }
    Ok(())
}

async fn list(client: &mut Client, app: String, json: bool) -> anyhow::Result<()> {
    let mut sessions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSessionsRequest {
            app: app.clone(),
            page_size: api::PAGE_ITEMS,
            page_token,
            ..ListSessionsRequest::default()
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
    output::table(
        [
            "ID", "APP", "STREAM", "SINCE", "BITRATE", "PICTURE", "TRACKS", "ORIGIN", "EDGE",
            "CLIENT", "ENCODER",
        ],
        &rows,
    );
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
        "start_time": api::time(session.start_time.as_ref()),
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
