//! What may change while control runs.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;

/// What requests read and the process replaces. A cheap handle.
#[derive(Clone)]
pub struct Live(Arc<ArcSwap<Values>>);

struct Values {
    applications: BTreeSet<String>,
    config_hash: String,
}

impl Live {
    pub(crate) fn new(applications: Vec<String>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Values {
            applications: applications.into_iter().collect(),
            config_hash: String::new(),
        })))
    }

    /// Puts a version of the live configuration into effect, for requests from now on. `config_hash` tells the operator
    /// which one.
    pub fn replace(&self, applications: Vec<String>, config_hash: String) {
        self.0.store(Arc::new(Values {
            applications: applications.into_iter().collect(),
            config_hash,
        }));
    }

    pub(crate) fn has_application(&self, application: &str) -> bool {
        self.0.load().applications.contains(application)
    }

    /// Sorted; and the hash of the configuration that they are of.
    pub(crate) fn applications(&self) -> (Vec<String>, String) {
        let values = self.0.load();
        let applications = values.applications.iter().cloned().collect();
        (applications, values.config_hash.clone())
    }
}
