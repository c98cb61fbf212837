//! What happens to a mesh that is split and comes together again; every line is measured.

use super::{network::Network, view::View};
use crate::demo::{
    ask::ask,
    error::DemoError,
    layout::{Layout, Node},
    ready::{self, call},
    tale::{Tale, print, until},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};
use tokio::time::Instant;

/// Requests from one node.
const REQUESTS: usize = 12;
/// The port that a service of each side publishes while they do not hear each other.
const CONTESTED: u16 = 9090;

/// The story and what it found out so far.
pub(super) struct Story<'a> {
    layout: &'a Layout,
    network: &'a Network,
    exe: &'a Path,
    json: bool,
    tale: Tale,
}

impl<'a> Story<'a> {
    pub(super) fn new(layout: &'a Layout, network: &'a Network, exe: &'a Path, json: bool) -> Self {
        Story { layout, network, exe, json, tale: Tale::new(json) }
    }

    /// Tells it, from the start of the agents on.
    pub(super) async fn tell(&mut self) -> Result<(), DemoError> {
        let told = self.tell_all().await;
        if let (true, Err(error)) = (self.json, &told) {
            print(&json!({"failed": error.to_string(), "steps": self.tale.steps}));
        }
        told
    }

    async fn tell_all(&mut self) -> Result<(), DemoError> {
        let all = self.layout.nodes.len();
        // The last node is cut off, and the others are many.
        let (many, lone) = self.layout.nodes.split_at(all - 1);
        let whole = until("the mesh is whole", async || ready::ask(self.layout, self.exe).await).await?;
        let vip = whole.vips.get("whoami").map(ToString::to_string).unwrap_or_default();
        self.tale.say(&format!("{all} nodes are alive on all of them; whoami has the VIP {vip} everywhere"));
        self.requests(0, &vip, many.iter().chain(lone)).await?;

        self.network.plug(all - 1, false)?;
        let cut = Instant::now();
        self.tale.say(&format!("the cable of {} is pulled", lone[0].name));
        let (a, b) = tokio::join!(self.notices(many, lone, cut), self.notices(lone, many, cut));
        self.tale.say(&a?);
        self.tale.say(&b?);
        let detected = cut.elapsed();
        self.requests(0, &vip, many.iter()).await?;
        self.requests(all - 1, &vip, lone.iter()).await?;

        for (node, own) in [(&many[0], "left"), (&lone[0], "right")] {
            self.declare(node, own).await?;
        }
        let declared = async || {
            let (a, b) = (View::of(&many[0], self.exe).await?, View::of(&lone[0], self.exe).await?);
            Ok([a.vip("left")?, b.vip("right")?, a.vip("both")?, b.vip("both")?])
        };
        let declared = until("each side has its services", declared).await?;
        self.tale.say(&format!(
            "each side declares `both` (VIP {}, and {}) and a service of its own that publishes port {CONTESTED}",
            declared[2], declared[3]
        ));

        self.network.plug(all - 1, true)?;
        let healed = Instant::now();
        self.tale.say(&format!("the cable of {} is back", lone[0].name));
        let together = async || {
            for node in &self.layout.nodes {
                let view = View::of(node, self.exe).await?;
                if view.alive != all {
                    return Err(format!("{} takes {} nodes for alive", view.node, view.alive));
                }
            }
            Ok(())
        };
        until("all nodes are alive on all of them", together).await?;
        self.tale.say(&format!(
            "all nodes are alive on all of them after {:.1} s",
            healed.elapsed().as_secs_f64()
        ));
        let loser = until("all nodes agree", async || self.agreed(&vip).await).await?;
        let took = healed.elapsed();
        self.tale.say(&format!(
            "after {:.1} s all agree: whoami keeps {vip} and all its instances, no two services share a VIP, and \
             port {CONTESTED} has one holder: {loser} shows a conflict",
            took.as_secs_f64()
        ));
        self.requests(0, &vip, self.layout.nodes.iter()).await?;
        if self.json {
            let seconds = |d: Duration| (d.as_secs_f64() * 10.0).round() / 10.0;
            print(&json!({
                "nodes": all,
                "vip": vip,
                "down_seconds": seconds(detected),
                "healed_seconds": seconds(took),
                "conflict": loser,
                "steps": self.tale.steps,
            }));
        }
        Ok(())
    }

