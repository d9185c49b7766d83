//! A PostgreSQL server of its own for a test: a fresh database directory, a free loopback port, nothing kept.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    process::{self, Process},
    wait::wait_until,
};

const DATABASE: &str = "headwater";
const USER: &str = "headwater";
const START: Duration = Duration::from_secs(30);

/// A running server with one empty database.
pub struct Postgres {
    /// None while it is down.
    process: Option<Process>,
    logs: PathBuf,
    // Not inside the test's own directory: the server's user must be able to reach it.
    directory: TempDir,
    host: String,
    port: u16,
    /// What its command begins with.
    enter: Vec<String>,
}

impl Postgres {
    pub async fn start(logs: &Path) -> Self {
        Self::start_at(logs, "127.0.0.1", Vec::new()).await
    }

    /// At an address of its own: behind `enter`, where that is its network, and trusting whoever reaches it.
    pub async fn start_at(logs: &Path, host: &str, enter: Vec<String>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("headwater-postgres-")
            .tempdir()
            .unwrap();
        let data = directory.path().join("data");
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(directory.path()));
        }
        run(as_server_user(&program("initdb"))
            .arg("--pgdata")
            .arg(&data)
            .args([
                "--username",
                USER,
                "--auth",
                "trust",
                "--no-sync",
                "--encoding",
                "UTF8",
            ]));
        let anybody = format!("host all {USER} 0.0.0.0/0 trust\n");
        let hosts = data.join("pg_hba.conf");
        let rules = fs::read_to_string(&hosts).unwrap();
        fs::write(&hosts, rules + &anybody).unwrap();
        let mut this = Self {
            process: None,
            logs: logs.to_owned(),
            directory,
            host: host.to_owned(),
            port: crate::free_port(),
            enter,
        };
        this.start_again().await;
        let created = this.client("createdb", &[DATABASE]);
        assert!(created.status.success(), "{}", text(&created.stderr));
        this
    }

    /// Starts it on its data, where it was.
    pub async fn start_again(&mut self) {
        let postgres = as_server_user(&program("postgres"));
        let mut server = process::within(&self.enter, postgres.get_program());
        server.args(postgres.get_args()).current_dir("/");
        let directory = self.directory.path();
        server.arg("-D").arg(directory.join("data"));
        server.arg("-k").arg(directory);
        for setting in [
            &*format!("listen_addresses={}", self.host),
            // What a crash of the machine would lose does not matter to a test; what one of the server would, does.
            "fsync=off",
            "full_page_writes=off",
            "max_connections=40",
            "shared_buffers=16MB",
        ] {
            server.args(["-c", setting]);
        }
        server.args(["-p", &self.port.to_string()]);
        self.process = Some(Process::spawn("postgres", &mut server, &self.logs));
        wait_until("PostgreSQL to accept connections", START, || {
            self.client("pg_isready", &["-q"]).status.success()
        })
        .await;
    }

    /// Ends all of it as a crash does.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.process.take().expect("PostgreSQL runs").kill();
    }

    /// Sends a signal to every process of it, `STOP` or `CONT`: the first one's does not concern the others.
    pub fn signal(&self, signal: &str) {
        let Some(process) = &self.process else {
            return;
        };
        let first = process.id();
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(first.to_string());
        kill.args(children.unwrap().split_whitespace());
        // Some of them may have ended in the meantime.
        kill.output().unwrap();
    }

    /// A directory of another file system, where the whole database is from now on. Nobody may be connected.
    pub fn moves_to(&self, directory: &Path) {
        run(Command::new("chown").arg("postgres").arg(directory));
        let place = format!(
            "CREATE TABLESPACE elsewhere LOCATION '{}'",
            directory.display()
        );
        self.execute(&place);
        self.execute(&format!(
            "ALTER DATABASE {DATABASE} SET TABLESPACE elsewhere"
        ));
    }

    /// Runs a statement as the one who may do anything, whatever the server's defaults are.
    pub fn execute(&self, statement: &str) {
        let writes = "SET default_transaction_read_only = off";
        let executed = self.client("psql", &["-d", "postgres", "-c", writes, "-c", statement]);
        assert!(executed.status.success(), "{}", text(&executed.stderr));
    }

    /// For control's configuration.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}:{}/{DATABASE}", self.host, self.port)
    }

    /// The whole database as SQL.
    pub fn dump(&self) -> String {
        let dump = self.client("pg_dump", &["--inserts", DATABASE]);
        assert!(dump.status.success(), "{}", text(&dump.stderr));
        text(&dump.stdout)
    }

    /// Puts a [`dump`](Self::dump) into the empty database.
    pub fn restore(&self, dump: &Path) {
        let file = dump.to_string_lossy();
        let arguments = ["-q", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-f", &*file];
        let restored = self.client("psql", &arguments);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
    }

    fn client(&self, name: &str, arguments: &[&str]) -> Output {
        Command::new(program(name))
            .args(["-h", &self.host, "-U", USER])
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // What is stopped does not notice that the first one has ended.
        self.signal("CONT");
    }
}

/// Debian keeps the server's programs out of PATH, one directory for each version: the newest counts.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    versions.sort();
    versions.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// PostgreSQL refuses to run as root.
fn as_server_user(program: &Path) -> Command {
    if !is_root() {
        return process::command(program);
    }
    let mut command = process::command("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--pdeathsig",
            "QUIT",
        ])
        .arg("--")
        .arg(program)
        .current_dir("/");
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dump_shows_what_is_stored() {
        let logs = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(logs.path()).await;
        let statement = "CREATE TABLE t AS SELECT 'stored here' AS c";
        let written = postgres.client("psql", &["-d", DATABASE, "-c", statement]);
        assert!(written.status.success(), "{}", text(&written.stderr));
        assert!(postgres.dump().contains("stored here"));
        assert!(postgres.url().ends_with("/headwater"));
    }
}
