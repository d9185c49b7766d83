//! What access needs a connection for: key sets and TokenReviews from afar, and client certificates.

use std::{collections::BTreeMap, sync::Arc};

use hyper_util::rt::TokioIo;
use proto::v1::{ListStreamKeysRequest, stream_key_service_client::StreamKeyServiceClient};
use runtime::{
    grpc::{self, Listener},
    identity::{Cluster, Role},
    shutdown::Shutdown,
    tls::{
        CertificateFiles, ClientCertificateFiles, ClientCertificates, ReloadingCertificate,
        ensure_internal_ca, ensure_self_signed,
    },
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{
    access::{ISSUER, claims, identify, permission, refused},
    backend::{Backend, Reply},
    fixture::{Fixture, bearing},
};
use crate::{
    ApiAccess, Control, Dependencies, Listeners, TokenIssuer, TokenPermissions, TokenVerification,
    jwt::tests::SigningKey,
};

const SUBJECT: &str = "system:serviceaccount:media:backend";

fn access(verification: TokenVerification) -> ApiAccess {
    let subjects = BTreeMap::from([(SUBJECT.to_owned(), permission("acme", &["keys:read"]))]);
    ApiAccess {
        issuers: vec![TokenIssuer {
            issuer: ISSUER.to_owned(),
            audience: "headwater".to_owned(),
            verification,
            permissions: TokenPermissions::Subjects(subjects),
        }],
        ..ApiAccess::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_from_a_url_that_wants_a_token_itself() {
    let mut fixture = Fixture::sqlite();
    let key = SigningKey::ed25519("key");
    let keys = json!({"keys": [key.jwk()]}).to_string();
    let backend = Backend::start(fixture.directory.path(), move |asked| {
        if asked.header("authorization") == "Bearer of the pod" {
            Reply::Answer(200, keys.clone())
        } else {
            Reply::Answer(401, String::new())
        }
    })
    .await;
    fixture.config.egress = backend.egress.clone();
    let token_file = fixture.directory.path().join("pod-token");
    std::fs::write(&token_file, "of the pod\n").unwrap();
    let access = access(TokenVerification::KeySetUrl {
        url: backend.url("/openid/v1/jwks"),
        token_file: Some(token_file),
    });
    let token = key.sign(&claims(&[]));
    let caller = identify(&fixture, access.clone(), bearing(&token, ())).await;
    assert_eq!(caller.unwrap().tenant("").as_deref(), Ok("acme"));

    // An issuer in a network that is not called: nothing is decided, and nobody is let in.
    fixture.config.egress.allow.clear();
    let answer = identify(&fixture, access, bearing(&token, ())).await;
    let unavailable = refused(Code::Unavailable, "ISSUER_UNAVAILABLE");
    assert_eq!(answer.map(|caller| caller.name), unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_says_whose_a_token_is() {
    let mut fixture = Fixture::sqlite();
    let key = SigningKey::ed25519("key");
    let good = key.sign(&claims(&[]));
    let elsewhere = key.sign(&claims(&[("jti", json!("elsewhere"))]));
    let gone = key.sign(&claims(&[("jti", json!("gone"))]));
    let broken = key.sign(&claims(&[("jti", json!("broken"))]));
    let (known, other, ill) = (good.clone(), elsewhere.clone(), broken.clone());
    let backend = Backend::start(fixture.directory.path(), move |asked| {
        let review = asked.json();
        assert_eq!(review["spec"]["audiences"], json!(["headwater"]));
        assert_eq!(asked.header("authorization"), "Bearer of control");
        let token = review["spec"]["token"].as_str().unwrap();
        if token == ill {
            return Reply::Answer(500, String::new());
        }
        let audience = if token == other { "api" } else { "headwater" };
        let status = json!({
            "authenticated": token == known || token == other,
            "user": {"username": SUBJECT},
            "audiences": [audience],
        });
        Reply::Answer(201, json!({"status": status}).to_string())
    })
    .await;
    fixture.config.egress = backend.egress.clone();
    let token_file = fixture.directory.path().join("control-token");
    std::fs::write(&token_file, "of control").unwrap();
    let access = access(TokenVerification::TokenReview {
        url: backend.url("/apis/authentication.k8s.io/v1/tokenreviews"),
        token_file,
    });
    let call = async |token: &str| {
        let caller = identify(&fixture, access.clone(), bearing(token, ())).await;
        caller.map(|caller| caller.tenant("").unwrap().to_string())
    };
    assert_eq!(call(&good).await.as_deref(), Ok("acme"));
    for refused_token in [&elsewhere, &gone] {
        let invalid = refused(Code::Unauthenticated, "TOKEN_INVALID");
        assert_eq!(call(refused_token).await, invalid);
    }
    let unavailable = refused(Code::Unavailable, "ISSUER_UNAVAILABLE");
    assert_eq!(call(&broken).await, unavailable);
}

/// With the certificate of a role, or without any.
fn client(fixture: &Fixture, port: u16, identity: Option<Role>) -> Channel {
    let path = |name: &str| fixture.directory.path().join(name);
    let mut roots = RootCertStore::empty();
    let server = CertificateDer::from_pem_file(path("public.pem")).unwrap();
    roots.add(server).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(role) => {
            let chain = CertificateDer::pem_file_iter(path(&format!("{role}.pem"))).unwrap();
            let private_key = PrivateKeyDer::from_pem_file(path(&format!("{role}.key"))).unwrap();
            let chain = chain.collect::<Result<_, _>>().unwrap();
            config.with_client_auth_cert(chain, private_key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let name = ServerName::try_from("localhost").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_taken_from_the_connection() {
    let mut fixture = Fixture::sqlite();
    let directory = fixture.directory.path();
    let cluster = Cluster {
        trust_domain: "platform.test".to_owned(),
        namespace: "shop".to_owned(),
        name: "one".to_owned(),
    };
    ensure_internal_ca(directory, &cluster, &Role::ALL).unwrap();
    let files = CertificateFiles {
        certificate: directory.join("public.pem"),
        private_key: directory.join("public.key"),
    };
    ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
    let asked = ClientCertificates::Optional(ClientCertificateFiles {
        ca: directory.join("ca.pem"),
        crls: Vec::new(),
    });
    let certificate = ReloadingCertificate::load(&files).unwrap();
    let certificate = certificate.with_client_certificates(asked).unwrap();
    let permission = permission("default", &["keys:read"]);
    fixture.config.api_access.certificates =
        BTreeMap::from([(cluster.uri(Role::Edge), permission)]);
    let dependencies = Dependencies {
        registry: fixture.registry.clone(),
        metrics: Default::default(),
        readiness: Default::default(),
    };
    let control = Control::new(fixture.config.clone(), dependencies).await;
    let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = public.local_addr().unwrap().port();
    let listeners = Listeners {
        public: Listener::Public(public, certificate),
        internal: Listener::InProcess(grpc::in_process(Role::Edge).0),
    };
    let running = control.unwrap().run(listeners, Shutdown::default());
    let _running = AbortOnDropHandle::new(tokio::spawn(running));

    let list = async |identity| {
        let channel = client(&fixture, port, identity);
        let mut client = StreamKeyServiceClient::new(channel);
        let listed = client
            .list_stream_keys(ListStreamKeysRequest::default())
            .await;
        listed.map(|_| ()).map_err(|status| {
            let reason = proto::error::reason(&status).unwrap_or_default();
            (status.code(), reason)
        })
    };
    assert_eq!(list(Some(Role::Edge)).await, Ok(()));
    let not_admitted = refused(Code::PermissionDenied, "CALLER_NOT_ADMITTED");
    assert_eq!(list(Some(Role::Origin)).await, not_admitted);
    let missing = refused(Code::Unauthenticated, "TOKEN_MISSING");
    assert_eq!(list(None).await, missing);
}
