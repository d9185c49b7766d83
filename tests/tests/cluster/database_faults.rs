//! The database fails under live sessions, in each way that it can. Who is live notices nothing; what cannot be decided or
//! written is refused for now, as docs/operations.md has it; and once the fault is gone all is well, with no process
//! started again.
//!
//! Disks that get full are small ones of the test's own, in a mount namespace: the test starts itself again there.

use std::time::Duration;

use proto::v1::{CreateStreamKeyRequest, EventType};
use tests::{
    api::{Api, IssuedKey},
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    process,
    scenario::{
        assert_refused_for_now, is_accepted, revocation_ends_the_session, tries_to_publish,
    },
    volume::{SmallVolume, has_immutable_files, set_immutable},
    wait::wait_for,
    witness::Witness,
};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

/// For one answer: five times what control waits for a database.
const ANSWER: Duration = Duration::from_secs(10);
/// Until what is full has no room for another key, and until all is well again.
const STEP: Duration = Duration::from_secs(30);
/// For all the faults of a database.
const ALL: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The server is there and does not answer.
    Stopped,
    Killed,
    ReadOnly,
    Full,
}

impl Fault {
    /// Whether what is stored can be read: then publishers are let in.
    fn is_read_on(self) -> bool {
        match self {
            Self::Stopped | Self::Killed => false,
            Self::ReadOnly | Self::Full => true,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_every_fault_of_postgresql() {
    const NAME: &str = "database_faults::sessions_outlive_every_fault_of_postgresql";
    process::alone_in_namespace("--mount", NAME, ALL, postgresql()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_every_fault_of_sqlite() {
    const NAME: &str = "database_faults::sessions_outlive_every_fault_of_sqlite";
    process::alone_in_namespace("--mount", NAME, ALL, sqlite()).await;
}

async fn postgresql() {
    let directory = tempfile::tempdir().unwrap();
    let volume = SmallVolume::mount(directory.path(), 24);
    let layout = Layout::postgres();
    let mut cluster = Cluster::start_after(layout, |_base, postgres| {
        postgres.unwrap().moves_to(volume.directory());
    })
    .await;
    let live = Live::start(&cluster).await;
    for fault in [Fault::Stopped, Fault::Killed, Fault::ReadOnly, Fault::Full] {
        let next = live.comes(fault).await;
        let postgres = cluster.postgres.as_mut().unwrap();
        match fault {
            Fault::Stopped => postgres.signal("STOP"),
            Fault::Killed => postgres.kill(),
            Fault::ReadOnly => read_only(postgres, "on"),
            Fault::Full => volume.fill(),
        }
        live.goes_on(fault, &next).await;
        match fault {
            Fault::Stopped => postgres.signal("CONT"),
            Fault::Killed => postgres.start_again().await,
            Fault::ReadOnly => read_only(postgres, "off"),
            Fault::Full => volume.free(),
        }
        live.is_well_again(fault, next).await;
    }
    live.end(&mut cluster).await;
}

fn read_only(postgres: &tests::postgres::Postgres, whether: &str) {
    postgres.execute(&format!(
        "ALTER SYSTEM SET default_transaction_read_only = {whether}"
    ));
    postgres.execute("SELECT pg_reload_conf()");
}

async fn sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let volume = SmallVolume::mount(directory.path(), 8);
    let file = volume.directory().join("control.db");
    let mut cluster = Cluster::start(Layout {
        control: vec![(
            "CONTROL__DATABASE",
            format!("{{sqlite: {}}}", file.display()),
        )],
        ..Layout::default()
    })
    .await;
    let live = Live::start(&cluster).await;
    let next = live.comes(Fault::Full).await;
    volume.fill();
    live.goes_on(Fault::Full, &next).await;
    volume.free();
    live.is_well_again(Fault::Full, next).await;
    live.end(&mut cluster).await;

    if !has_immutable_files(&std::env::temp_dir()) {
        tests::not_run(
            "SQLite that is read-only under live sessions",
            "needs root, and ext4 at TMPDIR",
        );
        return;
    }
    let mut cluster = Cluster::start(Layout::default()).await;
    let files = ["control.db", "control.db-wal"].map(|file| cluster.base().join(file));
    let live = Live::start(&cluster).await;
    let next = live.comes(Fault::ReadOnly).await;
    for file in &files {
        set_immutable(file, true);
    }
    live.goes_on(Fault::ReadOnly, &next).await;
    for file in &files {
        set_immutable(file, false);
    }
    live.is_well_again(Fault::ReadOnly, next).await;
    live.end(&mut cluster).await;
}

/// A session through all of it, and who comes beside it.
struct Live {
    deployment: Deployment,
    witness: Witness,
}

impl Live {
    async fn start(cluster: &Cluster) -> Self {
        let deployment = cluster.deployment.clone();
        let key = deployment.api.create_key(APP, "witness").await;
        let witness = Witness::start(&deployment, key).await;
        Self {
            deployment,
            witness,
        }
    }

    /// A key that nobody has used, so that nobody remembers it.
    async fn comes(&self, fault: Fault) -> IssuedKey {
        println!("{fault:?}");
        let stream = format!("next-{fault:?}");
        self.deployment.api.create_key(APP, &stream).await
    }

    /// While the fault lasts.
    async fn goes_on(&self, fault: Fault, next: &IssuedKey) {
        let begun = Instant::now();
        self.refuses_a_change().await;
        println!("  a change is refused after {:?}", begun.elapsed());
        let status = tries_to_publish(&self.deployment, next).await;
        if fault.is_read_on() {
            assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
        } else {
            assert_refused_for_now(&status);
        }
        self.witness.is_alive().await;
        self.refuses_a_change().await;
    }

    /// What is full may have room for a last one.
    async fn refuses_a_change(&self) {
        let refused = wait_for("a change to be refused", STEP, async || {
            change(&self.deployment.api).await.err()
        })
        .await;
        assert_unavailable(&refused);
    }

    /// Once it is over.
    async fn is_well_again(&self, fault: Fault, next: IssuedKey) {
        let (begun, deployment) = (Instant::now(), &self.deployment);
        wait_for("changes to be made again", STEP, async || {
            change(&deployment.api).await.ok()
        })
        .await;
        is_accepted(deployment, &next, STEP).await;
        println!("  all is well again after {:?}", begun.elapsed());
        // What could not be written meanwhile is now, and what ends a session does so again.
        for told in [EventType::SessionStarted, EventType::SessionEnded] {
            let logged = timeout(STEP, deployment.api.logs(told, &next.stream));
            logged.await.expect("the event in time").unwrap();
        }
        let revoked = format!("revoked-{fault:?}");
        revocation_ends_the_session(deployment, &deployment.api, &revoked).await;
        self.witness.is_alive().await;
    }

    /// Not a frame was lost, and no process was started again.
    async fn end(self, cluster: &mut Cluster) {
        self.witness.finish().await;
        let edges = [&mut cluster.edge];
        let others = cluster.controls.iter_mut().chain(&mut cluster.origins);
        for node in others.chain(edges) {
            let ended = node.process_mut().ended();
            assert!(ended.is_none(), "{} ended: {ended:?}", node.name());
        }
    }
}

/// Issues a key that nobody wants.
async fn change(api: &Api) -> Result<(), Status> {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: "nobody".to_owned(),
        description: "x".repeat(200),
        ..CreateStreamKeyRequest::default()
    };
    let created = timeout(ANSWER, api.try_create_key(request)).await;
    created.expect("an answer in time").map(drop)
}

fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let reason = proto::error::reason(status);
    assert_eq!(reason.as_deref(), Some("DATABASE_UNAVAILABLE"));
}
