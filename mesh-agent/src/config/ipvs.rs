//! `ipvs:`

use super::yaml::Map;

/// How packets to VIPs get to backends on other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardChoice {
    /// Translated by the node that has them, answers through it.
    Nat,
    /// As they are to the backend's node, which translates and answers.
    Direct,
}

fn forward(text: &str) -> Result<ForwardChoice, &'static str> {
    match text {
        "nat" => Ok(ForwardChoice::Nat),
        "direct" => Ok(ForwardChoice::Direct),
        _ => Err("is no choice: use nat or direct"),
    }
}

/// The IPVS data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpvsConfig {
    /// How packets to VIPs get to backends on other nodes.
    pub forward: ForwardChoice,
}

impl Default for IpvsConfig {
    fn default() -> Self {
        IpvsConfig { forward: ForwardChoice::Nat }
    }
}

pub(super) fn ipvs(map: Option<Map<'_>>) -> IpvsConfig {
    let mut found = IpvsConfig::default();
    let Some(map) = map else { return found };
    if let Some(choice) = map.get("forward").and_then(|field| field.with(forward)) {
        found.forward = choice;
    }
    map.finish();
    found
}
