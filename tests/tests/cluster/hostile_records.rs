//! TLS records that no library sends, inside of an established session that publishes: the records are sealed here, with
//! the keys of a real handshake. What can be done during the handshake is in `crates/edge/tests/role/hostile_tls.rs`,
//! KeyUpdates as well: they change keys that only the library has.

use std::{fs, sync::Arc, time::Duration};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConnection, ConnectionTrafficSecrets, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;
use tests::{
    amf::{self, Value},
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    encoder::{VIDEO, message_header},
    process::Process,
    synthetic, tls, turn,
    witness::Witness,
};
use tokio::{
    io::{AsyncWriteExt as _, copy, sink},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

/// Content types (RFC 8446 §5.1).
const CHANGE_CIPHER_SPEC: u8 = 0x14;
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const APPLICATION_DATA: u8 = 0x17;

/// no_renegotiation and user_canceled as warnings (RFC 8446 §6).
const NO_RENEGOTIATION: &[u8] = &[1, 100];
const USER_CANCELED: &[u8] = &[1, 90];

/// What rustls says of messages that have no place in an established session.
const UNEXPECTED: &str = "received unexpected";
const STEP: Duration = Duration::from_secs(20);
/// What an edge's memory may grow by while it is flooded, in bytes.
const MEMORY: u64 = 16 << 20;

/// The client's half of an established connection.
struct Records {
    socket: TcpStream,
    sealer: Sealer,
}

struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    tls12: bool,
}

impl Records {
    async fn connect(deployment: &Deployment, version: &'static SupportedProtocolVersion) -> Self {
        let mut config = tls::trusting_over(&deployment.ca_file, &[version]);
        config.enable_secret_extraction = true;
        let socket = TcpStream::connect(deployment.rtmps).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
        let (socket, connection) = stream.into_inner();
        let secrets = connection.dangerous_extract_secrets().unwrap();
        let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secrets.tx else {
            panic!("another cipher than the server prefers");
        };
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap();
        let sealer = Sealer {
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
            tls12: version == &version::TLS12,
        };
        Self { socket, sealer }
    }

    async fn send(&mut self, bytes: &[u8], record_bytes: usize) {
        let mut records = Vec::new();
        for piece in bytes.chunks(record_bytes) {
            records.extend(self.sealer.seal(APPLICATION_DATA, piece));
        }
        self.socket.write_all(&records).await.unwrap();
    }

    /// Sends a record again and again until the server closes: how many, and for how long.
    async fn flood(self, mut record: impl FnMut(&mut Sealer) -> Vec<u8>) -> (usize, Duration) {
        let Self { socket, mut sealer } = self;
        let (mut from_server, mut to_server) = socket.into_split();
        let started = Instant::now();
        // What it says is taken off its hands, up to its end.
        let closed = tokio::spawn(async move { copy(&mut from_server, &mut sink()).await.ok() });
        let mut sent = 0;
        while !closed.is_finished() {
            let records: Vec<u8> = (0..100).flat_map(|_| record(&mut sealer)).collect();
            if to_server.write_all(&records).await.is_err() {
                break;
            }
            sent += 100;
            assert!(started.elapsed() < STEP, "{sent} records, and no end");
        }
        (sent, started.elapsed())
    }
}

impl Sealer {
    /// RFC 8446 §5.2, or RFC 5246 §6.2.3.3 with RFC 5288 §3.
    fn seal(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut sealed = content.to_vec();
        let mut nonce = self.iv;
        let (outer_type, explicit): (u8, &[u8]) = if self.tls12 {
            nonce[4..].copy_from_slice(&sequence);
            (content_type, &sequence)
        } else {
            sealed.push(content_type);
            for (byte, of_sequence) in nonce[4..].iter_mut().zip(sequence) {
                *byte ^= of_sequence;
            }
            (APPLICATION_DATA, &[])
        };
        let length = explicit.len() + sealed.len() + AES_256_GCM.tag_len();
        let outer = header(outer_type, length);
        let authenticated = if self.tls12 {
            [&sequence[..], &header(content_type, content.len())].concat()
        } else {
            outer.to_vec()
        };
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(authenticated),
                &mut sealed,
            )
            .unwrap();
        [&outer[..], explicit, &sealed].concat()
    }
}

fn header(content_type: u8, length: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
    [content_type, 3, 3, high, low]
}

/// All that an encoder says up to its first frames, without waiting for an answer.
fn publishing(stream_key: &str, frames: u32) -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.resize(1 + 2 * 1536, 0);
    let mut message = |chunk_stream, kind, message_stream, timestamp, body: &[u8]| {
        bytes.extend(message_header(
            chunk_stream,
            kind,
            message_stream,
            timestamp,
            body.len(),
        ));
        bytes.extend(body);
    };
    message(2, 1, 0, 0, &65_536_u32.to_be_bytes());
    let app = vec![("app".to_owned(), APP.into())];
    let commands: [(u32, Vec<Value>); 3] = [
        (
            0,
            vec!["connect".into(), Value::Number(1.0), Value::Object(app)],
        ),
        (
            0,
            vec!["createStream".into(), Value::Number(2.0), Value::Null],
        ),
        (
            1,
            vec![
                "publish".into(),
                Value::Number(3.0),
                Value::Null,
                stream_key.into(),
            ],
        ),
    ];
    for (message_stream, values) in commands {
        message(3, 20, message_stream, 0, &amf::encode(&values));
    }
    message(6, VIDEO, 1, 0, &synthetic::video_header().body);
    for number in 0..frames {
        let frame = synthetic::video(number, number == 0, 400);
        let timestamp = u32::try_from(frame.timestamp_ms).unwrap();
        message(6, VIDEO, 1, timestamp, &frame.body);
    }
    bytes
}

