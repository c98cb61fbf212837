//! `mesh-agent demo --data-plane nftables` or `ebpf`: nodes in network namespaces of their own, instances in containers on the
//! overlay between them, and a client outside. The kernel moves the packets.

mod containers;
mod host;
mod network;
mod print;
mod story;

use super::{
    agents::write_configs,
    error::DemoError,
    layout::{KernelPlane, Layout, Options},
    ready,
    supervise::{Agents, Folder, Stop},
    tale::{self, Tale},
};
use crate::admin::wire::StatusJson;
use containers::Containers;
use network::Network;
use print::Text;
use std::{fs, path::Path};
use story::Story;

/// Shows what the mesh does and runs until SIGINT or SIGTERM. `exe` is the agent's binary.
///
/// # Errors
/// [`DemoError`], also when something does not happen that should; nothing is left behind either way.
pub async fn run(options: &Options, plane: KernelPlane, exe: &Path) -> Result<(), DemoError> {
    let mut stop = Stop::new().map_err(|e| DemoError::System("cannot watch signals", e))?;
    let folder = Folder::create()?;
    #[cfg_attr(not(feature = "ebpf"), expect(unused_mut, reason = "only eBPF says something further"))]
    let mut layout = Layout::on_overlay(plane, options, &folder.0).map_err(DemoError::Options)?;
    // Pins are the host's, not a namespace's: they would outlive the demo. This goes last.
    #[cfg(feature = "ebpf")]
    let apart = (plane == KernelPlane::Ebpf)
        .then(crate::dataplane::ebpf::Apart::new)
        .transpose()
        .map_err(DemoError::namespaces("cannot set up eBPF"))?;
    #[cfg(feature = "ebpf")]
    layout.further.extend(apart.as_ref().map(crate::dataplane::ebpf::Apart::yaml));
    let network = Network::build(&layout)?;
    let key = mesh_control::generate_key().map_err(|e| DemoError::NotReady(e.to_string()))?;
    write_configs(&layout, &key).map_err(|e| DemoError::System("cannot write the demo's files", e))?;
    let nodes = layout.nodes.clone();
    let netns: Vec<_> = nodes.iter().map(|node| network.netns(&node.name)).collect();
    let mut agents = Agents::new(&nodes, &netns, exe);
    let result = tokio::select! {
        result = serve(&mut agents, layout, &network, options, exe) => result,
        () = stop.asked() => Ok(()),
    };
    agents.stop().await;
    result
}

async fn serve(
    agents: &mut Agents<'_>,
    mut layout: Layout,
    network: &Network,
    options: &Options,
    exe: &Path,
) -> Result<(), DemoError> {
    if !options.json {
        eprintln!("starting {} agents …", layout.nodes.len());
    }
    let mut tale = Tale::new(options.json);
    agents.start()?;
    agents.until(async || overlay(&layout, exe).await).await?;
    let mut containers = Containers::attach(&mut layout, network, exe).await?;
    for service in &layout.services {
        for instance in &service.instances {
            containers.start(service, instance)?;
        }
    }
    fs::write(&layout.service_file, layout.service_yaml())
        .map_err(|e| DemoError::System("cannot write the service file", e))?;
    let mut running = agents.until(async || ready::ask(&layout, exe).await).await?;
    running.pids = agents.pids();
    tale.say(&format!(
        "{} agents run, and {} containers hang on their overlay",
        layout.nodes.len(),
        containers.count()
    ));
    let story = Story { layout: &layout, network, vips: &running.vips, exe };
    story.tell(&mut containers, &mut tale).await?;
    let text = Text { layout: &layout, network, running: &running };
    if options.json {
        tale::print(&text.json(&tale.steps));
    } else {
        tale::print(&text.people(exe).trim_end());
    }
    agents.keep().await
}

/// Every node's overlay leads to all others. `Err` says what is missing.
async fn overlay(layout: &Layout, exe: &Path) -> Result<(), String> {
    for node in &layout.nodes {
        let status: StatusJson = ready::call(exe, node, &["status"]).await?;
        let overlay = status.overlay.unwrap_or_default();
        if !overlay.up || overlay.peers + 1 < layout.nodes.len() {
            let problems = overlay.problems.join(", ");
            return Err(format!("{}: the overlay leads to {} nodes: {problems}", node.name, overlay.peers));
        }
    }
    Ok(())
}
