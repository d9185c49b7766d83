//! Which versions the operator knows, and which image runs one.

use super::{Defaults, problems::Problems};
use crate::api::{Image, IngestClusterSpec, Reason};

/// The operator's own.
const OPERATOR_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether the operator knows how to run a version: every patch of its own minor, since configuration and internal
/// protocols may change between minors.
pub fn supported(version: &str) -> bool {
    minor(version).is_some() && minor(version) == minor(OPERATOR_VERSION)
}

/// The version that a specification asks for.
pub(super) fn resolve(spec: &IngestClusterSpec, problems: &mut Problems) -> Option<String> {
    let version = spec.version.as_deref().unwrap_or(OPERATOR_VERSION);
    if supported(version) {
        return Some(version.to_owned());
    }
    let (major, minor) = minor(OPERATOR_VERSION).unwrap_or_default();
    problems.add_for(
        Reason::UnsupportedVersion,
        "spec.version",
        format!(
            "{version:?} is not known to this operator ({OPERATOR_VERSION}), which runs {major}.{minor}.*: \
             upgrade the operator, or choose one of these"
        ),
    );
    None
}

/// What the containers run. A digest wins over a tag; without a tag, the version is one.
pub(super) fn image(image: &Image, version: &str, defaults: &Defaults) -> String {
    let repository = image
        .repository
        .as_deref()
        .unwrap_or(&defaults.image_repository);
    match (&image.digest, &image.tag) {
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:{version}"),
    }
}

/// `(0, 1)` of `0.1.2-rc.1`; nothing where it is not a version.
fn minor(version: &str) -> Option<(u64, u64)> {
    let core = version.split_once('-').map_or(version, |(core, _)| core);
    let mut numbers = core.split('.').map(|number| number.parse::<u64>().ok());
    let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some((major, minor))
}
