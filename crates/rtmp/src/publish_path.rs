//! Application, stream key and query of a publish, out of the many ways in which encoders spell them.
//!
//! Encoders cut one URL at different places: `rtmp://host/a/b/key` arrives as app `a/b` and name `key`, or as app `a/b`
//! and name `key` with a query, or as app `a` and name `b/key`; OBS takes the server and the key from two fields. Joined
//! again they are equal, so: join app and name, cut the query off, and the last segment is the stream key.

use crate::limits::{APP_BYTES, NAME_BYTES, QUERY_BYTES, QUERY_PARAMETERS};
use crate::{ConnectRequest, StreamKeyText};

/// Where an encoder publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishPath {
    /// Everything before the last segment, joined by `/`. No secret.
    pub app: String,
    /// The last segment. A secret.
    pub stream_key: StreamKeyText,
    /// Query parameters, not decoded, each name once; values may be secrets.
    pub query: Vec<(String, StreamKeyText)>,
}

/// Why a publish names no stream. Its text is for the person at the encoder and quotes nothing.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishPathError {
    /// Characters outside of `A-Z a-z 0-9 _ - . ~ = + @`, or a segment `.` or `..`.
    #[error("The application name has characters that are not allowed")]
    AppNotAllowed,
    /// There is no application before the key.
    #[error("The URL names no application: it should look like rtmps://host/application")]
    EmptyApp,
    /// There is no key.
    #[error(
        "The stream key is empty: put it into the encoder's stream key field or at the end of the URL"
    )]
    EmptyStreamKey,
    /// Control characters, `/`, `\`, or not UTF-8.
    #[error("The stream key has characters that are not allowed")]
    StreamKeyNotAllowed,
    /// Application, name or query beyond its limit.
    #[error("The application name, stream key or query is too long")]
    TooLong,
}

impl PublishPath {
    /// Takes `connect`'s app and tcUrl and `publish`'s name apart.
    ///
    /// # Errors
    /// [`PublishPathError`], for the encoder to show.
    pub fn split(connect: &ConnectRequest, name: &[u8]) -> Result<Self, PublishPathError> {
        if connect.app.len() > APP_BYTES || name.len() > NAME_BYTES {
            return Err(PublishPathError::TooLong);
        }
        let name = std::str::from_utf8(name).map_err(|_| PublishPathError::StreamKeyNotAllowed)?;
        let joined = Joined::new(&connect.app, name);
        let (app, stream_key) = joined.identity()?;
        let tc_url_query = match cut(&connect.app).1 {
            None => cut(connect.tc_url.trim_matches(['"', '\''])).1,
            Some(_) => None,
        };
        let queries = [
            tc_url_query.unwrap_or_default(),
            joined.app_query,
            &joined.name_query,
        ];
        Ok(Self {
            app,
            stream_key: StreamKeyText::new(stream_key),
            query: parameters(queries)?,
        })
    }
}

/// Paths and queries, apart.
struct Joined<'a> {
    app: &'a str,
    name: &'a str,
    app_query: &'a str,
    name_query: String,
}

