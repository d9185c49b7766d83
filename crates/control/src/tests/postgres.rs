//! A PostgreSQL server as a child process: one for the whole test binary, more where a test stops its own.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

/// A running server, reached through a socket in a directory of its own.
pub(super) struct PostgresServer {
    directory: String,
    databases: AtomicU32,
    shell: Child,
    commands: Mutex<ChildStdin>,
}

impl PostgresServer {
    /// The server that tests share.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<PostgresServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(super) fn start() -> Self {
        let binaries = find_binaries();
        let mut command = if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            // PostgreSQL refuses to run as root; its Debian package brings a user.
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--",
                "sh",
            ]);
            command
        } else {
            Command::new("sh")
        };
        let mut shell = command
            .args(["-euc", SCRIPT, "postgres"])
            .arg(&binaries)
            .current_dir("/")
            // A signal to the test's group must not end the shell before it cleaned up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut directory = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut directory)
            .unwrap();
        assert!(
            !directory.is_empty(),
            "initdb of {} failed: see its message above",
            binaries.display()
        );
        Self {
            directory: directory.trim().to_owned(),
            databases: AtomicU32::new(0),
            commands: Mutex::new(shell.stdin.take().unwrap()),
            shell,
        }
    }

    /// `start`, `stop`, `freeze` or `thaw`; returns before it is done.
    pub(super) fn command(&self, command: &str) {
        writeln!(self.commands.lock(), "{command}").unwrap();
    }

    /// A new, empty database.
    pub(super) async fn create_database(&self) -> String {
        sqlx::any::install_default_drivers();
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await;
        let statement = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(statement)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }

    /// A superuser who needs a password from now on; gives a connection of one who needs none.
    pub(super) async fn demand_password(&self, user: &str, password: &str) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let mut connection = self.connect("postgres").await;
        let rules = format!("{}/data/pg_hba.conf", self.directory);
        let others = std::fs::read_to_string(&rules).unwrap();
        let all = format!("local all {user} scram-sha-256\n{others}");
        std::fs::write(&rules, all).unwrap();
        let statements = format!(
            "CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'; SELECT pg_reload_conf();"
        );
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut connection)
            .await
            .unwrap();
        connection
    }

    /// With the part of a URL that takes a password; the socket is used all the same.
    pub(super) fn url_with_host(&self, user: &str, database: &str) -> String {
        format!(
            "postgres://{user}@localhost/{database}?host={}&sslmode=disable",
            self.directory
        )
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres:///{database}?user=headwater&host={}&sslmode=disable",
            self.directory
        )
    }

    /// Waits for a server that is starting.
    async fn connect(&self, database: &str) -> AnyConnection {
        let started = Instant::now();
        loop {
            match AnyConnection::connect(&self.url(database)).await {
                Ok(connection) => return connection,
                Err(error) if started.elapsed() > START_DEADLINE => {
                    panic!("PostgreSQL does not start: {error}")
                }
                Err(_starting) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.command("quit");
        self.shell.wait().unwrap();
    }
}

fn find_binaries() -> PathBuf {
    if let Some(directory) = std::env::var_os("PG_BIN") {
        return directory.into();
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<_> = installed
        .map(|version| version.path().join("bin"))
        .collect();
    candidates.sort();
    candidates.reverse();
    candidates.extend(std::env::split_paths(&on_path));
    candidates.into_iter().find(|directory| directory.join("initdb").is_file()).expect(
        "these tests need a PostgreSQL server: install the package `postgresql`, or point PG_BIN at its binaries",
    )
}

/// Whoever ends first, the server goes: its shell reads the end of its standard input when the test process is gone.
const SCRIPT: &str = r#"
    directory=$(mktemp -d -t headwater-postgres-XXXXXX)
    "$1/initdb" -D "$directory/data" -U headwater -A trust -E UTF8 --no-locale --no-sync >/dev/null
    start() {
        "$1/postgres" -D "$directory/data" -k "$directory" -c listen_addresses= -c fsync=off -c full_page_writes=off \
            -c max_connections=200 -c shared_buffers=16MB >>"$directory/log" 2>&1 </dev/null &
        server=$!
    }
    stop() {
        kill -CONT "$server" 2>/dev/null || true
        kill -INT "$server" 2>/dev/null || true
        wait "$server" || true
    }
    start "$1"
    echo "$directory"
    while read -r command; do
        case $command in
            start) start "$1" ;;
            stop) stop ;;
            freeze) kill -STOP "$server" ;;
            thaw) kill -CONT "$server" ;;
            quit) break ;;
        esac
    done
    stop
    rm -rf "$directory"
"#;

const START_DEADLINE: Duration = Duration::from_secs(30);
