//! The certificates of `tls.additionalSecrets`.

use super::*;
use crate::certificates::Pair;

fn with_certificates(names: &[&str]) -> ValidatedCluster {
    cluster_with(|spec| spec["tls"]["additionalSecrets"] = json!(names))
}

/// As somebody brings it.
fn bring(existing: &mut Existing, name: &str, pair: &Pair) {
    existing.insert(name.to_owned(), Secret::default());
    existing.get_mut(name).unwrap().data = Some(BTreeMap::new());
    set(existing, name, "tls.crt", &pair.certificate);
    set(existing, name, "tls.key", &pair.private_key);
}

#[test]
fn further_certificates_are_gathered_in_one_secret() {
    const GATHERED: &str = "live-edge-certificates";
    let pair = |name: &str| Pair::new_self_signed(&[name.to_owned()], start()).unwrap();
    let mut existing = made();
    assert_eq!(existing[GATHERED].data, None, "as the API server gives it");
    let (a, b) = (pair("a.example"), pair("b.example"));
    bring(&mut existing, "a", &a);
    bring(&mut existing, "b", &b);
    let both = with_certificates(&["a", "b"]);
    assert!(names(&both).contains(&"a".to_owned()));
    assert_eq!(reconcile(&both, RUNNING, &mut existing, start()), []);
    assert_eq!(get(&existing, GATHERED, "a.crt"), a.certificate);
    assert_eq!(get(&existing, GATHERED, "b.key"), b.private_key);
    let settled = plan(&both, RUNNING, &existing, start()).unwrap();
    assert!(settled.writes.is_empty(), "{:?}", settled.writes);

    // Damaged, it keeps its place; gone from the specification, it goes.
    set(&mut existing, "a", "tls.crt", "nonsense");
    let faults = reconcile(&both, RUNNING, &mut existing, start());
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].reason, Reason::CertificateUnusable);
    assert!(!faults[0].holds(), "one of many is no reason to wait");
    assert_eq!(get(&existing, GATHERED, "a.crt"), a.certificate);
    let faults = reconcile(
        &with_certificates(&["b", "c"]),
        RUNNING,
        &mut existing,
        start(),
    );
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].message.contains("Secret c"), "{faults:?}");
    let keys: Vec<_> = existing[GATHERED].data.as_ref().unwrap().keys().collect();
    assert_eq!(keys, ["b.crt", "b.key"]);

    // What does not fit is told, and the rest is served.
    let mut large = pair("large.example");
    large.certificate.push_str(&" ".repeat(999_000));
    bring(&mut existing, "large", &large);
    let faults = reconcile(
        &with_certificates(&["b", "large"]),
        RUNNING,
        &mut existing,
        start(),
    );
    assert!(faults[0].message.contains("do not fit"), "{faults:?}");
    let keys: Vec<_> = existing[GATHERED].data.as_ref().unwrap().keys().collect();
    assert_eq!(keys, ["b.crt", "b.key"]);
}
