//! Adobe authentication (`authmod=adobe`): user and password, for hardware encoders that know nothing else.
//!
//! Every step is a connection of its own, and the server ends the first two:
//!
//! 1. `connect` without a user: refused, "need auth";
//! 2. with `?authmod=adobe&user=U` in the application: refused with salt, challenge and opaque;
//! 3. with a response to those: goes on to `publish`, where it is decided on.
//!
//! A first `connect` is like that of any other encoder, and most have a stream key and no password. The challenge is
//! for those whose application ends in [`ADOBE_SEGMENT`], or who say `authmod=adobe` themselves.

use crate::StreamKeyText;
use crate::limits::ADOBE_FIELD_BYTES;

/// The last segment of an application where user and password are wanted: `rtmps://user:password@host/live/_adobe_`.
/// It is no part of the application's name.
pub const ADOBE_SEGMENT: &str = "_adobe_";

/// What step 1 is answered with: clients look for these very words.
pub(crate) const NEED_AUTH: &str =
    "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ";

/// What an encoder is to answer: nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdobeChallenge {
    /// Goes into the hash of the password.
    pub salt: String,
    /// Random.
    pub challenge: String,
    /// Comes back with the response.
    pub opaque: String,
}

/// An encoder's answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdobeResponse {
    /// Who it says it is.
    pub user: String,
    /// Its own random part.
    pub challenge: String,
    /// Proves that it knows the password. A secret.
    pub response: StreamKeyText,
    /// As it was told. Worth something until it is used.
    pub opaque: StreamKeyText,
}

/// What a `connect` wants of Adobe authentication.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// Nothing.
    None,
    /// To be told that there is one.
    Begin,
    /// A challenge.
    Challenge {
        /// As it calls itself.
        user: String,
    },
    /// To be let in.
    Response(AdobeResponse),
    /// It makes no sense.
    Malformed,
}

impl AdobeChallenge {
    /// What step 2 is answered with.
    pub(crate) fn description(&self, user: &str) -> String {
        let Self {
            salt,
            challenge,
            opaque,
        } = self;
        format!(
            "[ AccessManager.Reject ] : [ authmod=adobe ] : \
             ?reason=needauth&user={user}&salt={salt}&challenge={challenge}&opaque={opaque}"
        )
    }
}

impl Login {
    /// Takes everything that belongs to it out of `connect`'s app and tcUrl.
    pub(crate) fn take(app: &mut String, tc_url: &mut String) -> Self {
        let in_app = Fields::take(app);
        let in_tc_url = Fields::take(tc_url);
        let is_marked = take_segment(app);
        let fields = if in_app.is_adobe { in_app } else { in_tc_url };
        match fields {
            Fields { is_adobe: true, .. } => fields.login(),
            Fields { .. } if is_marked => Self::Begin,
            Fields { .. } => Self::None,
        }
    }
}

/// Parameters of a query, as they came: base64 is not percent-encoded by anybody.
#[derive(Default)]
struct Fields {
    is_adobe: bool,
    user: Option<String>,
    challenge: Option<String>,
    response: Option<String>,
    opaque: Option<String>,
}

impl Fields {
    /// Takes them out of a URL, if `authmod=adobe` is among them. An encoder that was given `?authmod=adobe` in its URL
    /// appends `?authmod=adobe&user=…`, so both characters begin a parameter.
    fn take(url: &mut String) -> Self {
        let mut fields = Self::default();
        let Some((path, query)) = url.split_once('?') else {
            return fields;
        };
        let mut others = Vec::new();
        for parameter in query.split(['?', '&']) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = Some(value.to_owned());
            match name {
                "authmod" if parameter == "authmod=adobe" => fields.is_adobe = true,
                "user" => fields.user = value,
                "challenge" => fields.challenge = value,
                "response" => fields.response = value,
                "opaque" => fields.opaque = value,
                _ => others.push(parameter),
            }
        }
        if fields.is_adobe {
            let mark = if others.is_empty() { "" } else { "?" };
            *url = format!("{path}{mark}{}", others.join("&"));
            fields
        } else {
            Self::default()
        }
    }

    fn login(self) -> Login {
        let all = [&self.user, &self.challenge, &self.response, &self.opaque];
        if !all.into_iter().flatten().all(|text| is_field(text)) {
            return Login::Malformed;
        }
        match (self.user, self.challenge, self.response, self.opaque) {
            (Some(user), Some(challenge), Some(response), Some(opaque)) => {
                Login::Response(AdobeResponse {
                    user,
                    challenge,
                    response: StreamKeyText::new(response),
                    opaque: StreamKeyText::new(opaque),
                })
            }
            (Some(user), None, None, None) => Login::Challenge { user },
            (None, None, None, None) => Login::Begin,
            _ => Login::Malformed,
        }
    }
}

