//! `headwater crds`: the CustomResourceDefinitions that the operator needs.

use std::path::Path;

use anyhow::Context as _;
use operator::crd;

use crate::output;

/// Writes a file each, `<plural>.yaml`; without a directory, prints them.
pub(crate) fn run(directory: Option<&Path>) -> anyhow::Result<()> {
    for definition in crd::crds() {
        let yaml = crd::to_yaml(&definition)?;
        let Some(directory) = directory else {
            output::line(format_args!("---\n{}", yaml.trim_end()));
            continue;
        };
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let file = directory.join(format!("{}.yaml", definition.spec.names.plural));
        std::fs::write(&file, yaml).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
