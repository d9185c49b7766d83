//! `headwater events`: what happens, over the gRPC API.

use proto::{
    cloud_events,
    v1::{Event, WatchEventsRequest, event::Subject, event_service_client::EventServiceClient},
};

use crate::{
    api::{self, ApiChannel, Server, explain},
    cli::{EventsCommand, ServerArguments, TailArguments},
    output,
};

/// Runs one of the commands.
pub(crate) async fn run(arguments: &ServerArguments, command: EventsCommand) -> anyhow::Result<()> {
    let server = Server::find(arguments)?.connect().await?;
    match command {
        EventsCommand::Tail(tail) => follow(server, tail, arguments.format.json()).await,
    }
}

async fn follow(server: ApiChannel, tail: TailArguments, json: bool) -> anyhow::Result<()> {
    let TailArguments {
        since,
        cursor,
        types,
        app,
        tenant,
    } = tail;
    let request = WatchEventsRequest {
        cursor,
        since: since.map(Into::into),
        types: types.into_iter().map(Into::into).collect(),
        app,
        tenant,
    };
    let mut client = EventServiceClient::new(server);
    let answers = client.watch_events(request).await;
    let mut answers = answers.map_err(|status| explain(&status))?.into_inner();
    while let Some(answer) = answers.message().await.map_err(|status| explain(&status))? {
        for event in answer.events {
            if json {
                output::line(cloud_events::json(&event));
            } else {
                output::line(output::printable(sentence(&event)));
            }
        }
    }
    Ok(())
}

/// One line for people.
pub(crate) fn sentence(event: &Event) -> String {
    let time = api::time(event.time.as_ref());
    let name = cloud_events::short_name(event.r#type());
    let (about, id, rest) = match &event.subject {
        Some(Subject::Session(session)) => (
            format!("{}/{}", session.app, session.stream),
            session.session_id.as_str(),
            [&session.reason, &session.description],
        ),
        Some(Subject::Key(key)) => (
            format!("{}/{}", key.app, key.stream),
            key.stream_key_id.as_str(),
            [&key.actor, &key.reason],
        ),
        None => return format!("{time}  {name}"),
    };
    let mut sentence = format!("{time}  {name:<18}  {about}  {id}");
    for text in rest.into_iter().filter(|text| !text.is_empty()) {
        sentence.push_str("  ");
        sentence.push_str(text);
    }
    sentence
}
