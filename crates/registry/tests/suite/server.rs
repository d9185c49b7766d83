//! A redis-server of a test's own: a child process with TLS, the sample configuration and the users of
//! `deploy/redis`, and one more user for the test, who may do everything.

use std::{
    fs::{self, File},
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, TlsCertificates, Value,
    aio::MultiplexedConnection,
};
use registry::{RedisConfig, RedisPasswords, RedisRegistry, Registry, redis_users};
use tempfile::TempDir;

pub(crate) struct RedisServer {
    directory: TempDir,
    port: u16,
    /// Killed by its id when this is dropped.
    child: Option<Child>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        install_crypto_provider();
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        write_certificates(directory.path());
        let passwords = RedisPasswords {
            edge: &password("edge"),
            control: &password("control"),
            origin: &password("origin"),
        };
        let users = redis_users("hw", &passwords);
        let admin = format!("user admin on >{} ~* &* +@all\n", password("admin"));
        fs::write(at("users.acl"), users + &admin).unwrap();
        for role in ["edge", "control", "origin"] {
            fs::write(at(role), password(role) + "\n").unwrap();
        }
        let mut server = Self {
            directory,
            port: 0,
            child: None,
        };
        for _attempt in 0..PORT_ATTEMPTS {
            server.port = free_port();
            server.spawn();
            if server.answers().await {
                return server;
            }
            server.kill();
        }
        panic!("redis-server does not start:\n{}", server.log());
    }

    /// Again on the same port, and empty.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        assert!(
            self.answers().await,
            "redis-server does not come back:\n{}",
            self.log()
        );
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn config(&self, role: &str) -> RedisConfig {
        RedisConfig {
            url: format!("rediss://127.0.0.1:{}", self.port),
            username: Some(role.to_owned()),
            password_file: Some(self.path(role)),
            ca_file: Some(self.path("ca.crt")),
            prefix: "hw".to_owned(),
            timeout: PATIENCE,
        }
    }

    pub(crate) fn registry(&self, role: &str) -> Registry {
        Registry::Redis(RedisRegistry::open(&self.config(role)).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A bare connection as one of the users.
    pub(crate) async fn connect(&self, user: &str) -> redis::RedisResult<MultiplexedConnection> {
        let url = format!("rediss://{user}:{}@127.0.0.1:{}", password(user), self.port);
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(fs::read(self.path("ca.crt")).unwrap()),
        };
        let info: ConnectionInfo = url.parse()?;
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        Client::build_with_tls(info, certificates)?
            .get_multiplexed_async_connection_with_config(&patient)
            .await
    }

    pub(crate) async fn admin(&self, command: &[&str]) -> Value {
        let mut connection = self.connect("admin").await.unwrap();
        run(&mut connection, command).await.unwrap()
    }

    /// Takes this much from what every key has left to live.
    pub(crate) async fn age(&self, time: Duration) {
        let mut connection = self.connect("admin").await.unwrap();
        let keys = run(&mut connection, &["KEYS", "*"]).await.unwrap();
        let keys: Vec<String> = redis::from_redis_value(keys).unwrap();
        for key in keys {
            let left = run(&mut connection, &["PTTL", &key]).await.unwrap();
            let left: i64 = redis::from_redis_value(left).unwrap();
            assert!(left > 0, "{key} lives forever");
            let left = left - i64::try_from(time.as_millis()).unwrap();
            // Redis deletes what has nothing left.
            let aged = ["PEXPIRE", &key, &left.to_string()];
            run(&mut connection, &aged).await.unwrap();
        }
    }

    pub(crate) async fn flush(&self) {
        self.admin(&["FLUSHALL"]).await;
        self.admin(&["SCRIPT", "FLUSH"]).await;
    }

    fn spawn(&mut self) {
        let log = File::create(self.path("log")).unwrap();
        let child = Command::new("redis-server")
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../deploy/redis/redis.conf"
            ))
            .args(["--tls-port", &self.port.to_string()])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!("redis-server is not installed: install the package redis-server")
            }
            Err(error) => panic!("cannot run redis-server: {error}"),
        }
    }

    /// Whether it does before it ends, or before the deadline.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if self.connect("admin").await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) async fn run(
    connection: &mut MultiplexedConnection,
    command: &[&str],
) -> redis::RedisResult<Value> {
    let mut sent = redis::cmd(command[0]);
    sent.arg(&command[1..]);
    sent.query_async(connection).await
}

pub(crate) fn password(user: &str) -> String {
    format!("password-of-{user}")
}

/// An authority and its certificate for this machine's loopback: `ca.crt`, `tls.crt`, `tls.key`.
pub(crate) fn write_certificates(directory: &Path) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key_pair = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key_pair, &authority).unwrap();
    fs::write(directory.join("ca.crt"), authority.pem()).unwrap();
    fs::write(directory.join("tls.crt"), server.pem()).unwrap();
    fs::write(directory.join("tls.key"), key_pair.serialize_pem()).unwrap();
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn install_crypto_provider() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .unwrap();
    });
}

/// For what should succeed, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const START_DEADLINE: Duration = Duration::from_secs(20);

/// Between finding a free port and binding it somebody else may.
const PORT_ATTEMPTS: usize = 3;
