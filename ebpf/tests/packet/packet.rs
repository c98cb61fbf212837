//! Packets as bytes, each with the checksums that it should have: the oracle of these tests knows no increments.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// What follows the IP header.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Source and destination port, sequence and acknowledgement, flags, options, data.
    Tcp { ports: (u16, u16), seq: u32, ack: u32, flags: u8, options: Vec<u8>, data: Vec<u8> },
    /// Ports, whether there is a checksum, data.
    Udp { ports: (u16, u16), sum: bool, data: Vec<u8> },
    /// Type and code, the four bytes after the checksum, the rest.
    Icmp { kind: u8, code: u8, rest: [u8; 4], data: Vec<u8> },
    /// Another protocol.
    Other(u8, Vec<u8>),
}

/// A packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    /// Options of IPv4.
    pub(crate) options: Vec<u8>,
    /// Extension headers of IPv6: each its number and its bytes, of which the first is filled in.
    pub(crate) headers: Vec<(u8, Vec<u8>)>,
    /// Bytes of the body that are sent, and whether more follow.
    pub(crate) part: Option<(usize, usize, bool)>,
    pub(crate) body: Body,
    /// Link-layer addresses: destination, source.
    pub(crate) link: ([u8; 6], [u8; 6]),
}

/// The one's complement sum of RFC 1071.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// What TCP, UDP and ICMPv6 count of the header before them.
pub(crate) fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = [octets(from), octets(to)].concat();
    pseudo.extend(u32::try_from(len).unwrap().to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

impl Packet {
    pub(crate) fn new(from: IpAddr, to: IpAddr, body: Body) -> Packet {
        Packet {
            from,
            to,
            ttl: 64,
            id: 0,
            dont_fragment: true,
            options: Vec::new(),
            headers: Vec::new(),
            part: None,
            body,
            link: ([0; 6], [0; 6]),
        }
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => TCP,
            Body::Udp { .. } => UDP,
            Body::Icmp { .. } if self.from.is_ipv4() => 1,
            Body::Icmp { .. } => 58,
            Body::Other(protocol, _) => protocol,
        }
    }

    /// The body with its checksum.
    fn body(&self) -> Vec<u8> {
        let (mut bytes, at, zero) = match &self.body {
            Body::Tcp { ports, seq, ack, flags, options, data } => {
                let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                let words = u8::try_from(5 + options.len() / 4).unwrap();
                // Resets have no window.
                let window = if flags & RST == 0 { [0x12, 0x34] } else { [0; 2] };
                bytes.extend([words << 4, *flags, window[0], window[1], 0, 0, 0, 0]);
                bytes.extend(options);
                bytes.extend(data);
                (bytes, 16, false)
            }
            Body::Udp { ports, sum, data } => {
                let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
                bytes.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                if !sum {
                    return bytes;
                }
                (bytes, 6, true)
            }
            Body::Icmp { kind, code, rest, data } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(data);
                (bytes, 2, false)
            }
            Body::Other(_, data) => return data.clone(),
        };
        let pseudo = match self.protocol() {
            1 => Vec::new(),
            protocol => pseudo(self.from, self.to, protocol, bytes.len()),
        };
        let mut checksum = !sum(&[&pseudo, &bytes]);
        if checksum == 0 && zero {
            checksum = 0xffff;
        }
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// From the IP header on.
    pub(crate) fn ip(&self) -> Vec<u8> {
        let body = self.body();
        let (start, end, more) = self.part.unwrap_or((0, body.len(), false));
        let part = &body[start..end];
        let eighths = u16::try_from(start).unwrap() / 8;
        let mut bytes = Vec::new();
        if self.from.is_ipv4() {
            let header = 20 + self.options.len();
            bytes.extend([0x40 | u8::try_from(header / 4).unwrap(), 0]);
            bytes.extend(u16::try_from(header + part.len()).unwrap().to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            let unsplit = self.dont_fragment && self.part.is_none();
            bytes.extend((eighths | u16::from(more) << 13 | u16::from(unsplit) << 14).to_be_bytes());
            bytes.extend([self.ttl, self.protocol(), 0, 0]);
            bytes.extend(octets(self.from));
            bytes.extend(octets(self.to));
            bytes.extend(&self.options);
            let checksum = !sum(&[&bytes]);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let mut headers = self.headers.clone();
            if self.part.is_some() {
                let mut fragment = vec![0, 0];
                fragment.extend((eighths << 3 | u16::from(more)).to_be_bytes());
                fragment.extend(u32::from(self.id).to_be_bytes());
                headers.push((44, fragment));
            }
            let numbers: Vec<u8> =
                headers.iter().map(|(number, _)| *number).chain([self.protocol()]).collect();
            let mut extensions = Vec::new();
            for ((_, header), next) in headers.iter().zip(&numbers[1..]) {
                extensions.push(*next);
                extensions.extend(&header[1..]);
            }
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(extensions.len() + part.len()).unwrap().to_be_bytes());
            bytes.extend([numbers[0], self.ttl]);
            bytes.extend(octets(self.from));
            bytes.extend(octets(self.to));
            bytes.extend(extensions);
        }
        bytes.extend(part);
        bytes
    }

    /// With its Ethernet header.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (to, from) = self.link;
        let kind = if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&to[..], &from, &kind, &self.ip()].concat()
    }

    /// The ports.
    pub(crate) fn ports(&mut self) -> Option<&mut (u16, u16)> {
        match &mut self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => Some(ports),
            _ => None,
        }
    }

    /// The same packet between other ends.
    pub(crate) fn between(&self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Packet {
        let mut other = self.clone();
        (other.from, other.to) = (from.0, to.0);
        *other.ports().unwrap() = (from.1, to.1);
        other
    }

    /// The same packet a hop further.
    pub(crate) fn hop(&self) -> Packet {
        Packet { ttl: self.ttl - 1, ..self.clone() }
    }
}

