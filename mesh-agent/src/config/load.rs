//! From a file or a text to a checked configuration.

use super::{
    host::HostFacts,
    read,
    types::Config,
    yaml::{self, Problems},
};
use std::path::Path;

impl Config {
    /// Reads and checks a file, and the key, token and certificate files that it names.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let text = yaml::read_file(path)?;
        let base = path.parent().unwrap_or_else(|| Path::new(""));
        Config::parse(&path.display().to_string(), &text, base, &HostFacts::gather())
    }

    /// Checks a text. `file` is how messages name it; relative paths in it are relative to `base`. Reads no file but
    /// the key, token and certificate files that the text names.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn parse(file: &str, text: &str, base: &Path, host: &HostFacts) -> Result<Config, Problems> {
        let node = yaml::parse(file, text)?;
        let report = yaml::Report::new(file);
        let config = read::config(&report.root(&node), base, host);
        match config {
            Some(mut config) => {
                config.warnings = report.take_warnings();
                report.finish(config)
            }
            None if report.is_empty() => Err(Problems::of_file(file, "is incomplete")),
            None => report.finish(()).and_then(|()| Err(Problems::of_file(file, "is incomplete"))),
        }
    }
}
