//! Children of a test: ended by their process id when dropped, and with the test itself if that is killed; what they
//! print is kept, and shown when the test fails.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::wait::wait_for;

/// Lines of a process's output that a failed test shows.
const TAIL_LINES: usize = 30;

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    /// Standard output.
    printed: PathBuf,
    /// Standard error.
    log: PathBuf,
}

/// A command whose process dies with the test that started it.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    // setpriv replaces itself by the program: the child's id is the program's own.
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(program.as_ref());
    command
}

/// A program of the system's, which Debian keeps out of a user's path.
pub fn tool(name: &str) -> Command {
    with_system_path(command(name))
}

/// Debian keeps the system's programs out of a user's path.
pub fn with_system_path(mut command: Command) -> Command {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs one that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// As [`command`], behind what it is to go through, where that is anything.
pub fn within(enter: &[String], program: impl AsRef<Path>) -> Command {
    let Some((first, arguments)) = enter.split_first() else {
        return command(program);
    };
    let mut command = command(first);
    command.args(arguments).arg(program.as_ref());
    command
}

/// A command that goes on in a namespace of its own, `--mount` or `--net`: its options and its program are to follow.
pub fn in_namespace(kind: &str) -> Command {
    let mut command = command("unshare");
    command.arg(kind);
    // Users may have namespaces where they are root.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        command.arg("--map-root-user");
    }
    command
}

/// What a test is told that runs in a namespace; as libtest understands it, tests to leave out, and none is called so.
const INSIDE: &str = "inside-of-a-namespace";

/// Runs a test in a namespace of its own, where everything that it starts is: starts it again by its name, which is what
/// then goes `inside`.
pub async fn alone_in_namespace(
    kind: &str,
    test: &str,
    deadline: Duration,
    inside: impl Future<Output = ()>,
) {
    if std::env::args().any(|argument| argument == INSIDE) {
        return inside.await;
    }
    let _turn = crate::turn().await;
    // Inside, nobody waits for a build.
    crate::binary::headwater();
    let logs = tempfile::tempdir().unwrap();
    let mut command = in_namespace(kind);
    command.arg("--").arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--skip", INSIDE]);
    let mut inside = Process::spawn("inside", &mut command, logs.path());
    let status = inside.exit(deadline).await;
    let printed = inside.printed();
    println!("{printed}");
    assert!(status.success(), "{status}:\n{}", inside.log());
    assert!(printed.contains("1 passed"), "it was not run");
}

impl Process {
    /// Starts a command of [`command`]. What it prints is appended to `<directory>/<name>.out`, what it logs (standard
    /// error) to `<directory>/<name>.log`.
    pub fn spawn(name: &str, command: &mut Command, directory: &Path) -> Self {
        let printed = directory.join(format!("{name}.out"));
        let log = directory.join(format!("{name}.log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(append(&printed))
            .stderr(append(&log))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self {
            name: name.to_owned(),
            child,
            printed,
            log,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything on standard output so far.
    pub fn printed(&self) -> String {
        read(&self.printed)
    }

    /// Everything on standard error so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The exit status, where it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // Fails where it ended already.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name, `TERM` or `STOP`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.id().to_string())
            .status();
        assert!(sent.unwrap().success(), "{}: no process", self.name);
    }

    /// Waits for the end.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} to exit", self.name);
        wait_for(&what, deadline, async || self.ended()).await
    }

    /// Waits for a line that contains all of these and returns it.
    pub async fn log_line(&self, parts: &[&str], deadline: Duration) -> String {
        let what = format!("{} to log {parts:?}", self.name);
        wait_for(&what, deadline, async || {
            let log = self.log();
            let found = log
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            found.map(str::to_owned)
        })
        .await
    }
}

fn append(path: &Path) -> fs::File {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.printed() + &self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(TAIL_LINES);
            eprintln!("--- {} said last:\n{}", self.name, lines[tail..].join("\n"));
        }
    }
}
