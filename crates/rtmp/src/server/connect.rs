//! `connect` (RTMP 1.0 §7.2.1.1), up to the answer.

use std::time::Instant;

use super::{ConnectRequest, Phase, Rejection, ServerEvent, ServerSession};
use crate::adobe::{AdobeChallenge, Login, NEED_AUTH};
use crate::amf0::Value;
use crate::capabilities::Capabilities;
use crate::command::Command;
use crate::limits::{ADOBE_QUERY_BYTES, APP_BYTES, ENCODER_CHARACTERS, TC_URL_BYTES};

impl ServerSession {
    pub(super) fn connect(&mut self, command: &Command<'_>, now: Instant) {
        if let Some(refusal) = self.config.refusal.take() {
            self.refuse_connect(command.transaction, &refusal.description);
            return;
        }
        let Some((connect, login)) = ConnectRequest::read(command) else {
            self.refuse_connect(command.transaction, URL_TOO_LONG);
            return;
        };
        self.connect = connect;
        self.log_in(login, command.transaction, now);
    }

    fn log_in(&mut self, login: Login, transaction: f64, now: Instant) {
        if login != Login::None && !self.config.offers_adobe {
            let description = "User and password are taken over rtmps:// (TLS) alone.";
            self.refuse_connect(transaction, description);
            return;
        }
        match login {
            Login::None => self.connected(transaction, now),
            Login::Begin => self.demand(transaction, NEED_AUTH, "user and password are wanted"),
            Login::Challenge { user } => {
                self.phase = Phase::Challenging {
                    transaction,
                    user: user.clone(),
                };
                self.deadlines.decision_asked();
                let event = ServerEvent::AdobeChallengeRequested { user };
                self.events.push_back(event);
            }
            Login::Response(response) => {
                self.connect.adobe = Some(response);
                self.connected(transaction, now);
            }
            Login::Malformed => {
                let description = "User, password or the answer to the challenge is malformed.";
                self.refuse_connect(transaction, description);
            }
        }
    }

    /// Answers the requested challenge; the driver then flushes and closes, and the encoder connects again. Without a
    /// requested challenge: nothing.
    pub fn challenge(&mut self, challenge: &AdobeChallenge) {
        if self.is_closing() {
            return;
        }
        if let Phase::Challenging { transaction, user } = &self.phase {
            let (transaction, description) = (*transaction, challenge.description(user));
            self.demand(transaction, &description, "the password is wanted");
        }
    }

    fn connected(&mut self, transaction: f64, now: Instant) {
        self.phase = Phase::Connected;
        self.deadlines.connected(now);
        let announced = &self.connect.capabilities;
        self.link
            .send_connected(transaction, &self.config, announced);
    }

    /// A refusal that is an invitation: `meaning` is for our log.
    fn demand(&mut self, transaction: f64, description: &str, meaning: &str) {
        self.link.send_connect_error(transaction, description);
        self.closing = Some(Rejection {
            description: meaning.to_owned(),
        });
    }
}

/// Why a `connect` is refused that [`ConnectRequest::read`] does not take.
pub(super) const URL_TOO_LONG: &str = "The server URL is too long.";

impl ConnectRequest {
    /// What it says, and whether it wants to log in; `None`: its URL is too long.
    pub(super) fn read(command: &Command<'_>) -> Option<(Self, Login)> {
        let text = |keys: &[&str]| {
            keys.iter()
                .find_map(|key| command.object.property(key)?.as_bytes())
                .unwrap_or_default()
        };
        let app = text(&["app"]);
        // Both spellings are seen, and quotes around it.
        let tc_url = text(&["tcUrl", "tcurl"]);
        if app.len() > APP_BYTES + ADOBE_QUERY_BYTES || tc_url.len() > TC_URL_BYTES {
            return None;
        }
        let mut app = String::from_utf8_lossy(app).into_owned();
        let tc_url = String::from_utf8_lossy(tc_url);
        let mut tc_url = tc_url.trim_matches(['"', '\'']).to_owned();
        let login = Login::take(&mut app, &mut tc_url);
        if app.len() > APP_BYTES {
            return None;
        }
        let connect = Self {
            app,
            tc_url,
            flash_ver: printable(text(&["flashVer"])),
            capabilities: Capabilities::read(&command.object),
            adobe: None,
        };
        Some((connect, login))
    }
}

/// For logs: printable ASCII, of bounded length.
fn printable(bytes: &[u8]) -> String {
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    };
    bytes
        .iter()
        .take(ENCODER_CHARACTERS)
        .map(printable)
        .collect()
}

/// The list of FourCCs that is answered to a client that sent one: all.
pub(super) fn every_four_cc() -> Value<'static> {
    Value::StrictArray(vec![Value::text("*")])
}
