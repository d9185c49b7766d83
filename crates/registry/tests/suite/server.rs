//! Processes of a test's own: one of the server programs, with TLS, the sample configuration and the users of
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

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, TlsCertificates, Value,
    aio::MultiplexedConnection,
};
use registry::{
    RedisAccess, RedisCertificate, RedisConfig, RedisPasswords, RedisRegistry, RedisServers,
    Registry, redis_users,
};
use tempfile::TempDir;

use crate::program::Program;

pub(crate) struct RedisServer {
    program: Program,
    directory: TempDir,
    /// Beside those of `deploy/redis/redis.conf`.
    options: Vec<String>,
    port: u16,
    /// Killed by its id when this is dropped.
    child: Option<Child>,
}

/// An authority, and its certificate for this machine's loopback, as PEM.
#[derive(Clone)]
pub(crate) struct Certificates {
    authority: String,
    certificate: String,
    private_key: String,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(Program::Redis, &Certificates::new(), &[]).await
    }

    /// `options` are for redis.conf; `{port}` in one is the server's own.
    pub(crate) async fn start_with(
        program: Program,
        certificates: &Certificates,
        options: &[&str],
    ) -> Self {
        install_crypto_provider();
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        certificates.write(directory.path());
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/redis/redis.conf");
        let mut sample = fs::read_to_string(sample).unwrap();
        let passwords = RedisPasswords {
            edge: &password("edge"),
            control: &password("control"),
            origin: &password("origin"),
        };
        let mut users = redis_users("hw", &passwords);
        if program == Program::Redis62 {
            let known = |line: &&str| !line.starts_with("tls-") && !line.starts_with("port ");
            sample = sample.lines().filter(known).collect::<Vec<_>>().join("\n");
            // As the sample says.
            users = users.replace("%R~", "~").replace("%W~", "~");
        }
        // A copy: sentinels have it written over.
        fs::write(at("redis.conf"), sample).unwrap();
        let admin = format!("user admin on >{} ~* &* +@all\n", password("admin"));
        fs::write(at("users.acl"), users + &admin).unwrap();
        for user in ["edge", "control", "origin", "admin"] {
            fs::write(at(user), password(user) + "\n").unwrap();
        }
        let mut server = Self {
            program,
            directory,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
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
        let program = program.path();
        panic!("{} does not start:\n{}", program.display(), server.log());
    }

    /// Again on the same port, and empty unless something was saved.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        assert!(
            self.answers().await,
            "the server does not come back:\n{}",
            self.log()
        );
    }

    pub(crate) async fn restart_with(&mut self, options: &[&str]) {
        let options = options.iter().map(|option| (*option).to_owned());
        self.options.extend(options);
        self.restart().await;
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

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As this user, who has a file with his password.
    pub(crate) fn access(&self, user: &str) -> RedisAccess {
        RedisAccess {
            tls: self.has_tls(),
            username: Some(user.to_owned()),
            password_file: Some(self.path(user)),
            ca_file: Some(self.path("ca.crt")),
            certificate: None,
        }
    }

    /// Its own, which does for a client too.
    pub(crate) fn certificate(&self) -> RedisCertificate {
        RedisCertificate {
            certificate: self.path("tls.crt"),
            private_key: self.path("tls.key"),
        }
    }

    pub(crate) fn config(&self, user: &str) -> RedisConfig {
        let mut config = RedisConfig::new(RedisServers::One(self.address()));
        config.access = self.access(user);
        config.timeout = PATIENCE;
        config
    }

    pub(crate) fn registry(&self, role: &str) -> Registry {
        Registry::Redis(RedisRegistry::open(&self.config(role)).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A bare connection as one of the users.
    pub(crate) async fn connect(&self, user: &str) -> redis::RedisResult<MultiplexedConnection> {
        let scheme = if self.has_tls() { "rediss" } else { "redis" };
        let url = format!(
            "{scheme}://{user}:{}@127.0.0.1:{}",
            password(user),
            self.port
        );
        let info: ConnectionInfo = url.parse()?;
        let client = if self.has_tls() {
            let read = |name| fs::read(self.path(name)).unwrap();
            let certificates = TlsCertificates {
                // For a server that asks.
                client_tls: Some(ClientTlsConfig {
                    client_cert: read("tls.crt"),
                    client_key: read("tls.key"),
                }),
                root_cert: Some(read("ca.crt")),
            };
            Client::build_with_tls(info, certificates)?
        } else {
            Client::open(info)?
        };
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
    }

    fn has_tls(&self) -> bool {
        self.program != Program::Redis62
    }

    pub(crate) async fn admin(&self, command: &[&str]) -> Value {
        let mut connection = self.connect("admin").await.unwrap();
        run(&mut connection, command).await.unwrap()
    }

    async fn ask(&self, command: &[&str]) -> redis::RedisResult<String> {
        let mut connection = self.connect("admin").await?;
        let said = run(&mut connection, command).await?;
        redis::from_redis_value(said).map_err(Into::into)
    }

    /// What `ask` says, once it is so; a server that changes its role drops its connections.
    pub(crate) async fn says(&self, ask: &[&str], expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.ask(ask).await;
            if said.as_ref().is_ok_and(|said| said.contains(expected)) {
                return;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "no {expected} in {said:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
        let options = self.options.iter();
        let options = options.map(|option| option.replace("{port}", &self.port.to_string()));
        let program = self.program.path();
        let port = if self.has_tls() {
            "--tls-port"
        } else {
            "--port"
        };
        let child = Command::new(&program)
            .arg("redis.conf")
            .args([port, &self.port.to_string()])
            .args(options)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!(
                    "{} is not installed: bash tests/setup.sh TARGET_DIRECTORY",
                    program.display()
                )
            }
            Err(error) => panic!("cannot run {}: {error}", program.display()),
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

    pub(crate) fn log(&self) -> String {
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

/// Figures of INFO; those of a command are how often it was called.
pub(crate) async fn figures<const N: usize>(
    connection: &mut MultiplexedConnection,
    names: [&str; N],
) -> [u64; N] {
    let said = run(connection, &["INFO", "ALL"]).await.unwrap();
    let said: String = redis::from_redis_value(said).unwrap();
    names.map(|name| {
        let figure = |line: &str| {
            let figure = line.strip_prefix(name)?.strip_prefix(':')?;
            let figure = figure.strip_prefix("calls=").unwrap_or(figure);
            figure.split(',').next()?.parse::<u64>().ok()
        };
        said.lines().find_map(figure).unwrap_or(0)
    })
}

pub(crate) fn password(user: &str) -> String {
    format!("password-of-{user}")
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own: to OpenSSL, which Redis's own connections use, one name is one certificate.
        let name = &mut authority.distinguished_name;
        name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap());
        let authority = authority.unwrap();
        let key_pair = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let server = server.signed_by(&key_pair, &authority).unwrap();
        Self {
            authority: authority.pem(),
            certificate: server.pem(),
            private_key: key_pair.serialize_pem(),
        }
    }

    /// As `ca.crt`, `tls.crt`, `tls.key`.
    pub(crate) fn write(&self, directory: &Path) {
        fs::write(directory.join("ca.crt"), &self.authority).unwrap();
        fs::write(directory.join("tls.crt"), &self.certificate).unwrap();
        fs::write(directory.join("tls.key"), &self.private_key).unwrap();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub(crate) fn install_crypto_provider() {
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
