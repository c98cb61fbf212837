//! Answers too long for a datagram, for a client, or for any message.

use crate::{
    client::{Server, query, tcp, udp_octets},
    mesh,
    upstreams::{Upstream, reply},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use mesh_dns::Limits;
use tokio::net::TcpStream;

/// A reply with one TXT record for each of `lengths`, of that many octets of text; written by hand, to the octet.
fn wordy(asked: &Message, lengths: &[u8]) -> Vec<u8> {
    let mut answer = reply(asked);
    answer.edns = None;
    let mut octets = answer.to_vec().unwrap();
    octets[6..8].copy_from_slice(&u16::try_from(lengths.len()).unwrap().to_be_bytes());
    for length in lengths {
        // The question's name, TXT, IN, 60 s.
        octets.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
        octets.extend((u16::from(*length) + 1).to_be_bytes());
        octets.push(*length);
        octets.extend(std::iter::repeat_n(b'x', usize::from(*length)));
    }
    octets
}

/// As long as a message can be, 65,535 octets: 28 more than a datagram holds.
fn longest(asked: &Message) -> Vec<u8> {
    let octets = wordy(asked, &[&[255; 244][..], &[101]].concat());
    assert_eq!(octets.len(), 65_535);
    octets
}

/// An upstream's reply that no datagram holds, or that the client did not ask for, comes as TC and is whole over TCP.
#[tokio::test]
async fn a_forwarded_reply_that_is_too_long_is_truncated_and_not_lost() {
    let long = Upstream::answering(
        |asked| {
            let mut answer = reply(asked);
            answer.metadata.truncation = true;
            vec![answer.to_vec().unwrap()]
        },
        longest,
    )
    .await;
    let server = Server::start(mesh::example(), &[long.at], Limits::default()).await;
    // Only the first of them is the upstream's own, the others come from the cache.
    for payload in [Some(1232), None, Some(65_535)] {
        let packet = query("example.org", RecordType::TXT, payload);
        let octets = udp_octets(server.at(), &packet).await.expect("not lost");
        assert!(octets.len() <= 4096, "{payload:?}: {}", octets.len());
        let answer = Message::from_vec(&octets).unwrap();
        assert!(answer.metadata.truncation && answer.answers.is_empty(), "{payload:?}");
        assert_eq!(answer.edns.is_some(), payload.is_some(), "RFC 6891 section 7");
        let mut stream = TcpStream::connect(server.at()).await.unwrap();
        assert_eq!(tcp(&mut stream, &packet).await.unwrap().answers.len(), 245, "{payload:?}");
    }
}

/// What the client takes decides, not what the upstream sends.
#[tokio::test]
async fn a_client_without_edns_gets_no_more_than_512_octets() {
    let upstream =
        Upstream::answering(|asked| vec![wordy(asked, &[255; 10])], |asked| wordy(asked, &[255; 10])).await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    for (payload, whole) in [(None, false), (Some(100), false), (Some(1232), false), (Some(4096), true)] {
        let octets = udp_octets(server.at(), &query("example.org", RecordType::TXT, payload)).await.unwrap();
        let limit = usize::from(payload.unwrap_or(0).max(512));
        assert!(octets.len() <= limit, "{payload:?}: {}", octets.len());
        let answer = Message::from_vec(&octets).unwrap();
        assert_eq!((!answer.metadata.truncation, answer.answers.len() == 10), (whole, whole), "{payload:?}");
    }
}

/// SRV records with the longest names: 1,000 do not fit 65,535 octets. There is nowhere to go from TCP, so what fits
/// is the answer.
#[tokio::test]
async fn an_answer_too_long_for_any_message_is_cut_without_tc_over_tcp() {
    let name = "n".repeat(63);
    let mut text = format!("service {name} mode=dnsrr ports=80/tcp>80\n");
    for i in 0..1000 {
        text += &format!("endpoint {name} {i:0>63} n1 10.1.{}.{} ready\n", i / 250, i % 250);
    }
    let server = Server::start(mesh::read(&text), &[], Limits::default()).await;
    let packet = query(&format!("_80._tcp.{name}.cluster"), RecordType::SRV, Some(1232));
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    let answer = tcp(&mut stream, &packet).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(!answer.metadata.truncation && answer.edns.is_some());
    let got = answer.answers.len();
    assert!((100..1000).contains(&got), "{got}");
    let short = Message::from_vec(&udp_octets(server.at(), &packet).await.unwrap()).unwrap();
    assert!(short.metadata.truncation && short.edns.is_some());
}
