//! What a container requests and may use.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity,
};

use super::pod::template;
use crate::{api::IngestClusterSpec, names::Component};

/// Of a memory limit, the percentage that media may fill. The rest is for TLS and chunk buffers of the connections, for
/// the program itself, and for what its allocator holds back.
const MEDIA_MEMORY_PERCENT: u64 = 60;

/// The user's, or ours. Ours have no CPU limit: a throttled edge drops frames, while an idle CPU helps nobody.
pub(crate) fn resources(spec: &IngestClusterSpec, component: Component) -> ResourceRequirements {
    if let Some(resources) = &template(spec, component).resources {
        return resources.clone();
    }
    let (cpu, memory, memory_limit) = match component {
        Component::Control => ("100m", "128Mi", "512Mi"),
        Component::Edge => ("250m", "512Mi", "2Gi"),
        Component::Origin => ("250m", "512Mi", "4Gi"),
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", cpu), ("memory", memory)])),
        limits: Some(quantities(&[("memory", memory_limit)])),
        ..ResourceRequirements::default()
    }
}

/// What media may fill of a memory limit, in bytes.
pub(super) fn media_bytes_max(memory_limit: u64) -> u64 {
    // Divided first: the largest limit would not fit otherwise.
    memory_limit / 100 * MEDIA_MEMORY_PERCENT
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(resource, quantity)| ((*resource).to_owned(), Quantity((*quantity).to_owned())))
        .collect()
}
