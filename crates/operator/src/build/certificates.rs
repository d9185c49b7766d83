//! cert-manager's Certificates, and the names that certificates hold, whoever makes them.
//!
//! No hash of ours holds anything of a certificate: a renewal restarts no pod.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use runtime::identity::{Cluster, Role};
use serde_json::{Value, json};

use super::{
    Observed,
    metadata::{labels, object_meta},
};
use crate::{api::IssuerReference, names::Component, validate::ValidatedCluster};

/// Of what is left of a certificate's life when it is renewed: a third, in percent.
const RENEW_BEFORE_PERCENT: i32 = 33;
/// Of an internal certificate: short, since nobody has to be told of a renewal.
const INTERNAL_LIFETIME: &str = "720h";

pub(super) fn certificates(cluster: &ValidatedCluster, observed: &Observed) -> Vec<DynamicObject> {
    if !observed.cert_manager {
        return Vec::new();
    }
    let spec = &cluster.spec;
    let names = &cluster.names;
    let mut certificates = Vec::new();
    if let Some(issuer) = &spec.tls.issuer_ref {
        let secret = names.public_certificate(Component::Edge);
        let dns_names = edge_dns_names(cluster);
        certificates.push(public(
            cluster,
            Component::Edge,
            &secret,
            issuer,
            &dns_names,
        ));
    }
    if let Some(issuer) = &spec.control.tls {
        for (component, dns_names) in [
            (Component::Control, control_dns_names(cluster)),
            (Component::Origin, origin_dns_names(cluster)),
        ] {
            let secret = names.public_certificate(component);
            certificates.push(public(cluster, component, &secret, issuer, &dns_names));
        }
    }
    if let Some(issuer) = &spec.internal_tls.issuer_ref {
        for role in Role::ALL {
            certificates.push(internal(cluster, role, issuer));
        }
    }
    certificates
}

/// Names in the certificate that encoders see.
pub fn edge_dns_names(cluster: &ValidatedCluster) -> Vec<String> {
    let tls = &cluster.spec.tls;
    let mut names = tls.dns_names.clone();
    // A public issuer would refuse these.
    if tls.self_signed.is_some() {
        names.extend(service_names(cluster, &cluster.names.tier(Component::Edge)));
    }
    names
}

/// Names in the certificate of the gRPC API.
pub fn control_dns_names(cluster: &ValidatedCluster) -> Vec<String> {
    let mut names = cluster.spec.control.service.dns_names.clone();
    names.extend(service_names(
        cluster,
        &cluster.names.tier(Component::Control),
    ));
    names
}

/// Names in the certificate of playback: of the Services, and of every single origin.
pub fn origin_dns_names(cluster: &ValidatedCluster) -> Vec<String> {
    let service = cluster.names.tier(Component::Origin);
    let mut names = service_names(cluster, &service);
    names.extend(service_names(cluster, &cluster.names.playback()));
    let namespace = &cluster.namespace;
    names.push(format!("*.{service}.{namespace}.svc"));
    names.push(format!(
        "*.{service}.{namespace}.svc.{}",
        cluster.cluster_domain
    ));
    names
}

/// The URI that says which role of which cluster a certificate is.
pub fn uri(cluster: &ValidatedCluster, role: Role) -> String {
    let identity = Cluster {
        trust_domain: cluster.trust_domain.clone(),
        namespace: cluster.namespace.clone(),
        name: cluster.names.cluster().to_owned(),
    };
    identity.uri(role)
}

fn service_names(cluster: &ValidatedCluster, service: &str) -> Vec<String> {
    let namespace = &cluster.namespace;
    vec![
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.{}", cluster.cluster_domain),
    ]
}

fn public(
    cluster: &ValidatedCluster,
    component: Component,
    secret: &str,
    issuer: &IssuerReference,
    dns_names: &[String],
) -> DynamicObject {
    let own = json!({"dnsNames": dns_names, "usages": ["digital signature", "server auth"]});
    certificate(cluster, Some(component), secret, issuer, own)
}

fn internal(cluster: &ValidatedCluster, role: Role, issuer: &IssuerReference) -> DynamicObject {
    let component = match role {
        Role::Control => Some(Component::Control),
        Role::Edge => Some(Component::Edge),
        Role::Operator => None,
        Role::Origin => Some(Component::Origin),
    };
    let secret = cluster.names.internal_certificate(role.as_str());
    let own = json!({
        "uris": [uri(cluster, role)],
        "usages": ["digital signature", "server auth", "client auth"],
        "duration": INTERNAL_LIFETIME,
    });
    certificate(cluster, component, &secret, issuer, own)
}

/// `own` is what only this certificate has; the Secret has the Certificate's name.
fn certificate(
    cluster: &ValidatedCluster,
    component: Option<Component>,
    secret: &str,
    issuer: &IssuerReference,
    own: Value,
) -> DynamicObject {
    let mut spec = json!({
        "secretName": secret,
        // The operator looks at Secrets with its labels alone.
        "secretTemplate": {"labels": labels(cluster, component)},
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        "privateKey": {
            "algorithm": "ECDSA",
            "size": 256,
            "encoding": "PKCS8",
            "rotationPolicy": "Always",
        },
        // Of whatever lifetime the issuer gives.
        "renewBeforePercentage": RENEW_BEFORE_PERCENT,
    });
    if let (Value::Object(spec), Value::Object(own)) = (&mut spec, own) {
        spec.extend(own);
    }
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    let mut object =
        DynamicObject::new(secret, &ApiResource::from_gvk(&kind)).data(json!({"spec": spec}));
    object.metadata = object_meta(cluster, component, secret.to_owned());
    object
}
