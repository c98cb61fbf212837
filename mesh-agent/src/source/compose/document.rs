//! The document: its namespace and its services.

use super::{
    clash::clashes,
    declared::{Context, Declared},
    service,
};
use crate::config::yaml::{self, Problems, Report};
use mesh_control::model::{DEFAULT_NAMESPACE, Name, ServiceKey};
use std::sync::Arc;

/// Most services of one file.
const MAX_SERVICES: usize = 20_000;

/// Keys of the top level that say nothing to a mesh.
const IGNORED: &[&str] = &["version", "networks", "volumes", "secrets", "configs", "models"];

/// Reads a document; `file` is how messages name it.
///
/// # Errors
/// Everything that is wrong, at once; then nothing of the document counts.
pub fn parse(file: &str, text: &str, context: Context<'_>) -> Result<Vec<Declared>, Problems> {
    let node = yaml::parse(file, text)?;
    let report = Report::new(file);
    let declared = read(&report, &node, file, context);
    report.finish(declared)
}

fn read(report: &Report, node: &yaml::Node, file: &str, context: Context<'_>) -> Vec<Declared> {
    let root = report.root(node);
    let Some(mut map) = root.map() else { return Vec::new() };
    map.ignore(IGNORED);
    if let Some(field) = map.get("include") {
        field.fail("is not followed: put the other files into the same folder");
    }
    let namespace = match map.get("name") {
        Some(field) => field.parse::<Name>(),
        None => Name::new(DEFAULT_NAMESPACE).ok(),
    };
    let services = map.get("services");
    if services.is_none() {
        root.fail_at(
            "services",
            "is missing: write the services under it, as `services: {web: {ports: [\"8080:80\"]}}`",
        );
    }
    map.finish();
    let entries = services.map(|s| s.entries()).unwrap_or_default();
    if entries.len() > MAX_SERVICES {
        root.fail_at("services", format!("are {}: at most {MAX_SERVICES} a file; split it", entries.len()));
        return Vec::new();
    }
    let Some(namespace) = namespace else { return Vec::new() };
    let file: Arc<str> = file.into();
    let mut declared: Vec<Declared> = Vec::new();
    for (name, field) in entries {
        match ServiceKey::new(namespace.as_str(), name) {
            Ok(key) => declared.extend(service::read(&file, key, &field, context)),
            Err(e) => field.fail(e.to_string()),
        }
    }
    for problem in clashes(std::iter::empty(), &declared) {
        root.fail_on(problem.line, &problem.key, problem.message);
    }
    declared
}
