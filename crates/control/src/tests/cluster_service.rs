//! `ClusterService`.

use std::time::Duration;

use proto::internal::v1::{
    GetStateRequest, GetStateResponse, cluster_service_server::ClusterService as _,
};
use registry::{RedisConfig, RedisRegistry, Registry};
use runtime::identity::Role;
use tonic::{Code, Request};

use crate::Application;

use super::{
    fixture::{Fixture, Replica, of_role, reason},
    session_service::publish,
};

async fn state(control: &Replica) -> GetStateResponse {
    let request = of_role(Role::Operator, GetStateRequest {});
    control
        .cluster
        .get_state(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn the_operator_learns_what_is_in_effect() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    publish(&fixture, "session-0", "default", "live", "").await;
    publish(&fixture, "session-1", "another", "live", "").await;
    assert_eq!(
        state(&control).await,
        GetStateResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            live_config_hash: String::new(),
            applications: vec!["events/main".to_owned(), "live".to_owned()],
            sessions: Some(2),
        }
    );

    control
        .shared
        .live
        .replace(&[Application::managed("studio")], "c0ffee".to_owned())
        .unwrap();
    publish(&fixture, "session-2", "default", "live", "").await;
    let later = state(&control).await;
    assert_eq!(later.applications, ["studio"]);
    assert_eq!(later.live_config_hash, "c0ffee");
    assert_eq!(
        later.sessions,
        Some(2),
        "the registry is not read for each call"
    );
}

#[tokio::test]
async fn only_the_operator_is_admitted() {
    let control = Fixture::sqlite().replica().await;
    let denied = (Code::PermissionDenied, "ROLE_NOT_ADMITTED".to_owned());
    for role in [Role::Control, Role::Edge, Role::Origin] {
        let request = of_role(role, GetStateRequest {});
        assert_eq!(reason(control.cluster.get_state(request).await), denied);
    }
    let nobody = Request::new(GetStateRequest {});
    assert_eq!(reason(control.cluster.get_state(nobody).await), denied);
}

#[tokio::test]
async fn a_registry_that_is_down_hides_the_sessions_alone() {
    let mut fixture = Fixture::sqlite();
    // Nobody listens on port 1.
    let redis = RedisConfig {
        url: "redis://127.0.0.1:1".to_owned(),
        username: None,
        password_file: None,
        ca_file: None,
        prefix: "hw".to_owned(),
        timeout: Duration::from_millis(500),
    };
    fixture.registry = Registry::Redis(RedisRegistry::open(&redis).unwrap());
    let control = fixture.replica().await;
    let state = state(&control).await;
    assert_eq!(state.sessions, None);
    assert_eq!(state.applications, ["events/main", "live"]);
}

#[tokio::test]
async fn without_an_application_every_publish_is_refused() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;
    let granted = async || {
        let answer = control.authorize("live", &secret).await.unwrap();
        super::admission_service::is_granted(&answer)
    };
    assert!(granted().await);
    control.shared.live.replace(&[], String::new()).unwrap();
    assert!(!granted().await);
    control
        .shared
        .live
        .replace(&[Application::managed("live")], String::new())
        .unwrap();
    assert!(granted().await);
}
