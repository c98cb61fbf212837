//! `key generate`.

use super::{
    exit::{Code, Failure},
    output::Output,
};

pub(crate) fn generate(output: Output) -> Result<(), Failure> {
    let text = mesh_control::generate_key().map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
    if output.json {
        output.json(&serde_json::json!({"key": text}))
    } else {
        output.print(&format!("{text}\n"))
    }
}
