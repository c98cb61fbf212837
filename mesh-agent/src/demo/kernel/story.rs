//! What a mesh does whose packets the kernel moves: asked from outside and from a container, with an instance killed.

use super::{
    containers::Containers,
    network::{CLIENT, CLIENT_ADDRESS, Network},
};
use crate::{
    demo::{
        ask::ask,
        error::DemoError,
        layout::{Instance, Layout, Node, Service},
        ready,
        tale::{PATIENCE, Tale, until},
    },
    sys::netns::Netns,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    sync::Arc,
};
use tokio::{task::spawn_blocking, time::Instant};

/// Requests in one round, for each instance.
const REQUESTS: usize = 8;

/// The mesh that it is told of.
pub(super) struct Story<'a> {
    pub(super) layout: &'a Layout,
    pub(super) network: &'a Network,
    /// Of each service.
    pub(super) vips: &'a BTreeMap<String, IpAddr>,
    pub(super) exe: &'a Path,
}

impl Story<'_> {
    /// Tells it; what does not come true is an error.
    pub(super) async fn tell(
        &self,
        containers: &mut Containers<'_>,
        tale: &mut Tale,
    ) -> Result<(), DemoError> {
        let whoami = &self.layout.services[0];
        let all: BTreeSet<&str> = whoami.instances.iter().map(|i| i.name.as_str()).collect();
        let client = self.network.netns(CLIENT);
        for node in &self.layout.nodes {
            let at = published(node, whoami);
            let round = async || self.round(&client, CLIENT_ADDRESS.into(), at, &all).await;
            let count = until(&format!("all instances answer through {}", node.name), round).await?;
            let none = if whoami.instances.iter().any(|i| i.node == node.name) {
                ""
            } else {
                ", which runs none of them"
            };
            tale.say(&format!(
                "the client asks {at}, {}{none}: {count} of {count} requests answered, by {}; all saw \
                 {CLIENT_ADDRESS}, the client's own address",
                node.name,
                list(&all)
            ));
        }

        let (inside, asker) = self.asker()?;
        let server = self.layout.dns(self.last());
        let name = format!("{}.cluster", whoami.name);
        let vip = dig(&inside, server, &name).await?;
        if self.vips.get(whoami.name) != Some(&vip) {
            return Err(DemoError::Story(format!("{name} is {vip} for {}: not the VIP", asker.name)));
        }
        tale.say(&format!("container {} on {} asks {server} for {name}: {vip}", asker.name, asker.node));
        let round = async || self.round(&inside, asker.address.into(), (vip, whoami.port).into(), &all).await;
        let count = until(&format!("all instances answer {} at the VIP", asker.name), round).await?;
        tale.say(&format!(
            "container {} asks that VIP: {count} of {count} requests answered, by {}; all saw {}, the container's",
            asker.name,
            list(&all),
            asker.address
        ));
        self.kill(containers, tale).await
    }

    /// Kills an instance, watches the others take over, and starts it again.
    async fn kill(&self, containers: &mut Containers<'_>, tale: &mut Tale) -> Result<(), DemoError> {
        let whoami = &self.layout.services[0];
        let victim = &whoami.instances[0];
        let others: BTreeSet<&str> =
            whoami.instances.iter().map(|i| i.name.as_str()).filter(|name| *name != victim.name).collect();
        containers.kill(victim);
        let killed = Instant::now();
        let client = self.network.netns(CLIENT);
        let (mut asked, mut failed) = (0, 0);
        let clean = loop {
            let (begun, before) = (killed.elapsed(), failed);
            for _ in 0..REQUESTS {
                for node in &self.layout.nodes {
                    asked += 1;
                    let answer = ask(&client, published(node, whoami)).await;
                    if !answer.is_ok_and(|answer| others.contains(answer.instance.as_str())) {
                        failed += 1;
                    }
                }
            }
            if failed == before {
                break begun;
            }
            if begun > PATIENCE {
                let text = format!("{} is dead, and requests fail {PATIENCE:?} later", victim.name);
                return Err(DemoError::Story(text));
            }
        };
        tale.say(&format!(
            "{} is killed: {failed} of {asked} requests failed until its health check told, after {:.1} s; then {} \
             answer all",
            victim.name,
            clean.as_secs_f64(),
            list(&others)
        ));
        containers.start(whoami, victim)?;
        until("the killed instance is back", async || ready::ask(self.layout, self.exe).await).await?;
        tale.say(&format!("{} is back", victim.name));
        Ok(())
    }

    fn last(&self) -> &Node {
        &self.layout.nodes[self.layout.nodes.len() - 1]
    }

    /// A container on the last node, and its instance.
    fn asker(&self) -> Result<(Arc<Netns>, &Instance), DemoError> {
        let mut instances = self.layout.services.iter().flat_map(|service| &service.instances);
        let asker = instances.find(|i| i.node == self.last().name);
        let asker = asker.ok_or_else(|| DemoError::Story("the last node has no container".into()))?;
        Ok((self.network.netns(&asker.name), asker))
    }

    /// Requests from `netns`: `all` answer them, and see `client`. Returns how many there were.
    async fn round(
        &self,
        netns: &Arc<Netns>,
        client: IpAddr,
        at: SocketAddr,
        all: &BTreeSet<&str>,
    ) -> Result<usize, String> {
        let mut met = BTreeSet::new();
        let count = REQUESTS * all.len();
        for _ in 0..count {
            let answer = ask(netns, at).await?;
            if answer.client.ip() != client {
                return Err(format!("{at}: {} saw {} instead of {client}", answer.instance, answer.client));
            }
            met.insert(answer.instance);
        }
        if !met.iter().map(String::as_str).eq(all.iter().copied()) {
            return Err(format!("{at}: {met:?} answered"));
        }
        Ok(count)
    }
}

/// Where a service is to be had from outside.
fn published(node: &Node, service: &Service) -> SocketAddr {
    (node.address, service.published).into()
}

/// The first address of `name`, as dig(1) is told in `netns` by the server at `server`.
async fn dig(netns: &Arc<Netns>, server: SocketAddr, name: &str) -> Result<IpAddr, DemoError> {
    let (netns, name) = (Arc::clone(netns), name.to_owned());
    let asked = spawn_blocking(move || {
        let mut dig = Command::new("dig");
        dig.args(["+short", &format!("@{}", server.ip()), "-p", &server.port().to_string(), &name]);
        let output = netns.run(|| dig.output()).flatten();
        let output = output.map_err(|e| format!("cannot run dig (Debian: bind9-dnsutils): {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let address = text.lines().find_map(|line| line.parse().ok());
        address.ok_or_else(|| format!("{server} does not know {name}: {}", text.trim()))
    });
    asked.await.map_err(|e| e.to_string()).flatten().map_err(DemoError::Story)
}

fn list(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}
