use k8s_openapi::ByteString;
use proptest::prelude::*;
use proto::grant::GrantSigner;
use rustls::{
    RootCertStore, client::verify_server_cert_signed_by_trust_anchor, pki_types::UnixTime,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;

use super::{stored::BUNDLE_SINCE, *};
use crate::{
    api::{IngestCluster, IngestClusterSpec, ROTATE_ANNOTATION},
    certificates::{AUTHORITY_LIFETIME, LEAF_LIFETIME, end},
    validate::{Defaults, validate},
};

mod front;

const UID: &str = "00000000-0000-0000-0000-000000000001";
const RUNNING: InUse = InUse {
    control: true,
    origin: true,
};

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn cluster_with(change: impl FnOnce(&mut serde_json::Value)) -> ValidatedCluster {
    let mut spec = json!({
        "control": { "replicas": 1, "database": { "sqlite": {} } },
        "redis": { "standalone": { "host": "redis" } },
        "tls": { "selfSigned": {} },
    });
    change(&mut spec);
    let spec: IngestClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = IngestCluster::new("live", spec);
    cluster.metadata.namespace = Some("media".to_owned());
    cluster.metadata.uid = Some(UID.to_owned());
    let defaults = Defaults {
        image_repository: "headwater".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
    };
    validate(&cluster, &[], &defaults).unwrap()
}

fn cluster() -> ValidatedCluster {
    cluster_with(|_| {})
}

/// Writes the first ones, as the API server would keep them.
fn write(existing: &mut Existing, writes: Vec<Write>, count: usize) {
    for write in writes.into_iter().take(count) {
        let (Write::Create(secret) | Write::Replace(secret)) = write;
        existing.insert(secret.metadata.name.clone().unwrap(), *secret);
    }
}

fn reconcile(
    cluster: &ValidatedCluster,
    in_use: InUse,
    existing: &mut Existing,
    now: Timestamp,
) -> Vec<Fault> {
    let plan = plan(cluster, in_use, existing, now).unwrap();
    write(existing, plan.writes, usize::MAX);
    plan.faults
}

fn made() -> Existing {
    let mut existing = Existing::new();
    let faults = reconcile(&cluster(), InUse::default(), &mut existing, start());
    assert_eq!(faults, []);
    existing
}

fn get<'a>(existing: &'a Existing, name: &str, key: &str) -> &'a str {
    stored::text(&existing[name], key).unwrap()
}

fn rotate(existing: &mut Existing, name: &str, value: &str) {
    let secret = existing.get_mut(name).unwrap();
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ROTATE_ANNOTATION.to_owned(), value.to_owned());
}

fn set(existing: &mut Existing, name: &str, key: &str, value: &str) {
    let data = existing.get_mut(name).unwrap().data.as_mut().unwrap();
    data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
}

/// As a process of the cluster does.
fn verifies(certificate: &str, bundle: &str, now: Timestamp) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let seconds = u64::try_from(now.as_second()).unwrap();
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(&certificate).unwrap(),
        &roots,
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
    )
}

#[test]
fn everything_is_made_once_and_then_nothing_is_written() {
    let mut existing = made();
    let mut expected = owned(&cluster().names);
    expected.sort();
    assert_eq!(existing.keys().cloned().collect::<Vec<_>>(), expected);
    let plan = plan(
        &cluster(),
        RUNNING,
        &existing,
        end(start(), LEAF_LIFETIME / 2),
    )
    .unwrap();
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
    assert_eq!(plan.faults, []);
    assert_eq!(plan.internal_not_after, Some(end(start(), LEAF_LIFETIME)));
    assert!(plan.public_not_after.is_some() && plan.identity.is_some());

    // Somebody's label and annotation are theirs; ours come back.
    let secret = existing.get_mut("live-pepper").unwrap();
    secret.metadata.labels = Some([("mine".to_owned(), "1".to_owned())].into());
    reconcile(&cluster(), RUNNING, &mut existing, start());
    let labels = existing["live-pepper"].metadata.labels.clone().unwrap();
    assert_eq!(labels["mine"], "1");
    assert_eq!(labels["headwater.dev/cluster"], "live");
}

