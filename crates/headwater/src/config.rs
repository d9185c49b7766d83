//! Configuration of a role process: one YAML file, the environment over it, every mistake reported at once.
//!
//! Three steps. [`document`] reads the file and lays the environment over it. The modules of the sections give the raw
//! form, in which every field is optional and every scalar is parsed. `finish` in each of them makes the role's own
//! `Config` of finished values and looks at what a type cannot say: required fields, files, and fields that exclude
//! each other.
//!
//! Sections of other roles may be in the same file: their form is checked, their files are not touched.

mod access;
mod applications;
mod check;
mod client_certificates;
mod control;
mod document;
mod edge;
mod live;
mod origin;
mod redis;
mod scalar;
mod shared;
mod telemetry;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::{
    check::Check,
    document::Document,
    shared::{AdminSection, ClusterSection, InternalTlsSection, LogSection, RegistrySection},
};
pub(crate) use self::{
    check::ConfigError,
    control::ControlConfig,
    edge::EdgeConfig,
    live::{LiveConfig, LiveFile},
    origin::{OriginConfig, RtmpConfig},
    shared::{ProcessConfig, Shared},
    telemetry::TelemetryConfig,
};

/// A whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sections {
    admin: Option<AdminSection>,
    cluster: Option<ClusterSection>,
    drain_notice: Option<scalar::Time>,
    drain_timeout: Option<scalar::Time>,
    internal_tls: Option<InternalTlsSection>,
    live_file: Option<PathBuf>,
    live_poll_period: Option<scalar::Period>,
    log: Option<LogSection>,
    registry: Option<RegistrySection>,
    telemetry: Option<telemetry::Section>,

    control: Option<control::Section>,
    edge: Option<edge::Section>,
    origin: Option<origin::Section>,
}

/// Reads what a control process needs.
pub(crate) fn control(file: &Path) -> Result<(Shared, ControlConfig), ConfigError> {
    load("control", file, environment(), |sections, check| {
        let section = check.required("control", sections.control.take())?;
        section.finish(check)
    })
}

/// Reads what an edge process needs.
pub(crate) fn edge(file: &Path) -> Result<(Shared, EdgeConfig), ConfigError> {
    load("edge", file, environment(), |sections, check| {
        let section = check.required("edge", sections.edge.take())?;
        section.finish(check)
    })
}

/// Reads what an origin process needs.
pub(crate) fn origin(file: &Path) -> Result<(Shared, OriginConfig), ConfigError> {
    load("origin", file, environment(), |sections, check| {
        let section = check.required("origin", sections.origin.take())?;
        section.finish(check)
    })
}

/// What is not UTF-8 is nothing that we could be meant by, and in a value a mistake of that field.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        Some((name, value.to_string_lossy().into_owned()))
    })
}

/// `finish` takes its section out and gives nothing where it has found a mistake.
fn load<T>(
    role: &str,
    file: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    finish: impl FnOnce(&mut Sections, &mut Check) -> Option<T>,
) -> Result<(Shared, T), ConfigError> {
    let mut check = Check::new(file);
    let Some(document) = Document::read(file, environment, &mut check) else {
        return Err(check.into_error());
    };
    let mut sections: Sections = document.parse(&mut check);
    let finished = finish(&mut sections, &mut check);
    let shared = Shared::finish(role, sections, &mut check);
    match (shared, finished) {
        (Some(shared), Some(finished)) if check.passed() => Ok((shared, finished)),
        _ => Err(check.into_error()),
    }
}

#[cfg(test)]
mod tests;
