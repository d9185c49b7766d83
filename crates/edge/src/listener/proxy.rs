//! The PROXY protocol, versions 1 and 2: a load balancer says whose connection this is.
//!
//! Specification: haproxy's `proxy-protocol.txt`, sections 2.1 (text) and 2.2 (binary). Nothing is read beyond the
//! header.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why a connection has no usable header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The connection broke.
    #[error("the connection broke inside the header")]
    Io(#[from] io::Error),
    /// Not a header, or one that contradicts itself.
    #[error("the header is malformed: {0}")]
    Malformed(&'static str),
    /// Slow.
    #[error("the header took too long")]
    Timeout,
    /// The peer is not one of the load balancers.
    #[error("the peer is not a trusted load balancer")]
    Untrusted,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// A whole header; `None`: the load balancer's own connection, or one whose address is unknown.
    Complete(Option<SocketAddr>),
    /// A header goes on for at least this many bytes.
    Incomplete(usize),
}

/// Longest version 1 header with its line end (section 2.1).
const V1_BYTES_MAX: usize = 107;
/// Longest version 2 header that is read: addresses and any sensible extensions.
const V2_BYTES_MAX: usize = 2048;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

impl ProxyError {
    /// A stable word for metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "proxy_broken",
            Self::Malformed(_) => "proxy_malformed",
            Self::Timeout => "proxy_timeout",
            Self::Untrusted => "proxy_untrusted",
        }
    }
}

/// Reads one header; the address that it names.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = Vec::new();
    loop {
        match parse(&header)? {
            Parsed::Complete(source) => return Ok(source),
            Parsed::Incomplete(more) => {
                let start = header.len();
                header.resize(start + more, 0);
                let (_, rest) = header.split_at_mut(start);
                stream.read_exact(rest).await?;
            }
        }
    }
}

