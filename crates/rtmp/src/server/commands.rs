//! What encoders ask for, and what happens then (RTMP 1.0 §7.2, and the commands that Flash Media Encoder added).

use std::time::Instant;

use super::{EndCause, Phase, PublishRequest, Published, Rejection, ServerEvent, ServerSession};
use crate::amf0::Value;
use crate::command::{self, Command};
use crate::limits::{AMF_NODES, NAME_BYTES, UNPUBLISHED_AMF_NODES};
use crate::{Message, ProtocolError, PublishPath};

/// The published name without query and slashes: FCUnpublish names it again.
pub(super) struct PublishedName(Vec<u8>);

impl ServerSession {
    pub(super) fn handle_command(
        &mut self,
        message: &Message,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let is_publishing = matches!(self.phase, Phase::Publishing(_));
        let nodes = if is_publishing {
            AMF_NODES
        } else {
            UNPUBLISHED_AMF_NODES
        };
        let body = command::body(message);
        let command = match Command::read(&body, nodes) {
            Ok(command) => command,
            // A publisher is not disconnected for a command that we do not understand.
            Err(_) if is_publishing => return Ok(()),
            Err(error) => return Err(ProtocolError::MalformedCommand(error)),
        };
        if matches!(self.phase, Phase::Unconnected) {
            return self.handle_unconnected(&command, now);
        }
        let message_stream_id = message.message_stream_id;
        match command.name {
            b"connect" => {
                self.refuse_connect(command.transaction, "This connection is already connected.");
            }
            b"createStream" => {
                self.message_streams
                    .create(command.transaction, &mut self.link)?;
            }
            b"publish" => self.publish(&command, message_stream_id),
            b"play" => self.refuse_play(
                self.message_streams.only().unwrap_or(message_stream_id),
                "This server takes streams; it does not play them over RTMP.",
            ),
            b"FCPublish" => self.fc_publish(&command),
            b"FCUnpublish" => self.fc_unpublish(&command, now),
            b"closeStream" => self.close_stream(message_stream_id, now),
            b"deleteStream" => self.delete_stream(&command, now),
            b"getStreamLength" => {
                self.link
                    .send_result(command.transaction, Value::Number(0.0));
            }
            b"releaseStream" => self.answer(&command, Value::Undefined),
            b"onStatus" | b"_result" | b"_error" => {}
            // An `_error` would make FFmpeg give up.
            _ => self.answer(&command, Value::Null),
        }
        Ok(())
    }

    fn handle_unconnected(
        &mut self,
        command: &Command<'_>,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        match command.name {
            b"connect" => {
                self.connect(command, now);
                Ok(())
            }
            b"createStream" => Err(ProtocolError::Unconnected {
                what: "createStream",
            }),
            b"publish" => Err(ProtocolError::Unconnected { what: "publish" }),
            b"play" => Err(ProtocolError::Unconnected { what: "play" }),
            _ => Ok(()),
        }
    }

    fn publish(&mut self, command: &Command<'_>, message_stream_id: u32) {
        let Some(id) = self.message_streams.meant(message_stream_id) else {
            let description = "The publish names a stream that createStream did not return.";
            self.refuse_publish(message_stream_id, refusal(description));
            return;
        };
        if matches!(self.phase, Phase::Publishing(_)) {
            self.send_bad_name(id, "This connection already publishes a stream.");
            return;
        }
        let name = command.argument(0).and_then(Value::as_bytes);
        let name = name.unwrap_or_default();
        match PublishPath::split(&self.connect, name) {
            Ok(path) => {
                self.phase = Phase::Requested(Published {
                    message_stream_id: id,
                    name: PublishedName::new(name),
                });
                self.deadlines.decision_asked();
                let request = Box::new(PublishRequest {
                    app: path.app,
                    stream_key: path.stream_key,
                    query: path.query,
                    encoder: self.connect.flash_ver.clone(),
                    capabilities: self.connect.capabilities.clone(),
                    adobe: self.connect.adobe.clone(),
                });
                let event = ServerEvent::PublishRequested(request);
                self.events.push_back(event);
            }
            Err(error) => self.refuse_publish(id, refusal(&error.to_string())),
        }
    }

    fn fc_publish(&mut self, command: &Command<'_>) {
        self.answer(command, Value::Undefined);
        let name = name_argument(command);
        self.link
            .send_fc("onFCPublish", "NetStream.Publish.Start", name);
    }

    /// Ends our own publish only, whatever it names.
    fn fc_unpublish(&mut self, command: &Command<'_>, now: Instant) {
        self.answer(command, Value::Undefined);
        let name = name_argument(command);
        self.link
            .send_fc("onFCUnpublish", "NetStream.Unpublish.Success", name);
        let is_ours = |published: &Published| name.is_empty() || published.name.is(name);
        self.end_publish(EndCause::FcUnpublish, now, is_ours);
    }

    fn close_stream(&mut self, message_stream_id: u32, now: Instant) {
        let only = self.message_streams.only();
        self.end_publish(EndCause::CloseStream, now, |published| {
            published.message_stream_id == message_stream_id
                || only == Some(published.message_stream_id)
        });
    }

    /// The argument is a number; GStreamer sends the name. If there is only one stream, it is that one.
    fn delete_stream(&mut self, command: &Command<'_>, now: Instant) {
        let named = command
            .argument(0)
            .and_then(Value::as_number)
            .map(command::integer);
        let named = named.filter(|id| self.message_streams.contains(*id));
        let Some(id) = named.or_else(|| self.message_streams.only()) else {
            return;
        };
        self.end_publish(EndCause::DeleteStream, now, |published| {
            published.message_stream_id == id
        });
        self.message_streams.delete(id);
    }

    fn end_publish(
        &mut self,
        cause: EndCause,
        now: Instant,
        is_meant: impl FnOnce(&Published) -> bool,
    ) {
        let Phase::Publishing(published) = &self.phase else {
            return;
        };
        if !is_meant(published) {
            return;
        }
        self.send_unpublished(published.message_stream_id);
        self.events.push_back(ServerEvent::PublishEnded(cause));
        self.phase = Phase::Connected;
        self.deadlines.connected(now);
    }

    fn answer(&mut self, command: &Command<'_>, result: Value<'_>) {
        if command.wants_answer() {
            self.link.send_result(command.transaction, result);
        }
    }
}

impl PublishedName {
    fn new(name: &[u8]) -> Self {
        Self(without_query(name).to_owned())
    }

    fn is(&self, name: &[u8]) -> bool {
        self.0 == without_query(name)
    }
}

fn without_query(name: &[u8]) -> &[u8] {
    let path = name.split(|byte| *byte == b'?').next().unwrap_or_default();
    path.strip_suffix(b"/").unwrap_or(path)
}

/// What FCPublish and FCUnpublish name, for the answer that repeats it.
pub(super) fn name_argument<'a>(command: &Command<'a>) -> &'a [u8] {
    let name = command.argument(0).and_then(Value::as_bytes);
    let name = name.unwrap_or_default();
    name.get(..NAME_BYTES).unwrap_or(name)
}

fn refusal(description: &str) -> Rejection {
    Rejection {
        description: description.to_owned(),
    }
}
