//! `mesh-agent demo --partition`: nodes in network namespaces of their own, one of which is cut off and comes back.

pub mod network;
mod story;
mod view;

use super::{
    agents::{Agent, write_files},
    error::DemoError,
    instances::{Instances, Opened},
    layout::{Layout, Options},
    supervise::{Folder, STOP_WITHIN, Stop},
    whoami::Identity,
};
use network::Network;
use std::{io, path::Path};
use story::Story;
use tokio::task::JoinSet;

/// Tells the story once. `exe` is the agent's binary.
///
/// # Errors
/// [`DemoError`], also when something that should happen does not, in time; nothing is left behind either way.
pub async fn run(options: &Options, exe: &Path) -> Result<(), DemoError> {
    let mut stop = Stop::new().map_err(|e| DemoError::System("cannot watch signals", e))?;
    let folder = Folder::create()?;
    let layout = Layout::in_namespaces(options.nodes, &folder.0).map_err(DemoError::Options)?;
    let network = Network::build(&layout)?;
    let key = mesh_control::generate_key().map_err(|e| DemoError::NotReady(e.to_string()))?;
    write_files(&layout, &key).map_err(|e| DemoError::System("cannot write the demo's files", e))?;
    let _instances =
        instances(&layout, &network).map_err(|e| DemoError::System("cannot start an instance", e))?;
    let mut agents = Vec::new();
    let mut told = Ok(());
    for (node, netns) in layout.nodes.iter().zip(&network.nodes) {
        match Agent::spawn_in(netns, exe, node) {
            Ok(agent) => agents.push(agent),
            Err(e) => told = Err(DemoError::System("cannot start an agent", e)),
        }
    }
    if told.is_ok() {
        let mut story = Story::new(&layout, &network, exe, options.json);
        told = tokio::select! {
            told = story.tell() => told,
            () = stop.asked() => Err(DemoError::Story("stopped before the end of the story".into())),
        };
    }
    let mut stopping = JoinSet::new();
    for mut agent in agents {
        stopping.spawn(async move { agent.stop(STOP_WITHIN).await });
    }
    stopping.join_all().await;
    told
}

/// Starts every instance, each in its node's namespace.
///
/// # Errors
/// The first address that could not be bound, or a namespace that could not be entered.
pub fn instances(layout: &Layout, network: &Network) -> io::Result<Instances> {
    let mut instances = Instances::default();
    for service in &layout.services {
        for instance in &service.instances {
            let Some(at) = layout.nodes.iter().position(|n| n.name == instance.node) else { continue };
            let address = (instance.address, service.port).into();
            let socket = network.nodes[at].run(|| Opened::at(service.protocol, address)).flatten()?;
            let who = Identity {
                service: service.name.to_owned(),
                instance: instance.name.clone(),
                node: instance.node.clone(),
            };
            instances.adopt(who, socket)?;
        }
    }
    Ok(instances)
}
