//! The `nameserver` lines of resolv.conf(5).

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// Most servers taken; the libc takes three.
const MAX: usize = 8;

/// Most octets read of the file.
const MAX_OCTETS: u64 = 64 * 1024;

/// The upstreams that the file names; none, with a warning in the log, when it cannot be read.
pub(crate) fn nameservers(path: &Path) -> Vec<SocketAddr> {
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(MAX_OCTETS).read_to_end(&mut text));
    if let Err(error) = read {
        tracing::warn!(path = %path.display(), %error, "no upstreams: other names than the mesh's are refused");
        return Vec::new();
    }
    parse(&String::from_utf8_lossy(&text))
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
    fn a_missing_file_has_no_servers() {
        assert_eq!(nameservers(Path::new("/nonexistent/resolv.conf")), []);
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
