//! The URL and the key, taken apart.

use std::{io::Read as _, path::Path};

use rtmp::StreamKeyText;

use crate::{bench::tls::server_name, cli::UsageError, files};

/// Where to publish, and as whom.
pub(super) struct Target {
    /// The URL's path without the key; a query that is part of it may hold a secret.
    pub(super) app: String,
    /// As in the URL.
    authority: String,
    pub(super) host: String,
    pub(super) key: Option<StreamKeyText>,
    pub(super) port: u16,
    pub(super) secure: bool,
}

/// `rtmps://` and `rtmp://` where the URL has no port.
const RTMPS_PORT: u16 = 443;
const RTMP_PORT: u16 = 1935;

impl Target {
    /// With the key that the file holds, or the last segment of the URL's path where there are two.
    pub(super) fn new(url: &str, key_file: Option<&Path>) -> anyhow::Result<Self> {
        let (mut target, path) = Self::parse(url)?;
        if let Some(file) = key_file {
            target.app = path.to_owned();
            target.key = Some(read_key(file)?);
        } else {
            // A query belongs to the key, and may hold slashes.
            let (plain, query) = path.split_at(path.find('?').unwrap_or(path.len()));
            match plain.trim_end_matches('/').rsplit_once('/') {
                Some((app, key)) => {
                    target.app = app.to_owned();
                    target.key = Some(StreamKeyText::new(format!("{key}{query}")));
                }
                None => target.app = path.to_owned(),
            }
        }
        Ok(target)
    }

    fn parse(url: &str) -> Result<(Self, &str), UsageError> {
        let wrong = |what: &str| UsageError(format!("the URL {what}: rtmps://host[:port]/app"));
        let (secure, rest) = match url.split_once("://") {
            Some(("rtmps", rest)) => (true, rest),
            Some(("rtmp", rest)) => (false, rest),
            // A whole URL may be a secret: it is not repeated.
            Some(_) | None => return Err(wrong("begins with neither rtmps:// nor rtmp://")),
        };
        let (authority, path) = rest
            .split_once('/')
            .filter(|(_, path)| !path.trim_matches('/').is_empty())
            .ok_or_else(|| wrong("names no application"))?;
        let no_host = || wrong("has no valid host and port");
        if authority.contains('@') {
            return Err(wrong("holds a user name; the key says who publishes"));
        }
        let parsed: http::uri::Authority = authority.parse().map_err(|_invalid| no_host())?;
        let port = parsed.port_u16();
        // A port that is no number is silently left out.
        if parsed.host().is_empty() || (port.is_none() && authority != parsed.host()) {
            return Err(no_host());
        }
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
        if secure && server_name(host).is_err() {
            return Err(no_host());
        }
        let target = Self {
            app: String::new(),
            authority: authority.to_owned(),
            host: host.to_owned(),
            key: None,
            port: port.unwrap_or(if secure { RTMPS_PORT } else { RTMP_PORT }),
            secure,
        };
        Ok((target, path.trim_matches('/')))
    }

    /// Media need a publish.
    pub(super) fn check(&self, media: bool) -> Result<(), UsageError> {
        if media && self.key.is_none() {
            let text = "--media needs a stream key: at the end of the URL, or by --key-file";
            return Err(UsageError(text.to_owned()));
        }
        Ok(())
    }

    /// connect's tcUrl: as encoders send it, without the key.
    pub(super) fn tc_url(&self) -> String {
        format!("{}://{}/{}", self.scheme(), self.authority, self.app)
    }

    /// To be printed.
    pub(super) fn shown(&self) -> String {
        let app = self.app.split('?').next().unwrap_or_default();
        let key = if self.key.is_some() { "/[key]" } else { "" };
        format!("{}://{}/{app}{key}", self.scheme(), self.authority)
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "rtmps" } else { "rtmp" }
    }
}

fn read_key(file: &Path) -> anyhow::Result<StreamKeyText> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        files::read(file)?
    };
    let key = text.trim();
    if key.is_empty() {
        return Err(UsageError("--key-file holds no key".to_owned()).into());
    }
    Ok(StreamKeyText::new(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::new(url, None).unwrap()
    }

    fn key(target: &Target) -> Option<&str> {
        target.key.as_ref().map(StreamKeyText::expose)
    }

    #[test]
    fn a_second_segment_is_the_key() {
        let plain = target("rtmps://ingest.example/live");
        assert_eq!((plain.app.as_str(), key(&plain)), ("live", None));
        assert_eq!((plain.host.as_str(), plain.port), ("ingest.example", 443));
        let with_key = target("rtmp://[::1]:1999/a/b/secret?x=1/2");
        assert_eq!(
            (with_key.app.as_str(), key(&with_key)),
            ("a/b", Some("secret?x=1/2"))
        );
        assert_eq!((with_key.host.as_str(), with_key.port), ("::1", 1999));
        assert_eq!(with_key.tc_url(), "rtmp://[::1]:1999/a/b");
    }

    #[test]
    fn with_a_file_the_whole_path_is_the_application() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "secret\n").unwrap();
        let target = Target::new("rtmps://host/a/b", Some(&file)).unwrap();
        assert_eq!((target.app.as_str(), key(&target)), ("a/b", Some("secret")));
        std::fs::write(&file, "\n").unwrap();
        assert!(Target::new("rtmps://host/a", Some(&file)).is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        for url in ["rtmps://host/live/secret", "rtmps://host/live?token=secret"] {
            assert!(!target(url).shown().contains("secret"), "{url}");
        }
        for url in [
            "secret",
            "rtmps://secret",
            "http://host/secret",
            "rtmps://a:b@host/secret",
        ] {
            let error = Target::new(url, None).err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