fn parse(header: &[u8]) -> Result<Parsed, ProxyError> {
    // The shortest header of either version is longer.
    let Some((signature, rest)) = header.split_first_chunk::<12>() else {
        return Ok(Parsed::Incomplete(V2_SIGNATURE.len() - header.len()));
    };
    if signature == V2_SIGNATURE {
        v2(rest)
    } else if header.starts_with(b"PROXY ") {
        v1(header)
    } else {
        Err(ProxyError::Malformed("no signature"))
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n`
fn v1(header: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(line) = header.strip_suffix(b"\r\n") else {
        if header.len() >= V1_BYTES_MAX || header.contains(&b'\n') {
            return Err(ProxyError::Malformed("no line end"));
        }
        return Ok(Parsed::Incomplete(1));
    };
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed("not text"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Parsed::Complete(None));
    }
    let (Some(source), Some(_destination), Some(port), Some(_port), None) = (
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
    ) else {
        return Err(ProxyError::Malformed("not six words"));
    };
    let source = match family {
        Some("TCP4") => source.parse().map(IpAddr::V4),
        Some("TCP6") => source.parse().map(IpAddr::V6),
        Some(_) | None => return Err(ProxyError::Malformed("unknown family")),
    };
    let source = source.map_err(|_| ProxyError::Malformed("not an address"))?;
    let port = port
        .parse()
        .map_err(|_| ProxyError::Malformed("not a port"))?;
    Ok(Parsed::Complete(Some(SocketAddr::new(source, port))))
}

/// Version and command, family, length, then addresses and extensions.
fn v2(rest: &[u8]) -> Result<Parsed, ProxyError> {
    let Some((&[version_command, family, high, low], addresses)) = rest.split_first_chunk::<4>()
    else {
        return Ok(Parsed::Incomplete(4 - rest.len()));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_BYTES_MAX {
        return Err(ProxyError::Malformed("too long"));
    }
    if addresses.len() < length {
        return Ok(Parsed::Incomplete(length - addresses.len()));
    }
    match version_command {
        // LOCAL: the load balancer's own connection, whatever the rest says.
        0x20 => return Ok(Parsed::Complete(None)),
        0x21 => {}
        _ => return Err(ProxyError::Malformed("unknown version or command")),
    }
    let truncated = ProxyError::Malformed("addresses are cut short");
    let source = match family {
        // TCP over IPv4: source, destination, ports.
        0x11 => {
            let Some(&[a, b, c, d, _, _, _, _, high, low]) = addresses.first_chunk::<10>() else {
                return Err(truncated);
            };
            SocketAddr::new(
                Ipv4Addr::new(a, b, c, d).into(),
                u16::from_be_bytes([high, low]),
            )
        }
        // TCP over IPv6.
        0x21 => {
            let (Some(source), Some(&[high, low])) =
                (addresses.first_chunk::<16>(), addresses.get(32..34))
            else {
                return Err(truncated);
            };
            SocketAddr::new(
                Ipv6Addr::from(*source).into(),
                u16::from_be_bytes([high, low]),
            )
        }
        // Unspecified, datagrams, local sockets: nothing that we could count by.
        _ => return Ok(Parsed::Complete(None)),
    };
    Ok(Parsed::Complete(Some(source)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the listener reads: exactly the header, and what follows stays.
    async fn read_from(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), ProxyError> {
        let mut stream = bytes;
        let source = read(&mut stream).await?;
        Ok((source, stream.len()))
    }

    fn v2_header(version_command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([version_command, family]);
        header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        header.extend(addresses);
        header
    }

    #[tokio::test]
    async fn version_1_names_the_source() {
        for (header, source) in [
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 51234 443\r\n",
                Some("192.0.2.1:51234"),
            ),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 51234 443\r\n",
                Some("[2001:db8::1]:51234"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN anything goes here\r\n", None),
        ] {
            let (parsed, left) = read_from(format!("{header}\x16\x03").as_bytes())
                .await
                .unwrap();
            assert_eq!(
                parsed,
                source.map(|source| source.parse().unwrap()),
                "{header:?}"
            );
            assert_eq!(left, 2, "what follows the header is not touched");
        }
    }

    #[tokio::test]
    async fn version_2_names_the_source() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0xc8, 0x22, 1, 0xbb];
        let mut v4_extended = v4.to_vec();
        v4_extended.extend([0x04, 0, 1, 0]);
        let mut v6 = Ipv6Addr::LOCALHOST.octets().to_vec();
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0xc8, 0x22, 1, 0xbb]);
        for (header, source) in [
            (v2_header(0x21, 0x11, &v4), Some("192.0.2.1:51234")),
            (v2_header(0x21, 0x11, &v4_extended), Some("192.0.2.1:51234")),
            (v2_header(0x21, 0x21, &v6), Some("[::1]:51234")),
            (v2_header(0x20, 0x00, &[]), None),
            (v2_header(0x20, 0x11, &v4), None),
            (v2_header(0x21, 0x31, &[0; 216]), None),
        ] {
            let (parsed, left) = read_from(&[&header[..], b"\x16"].concat()).await.unwrap();
            assert_eq!(parsed, source.map(|source| source.parse().unwrap()));
            assert_eq!(left, 1);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for header in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443 9\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 443\r\n".to_vec(),
            b"PROXY UNKNOWN\n".to_vec(),
            [b"PROXY ".to_vec(), vec![b'x'; 200]].concat(),
            v2_header(0x31, 0x11, &[0; 12]),
            v2_header(0x22, 0x11, &[0; 12]),
            v2_header(0x21, 0x11, &[0; 9]),
            v2_header(0x21, 0x21, &[0; 33]),
            v2_header(0x21, 0x11, &[0; V2_BYTES_MAX + 1]),
        ] {
            let refused = read_from(&header).await.unwrap_err();
            assert_eq!(
                refused.reason(),
                "proxy_malformed",
                "{}",
                header.escape_ascii()
            );
        }
        assert_eq!(
            read_from(b"PROXY TCP4").await.unwrap_err().reason(),
            "proxy_broken"
        );
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_panic_or_read_without_end(
            prefix in prop_oneof![
                Just(Vec::new()),
                Just(b"PROXY TCP4 ".to_vec()),
                Just(V2_SIGNATURE.to_vec()),
            ],
            tail in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let bytes = [prefix, tail].concat();
            let mut have = 0;
            while have <= bytes.len()
                && let Ok(Parsed::Incomplete(more)) = parse(&bytes[..have])
            {
                prop_assert!(more > 0);
                have += more;
                prop_assert!(have <= V2_BYTES_MAX + 16);
            }
        }

        #[test]
        fn every_address_survives_version_1(source: SocketAddr, destination: SocketAddr) {
            // A header names addresses of one family.
            let destination = match source {
                SocketAddr::V4(_) => "198.51.100.1:443".parse().unwrap(),
                SocketAddr::V6(_) => destination,
            };
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let header = format!(
                "PROXY {family} {} {} {} {}\r\n",
                source.ip(), destination.ip(), source.port(), destination.port()
            );
            // IPv6 flow labels and scopes are no part of a header.
            let expected = SocketAddr::new(source.ip(), source.port());
            prop_assert_eq!(parse(header.as_bytes()).unwrap(), Parsed::Complete(Some(expected)));
        }
    }
}
