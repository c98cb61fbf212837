//! What IPVS needs of the host beside its own tables: a link that has the VIPs, kernel parameters, timeouts.
//!
//! What the parameters were before is written on the link (its alias), where it lives exactly as long as what it is
//! about, as the overlay does it.

use crate::{
    overlay::{
        step::is_mark,
        sysctls::{Sysctl, remember, remembered},
    },
    sys::{
        ipvs::{Command, Ipvs, Timeouts},
        netns::Netns,
        rtnl::{Address, Kind, Link, LinkChange, Mac, NewLink, Rtnl, errno},
        sysctl,
    },
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

/// The link that has the VIPs.
pub const LINK: &str = "mesh-ipvs0";
/// Nothing is ever sent on it.
const MTU: u32 = 1500;
const MAC: Mac = Mac([0x02, 0x6d, 0x65, 0x73, 0x68, 0x00]);
/// How the alias names a timeout; the kernel has no file for them.
const TCP: &str = "timeout/tcp";
const UDP: &str = "timeout/udp";
/// The longest that a connection is remembered where answers pass this node by, which then sees no reset by a backend.
const UNSEEN: u32 = 2 * 3600;
/// In this version connections of a port that is used again no longer waited for a second (`f0a5e4d7a594`).
const REUSE: (u32, u32) = (5, 9);

/// The parameters that the plane sets, by the kernel's release.
pub(super) fn wanted(release: &str) -> [Sysctl; 4] {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let reuse = if version >= REUSE { "1" } else { "0" };
    // Flows stay in conntrack, as those of other planes; who lost its backend is told so; who is remembered is not sent
    // to a backend that takes no new flows.
    [
        ("conntrack", "1"),
        ("expire_nodest_conn", "1"),
        ("expire_quiescent_template", "1"),
        ("conn_reuse_mode", reuse),
    ]
    .map(|(key, value)| (format!("ipv4/vs/{key}"), value.to_owned()))
}

/// How long connections are remembered, in seconds, where conntrack remembers them so long.
fn remembered_for(conntrack: String, direct: bool) -> String {
    match conntrack.parse::<u32>() {
        Ok(seconds) if direct => seconds.min(UNSEEN).to_string(),
        _ => conntrack,
    }
}

/// What is to be put back: what was `before` and still stands as the plane left it.
pub(super) fn back(
    before: &BTreeMap<String, String>,
    wanted: &[Sysctl],
    now: &BTreeMap<String, String>,
) -> Vec<Sysctl> {
    let still = |key: &String| wanted.iter().any(|(k, value)| k == key && now.get(k) == Some(value));
    before.iter().filter(|(key, _)| still(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The host's side of the plane, in the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct Ground {
    netns: Netns,
    rtnl: Rtnl,
    /// Whether answers may pass this node by.
    direct: bool,
}

impl Ground {
    /// Opens it in the calling thread's namespace.
    pub(super) fn open(direct: bool) -> io::Result<Ground> {
        let netns = Netns::open(Path::new("/proc/thread-self/ns/net"))?;
        Ok(Ground { netns, rtnl: Rtnl::open()?, direct })
    }

    /// Does what goes by the thread's namespace.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.netns.run(work)?
    }

    /// The link, when it is there and ours.
    pub(super) fn link(&mut self) -> io::Result<Option<Link>> {
        let link = self.rtnl.link(LINK)?;
        Ok(link.filter(|link| link.alias.as_deref().is_some_and(is_mark)))
    }

    /// Makes the link and sets parameters and timeouts, as far as they are not so; the link's index.
    pub(super) fn prepare(&mut self, ipvs: &mut Ipvs) -> io::Result<u32> {
        let index = match self.rtnl.link(LINK)? {
            None => self.create()?,
            // The agent may have died before it could write the note.
            Some(link) if link.alias.as_deref().is_none_or(is_mark) && link.mac == Some(MAC) => link.index,
            Some(_) => {
                let problem =
                    format!("the link {LINK} is not this program's: remove it or give it another name");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
            }
        };
        let link = self.rtnl.link_at(index)?;
        let alias = link.as_ref().and_then(|link| link.alias.as_deref());
        let (wanted, now) = self.parameters(ipvs, self.direct)?;
        let mut before = remembered(alias);
        for (key, value) in &wanted {
            if let Some(now) = now.get(key).filter(|now| *now != value) {
                before.entry(key.clone()).or_insert_with(|| now.clone());
            }
        }
        let note = remember(&before);
        if alias != Some(note.as_str()) {
            self.rtnl.change_link(index, LinkChange::Alias(&note))?;
        }
        if link.is_none_or(|link| !link.up) {
            self.rtnl.change_link(index, LinkChange::Up(true))?;
        }
        let differ = wanted.into_iter().filter(|(key, value)| now.get(key).is_some_and(|now| now != value));
        self.write(ipvs, &differ.collect::<Vec<_>>())?;
        Ok(index)
    }

    /// A kernel without dummies has bridges, or it could have no overlay either: one without ports is as good.
    fn create(&mut self) -> io::Result<u32> {
        let new = |kind| NewLink { name: LINK.into(), kind, mac: MAC, mtu: MTU };
        match self.rtnl.create_link(&new(Kind::Dummy)) {
            Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => {
                self.rtnl.create_link(&new(Kind::Bridge))
            }
            other => other,
        }
    }

    /// What parameters and timeouts should be, and what they are; those that this kernel lacks are not.
    fn parameters(
        &self,
        ipvs: &mut Ipvs,
        direct: bool,
    ) -> io::Result<(Vec<Sysctl>, BTreeMap<String, String>)> {
        let (mut wanted, mut now) = self.inside(|| {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
            let mut wanted = wanted(release.trim()).to_vec();
            // IPVS forgets idle connections after 15 minutes, conntrack after 5 days: who has a connection should not
            // have to know which of them carries it.
            for (key, of) in [(TCP, "tcp_timeout_established"), (UDP, "udp_timeout_stream")] {
                let value = sysctl::read(&format!("netfilter/nf_conntrack_{of}"))?;
                wanted.extend(value.map(|value| (key.to_owned(), remembered_for(value, direct))));
            }
            let mut now = BTreeMap::new();
            for (key, _) in &wanted {
                if let Some(value) = sysctl::read(key)? {
                    now.insert(key.clone(), value);
                }
            }
            Ok((wanted, now))
        })?;
        let timeouts = ipvs.timeouts().map_err(io::Error::from)?;
        now.extend([(TCP, timeouts.tcp), (UDP, timeouts.udp)].map(|(k, v)| (k.to_owned(), v.to_string())));
        wanted.retain(|(key, _)| now.contains_key(key));
        Ok((wanted, now))
    }

    fn write(&self, ipvs: &mut Ipvs, values: &[Sysctl]) -> io::Result<()> {
        let timeout = |key| {
            let found = values.iter().find(|(k, _)| k == key);
            found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
        };
        let timeouts = Timeouts { tcp: timeout(TCP), tcp_fin: 0, udp: timeout(UDP) };
        if timeouts != Timeouts::default() {
            ipvs.one(Command::SetTimeouts(timeouts)).map_err(io::Error::from)?;
        }
        self.inside(|| {
            let files = values.iter().filter(|(key, _)| key.starts_with("ipv4/"));
            files.into_iter().try_for_each(|(key, value)| sysctl::write(key, value))
        })
    }

    /// The VIPs that the link has.
    pub(super) fn vips(&mut self, link: u32) -> io::Result<BTreeSet<IpAddr>> {
        let all = self.rtnl.addresses()?;
        Ok(all.into_iter().filter(|a| a.link == link).map(|a| a.network.ip()).collect())
    }

    /// Gives the link a VIP, or takes it.
    pub(super) fn set_vip(&mut self, link: u32, vip: IpAddr, there: bool) -> io::Result<()> {
        let address = Address { link, network: IpNetwork::from(vip) };
        match there {
            true => self.rtnl.add_address(&address),
            false => match self.rtnl.remove_address(&address) {
                Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => Ok(()),
                other => other,
            },
        }
    }

    /// What [`Ground::restore`] would do, for people.
    pub(super) fn leftovers(&mut self, ipvs: Option<&mut Ipvs>) -> io::Result<Vec<String>> {
        let Some(link) = self.link()? else { return Ok(Vec::new()) };
        let mut all = vec![format!("remove link {LINK}")];
        if let Some(ipvs) = ipvs {
            let back = self.old(ipvs, &link)?;
            all.extend(back.into_iter().map(|(key, value)| format!("write net/{key} = {value}")));
        }
        Ok(all)
    }

    fn old(&self, ipvs: &mut Ipvs, link: &Link) -> io::Result<Vec<Sysctl>> {
        let before = remembered(link.alias.as_deref());
        let mut all = BTreeMap::new();
        // Who cleans up need not know how the plane was started.
        for direct in [false, true] {
            let (wanted, now) = self.parameters(ipvs, direct)?;
            all.extend(back(&before, &wanted, &now));
        }
        Ok(all.into_iter().collect())
    }

    /// Puts parameters and timeouts back as they were and removes the link.
    pub(super) fn restore(&mut self, ipvs: Option<&mut Ipvs>) -> io::Result<()> {
        let Some(link) = self.link()? else { return Ok(()) };
        if let Some(ipvs) = ipvs {
            let old = self.old(ipvs, &link)?;
            self.write(ipvs, &old)?;
        }
        self.rtnl.remove_link(link.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn ports_are_used_again_where_the_kernel_can() {
        let reuse = |release| wanted(release)[3].1.clone();
        assert_eq!(reuse("6.12.48+deb12-cloud-amd64"), "1");
        assert_eq!(reuse("5.9.0"), "1");
        assert_eq!(reuse("5.8.18-1"), "0");
        assert_eq!(reuse("4.19.0-27-amd64"), "0");
        assert_eq!(reuse("strange"), "0");
    }

    #[test]
    fn connections_whose_answers_are_not_seen_are_remembered_for_hours_at_most() {
        assert_eq!(remembered_for("432000".into(), false), "432000");
        assert_eq!(remembered_for("432000".into(), true), "7200");
        assert_eq!(remembered_for("120".into(), true), "120");
    }

    #[test]
    fn only_what_still_stands_is_put_back() {
        let wanted = wanted("6.12.0");
        let before = of(&[("ipv4/vs/conntrack", "0"), ("ipv4/vs/expire_nodest_conn", "0")]);
        let now = of(&[("ipv4/vs/conntrack", "1"), ("ipv4/vs/expire_nodest_conn", "2")]);
        assert_eq!(back(&before, &wanted, &now), [("ipv4/vs/conntrack".to_owned(), "0".to_owned())]);
        let all: BTreeMap<String, String> = wanted.iter().cloned().collect();
        let alias = remember(&all) + " timeout/tcp=432000 timeout/udp=120";
        assert!(alias.len() < 256, "a link's note is at most 255 bytes: {}", alias.len());
        assert_eq!(remembered(Some(&alias)).len(), 6);
    }
}
