//! The namespaces and links of the split mesh: one hub with a bridge, one namespace for each node.

use crate::{
    demo::{layout::Layout, supervise::DemoError},
    sys::{
        link::{add_address, add_bridge, connect, set_up},
        netns::Netns,
    },
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio::task::spawn_blocking;

const BRIDGE: &str = "hub";
const LINK: &str = "eth0";
/// Longest wait of a request, in each direction.
const PATIENCE: Duration = Duration::from_secs(3);

/// Namespaces and links; they go with it, and with the processes in them.
#[derive(Debug)]
pub struct Network {
    hub: Netns,
    /// Of each node of the layout.
    pub nodes: Vec<Arc<Netns>>,
}

impl Network {
    /// Makes a namespace for each node of `layout`, with its addresses, and links them all.
    ///
    /// # Errors
    /// [`DemoError::Privileges`] without `CAP_SYS_ADMIN`; else what the kernel says.
    pub fn build(layout: &Layout) -> Result<Network, DemoError> {
        let hub = Netns::new().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => DemoError::Privileges(error),
            _ => DemoError::System("cannot make a network namespace", error),
        })?;
        let build = || -> io::Result<Vec<Arc<Netns>>> {
            add_bridge(&hub, BRIDGE)?;
            let mut nodes = Vec::new();
            for (i, node) in layout.nodes.iter().enumerate() {
                let netns = Netns::new()?;
                set_up(&netns, "lo", true)?;
                connect(&hub, BRIDGE, &port(i), &netns, LINK)?;
                let instances = layout.services.iter().flat_map(|s| &s.instances);
                let own = instances.filter(|i| i.node == node.name).map(|i| i.address);
                for address in [node.address].into_iter().chain(own) {
                    add_address(&netns, LINK, address, 16)?;
                }
                nodes.push(Arc::new(netns));
            }
            Ok(nodes)
        };
        let nodes = build().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => DemoError::Privileges(error),
            _ => DemoError::System("cannot lay the links", error),
        })?;
        Ok(Network { hub, nodes })
    }

    /// Pulls the cable of node `i` out of the hub, or puts it in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn plug(&self, i: usize, plugged: bool) -> Result<(), DemoError> {
        set_up(&self.hub, &port(i), plugged).map_err(|e| DemoError::System("cannot set a link", e))
    }

    /// Asks a whoami at `address` from node `i`; the instance that answered.
    pub(super) async fn request(&self, i: usize, address: SocketAddr) -> Result<String, String> {
        let netns = Arc::clone(&self.nodes[i]);
        let asked = spawn_blocking(move || netns.run(|| ask(address)).flatten()).await;
        asked.map_err(io::Error::other).flatten().map_err(|e| format!("{address}: {e}"))
    }
}

/// The hub's end of the cable of node `i`.
fn port(i: usize) -> String {
    format!("port{}", i + 1)
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: whoami\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let instance = answer.lines().find_map(|line| line.strip_prefix("Instance: "));
    instance.map(str::to_owned).ok_or_else(|| io::Error::other("no instance answered"))
}