#[test]
fn retained_secrets_have_no_owner_and_deleted_ones_do() {
    let owners = |existing: &Existing| {
        let owned = existing
            .values()
            .filter(|secret| secret.metadata.owner_references.is_some());
        owned.count()
    };
    let mut existing = made();
    assert_eq!(owners(&existing), 0);
    let delete_all = cluster_with(|spec| spec["deletionPolicy"] = json!("DeleteAll"));
    reconcile(&delete_all, RUNNING, &mut existing, start());
    assert_eq!(owners(&existing), existing.len());
    reconcile(&cluster(), RUNNING, &mut existing, start());
    assert_eq!(owners(&existing), 0);
}

#[test]
fn leaves_are_renewed_at_two_thirds_and_repaired_when_damaged() {
    let mut existing = made();
    let name = "live-internal-edge";
    let first = get(&existing, name, "tls.crt").to_owned();
    let late = end(start(), LEAF_LIFETIME * 2 / 3);
    let plan = plan(&cluster(), RUNNING, &existing, late).unwrap();
    assert_eq!(plan.renewed.len(), 6);
    write(&mut existing, plan.writes, usize::MAX);
    let second = get(&existing, name, "tls.crt").to_owned();
    assert_ne!(first, second);

    set(&mut existing, name, "tls.key", "nonsense");
    reconcile(&cluster(), RUNNING, &mut existing, late);
    assert_ne!(get(&existing, name, "tls.crt"), second);
    existing.remove(name);
    assert_eq!(reconcile(&cluster(), RUNNING, &mut existing, late), []);
    assert!(existing.contains_key(name));
}

#[test]
fn new_names_make_a_new_certificate() {
    let mut existing = made();
    let plain = get(&existing, "live-control-tls", "tls.crt").to_owned();
    let origin = Facts::read(get(&existing, "live-origin-tls", "tls.crt")).unwrap();
    assert!(
        origin.names.contains(&"*.live-origin.media.svc".to_owned()),
        "{origin:?}"
    );
    let more = cluster_with(|spec| {
        spec["control"]["service"] = json!({ "dnsNames": ["keys.example.com"] });
    });
    reconcile(&more, RUNNING, &mut existing, start());
    let named = get(&existing, "live-control-tls", "tls.crt");
    assert_ne!(plain, named);
    assert!(
        Facts::read(named)
            .unwrap()
            .names
            .contains(&"keys.example.com".to_owned())
    );
}

#[test]
fn what_is_in_use_is_never_made_anew() {
    for (name, key) in [
        ("live-internal-ca", "ca.key"),
        ("live-pepper", "pepper"),
        ("live-grant", "grant.key"),
    ] {
        let mut missing = made();
        missing.remove(name);
        let faults = reconcile(&cluster(), RUNNING, &mut missing, start());
        assert!(!missing.contains_key(name), "{name}");
        assert_eq!(faults[0].reason, Reason::SecretMissing, "{faults:?}");
        assert!(faults[0].message.contains(name), "{faults:?}");

        let mut damaged = made();
        set(&mut damaged, name, key, "nonsense");
        let faults = reconcile(&cluster(), RUNNING, &mut damaged, start());
        assert_eq!(get(&damaged, name, key), "nonsense");
        assert_eq!(faults[0].reason, Reason::SecretDamaged, "{faults:?}");
    }
}

#[test]
fn a_ca_whose_leaves_have_all_ended_or_gone_may_be_made_anew() {
    let mut existing = made();
    existing.remove("live-internal-ca");
    for role in ["edge", "origin", "control", "operator"] {
        existing.remove(&format!("live-internal-{role}"));
    }
    assert_eq!(reconcile(&cluster(), RUNNING, &mut existing, start()), []);
    let bundle = get(&existing, "live-internal-edge", "ca.crt");
    assert_eq!(bundle, get(&existing, "live-internal-ca", "ca.crt"));
}

