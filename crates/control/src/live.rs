//! What may change while control runs.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    admission::{Source, Sources},
    config::{AdmissionSource, Application},
};

/// What requests read and the process replaces. A cheap handle.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    values: ArcSwap<Values>,
    sources: Sources,
}

#[derive(Default)]
struct Values {
    applications: BTreeMap<String, Entry>,
    config_hash: String,
}

struct Entry {
    config: AdmissionSource,
    source: Arc<Source>,
}

/// Why applications cannot be put into effect.
#[derive(Debug, thiserror::Error)]
#[error("the application {application} cannot be used")]
pub struct ApplicationError {
    application: String,
    source: runtime::reload::FileError,
}

impl Live {
    pub(crate) fn new(
        applications: &[Application],
        sources: Sources,
    ) -> Result<Self, ApplicationError> {
        let live = Self(Arc::new(Inner {
            values: ArcSwap::default(),
            sources,
        }));
        live.replace(applications, String::new())?;
        Ok(live)
    }

    /// Puts a version of the live configuration into effect, for requests from now on, or nothing of it. `config_hash`
    /// tells the operator which one. What decides for an application stays, with what it remembers, where nothing was
    /// changed about it.
    pub fn replace(
        &self,
        applications: &[Application],
        config_hash: String,
    ) -> Result<(), ApplicationError> {
        let before = self.0.values.load();
        let mut entries = BTreeMap::new();
        for Application { name, admission } in applications {
            let there = before.applications.get(name);
            let source = match there.filter(|there| there.config == *admission) {
                Some(there) => there.source.clone(),
                None => {
                    let opened = self.0.sources.open(admission);
                    opened.map_err(|source| ApplicationError {
                        application: name.clone(),
                        source,
                    })?
                }
            };
            let config = admission.clone();
            entries.insert(name.clone(), Entry { config, source });
        }
        self.0.values.store(Arc::new(Values {
            applications: entries,
            config_hash,
        }));
        Ok(())
    }

    /// Whether an application takes stream keys of ours.
    pub(crate) fn has_application(&self, application: &str) -> bool {
        matches!(self.source(application).as_deref(), Some(Source::Managed))
    }

    /// What decides for an application, if there is one of the name.
    pub(crate) fn source(&self, application: &str) -> Option<Arc<Source>> {
        let values = self.0.values.load();
        let entry = values.applications.get(application)?;
        Some(entry.source.clone())
    }

    /// Sorted; and the hash of the configuration that they are of.
    pub(crate) fn applications(&self) -> (Vec<String>, String) {
        let values = self.0.values.load();
        let applications = values.applications.keys().cloned().collect();
        (applications, values.config_hash.clone())
    }
}