pub(crate) fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Packet {
    let data = if flags & (SYN | RST) == 0 { b"hello world".to_vec() } else { Vec::new() };
    let options = Vec::new();
    let body = Body::Tcp { ports: (from.1, to.1), seq: 0x1122_3344, ack: 0x5566_7788, flags, options, data };
    Packet::new(from.0, to.0, body)
}

pub(crate) fn udp(from: (IpAddr, u16), to: (IpAddr, u16)) -> Packet {
    Packet::new(from.0, to.0, Body::Udp { ports: (from.1, to.1), sum: true, data: b"hello worlds".to_vec() })
}

/// A datagram of so many bytes.
pub(crate) fn long(from: (IpAddr, u16), to: (IpAddr, u16), len: usize) -> Packet {
    let data = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    Packet::new(from.0, to.0, Body::Udp { ports: (from.1, to.1), sum: true, data })
}

/// A ping, or the answer.
pub(crate) fn echo(from: IpAddr, to: IpAddr, request: bool) -> Packet {
    let kind = match (from.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let data = b"abcdefghijklmnopqrstuvw".to_vec();
    Packet::new(from, to, Body::Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 1], data })
}

/// The reset that answers a packet of TCP.
pub(crate) fn reset(packet: &Packet) -> Packet {
    let Body::Tcp { ports, seq, ack, flags, data, .. } = &packet.body else { panic!("{packet:?}") };
    let (seq, ack, flags) = if flags & ACK != 0 {
        (*ack, 0, RST)
    } else {
        let marks = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        (0, seq + u32::try_from(data.len()).unwrap() + marks, RST | ACK)
    };
    let (options, data) = (Vec::new(), Vec::new());
    let body = Body::Tcp { ports: (ports.1, ports.0), seq, ack, flags, options, data };
    Packet { link: (packet.link.1, packet.link.0), ..Packet::new(packet.to, packet.from, body) }
}

/// The error that answers a packet: `IPv4` and `IPv6` type and code, and the MTU.
pub(crate) fn complaint(packet: &Packet, four: (u8, u8), six: (u8, u8), mtu: u32) -> Packet {
    let (kind, code) = if packet.from.is_ipv4() { four } else { six };
    let quoted = packet.ip();
    let quoted = &quoted[..quoted.len().min(128)];
    let complaint = error(packet.to, packet.from, kind, code, mtu.to_be_bytes(), quoted);
    Packet { link: (packet.link.1, packet.link.0), ..complaint }
}

/// An ICMP error of `from` to the sender of what it quotes.
pub(crate) fn error(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Packet {
    Packet::new(from, to, Body::Icmp { kind, code, rest, data: quoted.to_vec() })
}