    /// Waits until every node of `side` takes all of `other` for down and hides their instances; what to say of it.
    async fn notices(&self, side: &[Node], other: &[Node], cut: Instant) -> Result<String, DemoError> {
        let hidden = self.instances(other);
        let seen = async || {
            for node in side {
                let view = View::of(node, self.exe).await?;
                if view.up != side.len() || view.service("whoami")?.endpoints_hidden != hidden {
                    return Err(format!("{} takes {} nodes for up", view.node, view.up));
                }
            }
            Ok(cut.elapsed().as_secs_f64())
        };
        let took = until("both sides take the other for down", seen).await?;
        let (side, other) = (names(side), names(other));
        Ok(format!("{side}: {other} down after {took:.1} s, instances of whoami hidden: {hidden}"))
    }

    /// Whether all nodes see the same whole mesh; the service that lost the contested port.
    async fn agreed(&self, vip: &str) -> Result<String, String> {
        let (mut seen, mut losers) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.layout.nodes {
            let view = View::of(node, self.exe).await?;
            let whoami = view.service("whoami")?;
            if view.vip("whoami")? != vip {
                return Err(format!("whoami has another VIP on {}", view.node));
            }
            if whoami.endpoints_hidden > 0 || whoami.endpoints_ready != self.instances(&self.layout.nodes) {
                return Err(format!(
                    "{} instances of whoami are ready on {}",
                    whoami.endpoints_ready, view.node
                ));
            }
            if let Some(twice) = view.shared_vip() {
                return Err(format!("{twice} belongs to two services on {}", view.node));
            }
            seen.insert([view.vip("left")?, view.vip("right")?, view.vip("both")?]);
            losers.insert(match (view.conflict("left")?.as_deref(), view.conflict("right")?.as_deref()) {
                (Some("right"), None) => "left",
                (None, Some("left")) => "right",
                _ => return Err(format!("port {CONTESTED} has no single holder on {}", view.node)),
            });
        }
        match losers.pop_first() {
            Some(loser) if losers.is_empty() && seen.len() == 1 => Ok(loser.to_owned()),
            _ => Err("the nodes do not agree yet".into()),
        }
    }

    /// Declares `both` and `own` at a node.
    async fn declare(&self, node: &Node, own: &str) -> Result<(), DemoError> {
        let text =
            format!("services:\n  both:\n    ports: [\"80\"]\n  {own}:\n    ports: [\"{CONTESTED}:80\"]\n");
        let file = node.config.with_file_name("split.yaml");
        std::fs::write(&file, text).map_err(|e| DemoError::System("cannot write a service file", e))?;
        let file = file.display().to_string();
        let done = call::<Value>(self.exe, node, &["service", "apply", "-f", &file]).await;
        done.map(drop).map_err(DemoError::Story)
    }

    /// Sends requests to whoami from node `from`: the instances on `nodes` answer, and no others.
    async fn requests<'n>(
        &mut self,
        from: usize,
        vip: &str,
        nodes: impl Iterator<Item = &'n Node>,
    ) -> Result<(), DemoError> {
        let nodes: Vec<&str> = nodes.map(|n| n.name.as_str()).collect();
        let whoami = &self.layout.services[0];
        let address =
            format!("{vip}:{}", whoami.port).parse().map_err(|_| DemoError::Story("no VIP".into()))?;
        let expected = whoami.instances.iter().filter(|i| nodes.contains(&i.node.as_str()));
        let expected: BTreeSet<&String> = expected.map(|i| &i.name).collect();
        let round = async || {
            let mut answers: BTreeMap<String, usize> = BTreeMap::new();
            for _ in 0..REQUESTS {
                let answer = ask(&self.network.nodes[from], address).await?;
                *answers.entry(answer.instance).or_default() += 1;
            }
            // A data plane follows its node's view within milliseconds.
            if !answers.keys().eq(expected.iter().copied()) {
                return Err(format!("{answers:?} answered"));
            }
            Ok(answers)
        };
        let answers = until(&format!("the instances on {} answer", nodes.join(", ")), round).await?;
        let who: Vec<&str> = answers.keys().map(String::as_str).collect();
        let node = &self.layout.nodes[from].name;
        self.tale.say(&format!("{node}: {REQUESTS} of {REQUESTS} requests answered, by {}", who.join(", ")));
        Ok(())
    }

    /// How many instances of whoami run on `nodes`.
    fn instances(&self, nodes: &[Node]) -> usize {
        let on = |node: &String| nodes.iter().any(|n| n.name == *node);
        self.layout.services[0].instances.iter().filter(|i| on(&i.node)).count()
    }
}

fn names(nodes: &[Node]) -> String {
    nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ")
}
