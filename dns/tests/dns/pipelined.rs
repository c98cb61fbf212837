//! Many queries on one TCP connection, however they are cut into segments.

use crate::{
    client::{PATIENCE, Server, query},
    mesh,
};
use hickory_proto::{op::Message, rr::RecordType};
use mesh_dns::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Queries on a connection: fast ones and slow ones, names that are there and that are not.
fn queries() -> Vec<Vec<u8>> {
    let asked = [
        ("web.cluster", RecordType::A),
        ("nothing.cluster", RecordType::A),
        ("web.cluster", RecordType::TXT),
        ("web.cluster", RecordType::AAAA),
        ("cluster", RecordType::SOA),
        ("tasks.web.cluster", RecordType::A),
        ("example.org", RecordType::A),
    ];
    let mut all = Vec::new();
    for i in 0..70_u16 {
        let (name, kind) = asked[usize::from(i) % asked.len()];
        let mut packet = query(name, kind, (i % 3 == 0).then_some(1232));
        packet[..2].copy_from_slice(&(1_000 + i).to_be_bytes());
        all.push(packet);
    }
    all
}

fn framed(packets: &[Vec<u8>]) -> Vec<u8> {
    let frame = |p: &Vec<u8>| [&u16::try_from(p.len()).unwrap().to_be_bytes(), &p[..]].concat();
    packets.iter().flat_map(frame).collect()
}

async fn reply(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut octets = vec![0; usize::from(length)];
    timeout(PATIENCE, stream.read_exact(&mut octets)).await.unwrap().unwrap();
    Message::from_vec(&octets).unwrap()
}

/// aardvark-dns#605: only the first query of a connection was answered.
#[tokio::test]
async fn aardvark_605_every_query_of_a_connection_is_answered() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let (packets, mut codes) = (queries(), Vec::new());
    let octets = framed(&packets);
    // All at once, octet by octet, and cut where neither length nor message ends.
    for chunk in [octets.len(), 1, 7, 97, 1_460] {
        let mut stream = TcpStream::connect(server.at()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut from, mut to) = stream.split();
        let send = async {
            for part in octets.chunks(chunk) {
                to.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receive = async {
            let mut replies = Vec::new();
            for _ in &packets {
                let length = timeout(PATIENCE, from.read_u16()).await.unwrap().unwrap();
                let mut octets = vec![0; usize::from(length)];
                timeout(PATIENCE, from.read_exact(&mut octets)).await.unwrap().unwrap();
                replies.push(Message::from_vec(&octets).unwrap());
            }
            replies
        };
        let ((), replies) = tokio::join!(send, receive);
        let ids: Vec<u16> = replies.iter().map(|reply| reply.metadata.id).collect();
        assert_eq!(ids, (1_000..1_070).collect::<Vec<_>>(), "in segments of {chunk} octets");
        codes.push(replies.iter().map(|reply| reply.metadata.response_code).collect::<Vec<_>>());
    }
    assert!(codes.iter().all(|these| *these == codes[0]), "however it is cut: {codes:?}");
}

/// What comes after a message that is too long, or that is no query, is not answered; what came before is.
#[tokio::test]
async fn a_message_that_is_none_ends_the_connection_after_the_replies_before() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let good = query("web.cluster", RecordType::A, None);
    let mut response = good.clone();
    response[2] |= 0x80;
    for (what, bad) in [("too long", vec![0; 5_000]), ("a response", response), ("empty", Vec::new())] {
        let mut stream = TcpStream::connect(server.at()).await.unwrap();
        stream.write_all(&framed(&[good.clone(), bad, good.clone()])).await.unwrap();
        assert_eq!(reply(&mut stream).await.answers.len(), 1, "{what}");
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it ends");
        assert!(ended.is_err() || rest.is_empty(), "{what}: {rest:?}");
    }
}
