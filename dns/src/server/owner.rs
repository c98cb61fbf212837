//! Who holds a port, from what the kernel shows below `/proc` (proc(5)). Elsewhere, and of processes that this one may
//! not look into, nothing is found.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// The state of a listening TCP socket (`TCP_LISTEN` of the kernel's `tcp_states.h`).
const LISTEN: &str = "0A";

/// The name and the id of a process with a socket that keeps others off this address, as `` `dnsmasq` (pid 7) ``.
/// `protocol` is `UDP` or `TCP`. Of the network namespace that the calling thread is in.
#[must_use]
pub fn owner(address: SocketAddr, protocol: &str) -> Option<String> {
    let tables = if protocol == "TCP" { ["tcp", "tcp6"] } else { ["udp", "udp6"] };
    let mut sockets = HashSet::new();
    for table in tables {
        // That of this thread's network namespace, where it wanted to bind.
        let Ok(text) = fs::read_to_string(Path::new("/proc/thread-self/net").join(table)) else { continue };
        let lines = text.lines().filter_map(|line| in_the_way(line, address, protocol == "TCP"));
        sockets.extend(lines.map(|inode| format!("socket:[{inode}]")));
    }
    if sockets.is_empty() {
        return None;
    }
    let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let holder = processes
        .filter(|process| process.file_name().to_str().is_some_and(is_pid))
        .find(|process| holds(&process.path(), &sockets))?;
    // A process chooses its name itself: what is no plain text in it is escaped.
    let name = fs::read(holder.path().join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).trim_end_matches('\n').escape_debug().to_string();
    Some(format!("`{name}` (pid {})", holder.file_name().to_string_lossy()))
}

fn holds(process: &Path, sockets: &HashSet<String>) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    targets.any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
}

/// The inode of the socket in this line of a table, when it is bound to the address or one of them is all addresses.
fn in_the_way(line: &str, wanted: SocketAddr, listening: bool) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let (address, port) = (ip(address)?, u16::from_str_radix(port, 16).ok()?);
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let wanted_ip = wanted.ip().to_canonical();
    let meets = port == wanted.port()
        && (address == wanted_ip || covers(address, wanted_ip) || covers(wanted_ip, address))
        && (!listening || state == LISTEN);
    meets.then_some(inode)
}

/// The wildcard of IPv6 stands for all of IPv4 too, unless its socket says otherwise, which the tables do not show.
fn covers(wide: IpAddr, address: IpAddr) -> bool {
    wide.is_unspecified() && (wide.is_ipv6() || address.is_ipv4())
}

/// An address as the tables have it: words of 32 bits, in hexadecimal digits, whose octets in memory are the address.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (part, at) in octets.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_socket_of_this_process_is_found() {
        let me = format!("(pid {})", std::process::id());
        let found = |address, protocol| owner(address, protocol).is_some_and(|text| text.ends_with(&me));
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(found(udp.local_addr().unwrap(), "UDP"));
        assert!(found(tcp.local_addr().unwrap(), "TCP"));
        let wide = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = wide.local_addr().unwrap().port();
        assert!(found(SocketAddr::from(([127, 0, 0, 1], port)), "UDP"), "a wildcard is in the way too");
        let all = SocketAddr::from(([0; 4], udp.local_addr().unwrap().port()));
        assert!(found(all, "UDP"), "one address is in the way of all");
        if let Ok(six) = TcpListener::bind("[::1]:0") {
            assert!(found(six.local_addr().unwrap(), "TCP"));
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let wanted = "127.0.0.1:53".parse().unwrap();
        let local = format!("{:08X}:0035", u32::from_ne_bytes([127, 0, 0, 1]));
        let line =
            |local: &str, state: &str| format!(" 1: {local} 00000000:0000 {state} 0:0 00:0 0 0 0 4711 2");
        assert_eq!(in_the_way(&line(&local, "0A"), wanted, true), Some(4711));
        assert_eq!(in_the_way(&line(&local, "01"), wanted, true), None, "a connection");
        assert_eq!(in_the_way(&line(&local, "07"), wanted, false), Some(4711));
        let all = |port: &str| line(&format!("00000000:{port}"), "07");
        assert_eq!(in_the_way(&all("0035"), "[::1]:53".parse().unwrap(), false), None, "another family");
        assert_eq!(in_the_way(&all("0035"), "[::]:53".parse().unwrap(), false), Some(4711), "both families");
        assert_eq!(in_the_way(&all("0036"), wanted, false), None, "another port");
        for bad in ["", "sl local_address", " 1: 0100007F", &line("é00007F:0035", "0A"), &line(":0035", "0A")]
        {
            assert_eq!(in_the_way(bad, wanted, true), None, "{bad:?}");
        }
    }
}
