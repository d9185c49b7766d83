//! How many edges there are, and who says so.

use operator::build::{Observed, edge_replicas_to_set, edge_selector};
use serde_json::json;

use crate::{
    change::merge,
    fixture::{FIXTURES, Fixture},
};

fn with(edge: serde_json::Value) -> Fixture {
    let mut fixture = Fixture::read(&std::path::Path::new(FIXTURES).join("minimal"));
    merge(&mut fixture.spec, &json!({"edge": edge}));
    fixture
}

#[test]
fn replicas_are_the_specifications_or_those_that_are_there_within_the_autoscalers_limits() {
    let autoscaling = json!({"minReplicas": 4, "maxReplicas": 8});
    for (edge, present, expected, to_set) in [
        (json!({}), Some(9), 3, None),
        (json!({"replicas": 0}), Some(9), 0, None),
        (json!({"autoscaling": autoscaling}), None, 4, Some(4)),
        (json!({"autoscaling": autoscaling}), Some(6), 6, Some(6)),
        (json!({"autoscaling": autoscaling}), Some(99), 8, Some(8)),
        (
            json!({"autoscaling": autoscaling, "replicas": 7}),
            Some(6),
            7,
            None,
        ),
    ] {
        let mut fixture = with(edge.clone());
        fixture.observed.edge_replicas = present;
        let deployment = fixture.objects().edge.spec.unwrap();
        assert_eq!(deployment.replicas, Some(expected), "{edge} {present:?}");
        let set = edge_replicas_to_set(&fixture.validated(), &fixture.observed());
        assert_eq!(set, to_set, "{edge} {present:?}");
    }
}

#[test]
fn the_scale_subresources_selector_is_of_every_revision() {
    let fixture = with(json!({}));
    assert_eq!(
        edge_selector(&fixture.validated()),
        "app.kubernetes.io/component=edge,app.kubernetes.io/instance=live,app.kubernetes.io/name=headwater"
    );
    assert_eq!(Observed::default(), fixture.observed());
}
