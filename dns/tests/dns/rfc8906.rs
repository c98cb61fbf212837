//! What a server must not stumble over: `data/rfc8906.txt`, over UDP and TCP.

use crate::{
    client::{PATIENCE, Server, udp_octets},
    mesh,
};
use mesh_dns::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

fn number(kind: &str) -> u16 {
    match kind {
        "A" | "IN" => 1,
        "CH" => 3,
        "SOA" => 6,
        "TXT" => 16,
        other => other.trim_start_matches("TYPE").trim_start_matches("CLASS").parse().unwrap(),
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The packet that a row describes.
fn packet(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let byte = |key: &str, default: u8| value(key).map_or(default, |text| text.parse().unwrap());
    let (mut first, mut second) = (byte("opcode", 0) << 3, 0_u8);
    for flag in value("flags").unwrap_or_default().split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "+rd" => first |= 0x01,
            "+tc" => first |= 0x02,
            "+aa" => first |= 0x04,
            "+ra" => second |= 0x80,
            "+z" => second |= 0x40,
            "+ad" => second |= 0x20,
            "+cd" => second |= 0x10,
            other => panic!("{other}?"),
        }
    }
    let mut packet = vec![0x12, 0x67, first, second, 0, byte("qd", 1), 0, 0, 0, 0, 0, 0];
    let mut question = Vec::new();
    for label in words[0].split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend_from_slice(&number(words[1]).to_be_bytes());
    question.extend_from_slice(&number(words[2]).to_be_bytes());
    packet.extend_from_slice(&question.repeat(usize::from(byte("qd", 1))));
    if let Some(version) = value("edns") {
        packet[11] = 1;
        let (dnssec, unknown) = (words.contains(&"do"), words.contains(&"ednsz"));
        let flags = if dnssec { 0x80 } else { 0 } | if unknown { 0x40 } else { 0 };
        packet.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, version.parse().unwrap(), flags, 0]);
        let option = value("opt").map_or(Vec::new(), |option| {
            let (code, data) = option.split_once(':').unwrap();
            let (code, data) = (code.parse::<u16>().unwrap(), hex(data));
            let length = u16::try_from(data.len()).unwrap();
            [&code.to_be_bytes()[..], &length.to_be_bytes(), &data].concat()
        });
        packet.extend_from_slice(&u16::try_from(option.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(&option);
    }
    packet
}

/// The OPT record of a packet of these tests, which is its last part.
fn packet_opt(packet: &[u8]) -> Option<&[u8]> {
    (packet[11] == 1)
        .then(|| packet.windows(3).rposition(|octets| octets == [0, 0, 41]))
        .flatten()
        .map(|at| &packet[at..])
}

/// What a reply says, in the table's words.
fn said(query: &[u8], reply: &[u8]) -> String {
    assert_eq!(reply[..2], query[..2], "the id");
    assert_eq!(reply[2] & 0xf8, 0x80 | query[2] & 0x78, "a response of the same opcode");
    assert_eq!((reply[2] & 0x02, reply[3] & 0x70), (0, 0), "none of TC, Z, AD and CD");
    let count = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    // An OPT is the last record here: root, type 41, size, extended code, version, flags, no options.
    let opt = reply.len().checked_sub(11).map(|at| &reply[at..]).filter(|opt| opt[..3] == [0, 0, 41]);
    let extended = opt.map_or(0, |opt| opt[5]);
    if let Some(opt) = opt {
        assert_eq!((opt[6], opt[7] & 0x7f, opt[8]), (0, 0, 0), "version 0 and no flag but DO");
        assert_eq!(opt[3..5], 1232_u16.to_be_bytes(), "the size we take");
        let asked = packet_opt(query).expect("only to who sent one");
        assert_eq!(opt[7], asked[7] & 0x80, "DO as it came");
        assert_eq!(opt[9..], [0, 0], "no option");
    }
    assert_eq!(count(10) > 0, opt.is_some());
    let code = match (extended, reply[3] & 0x0f) {
        (0, 0) => "NOERROR",
        (0, 1) => "FORMERR",
        (0, 3) => "NXDOMAIN",
        (0, 4) => "NOTIMP",
        (0, 5) => "REFUSED",
        (1, 0) => "BADVERS",
        other => panic!("{other:?}"),
    };
    let mut words = vec![code.to_owned()];
    words.extend(opt.map(|_| "opt".to_owned()));
    words.extend((reply[2] & 0x04 != 0).then(|| "aa".to_owned()));
    words.extend((reply[2] & 0x01 != 0).then(|| "rd".to_owned()));
    words.extend((reply[2] & 0x04 != 0).then(|| format!("answers={}", count(6))));
    words.join(" ")
}

async fn over_tcp(stream: &mut TcpStream, packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await.unwrap();
    let mut reply = vec![0; usize::from(timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap())];
    timeout(PATIENCE, stream.read_exact(&mut reply)).await.unwrap().unwrap();
    reply
}

#[tokio::test]
async fn rfc_8906_nothing_unusual_goes_unanswered() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    let rows = include_str!("data/rfc8906.txt").lines();
    let (mut asked, mut wrong) = (0, Vec::new());
    for row in rows.filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let [what, described, expected] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}");
        };
        let packet = packet(described);
        let udp = udp_octets(server.at(), &packet).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let tcp = over_tcp(&mut stream, &packet).await;
        for (way, reply) in [("UDP", udp), ("TCP", tcp)] {
            let said = said(&packet, &reply);
            if said != expected {
                wrong.push(format!("{what}, over {way}: {said}, and should be {expected}"));
            }
        }
        asked += 1;
    }
    assert!(asked > 50 && wrong.is_empty(), "of {asked}:\n{}", wrong.join("\n"));
}
