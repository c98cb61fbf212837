//! `ebpf:`

use super::{values::path, yaml::Map};
use std::path::{Path, PathBuf};

/// Which devices have a program in their drivers (XDP), too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpChoice {
    /// None.
    Off,
    /// Those of the machine whose drivers run programs.
    Auto,
    /// All whose drivers do.
    Native,
}

fn xdp(text: &str) -> Result<XdpChoice, &'static str> {
    match text {
        "off" => Ok(XdpChoice::Off),
        "auto" => Ok(XdpChoice::Auto),
        "native" => Ok(XdpChoice::Native),
        _ => Err("is no choice: use off, auto or native"),
    }
}

/// How the programs for packets hang at devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookChoice {
    /// At tcx where the kernel has it, else as filters of `clsact`.
    Auto,
    /// At tcx.
    Tcx,
    /// As filters of `clsact`.
    Clsact,
}

fn hook(text: &str) -> Result<HookChoice, &'static str> {
    match text {
        "auto" => Ok(HookChoice::Auto),
        "tcx" => Ok(HookChoice::Tcx),
        "clsact" => Ok(HookChoice::Clsact),
        _ => Err("is no choice: use auto, tcx or clsact"),
    }
}

/// By which way answers to outside clients of published ports go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReturnChoice {
    /// Through the node that the client dialled.
    Ingress,
    /// From the backend's node straight to the client, where that node does so too.
    Direct,
}

fn answers(text: &str) -> Result<ReturnChoice, &'static str> {
    match text {
        "ingress" => Ok(ReturnChoice::Ingress),
        "direct" => Ok(ReturnChoice::Direct),
        _ => Err("is no choice: use ingress or direct"),
    }
}

/// The eBPF data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EbpfConfig {
    /// A BPF file system to pin in; a usual one when absent.
    pub bpffs: Option<PathBuf>,
    /// The cgroup whose processes dial services at their sockets; all processes when absent.
    pub cgroup: Option<PathBuf>,
    /// Most backends of all frontends together; there can be a quarter as many frontends.
    pub max_backends: u32,
    /// Flows of packets for which there is room, for each address family; a full table forgets those worth least.
    pub max_flows: u32,
    /// How many directions of flows each CPU has at hand, for each address family: a power of two.
    pub cached_flows: u32,
    /// New flows that packets may begin within a jiffy on one CPU; any number for 0.
    pub new_flows: u32,
    /// How the programs for packets hang at devices.
    pub hook: HookChoice,
    /// Which devices have a program in their drivers, too.
    pub xdp: XdpChoice,
    /// By which way answers to outside clients of published ports go.
    pub answers: ReturnChoice,
}

impl Default for EbpfConfig {
    fn default() -> Self {
        EbpfConfig {
            bpffs: None,
            cgroup: None,
            max_backends: 1 << 17,
            max_flows: 1 << 16,
            cached_flows: 1 << 14,
            new_flows: 0,
            hook: HookChoice::Auto,
            xdp: XdpChoice::Off,
            answers: ReturnChoice::Ingress,
        }
    }
}

pub(super) fn ebpf(map: Option<Map<'_>>, base: &Path) -> EbpfConfig {
    let mut found = EbpfConfig::default();
    let Some(map) = map else { return found };
    let folder = |key| map.get(key).and_then(|f| f.with(|text| path(text, base)));
    (found.bpffs, found.cgroup) = (folder("bpffs"), folder("cgroup"));
    let number =
        |key, range| map.get(key).and_then(|f| f.number(range)).and_then(|n: usize| u32::try_from(n).ok());
    if let Some(n) = number("max_backends", 256..=4_000_000) {
        found.max_backends = n;
    }
    if let Some(n) = number("max_flows", 1024..=16_000_000) {
        found.max_flows = n;
    }
    if let Some(n) = number("cached_flows", 64..=1_048_576) {
        found.cached_flows = n.next_power_of_two();
    }
    if let Some(n) = number("new_flows", 0..=1_000_000) {
        found.new_flows = n;
    }
    if let Some(choice) = map.get("hook").and_then(|field| field.with(hook)) {
        found.hook = choice;
    }
    if let Some(choice) = map.get("xdp").and_then(|field| field.with(xdp)) {
        found.xdp = choice;
    }
    if let Some(choice) = map.get("return").and_then(|field| field.with(answers)) {
        found.answers = choice;
    }
    map.finish();
    found
}
