//! The processes of a control plane and how each is started.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::pki::Pki;
use crate::{
    binary::target_directory,
    process::{self, Process},
};

pub(super) const AUDIT_LOG: &str = "audit.log";

/// A namespace's life, workloads and what they leave behind; nothing that needs nodes or a cloud: a node that nobody
/// renews must not lose its pods.
const CONTROLLERS: &[&str] = &[
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
];

/// One of the programs that `tests/kube/setup.sh` gets.
pub(super) fn program(name: &str) -> PathBuf {
    let program = target_directory().join("kube/bin").join(name);
    assert!(
        program.exists(),
        "{} is missing: run `make test`, or `bash tests/kube/setup.sh control-plane {}`",
        program.display(),
        target_directory().display()
    );
    program
}

/// A fresh directory for one control plane's files. What earlier test programs of this name left goes.
pub(super) fn directory(name: &str) -> PathBuf {
    let all = target_directory().join("kube/run").join(name);
    fs::create_dir_all(&all).unwrap();
    for entry in fs::read_dir(&all).unwrap() {
        let path = entry.unwrap().path();
        let process = path.file_name().unwrap().to_string_lossy().into_owned();
        if !Path::new("/proc").join(process).exists() {
            // Another program may be tidying up too.
            fs::remove_dir_all(path).ok();
        }
    }
    let own = all.join(std::process::id().to_string());
    assert!(
        !own.exists(),
        "one control plane of the name {name} at a time"
    );
    fs::create_dir(&own).unwrap();
    own
}

/// The name of the running test program: `kubernetes` of `…/deps/kubernetes-0123456789abcdef`.
pub(super) fn test_program() -> String {
    let program = std::env::current_exe().unwrap();
    let stem = program.file_stem().unwrap().to_string_lossy().into_owned();
    match stem.rsplit_once('-') {
        Some((name, _)) => name.to_owned(),
        None => stem,
    }
}

pub(super) fn etcd(directory: &Path, port: u16) -> Process {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", crate::free_port());
    let mut command = process::command(program("etcd"));
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // What a crash of the machine would lose does not matter to a test.
        .arg("--unsafe-no-fsync");
    Process::spawn("etcd", &mut command, directory)
}

pub(super) fn api_server(directory: &Path, pki: &Pki, etcd: u16, port: u16) -> Process {
    let mut command = process::command(program("kube-apiserver"));
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={port}"))
        .args([
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
        ]);
    let issuer = "--service-account-issuer=https://kubernetes.default.svc.cluster.local";
    command.args(["--authorization-mode=Node,RBAC", issuer]);
    // As OpenShift does: to block the deletion of an owner, one must be allowed to put a finalizer on it.
    command.arg("--enable-admission-plugins=OwnerReferencesPermissionEnforcement");
    // etcd 3.4 cannot tell how far a watch is: a list is read from etcd, as clients ask for it without this.
    command.arg("--feature-gates=WatchList=false");
    let files = [
        ("tls-cert-file", pki.file("api-server.crt")),
        ("tls-private-key-file", pki.file("api-server.key")),
        ("client-ca-file", pki.file("ca.crt")),
        ("service-account-key-file", pki.file("service-accounts.pub")),
        (
            "service-account-signing-key-file",
            pki.file("service-accounts.key"),
        ),
        ("audit-policy-file", directory.join("audit-policy.yaml")),
        ("audit-log-path", directory.join(AUDIT_LOG)),
    ];
    for (flag, file) in files {
        command.arg(format!("--{flag}={}", file.display()));
    }
    Process::spawn("kube-apiserver", &mut command, directory)
}

/// cert-manager's controllers that issue from an Issuer's CA, in one namespace.
pub(super) fn cert_manager(directory: &Path, kubeconfig: &Path, namespace: &str) -> Process {
    let mut command = process::command(program("cert-manager"));
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--namespace", namespace]);
    Process::spawn("cert-manager", &mut command, directory)
}

pub(super) fn controller_manager(directory: &Path, pki: &Pki, kubeconfig: &Path) -> Process {
    let mut command = process::command(program("kube-controller-manager"));
    command
        .arg(format!("--controllers={}", CONTROLLERS.join(",")))
        .args(["--leader-elect=false", "--use-service-account-credentials"])
        .arg("--bind-address=127.0.0.1")
        .arg(format!("--secure-port={}", crate::free_port()));
    // Hundreds of pods in one test, on one machine.
    command.args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
    let files = [
        ("kubeconfig", kubeconfig.to_owned()),
        ("authentication-kubeconfig", kubeconfig.to_owned()),
        ("authorization-kubeconfig", kubeconfig.to_owned()),
        ("root-ca-file", pki.file("ca.crt")),
        (
            "service-account-private-key-file",
            pki.file("service-accounts.key"),
        ),
    ];
    for (flag, file) in files {
        command.arg(format!("--{flag}={}", file.display()));
    }
    Process::spawn("kube-controller-manager", &mut command, directory)
}
