//! The container image, made from the binary under test as `make image` makes it: what it says about itself, what is in
//! it, and that the program runs from it as Kubernetes runs it, with nobody's rights and a root that cannot be written.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{api::Api, binary, process, process::Process, standalone};

/// The user of the image, and its group.
const USER: u32 = 65532;
/// Uncompressed, without debug information: more than this is something that nobody decided on.
const LAYER_BYTES_MAX: u64 = 160 << 20;

#[test]
fn the_image_says_what_it_is_and_has_only_what_it_needs() {
    let image = Image::make();
    let config = &image.config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/headwater"]));
    assert_eq!(config["Cmd"], Value::Null);
    let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("title"), "Headwater");
    assert!(label("revision").as_str().unwrap().len() >= 7, "{config}");

    let mut programs = Vec::new();
    let mut bytes = 0;
    for path in walk(&image.root) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let inside = path.strip_prefix(&image.root).unwrap();
        let mode = metadata.permissions().mode();
        assert_eq!(mode & 0o6000, 0, "{} is setuid", inside.display());
        assert_eq!(metadata.mtime(), image.created, "{}", inside.display());
        if inside == Path::new("tmp") {
            assert_eq!(mode & 0o7777, 0o1777);
        } else if !metadata.is_symlink() {
            assert_eq!(mode & 0o022, 0, "{} can be changed", inside.display());
        }
        if metadata.is_file() && mode & 0o111 != 0 {
            programs.push(inside.display().to_string());
        }
        bytes += metadata.len();
    }
    assert!(bytes < LAYER_BYTES_MAX, "{bytes} bytes");
    // The program, the loader, libraries: no shell, no package manager.
    let library = |path: &String| path.contains(".so.");
    let others: Vec<_> = programs.iter().filter(|path| !library(path)).collect();
    assert_eq!(others, ["usr/bin/headwater"]);
    assert_eq!(fs::read_dir(image.root.join("tmp")).unwrap().count(), 0);
    let certificates = fs::read(image.root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(certificates.starts_with(b"-----BEGIN CERTIFICATE-----"));
}

#[test]
fn the_same_source_makes_the_same_image() {
    let (one, other) = (Image::make(), Image::make());
    assert!(
        fs::read(&one.archive).unwrap() == fs::read(&other.archive).unwrap(),
        "two archives of one program differ"
    );
}

#[test]
fn the_bill_of_materials_names_everything_with_its_licence() {
    let image = Image::make();
    let path = image.root.join("usr/share/headwater/sbom.spdx.json");
    let document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["dataLicense"], "CC0-1.0");
    assert_eq!(document["SPDXID"], "SPDXRef-DOCUMENT");

    let mut named = BTreeMap::new();
    let mut listed = BTreeSet::new();
    for package in list(&document["packages"]) {
        let licence = text(&package["licenseDeclared"]);
        assert!(!matches!(licence, "" | "NOASSERTION"), "{package}");
        assert!(!licence.contains('/'), "no SPDX expression: {licence}");
        let id = text(&package["SPDXID"]);
        assert!(id.starts_with("SPDXRef-"), "{id}");
        assert!(named.insert(id, package).is_none(), "{id} stands twice");
        listed.insert(format!(
            "{} {}",
            text(&package["name"]),
            text(&package["versionInfo"])
        ));
    }
    for relation in list(&document["relationships"]) {
        let above = text(&relation["spdxElementId"]);
        assert!(above == "SPDXRef-DOCUMENT" || named.contains_key(above));
        assert!(named.contains_key(text(&relation["relatedSpdxElement"])));
    }

    let compiled = compiled_packages();
    assert!(compiled.len() > 100, "{compiled:?}");
    let missing: Vec<_> = compiled.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the SBOM: {missing:?}");
    let libraries: Vec<_> = listed.difference(&compiled).collect();
    let status = image.root.join("var/lib/dpkg/status.d");
    let installed = fs::read_dir(status).unwrap().count();
    assert_eq!(libraries.len(), installed, "{libraries:?}");

    let notices = image
        .root
        .join("usr/share/doc/headwater/third-party-licences.txt");
    let notices = fs::read_to_string(notices).unwrap();
    for name in ["tokio ", "rustls ", "aws-lc-sys "] {
        assert!(notices.contains(name), "no licence text of {name}");
    }
}

#[test]
fn the_dockerfile_builds_with_the_toolchain_of_the_repository() {
    let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
    let (_, rest) = toolchain.split_once("channel = \"").unwrap();
    let version = rest.split('"').next().unwrap();
    let dockerfile = fs::read_to_string(repository().join("deploy/Dockerfile")).unwrap();
    assert!(
        dockerfile.contains(&format!("\nARG RUST_VERSION={version}\n")),
        "deploy/Dockerfile does not build with Rust {version}"
    );
}

