//! The test binaries, as cargo builds them for `cargo test`: nothing is built twice.

use crate::groups::Binary;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// What cargo built: the file, its target's name and kind, and whether it is a test.
#[derive(Debug, PartialEq, Eq)]
struct Built {
    file: PathBuf,
    name: String,
    kind: String,
    test: bool,
}

/// The files of cargo's answer.
#[derive(Debug)]
pub(crate) struct Binaries(Vec<Built>);

impl Binaries {
    /// Has cargo build the binaries of these groups.
    ///
    /// # Errors
    /// When cargo fails; it says why itself.
    pub(crate) fn build(wanted: &[Binary]) -> Result<Binaries> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The whole workspace, so that features are what `cargo test` of the workspace has them to be.
        cargo.args([
            "test",
            "--workspace",
            "--locked",
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ]);
        for binary in wanted {
            match binary {
                Binary::Unit(_) => cargo.arg("--lib"),
                Binary::Test(name) => cargo.args(["--test", name]),
            };
        }
        let output =
            cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo could not build the tests: {}", output.status);
        }
        Ok(Binaries::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// One JSON object a line: <https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>.
    fn parse(messages: &str) -> Binaries {
        let built = |line: &str| {
            let message: Value = serde_json::from_str(line).ok()?;
            let target = &message["target"];
            Some(Built {
                file: message["executable"].as_str()?.into(),
                name: target["name"].as_str()?.to_owned(),
                kind: target["kind"][0].as_str()?.to_owned(),
                test: message["profile"]["test"].as_bool()?,
            })
        };
        Binaries(messages.lines().filter_map(built).collect())
    }

    /// The file of that binary.
    ///
    /// # Errors
    /// When cargo built no such thing.
    pub(crate) fn file(&self, binary: Binary) -> Result<&PathBuf> {
        let (name, kind) = match binary {
            Binary::Unit(package) => (package.replace('-', "_"), "lib"),
            Binary::Test(name) => (name.to_owned(), "test"),
        };
        let found = self.0.iter().find(|b| b.test && b.name == name && b.kind == kind);
        Ok(&found.with_context(|| format!("cargo built no {kind} {name}"))?.file)
    }

    /// The programs that integration tests start: their path is compiled into the tests.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &PathBuf> {
        self.0
            .iter()
            .filter(|b| !b.test && b.kind == "bin" && b.name != env!("CARGO_BIN_NAME"))
            .map(|b| &b.file)
    }
}

#[cfg(test)]
mod tests {
    use super::{Binaries, Binary};
    use std::path::Path;

    #[test]
    fn the_right_files_are_taken() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"mesh_agent"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"mesh_agent"},"profile":{"test":true},"executable":"/t/mesh_agent-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"contract_x"},"profile":{"test":true},"executable":"/t/contract_x-2"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"agent"},"profile":{"test":false},"executable":"/t/agent"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"mesh-vm"},"profile":{"test":false},"executable":"/t/mesh-vm"}
{"reason":"build-finished","success":true}
"#;
        let built = Binaries::parse(messages);
        assert_eq!(built.file(Binary::Unit("mesh-agent")).unwrap(), Path::new("/t/mesh_agent-1"));
        assert_eq!(built.file(Binary::Test("contract_x")).unwrap(), Path::new("/t/contract_x-2"));
        assert!(built.file(Binary::Test("contract_y")).unwrap_err().to_string().contains("contract_y"));
        assert_eq!(built.programs().collect::<Vec<_>>(), [Path::new("/t/agent")]);
    }
}
