//! Where published ports are open: on addresses of the configuration, and on those that links have at the time.

use super::stop::Owned;
use crate::{
    config::{Config, PublishConfig},
    plan::Policy,
    sys::rtnl::{Rtnl, Watch},
};
use ipnetwork::IpNetwork;
use mesh_control::model::Family;
use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};
use tokio::{
    sync::watch,
    time::{interval, sleep},
};

/// How often links are looked at without word of a change.
const AUDIT: Duration = Duration::from_secs(60);
/// How long changes gather.
const BURST: Duration = Duration::from_millis(50);

/// The policy as it is and will be; the task ends with its owner.
///
/// # Errors
/// When links are named and netlink is not to be had.
pub(super) fn policies(config: &Config) -> io::Result<(watch::Receiver<Policy>, Option<Owned>)> {
    if config.publish.interfaces.is_empty() {
        return Ok((watch::channel(policy(&config.publish, &config.vip_cidr, &BTreeSet::new())).1, None));
    }
    let watch = Watch::open()?;
    let mut rtnl = Rtnl::open()?;
    let found = found(&mut rtnl, &config.publish.interfaces)?;
    let (sender, receiver) = watch::channel(policy(&config.publish, &config.vip_cidr, &found));
    tell(&found, config);
    Ok((receiver, Some(Owned::spawn(follow(config.clone(), watch, rtnl, sender)))))
}

async fn follow(config: Config, watch: Watch, mut rtnl: Rtnl, policies: watch::Sender<Policy>) {
    let (mut watch, mut audit) = (Some(watch), interval(AUDIT));
    loop {
        tokio::select! {
            _ = audit.tick() => {}
            result = Watch::word(watch.as_ref()) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "changes of addresses go unseen until they are looked at again");
                    watch = None;
                }
                sleep(BURST).await;
            }
        }
        let names = config.publish.interfaces.clone();
        let read = tokio::task::spawn_blocking(move || {
            let found = found(&mut rtnl, &names);
            (rtnl, found)
        });
        let Ok((back, read)) = read.await else { return };
        rtnl = back;
        match read {
            Ok(found) => {
                let wanted = policy(&config.publish, &config.vip_cidr, &found);
                let changed = policies.send_if_modified(|policy| {
                    let changed = *policy != wanted;
                    *policy = wanted;
                    changed
                });
                if changed {
                    tell(&found, &config);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "addresses cannot be read: published ports stay where they are");
            }
        }
    }
}

fn tell(found: &BTreeSet<IpAddr>, config: &Config) {
    let interfaces = config.publish.interfaces.join(", ");
    if found.is_empty() {
        tracing::warn!(
            interfaces,
            "no link of publish.interfaces has an address: nothing is published there"
        );
    } else {
        let addresses: Vec<String> = found.iter().map(IpAddr::to_string).collect();
        tracing::info!(interfaces, addresses = addresses.join(", "), "published ports are open there");
    }
}

/// The addresses of these links, of those that are there.
fn found(rtnl: &mut Rtnl, names: &[String]) -> io::Result<BTreeSet<IpAddr>> {
    let links = rtnl.links()?;
    let wanted = |index| links.iter().any(|link| link.index == index && names.contains(&link.name));
    let addresses = rtnl.addresses()?;
    Ok(addresses.iter().filter(|address| wanted(address.link)).map(|address| address.network.ip()).collect())
}

/// What this node opens, of the addresses that were found on links. A family is in use when VIPs are claimed in it or a
/// published port has an address of it: a node without IPv6 opens no IPv6 sockets that could only refuse.
fn policy(configured: &PublishConfig, vips: &[IpNetwork], found: &BTreeSet<IpAddr>) -> Policy {
    let publish = (!configured.everywhere()).then(|| {
        let all: BTreeSet<IpAddr> = configured.addresses.iter().chain(found).copied().collect();
        all.into_iter().collect::<Vec<_>>()
    });
    let used = |family: &Family| {
        vips.iter().any(|network| Family::of(&network.ip()) == *family)
            || publish.iter().flatten().any(|address| Family::of(address) == *family)
    };
    let families = [Family::V4, Family::V6].into_iter().filter(used).collect();
    Policy { publish, families }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str], interfaces: &[&str], found: &[&str]) -> Policy {
        let ip = |text: &&str| text.parse().unwrap();
        let configured = PublishConfig {
            addresses: addresses.iter().map(ip).collect(),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        };
        policy(&configured, &["10.96.0.0/16".parse().unwrap()], &found.iter().map(ip).collect())
    }

    #[test]
    fn ports_are_open_everywhere_only_when_nothing_says_where() {
        assert_eq!(of(&[], &[], &[]), Policy { publish: None, families: vec![Family::V4] });
        let nowhere = Policy { publish: Some(vec![]), families: vec![Family::V4] };
        assert_eq!(of(&[], &["eth7"], &[]), nowhere, "a link that is not there");
    }

    #[test]
    fn addresses_of_links_are_added_to_those_that_are_named() {
        let both = of(&["192.0.2.9", "192.0.2.1"], &["eth0"], &["192.0.2.1", "2001:db8::1"]);
        let want = ["192.0.2.1", "192.0.2.9", "2001:db8::1"].map(|text| text.parse().unwrap());
        assert_eq!(both, Policy { publish: Some(want.into()), families: vec![Family::V4, Family::V6] });
    }
}