impl<'a> Joined<'a> {
    fn new(app: &'a str, name: &'a str) -> Self {
        let (app_path, app_query) = cut(app);
        if let Some(app_query) = app_query
            && is_cut_in_query(app_path, app_query)
        {
            let slash = if name.is_empty() { "" } else { "/" };
            return Self {
                app: app_path,
                name: "",
                app_query: "",
                name_query: format!("{app_query}{slash}{name}"),
            };
        }
        let (name, name_query) = cut(name);
        let name = name.trim_matches('/');
        let name = ["mp4:", "flv:", "mp3:"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(name);
        Self {
            app: app_path,
            name,
            app_query: app_query.unwrap_or_default(),
            name_query: name_query.unwrap_or_default().to_owned(),
        }
    }

    /// All segments but the last, and the last.
    fn identity(&self) -> Result<(String, String), PublishPathError> {
        let mut segments: Vec<&str> = self
            .app
            .split('/')
            .chain(self.name.split('/'))
            .filter(|segment| !segment.is_empty())
            .collect();
        // Flash Media Server's name for the default instance of an application.
        if segments.len() > 2 && segments.get(1) == Some(&"_definst_") {
            segments.remove(1);
        }
        let name_is_empty = self.name.trim_matches('/').is_empty();
        let Some(stream_key) = segments.pop() else {
            return Err(PublishPathError::EmptyStreamKey);
        };
        // One segment is an application without a key if it came as the application.
        if segments.is_empty() && name_is_empty {
            return Err(PublishPathError::EmptyStreamKey);
        }
        if segments.is_empty() {
            return Err(PublishPathError::EmptyApp);
        }
        let app: Result<Vec<String>, PublishPathError> = segments
            .into_iter()
            .map(|segment| {
                percent_decode(segment)
                    .filter(|segment| is_app_segment(segment))
                    .ok_or(PublishPathError::AppNotAllowed)
            })
            .collect();
        let stream_key = percent_decode(stream_key)
            .filter(|stream_key| is_stream_key(stream_key))
            .ok_or(PublishPathError::StreamKeyNotAllowed)?;
        Ok((app?.join("/"), stream_key))
    }
}

/// FFmpeg takes the first two segments for the app, even where the second slash is in the query: for
/// `rtmp://host/live/key?token=a/b` it sends app `live/key?token=a` and name `b`. Anyone else who has a query in the app
/// (OBS: it is in the server field; Adobe authentication) has an app of its own there and a key in the name.
fn is_cut_in_query(app_path: &str, app_query: &str) -> bool {
    let segments = app_path.split('/').filter(|segment| !segment.is_empty());
    segments.count() == 2 && !app_query.contains("authmod=")
}

/// Path and query.
fn cut(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    }
}

/// Later ones of a name replace earlier ones.
fn parameters(queries: [&str; 3]) -> Result<Vec<(String, StreamKeyText)>, PublishPathError> {
    if queries.iter().map(|query| query.len()).sum::<usize>() > QUERY_BYTES {
        return Err(PublishPathError::TooLong);
    }
    let mut found: Vec<(String, StreamKeyText)> = Vec::new();
    for parameter in queries.iter().flat_map(|query| query.split('&')) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.is_empty() || parameter.chars().any(char::is_control) {
            continue;
        }
        let value = StreamKeyText::new(value.to_owned());
        if let Some(existing) = found.iter_mut().find(|(existing, _)| existing == name) {
            existing.1 = value;
        } else if found.len() < QUERY_PARAMETERS {
            found.push((name.to_owned(), value));
        } else {
            return Err(PublishPathError::TooLong);
        }
    }
    Ok(found)
}

/// Once; what is no escape stays as it is. `None` if the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after
            .split_at_checked(2)
            .filter(|_| byte == b'%')
            .and_then(|(digits, after)| Some((hexadecimal(digits)?, after)));
        let (byte, after) = escaped.unwrap_or((byte, after));
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8(decoded).ok()
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some((value << 4) | u8::try_from(digit).ok()?)
    })
}

fn is_app_segment(segment: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.~=+@".contains(c);
    segment.chars().all(allowed) && !segment.is_empty() && segment != "." && segment != ".."
}

