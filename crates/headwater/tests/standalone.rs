//! The binary as a newcomer meets it: `headwater standalone`, its commands, and its exit codes.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "how a test's helper fails"
)]

use std::{
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// For a start or an end of a process: five times what a loaded machine takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running `headwater standalone` on free ports.
struct Standalone {
    child: Child,
    ready: Value,
    directory: TempDir,
}

impl Standalone {
    fn start(directory: TempDir) -> Self {
        let ready_file = directory.path().join("ready.json");
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let output = fs::File::create(directory.path().join("output")).unwrap();
        let mut child = standalone(directory.path())
            .stdout(output)
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for("the ready file", || {
            let ended = child.try_wait().unwrap();
            let log = || fs::read_to_string(directory.path().join("log"));
            assert!(ended.is_none(), "{ended:?}: {}", log().unwrap());
            ready_file.exists().then_some(())
        });
        let ready = serde_json::from_str(&fs::read_to_string(&ready_file).unwrap()).unwrap();
        Self {
            child,
            ready,
            directory,
        }
    }

    fn text(&self, field: &str) -> &str {
        let text = self.ready[field].as_str();
        text.unwrap_or_else(|| panic!("no {field}: {}", self.ready))
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    /// SIGTERM, and the end.
    fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
        wait_for("the process to end", || self.child.try_wait().unwrap())
    }

    /// Ends it and leaves what it kept.
    fn stop(mut self) -> TempDir {
        assert_eq!(self.terminate().code(), Some(0), "{}", self.file("log"));
        assert!(!self.directory.path().join("ready.json").exists());
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// A command for the running process.
    fn headwater(&self, arguments: &[&str]) -> Output {
        headwater()
            .args(arguments)
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .output()
            .unwrap()
    }
}

impl Standalone {
    /// What a command that succeeds says; its words are parted by spaces.
    fn done(&self, command: &str) -> String {
        let words: Vec<_> = command.split_whitespace().collect();
        let output = self.headwater(&words);
        let complaint = stderr(&output);
        assert!(output.status.success(), "{command}: {complaint}");
        stdout(&output)
    }

    /// The same, to a script.
    fn json(&self, command: &str) -> Value {
        let output = self.done(&format!("{command} -o json"));
        serde_json::from_str(&output).unwrap()
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn standalone(directory: &Path) -> Command {
    let mut command = headwater();
    command
        .arg("standalone")
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--ready-file")
        .arg(directory.join("ready.json"));
    for port in ["rtmps", "grpc", "playback", "http", "pull", "admin"] {
        command.arg(format!("--{port}-listen")).arg("127.0.0.1:0");
    }
    command
}

fn headwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    for variable in ["SERVER", "TOKEN_FILE", "CA_FILE"] {
        command.env_remove(format!("HEADWATER_{variable}"));
    }
    command.stdin(Stdio::null());
    command
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn get(url: &str) -> String {
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    response
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_first_start_says_everything_that_a_newcomer_needs() {
    let mut standalone = Standalone::start(tempfile::tempdir().unwrap());
    let stream_key = standalone.text("stream_key").to_owned();
    assert!(stream_key.starts_with("hw_"), "{}", standalone.ready);
    assert!(
        standalone
            .text("rtmps_url")
            .starts_with("rtmps://localhost:")
    );
    assert!(standalone.text("rtmps_url").ends_with("/live"));
    let token = format!("?token={}", standalone.text("playback_token"));
    assert!(standalone.text("flv_url").ends_with(&token));
    assert!(standalone.text("flv_url").contains("/live/live/main.flv"));
    assert!(standalone.text("grpc_url").starts_with("http://127.0.0.1:"));
    assert!(
        standalone
            .text("playback_grpc_url")
            .starts_with("http://127.0.0.1:")
    );
    assert!(Path::new(standalone.text("ca_file")).is_absolute());
    assert_eq!(
        standalone.file("data/api-token").trim(),
        standalone.text("api_token")
    );

    let admin_url = standalone.text("admin_url").to_owned();
    assert!(get(&format!("{admin_url}/readyz")).starts_with("HTTP/1.1 200"));
    assert!(get(&format!("{admin_url}/metrics")).contains("headwater_"));

    let output = wait_for("the greeting", || {
        Some(standalone.file("output")).filter(|output| output.contains("/metrics"))
    });
    for shown in ["ffmpeg", "ffplay", "rtmps_url", "stream_key", "flv_url"] {
        let shown = standalone.ready[shown].as_str().unwrap_or(shown);
        assert!(output.contains(shown), "no {shown} in {output}");
    }
    assert_eq!(standalone.terminate().code(), Some(0));
    let log = standalone.file("log");
    assert!(log.contains("started"), "{log}");
    assert!(!log.contains(&stream_key), "the log holds the stream key");
}

#[test]
fn secrets_are_their_owners_alone() {
    let standalone = Standalone::start(tempfile::tempdir().unwrap());
    let directory = standalone.directory.path();
    assert_eq!(mode(&directory.join("data")), 0o700);
    for name in [
        "ready.json",
        "data/api-token",
        "data/first-stream-key",
        "data/grant.key",
        "data/pepper",
        "data/playback-token",
        "data/tls/private-key.pem",
    ] {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_second_start_keeps_certificate_and_keys() {
    let first = Standalone::start(tempfile::tempdir().unwrap());
    let stream_key = first.text("stream_key").to_owned();
    let api_token = first.text("api_token").to_owned();
    let certificate = first.file("data/tls/certificate.pem");

    let second = Standalone::start(first.stop());
    assert_eq!(second.text("stream_key"), stream_key);
    assert_eq!(second.text("api_token"), api_token);
    assert_eq!(second.file("data/tls/certificate.pem"), certificate);

    let directory = second.stop();
    fs::remove_file(directory.path().join("data/first-stream-key")).unwrap();
    let third = Standalone::start(directory);
    assert_eq!(third.ready["stream_key"], Value::Null);
    let output = wait_for("the greeting", || {
        Some(third.file("output")).filter(|output| output.contains("/metrics"))
    });
    assert!(
        output.contains("headwater keys create --stream NAME --data-dir"),
        "{output}"
    );
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let first = Standalone::start(tempfile::tempdir().unwrap());
    let second = standalone(first.directory.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("another standalone process"),
        "{}",
        stderr(&second)
    );
    // What it said to others still holds.
    assert!(first.directory.path().join("ready.json").exists());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let output = headwater()
        .args(["standalone", "--admin-listen", &address, "--data-dir"])
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&format!("cannot listen on {address}")),
        "{}",
        stderr(&output)
    );
}

#[test]
fn keys_are_created_listed_and_revoked() {
    let standalone = Standalone::start(tempfile::tempdir().unwrap());
    let created = standalone.headwater(&["keys", "create", "--stream", "studio-1", "--json"]);
    assert_eq!(created.status.code(), Some(0), "{}", stderr(&created));
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let id = created["id"].as_str().unwrap();
    assert!(created["secret"].as_str().unwrap().starts_with("hw_"));

    let listed = standalone.headwater(&["keys", "list"]);
    assert!(stdout(&listed).contains(id), "{}", stdout(&listed));
    assert!(stdout(&listed).contains("studio-1"), "{}", stdout(&listed));

    let revoked = standalone.headwater(&["keys", "revoke", id]);
    assert_eq!(revoked.status.code(), Some(0), "{}", stderr(&revoked));
    let listed = standalone.headwater(&["keys", "list"]);
    assert!(!stdout(&listed).contains(id), "{}", stdout(&listed));
    let all = standalone.headwater(&["keys", "list", "--all", "--json"]);
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    let known = all
        .as_array()
        .unwrap()
        .iter()
        .find(|known| known["id"] == id)
        .unwrap();
    assert!(known["revoke_time"].is_string(), "{known}");

    let unknown = standalone.headwater(&["keys", "revoke", "0000000000000000"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        stderr(&unknown).contains("KEY_NOT_FOUND"),
        "{}",
        stderr(&unknown)
    );
}

#[test]
fn keys_are_changed_rotated_and_deleted() {
    let standalone = Standalone::start(tempfile::tempdir().unwrap());
    let create = "keys create --stream studio-1 --max-bitrate 6M --max-size 1920x1080 --max-frame-rate 30fps \
                  --max-session 2h --allow-from 192.0.2.0/24,2001:db8::/32 --label team=sports --role backup \
                  --video-codec avc1,hvc1 --request-id order-1";
    let created = standalone.json(create);
    assert_eq!(standalone.json(create), created, "sent twice, done once");
    let policy = &created["policy"];
    assert_eq!(policy["limits"]["max_bitrate_bps"], 6_000_000);
    assert_eq!(policy["limits"]["max_frame_rate_millihertz"], 30_000);
    assert_eq!(policy["max_session_seconds"], 7200);
    assert_eq!(policy["role"], "backup");
    assert_eq!(policy["allowed_cidrs"][1], "2001:db8::/32");
    let id = created["id"].as_str().unwrap();
    let shown = standalone.done(&format!("keys get {id}"));
    for line in [
        "bitrate              6000 kb/s at most",
        "size                 1920x1080 at most",
        "labels               team=sports",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    let clear = "--max-bitrate 8M --clear allow-from --clear max-size";
    let updated = standalone.json(&format!("keys update {id} {clear}"));
    let limits = &updated["policy"]["limits"];
    assert_eq!(limits["max_bitrate_bps"], 8_000_000);
    assert_eq!(limits["max_width"], 0);
    assert_eq!(limits["video_codecs"][1], "hvc1");
    assert_eq!(updated["policy"]["allowed_cidrs"], Value::Array(Vec::new()));
    let etag = created["etag"].as_str().unwrap();
    let stale = standalone.headwater(&["keys", "delete", id, "--etag", etag]);
    let complaint = stderr(&stale);
    assert!(complaint.contains("ETAG_MISMATCH"), "{complaint}");
    let nothing = standalone.headwater(&["keys", "update", id]);
    assert_eq!(nothing.status.code(), Some(64));
    let rotated = standalone.json(&format!("keys rotate {id} --overlap 1h"));
    assert_ne!(rotated["secret"], created["secret"]);
    assert!(rotated["previous_secret_expire_time"].is_string());

    let listed = standalone.json("keys list --label team=sports --state active");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let deleted = standalone.done(&format!("keys delete {id}"));
    assert!(deleted.contains("is deleted"), "{deleted}");
    let gone = standalone.headwater(&["keys", "get", id]);
    assert!(stderr(&gone).contains("KEY_NOT_FOUND"));
}

#[test]
fn quotas_are_set_and_hold() {
    let standalone = Standalone::start(tempfile::tempdir().unwrap());
    standalone.done("keys create --stream studio-1 --quota-group gold");
    // The first start has made one.
    let set = standalone.json("quotas set --max-keys 2 --max-bitrate 500M");
    assert_eq!(set["quota"]["max_bitrate_bps"], 500_000_000);
    assert_eq!(set["use"]["keys"], 2);
    let beyond = standalone.headwater(&["keys", "create", "--stream", "studio-2"]);
    let complaint = stderr(&beyond);
    assert!(complaint.contains("QUOTA_EXCEEDED"), "{complaint}");
    standalone.done("quotas set --group gold --max-sessions 3");
    let quotas = standalone.done("quotas get");
    assert!(quotas.contains("2 of 2"), "{quotas}");
    assert!(
        quotas.contains("gold   1 ") && quotas.contains("0 of 3"),
        "{quotas}"
    );
    standalone.done("quotas set --remove");
    standalone.done("keys create --stream studio-2");
}

#[test]
fn sessions_are_listed_and_an_unknown_one_cannot_be_ended() {
    let standalone = Standalone::start(tempfile::tempdir().unwrap());
    let listed = standalone.headwater(&["sessions", "list", "--json"]);
    assert_eq!(stdout(&listed).trim(), "[]", "{}", stderr(&listed));
    let killed = standalone.headwater(&["sessions", "kill", "nobody"]);
    assert_eq!(killed.status.code(), Some(1));
    assert!(
        stderr(&killed).contains("SESSION_NOT_FOUND"),
        "{}",
        stderr(&killed)
    );
}

#[test]
fn a_wrong_token_and_an_absent_server_are_told_apart() {
    let standalone = Standalone::start(tempfile::tempdir().unwrap());
    let token_file = standalone.directory.path().join("wrong-token");
    fs::write(&token_file, "wrong").unwrap();
    let list = |server: &str| {
        headwater()
            .args(["keys", "list", "--server", server, "--token-file"])
            .arg(&token_file)
            .output()
            .unwrap()
    };
    let refused = list(standalone.text("grpc_url"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("does not accept the token"),
        "{}",
        stderr(&refused)
    );

    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let absent = list(&format!("http://{free}"));
    assert_eq!(absent.status.code(), Some(1));
    assert!(
        stderr(&absent).contains("is it running?"),
        "{}",
        stderr(&absent)
    );
}

#[test]
fn mistakes_of_usage_end_with_64() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        vec![],
        vec!["standalon"],
        vec!["edge"],
        vec!["standalone", "--rtmps-listen", "nowhere"],
        vec![
            "keys",
            "list",
            "--data-dir",
            directory.path().to_str().unwrap(),
        ],
    ] {
        let output = headwater().args(&arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(64),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    let help = headwater().arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Exit codes"), "{}", stdout(&help));
}

#[test]
fn every_mistake_of_a_configuration_is_listed_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let bootstrap = headwater()
        .arg("bootstrap")
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(bootstrap.status.code(), Some(0), "{}", stderr(&bootstrap));
    assert!(stdout(&bootstrap).contains("headwater edge --config"));
    let output = headwater()
        .arg("edge")
        .arg("--config")
        .arg(directory.path().join("edge.yaml"))
        .env("HEADWATER__EDGE__LISTEN", "foo")
        .env("HEADWATER__EDGE__COLOUR", "blue")
        .env("HEADWATER__EDGE__CERTIFICATE", "/nowhere.pem")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = stderr(&output);
    for mistake in [
        "3 mistakes",
        "edge.listen: \"foo\" is not an address",
        "edge.colour: is not a known field",
        "edge.certificate: /nowhere.pem: No such file or directory",
    ] {
        assert!(said.contains(mistake), "no {mistake:?} in {said}");
    }
}

#[test]
fn what_else_is_in_the_environment_does_no_harm() {
    let output = headwater()
        .args(["edge", "--config", "no-such-file.yaml"])
        .env("LEGACY", OsStr::from_bytes(b"\xff"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
}

#[test]
fn a_role_that_finds_its_port_in_use_leaves_the_other_processs_ready_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let bootstrap = headwater()
        .arg("bootstrap")
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(bootstrap.status.code(), Some(0), "{}", stderr(&bootstrap));
    let ready_file = directory.path().join("ready.json");
    fs::write(&ready_file, "{}").unwrap();
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupied.local_addr().unwrap().to_string();
    for (role, file, field) in [
        ("control", "control.yaml", "CONTROL__INTERNAL__LISTEN"),
        ("edge", "edge.yaml", "EDGE__LISTEN"),
        ("origin", "origin-a.yaml", "ORIGIN__HTTP__LISTEN"),
    ] {
        let mut command = headwater();
        for free in [
            "ADMIN__LISTEN",
            "CONTROL__PUBLIC__LISTEN",
            "ORIGIN__RELAY__LISTEN",
            "ORIGIN__PLAYBACK__LISTEN",
        ] {
            command.env(format!("HEADWATER__{free}"), "127.0.0.1:0");
        }
        let output = command
            .env(format!("HEADWATER__{field}"), &taken)
            .args([role, "--config"])
            .arg(directory.path().join(file))
            .arg("--ready-file")
            .arg(&ready_file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(&taken), "{}", stderr(&output));
        assert!(ready_file.exists(), "{role} took it away");
    }
}