#[test]
fn a_requested_ca_is_trusted_before_it_issues_and_the_old_one_goes_last() {
    let mut existing = made();
    let old = get(&existing, "live-internal-ca", "ca.crt").to_owned();
    rotate(&mut existing, "live-internal-ca", "once");
    reconcile(&cluster(), RUNNING, &mut existing, start());
    let issuer = |existing: &Existing| {
        let leaf = get(existing, "live-internal-edge", "tls.crt");
        crate::certificates::signed_by(leaf, &old)
    };
    assert!(issuer(&existing));
    let both = get(&existing, "live-internal-edge", "ca.crt").to_owned();
    assert_eq!(both.matches("BEGIN").count(), 2);
    let almost = end(start(), DISTRIBUTION - Duration::from_secs(1));
    reconcile(&cluster(), RUNNING, &mut existing, almost);
    assert!(issuer(&existing));
    reconcile(
        &cluster(),
        RUNNING,
        &mut existing,
        end(start(), DISTRIBUTION),
    );
    assert!(!issuer(&existing));
    assert_eq!(get(&existing, "live-internal-edge", "ca.crt"), both);
    let since = stored::time(&existing["live-internal-edge"], BUNDLE_SINCE).unwrap();
    assert_eq!(since, start());
    let after = end(start(), LEAF_LIFETIME + Duration::from_secs(2 * 24 * 3600));
    reconcile(&cluster(), RUNNING, &mut existing, after);
    assert_eq!(
        get(&existing, "live-internal-edge", "ca.crt")
            .matches("BEGIN")
            .count(),
        1
    );
    // The request was answered: it starts nothing more.
    let plan = plan(&cluster(), RUNNING, &existing, after).unwrap();
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
}

#[test]
fn a_ca_that_ended_while_nobody_looked_is_replaced_at_once() {
    let mut existing = made();
    let late = end(start(), AUTHORITY_LIFETIME + Duration::from_secs(1));
    assert_eq!(reconcile(&cluster(), RUNNING, &mut existing, late), []);
    let identity = ["live-internal-edge", "live-internal-control"];
    let [edge, control] = identity.map(|name| &existing[name]);
    let leaf = stored::text(edge, "tls.crt").unwrap();
    verifies(leaf, stored::text(control, "ca.crt").unwrap(), late).unwrap();
}

