//! The `nameserver` lines of resolv.conf(5).

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// Most servers taken; the libc takes three.
const MAX: usize = 8;

/// Most octets read of the file.
const MAX_OCTETS: u64 = 64 * 1024;

/// What systemd-resolved's stub listens on. It is a resolver of its own, and asks us when the host's names go here: its
/// servers are asked directly instead.
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// Where systemd-resolved writes the servers behind its stub (systemd-resolved.service(8)).
pub(super) const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The servers that the file names; where that is systemd's stub, those in `behind_stub` if it names any.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn nameservers(path: &Path, behind_stub: &Path) -> io::Result<Vec<SocketAddr>> {
    let found = parse(&read(path)?);
    if !found.iter().any(|server| STUBS.contains(&server.ip())) {
        return Ok(found);
    }
    let behind = read(behind_stub).map(|text| parse(&text)).unwrap_or_default();
    let real = |server: &&SocketAddr| !STUBS.contains(&server.ip());
    let real: Vec<SocketAddr> = behind.iter().filter(real).copied().collect();
    Ok(if real.is_empty() { found } else { real })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_OCTETS).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(word) = words.next() else { continue };
        // A link-local server needs its interface's index, `fe80::1%eth0`, which only the kernel knows.
        match word.parse::<IpAddr>() {
            Ok(address) => {
                // As the libc reads a wildcard: the server on this host.
                let address = match address {
                    IpAddr::V4(a) if a.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(a) if a.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                    other => other.to_canonical(),
                };
                let server = SocketAddr::new(address, 53);
                if found.len() < MAX && !found.contains(&server) {
                    found.push(server);
                }
            }
            Err(_) => tracing::warn!(nameserver = word, "not an address: skipped"),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_read_and_the_rest_is_not() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\n\
                    ;nameserver 192.0.2.9\nnameserver\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\noptions ndots:5\n";
        let expected: [SocketAddr; 2] =
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_wildcard_is_this_host() {
        let expected: [SocketAddr; 2] = ["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(parse("nameserver 0.0.0.0\nnameserver ::\nnameserver ::ffff:127.0.0.1"), expected);
    }

    #[test]
    fn systemds_stub_is_seen_through() {
        let folder = tempfile::tempdir().unwrap();
        let (stub, behind) = (folder.path().join("resolv.conf"), folder.path().join("behind"));
        assert!(nameservers(&stub, &behind).is_err(), "a missing file is no empty one");
        let named =
            || nameservers(&stub, &behind).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        std::fs::write(&stub, "nameserver 127.0.0.53\noptions edns0 trust-ad\n").unwrap();
        assert_eq!(named(), ["127.0.0.53:53"], "nothing is known of what is behind it");
        std::fs::write(&behind, "nameserver 127.0.0.53\n").unwrap();
        assert_eq!(named(), ["127.0.0.53:53"]);
        std::fs::write(&behind, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        assert_eq!(named(), ["192.0.2.1:53", "192.0.2.2:53"]);
        std::fs::write(&stub, "nameserver 192.0.2.9\n").unwrap();
        assert_eq!(named(), ["192.0.2.9:53"]);
    }

    #[test]
    fn any_text() {
        let text = b"# x\nnameserver 10.0.0.1\nnameserver ::\nsearch a\nnameserver fe80::1%eth0\n".to_vec();
        crate::fuzz::fuzz("resolv.conf", &[text], |input| {
            let found = parse(&String::from_utf8_lossy(input));
            assert!(found.len() <= MAX && found.iter().all(|s| s.port() == 53 && !s.ip().is_unspecified()));
            !found.is_empty()
        });
    }
}
