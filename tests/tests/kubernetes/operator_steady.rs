//! A cluster at rest.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;
use tests::{binary::fake_time, kube::ControlPlane, wait::wait_for};

use crate::operator_harness::{CLUSTER, Installation, Plane};

/// How much faster the operator's clock runs.
const SPEED: u32 = 10;
/// By the operator's clock.
const REST: SignedDuration = SignedDuration::from_mins(10);
/// For that, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(300);
/// The Lease is renewed about every ten seconds.
const RENEWALS_MIN: usize = 30;
/// Nobody answers for control here: a pass comes every five seconds, not every minute as in a cluster whose controls
/// answer.
const PASSES_MIN: f64 = 20.0;

/// The operator as it is, with the periods that it has, and with its clock (timers too) running ten times faster: passes,
/// the search for other kinds and the renewals of the Lease come as they do in ten minutes. The API server's own periods,
/// such as the end of a watch, do not: its clock is the machine's.
#[tokio::test]
async fn in_ten_minutes_of_rest_only_the_lease_is_written() {
    let plane = Plane::Shared(ControlPlane::shared().await);
    let mut installation = Installation::prepare(plane, Duration::from_millis(200)).await;
    installation.environment = vec![
        ("LD_PRELOAD", fake_time().display().to_string()),
        ("FAKETIME", format!("+0 x{SPEED}")),
        // Nothing is left behind when the process is killed.
        ("FAKETIME_DISABLE_SHM", "1".to_owned()),
    ];
    let operator = installation.start_operator().await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    installation.passed(operator).await;

    let renewals = |installation: &Installation| {
        let leases = installation
            .requests()
            .filter(|request| request.is_write() && request.resource == "leases");
        leases.count()
    };
    let (began, written, renewed, passed) = (
        installation.lease_renewed_at().await.unwrap(),
        installation.writes(),
        renewals(&installation),
        installation.passes(operator).await,
    );
    wait_for(
        "ten minutes of the operator's clock",
        PATIENCE,
        async || {
            let now = installation.lease_renewed_at().await?;
            (now.duration_since(began) >= REST).then_some(())
        },
    )
    .await;
    let (renewed, passed) = (
        renewals(&installation) - renewed,
        installation.passes(operator).await - passed,
    );
    println!("in ten minutes: {passed} passes, {renewed} writes of the Lease");
    assert_eq!(installation.writes()[written.len()..], [] as [String; 0]);
    assert!(renewed >= RENEWALS_MIN && passed >= PASSES_MIN);
    installation.assert_nothing_was_forbidden();
}
