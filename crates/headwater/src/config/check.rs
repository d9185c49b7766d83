//! Collects mistakes, each with the path of its field.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The configuration cannot be used: everything that is wrong with it, a line each.
#[derive(Debug)]
pub(crate) struct ConfigError {
    file: PathBuf,
    mistakes: Vec<String>,
}

impl ConfigError {
    /// What is wrong, a line each.
    pub(crate) fn mistakes(&self) -> &[String] {
        &self.mistakes
    }
}

impl std::error::Error for ConfigError {}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.mistakes.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "{}: {count} {noun}", self.file.display())?;
        for mistake in &self.mistakes {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

/// Asks of values what a type cannot say, and remembers every answer that is wrong.
pub(super) struct Check {
    file: PathBuf,
    /// The first mistake of each path: what follows from it would only distract.
    mistakes: BTreeMap<String, String>,
    /// Paths that the environment has set, and by which variable.
    variables: BTreeMap<String, String>,
}

impl Check {
    pub(super) fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            mistakes: BTreeMap::new(),
            variables: BTreeMap::new(),
        }
    }

    /// Something is wrong with a field; an empty path means the whole file.
    pub(super) fn mistake(&mut self, path: impl Into<String>, what: impl std::fmt::Display) {
        let path = path.into();
        // The deepest comes last.
        let variable = self.variables.iter().rev().find(|(overridden, _)| {
            let rest = path.strip_prefix(overridden.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        let what = match variable {
            Some((_, variable)) => format!("{what} (from {variable})"),
            None => what.to_string(),
        };
        self.mistakes.entry(path).or_insert(what);
    }

    /// Whatever is wrong with the file that a field names.
    pub(super) fn include(&mut self, path: &str, file: Self) {
        for (inner, what) in file.mistakes {
            let separator = if inner.is_empty() { "" } else { ": " };
            self.mistakes
                .insert(format!("{path}{separator}{inner}"), what);
        }
    }

    /// The environment has set a field.
    pub(super) fn overridden(&mut self, path: String, variable: String) {
        self.variables.insert(path, variable);
    }

    /// A value that must be there.
    pub(super) fn required<T>(&mut self, path: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.mistake(path, "is required");
        }
        value
    }

    /// A file that must be there and be readable.
    pub(super) fn file(&mut self, path: &str, file: Option<PathBuf>) -> Option<PathBuf> {
        let file = self.required(path, file)?;
        self.readable(path, file)
    }

    /// A file that must be readable where one is given.
    pub(super) fn optional_file(&mut self, path: &str, file: Option<PathBuf>) -> Option<PathBuf> {
        self.readable(path, file?)
    }

    /// A directory that must be readable where one is given.
    pub(super) fn optional_directory(
        &mut self,
        path: &str,
        directory: Option<PathBuf>,
    ) -> Option<PathBuf> {
        let directory = self.resolve(&directory?);
        match fs::read_dir(&directory) {
            Ok(_entries) => Some(directory),
            Err(error) => {
                self.mistake(path, format_args!("{}: {error}", directory.display()));
                None
            }
        }
    }

    /// A path; relative ones count from the configuration's own directory.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        // The directory of `control.yaml` alone is the working directory, and not the empty path.
        let directory = self
            .file
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        directory.unwrap_or_else(|| Path::new(".")).join(path)
    }

    /// The content of a file that must be there, without the white space around it.
    pub(super) fn content(&mut self, path: &str, file: Option<PathBuf>) -> Option<String> {
        let file = self.file(path, file)?;
        match fs::read_to_string(&file) {
            Ok(content) => Some(content.trim().to_owned()),
            Err(error) => {
                self.mistake(path, format_args!("{}: {error}", file.display()));
                None
            }
        }
    }

    pub(super) fn passed(&self) -> bool {
        self.mistakes.is_empty()
    }

    pub(super) fn into_error(self) -> ConfigError {
        let mistakes = self.mistakes.into_iter().map(|(path, what)| {
            if path.is_empty() {
                what
            } else {
                format!("{path}: {what}")
            }
        });
        ConfigError {
            mistakes: mistakes.collect(),
            file: self.file,
        }
    }

    fn readable(&mut self, path: &str, file: PathBuf) -> Option<PathBuf> {
        let file = self.resolve(&file);
        // Opened, not only looked at: permissions count.
        let is_file = fs::File::open(&file).and_then(|file| Ok(file.metadata()?.is_file()));
        match is_file {
            Ok(true) => Some(file),
            Ok(false) => {
                self.mistake(path, format_args!("{} is not a file", file.display()));
                None
            }
            Err(error) => {
                self.mistake(path, format_args!("{}: {error}", file.display()));
                None
            }
        }
    }
}
