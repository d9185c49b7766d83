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

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// The encoder; `None`: the load balancer's own connection, or one whose address is unknown.
    pub(super) source: Option<SocketAddr>,
    /// The server name that the encoder asked the load balancer for (PP2_TYPE_AUTHORITY).
    pub(super) server_name: Option<String>,
    /// The encoder's TLS, which ends at the load balancer.
    pub(super) tls: Option<AnnouncedTls>,
}

/// PP2_TYPE_SSL: for logs. The name in it is what the load balancer says, and no client certificate of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AnnouncedTls {
    pub(super) version: String,
    pub(super) cipher: String,
    /// Common name of the certificate that the encoder showed there.
    pub(super) common_name: String,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parsed {
    /// A whole header.
    Complete(Announced),
    /// A header goes on for at least this many bytes.
    Incomplete(usize),
}

/// Longest version 1 header with its line end (section 2.1).
const V1_BYTES_MAX: usize = 107;
/// Longest version 2 header that is read: addresses and any sensible extensions.
const V2_BYTES_MAX: usize = 2048;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What is kept of a text in an extension, in bytes.
const TEXT_BYTES_MAX: usize = 255;

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

/// Reads one header.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Announced, ProxyError> {
    let mut header = Vec::new();
    loop {
        match parse(&header)? {
            Parsed::Complete(announced) => return Ok(announced),
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
        v2(header, rest)
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
        return Ok(Parsed::Complete(Announced::default()));
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
    Ok(Parsed::Complete(Announced {
        source: Some(SocketAddr::new(source, port)),
        ..Announced::default()
    }))
}

/// Version and command, family, length, then addresses and extensions.
fn v2(header: &[u8], rest: &[u8]) -> Result<Parsed, ProxyError> {
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
        0x20 => return Ok(Parsed::Complete(Announced::default())),
        0x21 => {}
        _ => return Err(ProxyError::Malformed("unknown version or command")),
    }
    let truncated = || ProxyError::Malformed("addresses are cut short");
    // Bytes of the addresses: extensions follow.
    let (source, address_bytes) = match family {
        // TCP over IPv4: source, destination, ports.
        0x11 => {
            let Some(&[a, b, c, d, _, _, _, _, high, low]) = addresses.first_chunk::<10>() else {
                return Err(truncated());
            };
            let port = u16::from_be_bytes([high, low]);
            let source = SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port);
            (Some(source), 12)
        }
        // TCP over IPv6.
        0x21 => {
            let (Some(source), Some(&[high, low])) =
                (addresses.first_chunk::<16>(), addresses.get(32..34))
            else {
                return Err(truncated());
            };
            let port = u16::from_be_bytes([high, low]);
            let source = SocketAddr::new(Ipv6Addr::from(*source).into(), port);
            (Some(source), 36)
        }
        // Unspecified: no addresses. Datagrams and local sockets: nothing that we could count by.
        0x00 => (None, 0),
        _ => return Ok(Parsed::Complete(Announced::default())),
    };
    let extensions = addresses.get(address_bytes..).ok_or_else(truncated)?;
    let mut announced = Announced {
        source,
        ..Announced::default()
    };
    for extension in Extensions(extensions) {
        announced.extend(&extension?, header)?;
    }
    Ok(Parsed::Complete(announced))
}

/// Section 2.2: type, length and value, again and again.
struct Extensions<'a>(&'a [u8]);

struct Extension<'a> {
    kind: u8,
    value: &'a [u8],
    /// Bytes of the header behind it.
    behind: usize,
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, ProxyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = self
            .0
            .split_first_chunk::<3>()
            .and_then(|(&[kind, high, low], rest)| {
                let length = usize::from(u16::from_be_bytes([high, low]));
                let (value, rest) = rest.split_at_checked(length)?;
                Some((kind, value, rest))
            });
        let Some((kind, value, rest)) = split else {
            self.0 = &[];
            return Some(Err(ProxyError::Malformed("an extension is cut short")));
        };
        self.0 = rest;
        Some(Ok(Extension {
            kind,
            value,
            behind: rest.len(),
        }))
    }
}

impl Announced {
    /// Types as in section 2.2.1 and its parts; those that nobody here needs are ignored.
    fn extend(&mut self, extension: &Extension<'_>, header: &[u8]) -> Result<(), ProxyError> {
        match extension.kind {
            AUTHORITY => self.server_name = Some(text(extension.value)),
            CRC32C => check_sum(extension, header)?,
            SSL => self.tls = AnnouncedTls::read(extension.value)?,
            _ => {}
        }
        Ok(())
    }
}

impl AnnouncedTls {
    /// `None`: the encoder came without TLS. Client bits, the result of a verification, then extensions of its own.
    fn read(value: &[u8]) -> Result<Option<Self>, ProxyError> {
        let Some((&[client, _, _, _, _], extensions)) = value.split_first_chunk::<5>() else {
            return Err(ProxyError::Malformed("the TLS extension is cut short"));
        };
        if client & CLIENT_SSL == 0 {
            return Ok(None);
        }
        let mut tls = Self::default();
        for extension in Extensions(extensions) {
            let extension = extension?;
            let field = match extension.kind {
                SSL_VERSION => &mut tls.version,
                SSL_CIPHER => &mut tls.cipher,
                SSL_COMMON_NAME => &mut tls.common_name,
                _ => continue,
            };
            *field = text(extension.value);
        }
        Ok(Some(tls))
    }
}