#[tokio::test]
async fn the_program_serves_as_nobody_from_a_root_that_cannot_be_written() {
    let image = Image::make();
    let told = confined(&image.root, None, &["--version"])
        .output()
        .unwrap();
    let version = String::from_utf8_lossy(&told.stdout);
    let expected = concat!("headwater ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(expected), "{told:?}");
    let refused = confined(
        &image.root,
        None,
        &["standalone", "--data-dir", "/var/data"],
    )
    .output()
    .unwrap();
    assert!(!refused.status.success(), "the root is read-only");

    let scratch = tempfile::tempdir().unwrap();
    chown(scratch.path(), Some(owner()), None).unwrap();
    let mut arguments = vec!["standalone", "--data-dir", "/tmp/data"];
    arguments.extend(["--ready-file", "/tmp/ready.json"]);
    for port in ["--rtmps-listen", "--grpc-listen", "--playback-listen"] {
        arguments.extend([port, "127.0.0.1:0"]);
    }
    for port in ["--http-listen", "--pull-listen", "--admin-listen"] {
        arguments.extend([port, "127.0.0.1:0"]);
    }
    let logs = tempfile::tempdir().unwrap();
    let mut command = confined(&image.root, Some(scratch.path()), &arguments);
    let mut process = Process::spawn("image", &mut command, logs.path());
    let ready = standalone::ready(&mut process, &scratch.path().join("ready.json")).await;
    let uid = fs::metadata(scratch.path().join("ready.json"))
        .unwrap()
        .uid();
    assert_eq!(uid, owner(), "runs as the user of the image");
    let ca_file = text(&ready["ca_file"]).replacen("/tmp", scratch.path().to_str().unwrap(), 1);
    let api = Api::new(
        text(&ready["grpc_url"]),
        Path::new(&ca_file),
        text(&ready["api_token"]),
    );
    api.create_key("live", "from-an-image").await;
}

/// An image as containerd would have it.
struct Image {
    archive: PathBuf,
    config: Value,
    /// Seconds since 1970.
    created: i64,
    root: PathBuf,
    _directory: TempDir,
}

impl Image {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image.tar");
        run(Command::new("bash")
            .arg(repository().join("deploy/image/make.sh"))
            .args([binary::headwater(), &archive])
            .arg("headwater.test/headwater:dev")
            .env("CARGO", env!("CARGO"))
            // The time of the last commit is the default; any will do.
            .env("SOURCE_DATE_EPOCH", "1700000000"));
        let layout = directory.path().join("layout");
        fs::create_dir(&layout).unwrap();
        run(Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&layout));
        let index: Value = read_json(&layout.join("index.json"));
        let blob = |descriptor: &Value| {
            let (algorithm, hash) = text(&descriptor["digest"]).split_once(':').unwrap();
            layout.join("blobs").join(algorithm).join(hash)
        };
        let manifest = read_json(&blob(&index["manifests"][0]));
        let config = read_json(&blob(&manifest["config"]));
        assert_eq!(list(&manifest["layers"]).len(), 1);
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        run(Command::new("tar")
            .args(["--extract", "--gzip", "--preserve-permissions", "--file"])
            .arg(blob(&manifest["layers"][0]))
            .arg("--directory")
            .arg(&root));
        Self {
            archive,
            config,
            created: 1_700_000_000,
            root,
            _directory: directory,
        }
    }
}

/// Headwater from the image: as its user, in a mount namespace where the root is read-only and `/tmp` is `scratch`.
/// Without root's rights, the user of the test stands for that of the image.
fn confined(root: &Path, scratch: Option<&Path>, arguments: &[&str]) -> Command {
    let mut command = process::command("unshare");
    let mut change_root = "exec chroot";
    if is_root() {
        change_root = "exec chroot --userspec=65532:65532 --groups=";
    } else {
        command.args(["--user", "--map-root-user"]);
    }
    let script = format!(
        "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && \
         {{ test -z \"$1\" || mount --bind \"$1\" \"$0/tmp\"; }} && \
         root=\"$0\" && shift && {change_root} \"$root\" /usr/bin/headwater \"$@\""
    );
    command.args(["--mount", "--", "sh", "-c", &script]);
    command
        .arg(root)
        .arg(scratch.unwrap_or_else(|| Path::new("")));
    command.args(arguments).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Who owns what the program of [`confined`] writes.
fn owner() -> u32 {
    if is_root() {
        USER
    } else {
        fs::metadata("/proc/self").unwrap().uid()
    }
}

/// `name version` of everything that is compiled into the program or runs in its compilation.
fn compiled_packages() -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package=headwater", "--edges=normal"])
        .args(["--prefix=none", "--format={p}"])
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(tree.status.success(), "cargo tree: {}", tree.status);
    let package = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?;
        let version = words.next()?.strip_prefix('v')?;
        Some(format!("{name} {version}"))
    };
    let tree = String::from_utf8(tree.stdout).unwrap();
    tree.lines().filter_map(package).collect()
}

/// Everything below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    match value.as_str() {
        Some(text) => text,
        None => panic!("no text: {value}"),
    }
}
