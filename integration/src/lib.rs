//! Multi-node tests: a harness that starts agents and reads like a sentence, and the data-plane contract suite.
//!
//! `Mesh::of(3).start(agent_binary!())` gives a running mesh; `mesh.node(3).whoami(8080)` asks it as a user would;
//! `until(what, BOUND, condition)` waits. `Lab::of(3)` gives hosts that are network namespaces.

mod agents;
mod command;
pub mod contract;
mod host_mesh;
pub mod lab;
mod load;
mod loopback;
mod mesh;
mod node;
mod wait;

pub use agents::Agents;
pub use command::{Ran, ran};
pub use host_mesh::HostMesh;
pub use load::{Load, Seen};
pub use loopback::LoopbackNet;
pub use mesh::{Mesh, MeshBuilder};
pub use node::{DigAnswer, Node, Whoami, echo, http_get, whoami, whoami_from};
pub use wait::{BOUND, at_most_now, until, within};

/// The agent binary that cargo built beside the calling test.
#[macro_export]
macro_rules! agent_binary {
    () => {
        std::path::Path::new(env!("CARGO_BIN_EXE_mesh-agent-under-test"))
    };
}