/// For logs and control: printable ASCII of bounded length.
fn text(value: &[u8]) -> String {
    let printable = |byte: &u8| match byte {
        b'!'..=b'~' | b' ' => char::from(*byte),
        _ => '?',
    };
    value.iter().take(TEXT_BYTES_MAX).map(printable).collect()
}

/// Section 2.2.3: over the whole header, with the sum's own bytes as zeros.
fn check_sum(extension: &Extension<'_>, header: &[u8]) -> Result<(), ProxyError> {
    let told: [u8; 4] = extension
        .value
        .try_into()
        .map_err(|_| ProxyError::Malformed("the checksum has not four bytes"))?;
    let end = header.len().saturating_sub(extension.behind);
    let own = end.saturating_sub(told.len())..end;
    let bytes = header.iter().enumerate();
    let bytes = bytes.map(|(position, byte)| if own.contains(&position) { 0 } else { *byte });
    if crc32c(bytes) == u32::from_be_bytes(told) {
        Ok(())
    } else {
        Err(ProxyError::Malformed("the checksum is wrong"))
    }
}

/// RFC 3720 §12.1, reflected.
fn crc32c(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            let feedback = if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
            sum = (sum >> 1) ^ feedback;
        }
    }
    !sum
}

/// PP2_TYPE_AUTHORITY, PP2_TYPE_CRC32C, PP2_TYPE_SSL and its PP2_SUBTYPEs.
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_COMMON_NAME: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
/// PP2_CLIENT_SSL: the encoder came over TLS.
const CLIENT_SSL: u8 = 0x01;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the listener reads: exactly the header, and what follows stays.
    async fn read_from(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), ProxyError> {
        let mut stream = bytes;
        let announced = read(&mut stream).await?;
        Ok((announced.source, stream.len()))
    }

    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind][..], &length, value].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0xc8, 0x22, 1, 0xbb];

    fn with_extensions(extensions: &[Vec<u8>]) -> Vec<u8> {
        v2_header(0x21, 0x11, &[V4.to_vec(), extensions.concat()].concat())
    }

    #[tokio::test]
    async fn version_2_tells_of_the_encoders_tls() {
        let details = [
            extension(0x21, b"TLSv1.3"),
            extension(0x23, b"TLS_AES_256_GCM_SHA384"),
            extension(0x22, b"camera\n7"),
            extension(0x24, b"SHA256"),
        ]
        .concat();
        let ssl = |client: u8| extension(0x20, &[&[client, 0, 0, 0, 0][..], &details].concat());
        let header = with_extensions(&[
            extension(0x01, b"h2"),
            extension(0x02, b"live.example"),
            ssl(0x07),
            extension(0xEA, &[1; 20]),
        ]);
        let announced = read(&mut header.as_slice()).await.unwrap();
        assert_eq!(announced.source, Some("192.0.2.1:51234".parse().unwrap()));
        assert_eq!(announced.server_name.as_deref(), Some("live.example"));
        let tls = announced.tls.unwrap();
        assert_eq!(tls.version, "TLSv1.3");
        assert_eq!(tls.cipher, "TLS_AES_256_GCM_SHA384");
        assert_eq!(tls.common_name, "camera?7", "no line breaks in a log");

        let plain = with_extensions(&[ssl(0x00)]);
        assert_eq!(read(&mut plain.as_slice()).await.unwrap().tls, None);
    }

    #[tokio::test]
    async fn a_checksum_is_checked_where_there_is_one() {
        assert_eq!(crc32c(*b"123456789"), 0xE306_9283, "as everybody has it");
        let mut header = with_extensions(&[extension(0x03, &[0; 4]), extension(0x02, b"a")]);
        let wrong = read(&mut header.as_slice()).await.unwrap_err();
        assert!(wrong.to_string().contains("checksum is wrong"), "{wrong}");
        // The sum's place: signature, four bytes, addresses, the extension's head.
        let place = 12 + 4 + 12 + 3;
        let sum = crc32c(header.iter().copied());
        header[place..place + 4].copy_from_slice(&sum.to_be_bytes());
        let announced = read(&mut header.as_slice()).await.unwrap();
        assert_eq!(announced.server_name.as_deref(), Some("a"));
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
            with_extensions(&[vec![0x02, 0, 9, b'a']]),
            with_extensions(&[vec![0x02, 0]]),
            with_extensions(&[extension(0x20, &[1, 0, 0, 0])]),
            with_extensions(&[extension(0x20, &[1, 0, 0, 0, 0, 0x21, 0xff, 0xff])]),
            with_extensions(&[extension(0x03, &[0; 3])]),
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
            let announced = Announced { source: Some(expected), ..Announced::default() };
            prop_assert_eq!(parse(header.as_bytes()).unwrap(), Parsed::Complete(announced));
        }
    }
}