/// A user is echoed to the encoder, in front of an `&`.
fn is_field(text: &str) -> bool {
    let characters = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-.@".contains(&byte);
    !text.is_empty() && text.len() <= ADOBE_FIELD_BYTES && text.bytes().all(characters)
}

/// Takes [`ADOBE_SEGMENT`] off the end of the path; whether it was there.
fn take_segment(app: &mut String) -> bool {
    let (path, query) = app.split_at(app.find('?').unwrap_or(app.len()));
    let Some(path) = path.trim_end_matches('/').strip_suffix(ADOBE_SEGMENT) else {
        return false;
    };
    let Some(path) = path.strip_suffix('/') else {
        return false;
    };
    *app = format!("{path}{query}");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(app: &str, tc_url: &str) -> (Login, String, String) {
        let (mut app, mut tc_url) = (app.to_owned(), tc_url.to_owned());
        let login = Login::take(&mut app, &mut tc_url);
        (login, app, tc_url)
    }

    fn response() -> Login {
        Login::Response(AdobeResponse {
            user: "bob".to_owned(),
            challenge: "0a1b2c3d".to_owned(),
            response: StreamKeyText::new("q+/w==".to_owned()),
            opaque: StreamKeyText::new("O-_1".to_owned()),
        })
    }

    const ANSWER: &str = "authmod=adobe&user=bob&challenge=0a1b2c3d&response=q+/w==&opaque=O-_1";

    #[test]
    fn each_step_is_told_from_the_others_and_leaves_no_trace_in_the_names() {
        let challenge = || Login::Challenge {
            user: "bob".to_owned(),
        };
        for (app, expected, left) in [
            ("live", Login::None, "live"),
            ("live?token=a", Login::None, "live?token=a"),
            ("live?user=bob", Login::None, "live?user=bob"),
            (
                "live?authmod=llnw&user=bob",
                Login::None,
                "live?authmod=llnw&user=bob",
            ),
            ("live/_adobe_", Login::Begin, "live"),
            ("live/_adobe_/", Login::Begin, "live"),
            ("live/x/_adobe_?token=a", Login::Begin, "live/x?token=a"),
            ("live?authmod=adobe", Login::Begin, "live"),
            ("live/x_adobe_", Login::None, "live/x_adobe_"),
            ("_adobe_", Login::None, "_adobe_"),
            ("live?authmod=adobe&user=bob", challenge(), "live"),
            ("live/_adobe_?authmod=adobe&user=bob", challenge(), "live"),
            (
                "live?authmod=adobe?authmod=adobe&user=bob",
                challenge(),
                "live",
            ),
            ("live?t=1&authmod=adobe&user=bob", challenge(), "live?t=1"),
        ] {
            let came = take(app, "rtmps://h/live");
            assert_eq!(
                came,
                (expected, left.to_owned(), "rtmps://h/live".to_owned()),
                "{app}"
            );
        }
        let app = format!("live/_adobe_?{ANSWER}");
        assert_eq!(take(&app, "").0, response());
        // OBS and GStreamer say it twice; others in tcUrl alone.
        let tc_url = format!("rtmps://h/live/_adobe_?{ANSWER}");
        let expected = (
            response(),
            "live".to_owned(),
            "rtmps://h/live/_adobe_".to_owned(),
        );
        assert_eq!(take(&app, &tc_url), expected);
        assert_eq!(take("live", &tc_url), expected);
    }

    #[test]
    fn what_makes_no_sense_is_malformed() {
        let long = "x".repeat(ADOBE_FIELD_BYTES + 1);
        for query in [
            "authmod=adobe&user=",
            "authmod=adobe&user=b%20b",
            "authmod=adobe&user=b\u{1b}b",
            "authmod=adobe&response=x",
            "authmod=adobe&user=bob&response=x",
            &ANSWER.replace("&opaque=O-_1", ""),
            &ANSWER.replace("O-_1", &long),
        ] {
            assert_eq!(
                take(&format!("live?{query}"), "").0,
                Login::Malformed,
                "{query}"
            );
        }
    }

    #[test]
    fn a_response_is_not_printed() {
        let printed = format!("{:?}", response());
        assert!(
            !printed.contains("q+/w") && !printed.contains("O-_1"),
            "{printed}"
        );
    }

    #[test]
    fn the_challenge_has_the_words_that_clients_look_for() {
        let challenge = AdobeChallenge {
            salt: "S".to_owned(),
            challenge: "C".to_owned(),
            opaque: "O".to_owned(),
        };
        assert_eq!(
            challenge.description("bob"),
            "[ AccessManager.Reject ] : [ authmod=adobe ] : \
             ?reason=needauth&user=bob&salt=S&challenge=C&opaque=O"
        );
    }
}