#[test]
fn a_token_is_accepted_before_it_is_first_and_the_old_one_goes_last() {
    let mut existing = made();
    let name = "live-api-token";
    let tokens = |existing: &Existing| {
        let lines = get(existing, name, "token").lines();
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let old = tokens(&existing)[0].clone();
    assert_eq!(old.len(), 64);
    rotate(&mut existing, name, "2026-11-24");
    reconcile(&cluster(), RUNNING, &mut existing, start());
    let added = tokens(&existing);
    assert_eq!((added.len(), &added[0]), (2, &old));
    let promoted_at = end(start(), DISTRIBUTION);
    reconcile(&cluster(), RUNNING, &mut existing, promoted_at);
    assert_eq!(tokens(&existing), [added[1].clone(), old]);
    let dropped_at = end(promoted_at, TOKEN_OVERLAP);
    reconcile(&cluster(), RUNNING, &mut existing, dropped_at);
    assert_eq!(tokens(&existing), [added[1].clone()]);
    let plan = plan(&cluster(), RUNNING, &existing, dropped_at).unwrap();
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
}

#[test]
fn origins_know_a_grant_key_before_control_signs_by_it() {
    let mut existing = made();
    let name = "live-grant";
    let public = |existing: &Existing| {
        let lines = get(existing, name, "grant.pub").lines();
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let signer = |existing: &Existing| {
        let pem = get(existing, name, "grant.key");
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = GrantSigner::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        data_encoding::HEXLOWER.encode(&key.public_key())
    };
    let old = signer(&existing);
    assert_eq!(public(&existing), std::slice::from_ref(&old));
    rotate(&mut existing, name, "x");
    reconcile(&cluster(), RUNNING, &mut existing, start());
    assert_eq!(signer(&existing), old);
    let both = public(&existing);
    assert_eq!(both.len(), 2);
    let promoted_at = end(start(), DISTRIBUTION);
    reconcile(&cluster(), RUNNING, &mut existing, promoted_at);
    assert_eq!(signer(&existing), both[1]);
    assert_eq!(public(&existing), both);
    reconcile(
        &cluster(),
        RUNNING,
        &mut existing,
        end(promoted_at, GRANT_OVERLAP),
    );
    assert_eq!(public(&existing), [both[1].clone()]);

    // A public key that somebody took away follows from the private one.
    set(&mut existing, name, "grant.pub", "");
    reconcile(&cluster(), RUNNING, &mut existing, start());
    assert_eq!(public(&existing), [both[1].clone()]);
}

#[test]
fn what_the_user_brings_is_looked_at_and_nothing_more() {
    let cluster = cluster_with(|spec| {
        spec["tls"] = json!({ "secretName": "public" });
        spec["redis"]["auth"] = json!({ "perRole": { "secretName": "redis" } });
    });
    let mut existing = made();
    let faults = reconcile(&cluster, RUNNING, &mut existing, start());
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(names(&cluster).contains(&"public".to_owned()));

    let pair = crate::certificates::Pair::new_self_signed(&["a".to_owned()], start()).unwrap();
    for (name, data) in [
        (
            "public",
            vec![("tls.crt", pair.certificate), ("tls.key", pair.private_key)],
        ),
        (
            "redis",
            vec![
                ("edge-password", "x".to_owned()),
                ("control-password", "x".to_owned()),
            ],
        ),
    ] {
        let data = data
            .into_iter()
            .map(|(key, value)| (key.to_owned(), ByteString(value.into())));
        let secret = Secret {
            data: Some(data.collect()),
            ..Secret::default()
        };
        existing.insert(name.to_owned(), secret);
    }
    let plan = plan(&cluster, RUNNING, &existing, start()).unwrap();
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
    assert!(plan.public_not_after.is_some());
    let [fault] = &plan.faults[..] else {
        panic!("{:?}", plan.faults)
    };
    assert!(fault.message.contains("origin-password"), "{fault:?}");
    let late = end(start(), Duration::from_secs(360 * 24 * 3600));
    let faults = reconcile(&cluster, RUNNING, &mut existing, late);
    assert!(
        faults
            .iter()
            .any(|fault| fault.reason == Reason::CertificateExpiringSoon)
    );
}

#[test]
fn nothing_of_a_secret_is_printed() {
    let plan = plan(&cluster(), InUse::default(), &Existing::new(), start()).unwrap();
    let printed = format!("{:?}", plan.writes);
    assert!(
        printed.starts_with("[Create(live-internal-ca), "),
        "{printed}"
    );
    assert!(printed.len() < 500, "{printed}");
}

/// One thing that happens in the life of a cluster.
#[derive(Clone, Debug)]
struct Happening {
    /// Since the last one.
    passed: Duration,
    /// How many of the writes get through before the operator dies.
    writes: usize,
    /// Somebody asks for a rotation.
    rotate: Option<&'static str>,
    /// Somebody deletes a Secret that can be repaired.
    delete: Option<&'static str>,
    /// How late each role's process is, at most, in parts of [`DISTRIBUTION`].
    lags: [f64; 4],
}

fn happening() -> impl Strategy<Value = Happening> {
    let passed = prop_oneof![
        4 => 1..90_u64,
        2 => 90..600_u64,
        1 => 600..6 * 24 * 3600_u64,
    ];
    let rotated = ["live-internal-ca", "live-grant", "live-api-token"];
    let deleted = [
        "live-internal-edge",
        "live-internal-control",
        "live-origin-tls",
    ];
    (
        passed,
        prop_oneof![2 => Just(usize::MAX), 1 => 0..8_usize],
        proptest::option::weighted(0.1, proptest::sample::select(rotated.to_vec())),
        proptest::option::weighted(0.05, proptest::sample::select(deleted.to_vec())),
        proptest::array::uniform4(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0]),
    )
        .prop_map(|(passed, writes, rotate, delete, lags)| Happening {
            passed: Duration::from_secs(passed),
            writes,
            rotate,
            delete,
            lags,
        })
}

/// What a role's process has read of its Secret.
struct Process {
    name: String,
    /// Every version that was written: when, the leaf, the bundle.
    versions: Vec<(Timestamp, String, String)>,
    /// Which of them it has.
    has: usize,
}

impl Process {
    /// Sees the Secret as it is now, and reads the newest version that is older than its lag.
    fn look(&mut self, existing: &Existing, now: Timestamp, lag: f64) {
        if let Some(secret) = existing.get(&self.name) {
            let text = |key: &str| stored::text(secret, key).unwrap().to_owned();
            let version = (text("tls.crt"), text("ca.crt"));
            let last = self.versions.last();
            if last.is_none_or(|(_, leaf, bundle)| (leaf, bundle) != (&version.0, &version.1)) {
                self.versions.push((now, version.0, version.1));
            }
        }
        let reached = |written: Timestamp| end(written, DISTRIBUTION.mul_f64(lag)) <= now;
        let newest = self
            .versions
            .iter()
            .rposition(|(written, ..)| reached(*written));
        self.has = self.has.max(newest.unwrap_or_default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_process_trusts_every_other_at_every_moment(
        life in proptest::collection::vec(happening(), 20..120)
    ) {
        let cluster = cluster();
        let (mut existing, mut now) = (made(), start());
        let pepper = get(&existing, "live-pepper", "pepper").to_owned();
        let mut processes = leaves::ROLES.map(|role| Process {
            name: format!("live-internal-{role}"),
            versions: Vec::new(),
            has: 0,
        });
        for process in &mut processes {
            process.look(&existing, now, 0.0);
        }
        for (index, happening) in life.iter().enumerate() {
            // Whatever time passed, every process has reached what was there for long enough before.
            now = end(now, happening.passed);
            for process in &mut processes {
                process.look(&existing, now, 1.0);
            }
            if let Some(name) = happening.rotate {
                rotate(&mut existing, name, &index.to_string());
            }
            if let Some(name) = happening.delete {
                existing.remove(name);
            }
            let authority = get(&existing, "live-internal-ca", "ca.key").to_owned();
            let next = stored::text(&existing["live-internal-ca"], "next.key").map(str::to_owned);
            let plan = plan(&cluster, RUNNING, &existing, now).unwrap();
            prop_assert_eq!(&plan.faults, &[]);
            write(&mut existing, plan.writes, happening.writes);
            for (process, lag) in processes.iter_mut().zip(happening.lags) {
                process.look(&existing, now, lag);
            }
            for prover in &processes {
                for checker in &processes {
                    let leaf = &prover.versions[prover.has].1;
                    let bundle = &checker.versions[checker.has].2;
                    // The operator was away for longer than certificates last: nothing helps but its return.
                    let facts = Facts::read(leaf).unwrap();
                    if facts.not_after <= now {
                        continue;
                    }
                    let verified = verifies(leaf, bundle, now);
                    prop_assert!(
                        verified.is_ok(),
                        "step {index}: {} at {}: {verified:?}", prover.name, checker.name
                    );
                }
            }
            prop_assert_eq!(get(&existing, "live-pepper", "pepper"), &pepper);
            let after = get(&existing, "live-internal-ca", "ca.key");
            prop_assert!(after == authority || Some(after) == next.as_deref());
        }
    }
}
