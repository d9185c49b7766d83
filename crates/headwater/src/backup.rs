//! `headwater backup`.

use anyhow::Context as _;
use control::DatabaseConfig;

use crate::{
    cli::{BackupArguments, UsageError},
    config, output,
    standalone::DataDir,
};

pub(crate) async fn run(arguments: &BackupArguments) -> anyhow::Result<()> {
    let database = match &arguments.config {
        None => DataDir::new(&arguments.data_dir).database(),
        Some(file) => match config::control(file)?.1.control.database {
            DatabaseConfig::Sqlite { path } => path,
            DatabaseConfig::Postgres { .. } => {
                let what = "this control's database is PostgreSQL: back it up with \
                            pg_dump --format=custom --file=FILE URL";
                return Err(UsageError(what.to_owned()).into());
            }
        },
    };
    let bytes = control::backup(&database, &arguments.file)
        .await
        .context("no backup was made")?;
    let file = arguments.file.display();
    output::line(format_args!("{file}: {bytes} bytes"));
    Ok(())
}
