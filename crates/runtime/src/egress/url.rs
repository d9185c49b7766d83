//! URLs that are called.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderValue, Uri, uri::Scheme};
use rustls_pki_types::ServerName;

/// An `https` URL with a host and nothing that could be a password. What is parsed here is what is dialled: nobody else
/// reads the text again.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    uri: Uri,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    authority: HeaderValue,
}

/// Not a URL that can be called.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be `https://host[:port]/path`, of at most {URL_BYTES_MAX} bytes and without a user")]
pub struct UrlError;

impl HttpsUrl {
    /// Without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 443 where the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, where it is an address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// For `Host`.
    pub(super) fn authority(&self) -> HeaderValue {
        self.authority.clone()
    }

    /// The request target.
    pub(super) fn path_and_query(&self) -> Uri {
        let target = self.uri.path_and_query().cloned();
        target.map(Uri::from).unwrap_or_default()
    }
}

impl FromStr for HttpsUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError);
        }
        let uri: Uri = text.parse().map_err(|_unparsable| UrlError)?;
        let authority = uri.authority().ok_or(UrlError)?;
        // A port that is no port would be taken for none; what is before the host is a user.
        let rest = authority.as_str().strip_prefix(authority.host());
        let port = match rest.ok_or(UrlError)? {
            "" => Some(443),
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()),
        };
        let port = port.filter(|port| *port != 0).ok_or(UrlError)?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(UrlError);
        }
        let bracketed = authority.host();
        let bare = bracketed
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(bracketed).to_owned();
        let server_name = ServerName::try_from(host.clone()).map_err(|_invalid| UrlError)?;
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_invalid| UrlError)?;
        Ok(Self {
            uri,
            host,
            port,
            server_name,
            authority,
        })
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl fmt::Debug for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const URL_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_with_a_host_and_without_a_user_is_taken() {
        let url: HttpsUrl = "https://Keys.example:8443/a?b=c".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("Keys.example", 8443));
        assert_eq!(url.path_and_query().to_string(), "/a?b=c");
        let url: HttpsUrl = "https://[::1]".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 443));
        assert_eq!(url.address(), Some("::1".parse().unwrap()));
        assert_eq!(url.path_and_query().to_string(), "/");
        for wrong in [
            "",
            "keys.example",
            "/path",
            "http://keys.example/",
            "ftp://keys.example/",
            "https://",
            "https:///path",
            "https://user@keys.example/",
            "https://user:password@keys.example/",
            "https://keys.example:0/",
            "https://keys.example:99999/",
            "https://keys.example:/",
            "https://keys example/",
            "https://a_b..c/",
            &format!("https://keys.example/{}", "a".repeat(URL_BYTES_MAX)),
        ] {
            assert_eq!(wrong.parse::<HttpsUrl>(), Err(UrlError), "{wrong}");
        }
    }
}