/// A connection over which a stream is published; the session's id.
async fn session(
    deployment: &Deployment,
    version: &'static SupportedProtocolVersion,
    stream: &str,
) -> (Records, String) {
    let key = deployment.api.create_key(APP, stream).await;
    let mut records = Records::connect(deployment, version).await;
    let subscriber = deployment.subscribe(&key);
    records.send(&publishing(&key.secret, 1), 16_384).await;
    subscriber.frames(1, STEP).await;
    let session = deployment.api.session_of(stream).await.unwrap();
    (records, session.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_54_records_without_end_or_meaning_in_an_established_session() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        origins: 1,
        log_filter: "info,edge=debug".to_owned(),
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    let key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(deployment, key).await;

    // A good stream may come in any records, if its encoder likes that.
    let (tls12, tls13) = (&version::TLS12, &version::TLS13);
    for (name, version) in [("bytewise-1-2", tls12), ("bytewise-1-3", tls13)] {
        let key = deployment.api.create_key(APP, name).await;
        let subscriber = deployment.subscribe(&key);
        let mut records = Records::connect(deployment, version).await;
        records.send(&publishing(&key.secret, 50), 1).await;
        subscriber.frames(50, STEP).await;
        subscriber.received().assert_contiguous();
    }

    for (name, version, content_type, content, fault) in floods(&client_hello(deployment)) {
        let flood = |sealer: &mut Sealer| sealer.seal(content_type, content);
        is_ended(&cluster, name, version, flood, fault).await;
    }
    // The ChangeCipherSpec of middleboxes, and what no key ever sealed.
    let clear = [CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1];
    let unsealed = [&header(APPLICATION_DATA, 32)[..], &[7; 32]].concat();
    is_ended(&cluster, "clear", tls13, |_| clear.to_vec(), UNEXPECTED).await;
    is_ended(
        &cluster,
        "unsealed",
        tls13,
        |_| unsealed.clone(),
        "cannot decrypt",
    )
    .await;
    witness.finish().await;
}

/// A name, the version, content type and content of a record, and the fault that it is in the end.
type Flood<'a> = (
    &'a str,
    &'static SupportedProtocolVersion,
    u8,
    &'a [u8],
    &'a str,
);

/// An established session wants no handshake; TLS 1.2 refuses renegotiation once, and then the connection.
fn floods(hello: &[u8]) -> [Flood<'_>; 8] {
    let (tls12, tls13) = (&version::TLS12, &version::TLS13);
    let (warnings, empty) = ("TooManyWarningAlerts", "TooManyEmptyFragments");
    let (cipher, illegal) = (CHANGE_CIPHER_SPEC, "IllegalMiddleboxChangeCipherSpec");
    let again = "TooManyRenegotiationRequests";
    [
        ("warnings-1-2", tls12, ALERT, NO_RENEGOTIATION, warnings),
        ("warnings-1-3", tls13, ALERT, USER_CANCELED, warnings),
        ("cipher-1-2", tls12, cipher, &[1], "corrupt message"),
        ("cipher-1-3", tls13, cipher, &[1], illegal),
        ("handshake-1-2", tls12, HANDSHAKE, hello, again),
        ("handshake-1-3", tls13, HANDSHAKE, hello, UNEXPECTED),
        ("empty-1-2", tls12, APPLICATION_DATA, &[], empty),
        ("empty-1-3", tls13, APPLICATION_DATA, &[], empty),
    ]
}

/// A session that is flooded ends for this fault of TLS, and costs its edge no memory to speak of.
async fn is_ended(
    cluster: &Cluster,
    name: &str,
    version: &'static SupportedProtocolVersion,
    record: impl FnMut(&mut Sealer) -> Vec<u8>,
    fault: &str,
) {
    let edge = cluster.edge.process();
    let (records, session) = session(&cluster.deployment, version, name).await;
    let address = records.socket.local_addr().unwrap().to_string();
    let before = resident_bytes(edge);
    let (sent, after) = records.flood(record).await;
    let grown = resident_bytes(edge).saturating_sub(before);
    println!(
        "{name}: closed after {after:.1?} and at most {sent} records, {grown} bytes more are resident"
    );
    assert!(grown < MEMORY, "{name}: {grown} bytes");
    let broke = ["the connection broke", address.as_str()];
    let broke = edge.log_line(&broke, STEP).await;
    assert!(broke.contains(fault), "{name}: {broke}");
    let told = ["session ended", &session, "reason=\"disconnected\""];
    edge.log_line(&told, STEP).await;
}

/// The ClientHello of a good client, without its record.
fn client_hello(deployment: &Deployment) -> Vec<u8> {
    let config = tls::trusting_over(&deployment.ca_file, &[&version::TLS12]);
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut record = Vec::new();
    client.write_tls(&mut record).unwrap();
    record.split_off(5)
}

fn resident_bytes(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim_end_matches("kB").trim();
    kibibytes.parse::<u64>().unwrap() << 10
}