fn is_stream_key(stream_key: &str) -> bool {
    let allowed = |c: char| !c.is_control() && c != '/' && c != '\\';
    stream_key.chars().all(allowed) && stream_key != "." && stream_key != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(app: &str, tc_url: &str, name: &str) -> Result<PublishPath, PublishPathError> {
        let connect = ConnectRequest {
            app: app.to_owned(),
            tc_url: tc_url.to_owned(),
            ..ConnectRequest::default()
        };
        PublishPath::split(&connect, name.as_bytes())
    }

    /// What the person typed | app | tcUrl | name → app | key | query
    const FORMS: &str = "
        ffmpeg rtmp://h/live/key    | live | rtmp://h:1935/live | key | live | key |
        ffmpeg with an instance     | a/b | rtmp://h:1/a/b | key | a/b | key |
        ffmpeg, four segments       | a/b | rtmp://h:1/a/b | c/key | a/b/c | key |
        ffmpeg with a query         | live/inst | | key?token=a | live/inst | key | token=a
        ffmpeg, slash in the query  | live/key?token=a | rtmp://h:1/live/key?token=a | b | live | key | token=a/b
        ffmpeg, name.mp4            | live | | mp4:key.mp4 | live | key.mp4 |
        obs                         | live | rtmp://h/live | key | live | key |
        obs, query in the key       | live/inst | rtmp://h/live/inst | key?token=a&backup=1 | live/inst | key | token=a&backup=1
        obs, query in the server    | live?x=1 | | key | live | key | x=1
        obs, both                   | live?x=1&y=2 | | key?x=3 | live | key | x=3&y=2
        obs, all in the server      | live/key | | | live | key |
        obs, trailing slash         | live/ | | key | live | key |
        obs with authentication     | live/inst?authmod=adobe&user=bob | | key | live/inst | key | authmod=adobe&user=bob
        gstreamer                   | a/b | rtmp://h:1/a/b | key | a/b | key |
        librtmp                     | live | rtmp://h:1/live | key | live | key |
        haishinkit, all in the app  | live/key?t=1 | | | live | key | t=1
        query only in tcUrl         | live | 'rtmp://h/live?t=1' | key | live | key | t=1
        flash default instance      | live/_definst_ | | key | live | key |
        a key of that name          | live | | _definst_ | live | _definst_ |
        hardware entry name         | live | | event_1_2500@37267 | live | event_1_2500@37267 |
        percent encoding            | li%76e | | k%65y%zz%4 | live | key%zz%4 |
    ";

    #[test]
    fn the_forms_of_real_encoders_are_taken_apart() {
        let forms = FORMS.lines().filter(|line| line.contains('|'));
        for form in forms {
            let cells: Vec<&str> = form.split('|').map(str::trim).collect();
            let [typed, app, tc_url, name, expected_app, key, query] = cells[..] else {
                panic!("{form}");
            };
            let path = split(app, tc_url, name).unwrap_or_else(|error| panic!("{typed}: {error}"));
            let joined: Vec<String> = path
                .query
                .iter()
                .map(|(name, value)| format!("{name}={}", value.expose()))
                .collect();
            assert_eq!(path.app, expected_app, "{typed}");
            assert_eq!(path.stream_key.expose(), key, "{typed}");
            assert_eq!(joined.join("&"), query, "{typed}");
        }
    }

    #[test]
    fn what_names_no_stream_is_refused_with_a_reason() {
        use PublishPathError::*;
        let long = "x".repeat(NAME_BYTES + 1);
        let many = format!("key?{}", "a=1&".repeat(3_000));
        let different: String = (0..65).map(|i| format!("p{i}=1&")).collect();
        let different = format!("key?{different}");
        for (app, name, error) in [
            ("live", "", EmptyStreamKey),
            ("live", "?token=a", EmptyStreamKey),
            ("live/", "//", EmptyStreamKey),
            ("", "", EmptyStreamKey),
            ("", "key", EmptyApp),
            ("live/../etc", "key", AppNotAllowed),
            ("live/%2e%2e", "key", AppNotAllowed),
            ("live%2Fx", "key", AppNotAllowed),
            ("li\u{1b}[1mve", "key", AppNotAllowed),
            ("l\u{fffd}", "key", AppNotAllowed),
            ("a\\b", "key", AppNotAllowed),
            ("live", "..", StreamKeyNotAllowed),
            ("live", "ke\0y", StreamKeyNotAllowed),
            ("live", "ke%00y", StreamKeyNotAllowed),
            ("live", "ke\ny", StreamKeyNotAllowed),
            ("live", "k%2Fy", StreamKeyNotAllowed),
            ("live", "k%FFy", StreamKeyNotAllowed),
            ("live", &long, TooLong),
            (&long, "key", TooLong),
            ("live", &many, TooLong),
            ("live", &different, TooLong),
        ] {
            assert_eq!(split(app, "", name), Err(error), "{app:?} {name:?}");
        }
        let connect = ConnectRequest {
            app: "live".to_owned(),
            ..ConnectRequest::default()
        };
        assert_eq!(
            PublishPath::split(&connect, b"k\xFFy"),
            Err(StreamKeyNotAllowed)
        );
    }

    #[test]
    fn a_secret_is_not_printed() {
        let path = split("live", "", "hunter2?token=hunter2").unwrap();
        assert!(!format!("{path:?}").contains("hunter2"));
    }
}
